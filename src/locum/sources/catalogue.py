"""The catalogue of bases: facts, licences, sources in order, and the SHA-256 of every file.

Notable: an artefact is ``verified`` when every file has a SHA-256 and every hub address a full commit. Its
``evidence`` says where the hashes come from: ``downloaded`` (Locum's maintainers hashed the files),
``published`` (others published them; a wrong one refuses the download), ``none`` (recorded on first use,
and said so). A base may come in several formats; they are tried in the order given.
Not here: fetching a base (``sources.bases``).
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal, Self

from pydantic import Field, model_validator

from locum.core.errors import SourceError
from locum.core.registry import nearest
from locum.schema.base import Document
from locum.sources.address import HubAddress, Parts, Place, parse_address
from locum.sources.facts import BaseFacts

Format = Literal["safetensors", "gguf"]


class PartsSource(Document):
    """One file whose pieces lie at several addresses."""

    parts: tuple[str, ...] = Field(min_length=1)


class Artefact(Document):
    """One form in which a base can be had.

    Attributes:
        size_mb: what is downloaded, in 10⁶ bytes.
        verified: every file has a SHA-256 and every hub address a full commit.
        evidence: where the hashes come from; see the module's docstring.
        files: SHA-256 by name; None where it is not known.
        sources: addresses tried in order: folders for safetensors, one file for gguf.
    """

    format: Format
    size_mb: float
    verified: bool
    evidence: Literal["downloaded", "published", "none"]
    files: dict[str, str | None]
    sources: tuple[str | PartsSource, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _verified_means_it(self) -> Self:
        known = all(self.files.values()) and all(
            place.is_pinned for place in self.places() if isinstance(place, HubAddress)
        )
        if self.verified != known or (self.evidence == "none") == self.verified:
            raise ValueError("verified and evidence do not fit the hashes and revisions")
        if self.format == "gguf" and len(self.files) != 1:
            raise ValueError("a gguf artefact is one file")
        return self

    def places(self) -> tuple[Place, ...]:
        """The sources, read."""
        return tuple(
            parse_address(source) if isinstance(source, str) else self._joined(source) for source in self.sources
        )

    def _joined(self, source: PartsSource) -> Parts:
        return Parts(next(iter(self.files)), tuple(parse_address(part) for part in source.parts))


class Base(Document):
    """A pretrained model that a student can start from.

    Attributes:
        aliases: other names it answers to, such as its name on the hub.
        pooling: how token vectors become one: mean, cls, or last.
        languages: ISO 639 codes; ``mul`` for many more.
        licence: SPDX identifier in lower case, or the licence's own name.
    """

    name: str
    aliases: tuple[str, ...] = ()
    facts: BaseFacts
    pooling: Literal["mean", "cls", "last"]
    languages: tuple[str, ...]
    licence: str
    artefacts: tuple[Artefact, ...] = Field(min_length=1)
    notes: str = ""

    def artefact(self, format: Format | None = None) -> Artefact:
        """The form asked for; the first when none is.

        Raises:
            SourceError: the base does not come in that form.
        """
        for artefact in self.artefacts:
            if format in (None, artefact.format):
                return artefact
        known = ", ".join(artefact.format for artefact in self.artefacts)
        raise SourceError("source-unknown-base", f"{self.name} does not come as {format}", fix=f"known: {known}")


class Catalogue(Document):
    """All bases, in the order they are listed to people."""

    schema_version: Literal[1] = 1
    bases: tuple[Base, ...]

    def names(self) -> tuple[str, ...]:
        """Names, without aliases."""
        return tuple(base.name for base in self.bases)

    def get(self, name: str) -> Base | None:
        """The base of that name or alias, upper and lower case alike; None when there is none."""
        folded = name.casefold()
        for base in self.bases:
            if folded in (base.name.casefold(), *(alias.casefold() for alias in base.aliases)):
                return base
        return None

    def find(self, name: str) -> Base:
        """As ``get``, with a suggestion when there is none.

        Raises:
            SourceError: no such base.
        """
        found = self.get(name)
        if found is not None:
            return found
        known = [each for base in self.bases for each in (base.name, *base.aliases)]
        close = nearest(name, known)
        fix = f"did you mean {close!r}?" if close else f"known: {', '.join(self.names())}"
        raise SourceError(
            "source-unknown-base", f"unknown base {name!r}", fix=f"{fix} (or a folder, or hf://OWNER/NAME)"
        )


@cache
def catalogue() -> Catalogue:
    """The catalogue that ships with Locum."""
    text = resources.files("locum.sources").joinpath("catalogue.json").read_text(encoding="utf-8")
    return Catalogue.from_json(text, where="catalogue.json")
