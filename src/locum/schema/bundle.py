"""``Manifest``: the last file of a bundle; a folder whose hashes differ from it is refused."""

from __future__ import annotations

from typing import Literal

from locum.schema.base import Document


class Manifest(Document):
    """What a bundle holds.

    Attributes:
        files: SHA-256 by POSIX path of every other file in the bundle.
        hashes: ``task``, ``data``, ``model`` and ``certificate``, each SHA-256.
        versions: of Locum, Python and the libraries that built it.
        licence: of the base the student comes from.
    """

    schema_version: Literal[1] = 1
    name: str
    kind: str
    locum: str
    created_at: str
    files: dict[str, str]
    hashes: dict[str, str]
    versions: dict[str, str]
    licence: str
