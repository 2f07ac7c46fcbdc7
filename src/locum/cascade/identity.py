"""Which LLM a certificate speaks of, and whether what is configured or answers now is another one.

Notable: behind a URL nobody can look, so an LLM is known by what it tells: the name in its answers, and the
``system_fingerprint`` where it sends one. One whose server refuses a setting (``temperature``) answers with its own, so
what is refused is a part of what it is. A local file is known by its content. Not here: what follows (``router``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from locum.core.files import sha256_file
from locum.core.text import one_line
from locum.runtime.completion import LEFT_OUT, Completion
from locum.runtime.protocol import Generator
from locum.schema.certificate import LlmIdentity
from locum.schema.task import LlmSpec

VERSION = "system_fingerprint"
"""Where a completion keeps it, among its further facts."""


def identify(llm: LlmSpec, names: Iterable[str], versions: Iterable[str], left_out: Iterable[str] = ()) -> LlmIdentity:
    """The identity of an LLM that has answered.

    Args:
        llm: how it is configured; a local file is read, to hash it.
        names: what it called itself in the answers that count.
        versions: its fingerprints in these, where it sent any.
        left_out: fields that its server refused in these.

    Raises:
        SourceError: there is no such local file.
    """
    configured = _configured(llm)
    return configured.model_copy(
        update={
            "names": tuple(sorted(set(names))),
            "versions": tuple(sorted(set(versions) - {""})),
            "left_out": tuple(sorted(set(left_out))),
        }
    )


def other_configured(named: LlmIdentity, llm: LlmSpec | Generator) -> str | None:
    """Why the LLM that is configured is not the one that a certificate names; None when nothing says so.

    Of a generator that was made elsewhere only its name is known.

    Raises:
        SourceError: there is no such local file.
    """
    if not isinstance(llm, LlmSpec):
        if llm.model in (named.model, Path(named.model).stem, *named.names):
            return None
        return _other(named, f"{one_line(llm.model, 80)} is configured")
    now = _configured(llm)
    if now.file is not None and now.file == named.file:
        return None  # a file may be moved
    if (now.model, now.base_url, now.file) == (named.model, named.base_url, named.file):
        return None
    return _other(named, f"{_said(now)} is configured")


def other_answering(named: LlmIdentity, answer: Completion, *, asked_alike: bool = True) -> str | None:
    """Why what gave an answer is not the LLM that a certificate names; None when nothing says so.

    Args:
        named: by the certificate.
        answer: to a request of Locum's own.
        asked_alike: whether the certificate's answers were asked for with the same settings; else, where a judge's
            verdicts count, only the temperature is sent with both.
    """
    if answer.model not in named.names:
        return _other(named, f"what answers calls itself {one_line(answer.model, 80)!r}")
    version = answer.extra.get(VERSION)
    if version and named.versions and version not in named.versions:
        return _other(named, f"what answers has the fingerprint {one_line(version, 80)!r}")
    told = answer.extra.get(LEFT_OUT)
    if told is None:  # a caller's own request, or an engine that refuses nothing
        return None
    now, then = set(told.split(",")) - {""}, set(named.left_out)
    if now != then if asked_alike else ("temperature" in now) != ("temperature" in then):
        what, before = (", ".join(sorted(names)) or "no setting" for names in (now, then))
        return _other(named, f"what answers refuses {one_line(what, 80)}, where it refused {before}")
    return None


def _configured(llm: LlmSpec) -> LlmIdentity:
    if llm.base_url is not None:
        return LlmIdentity(model=llm.model, base_url=llm.base_url.rstrip("/"))
    from locum.sources.bases import ensure_base

    path = ensure_base(Path(llm.model).expanduser() if Path(llm.model).suffix == ".gguf" else llm.model, format="gguf")
    return LlmIdentity(model=path.name, file=sha256_file(path))


def _said(llm: LlmIdentity) -> str:
    return one_line(llm.model, 80) + (f" at {one_line(llm.base_url, 120)}" if llm.base_url else "")


def _other(named: LlmIdentity, now: str) -> str:
    return f"the certificate speaks of the LLM {_said(named)}, and {now}"
