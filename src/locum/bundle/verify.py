"""Checks a bundle before anything in it is opened: what the manifest names, no more and no less.

Notable: a bundle may come from anywhere. Links, devices, names that climb out, pickles, Git LFS pointers,
missing and additional files are refused by name; every file must have its SHA-256. Nothing is parsed but
the manifest, with a cap on its size. Not here: whether the certificate still holds (``student``).
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path, PurePosixPath

from locum.bundle.write import CERTIFICATE, MANIFEST, MODEL, REQUIRED, TASK
from locum.core.errors import ModelFileError
from locum.core.files import content_hash, recover_folder, sha256_file
from locum.core.progress import warn
from locum.core.text import one_line
from locum.runtime.model_files import SPEC_NAME, refuse_unsafe
from locum.schema.bundle import Manifest
from locum.schema.certificate import Certificate
from locum.schema.task import NAME_PATTERN

_MANIFEST_BYTES_MAX = 4 << 20
_FILES_MAX = 10_000


def verify(folder: Path) -> Manifest:
    """Check a bundle.

    Args:
        folder: the bundle.

    Returns:
        Its manifest, every statement of which was found true.

    Raises:
        ModelFileError: ``bundle-missing`` (no bundle there), ``bundle-unsafe`` (links, special files, names
            that climb out), ``bundle-incomplete``, ``bundle-extra``, ``bundle-hash``; or what the runtime
            refuses by itself (pickle, LFS pointer). The message names the file.
    """
    manifest = read_manifest(folder)
    for name in manifest.files:
        _refuse_name(folder, name)
    found = _regular_files(folder)
    for name in REQUIRED:
        if name not in manifest.files:
            raise _refusal("bundle-incomplete", folder, f"its manifest does not name {name}")
    for name in manifest.files:
        if name not in found:
            raise _refusal("bundle-incomplete", folder, f"{name} is missing")
    extra = sorted(found - set(manifest.files) - {MANIFEST})
    if extra:
        shown = ", ".join(one_line(name) for name in extra[:5])
        raise _refusal("bundle-extra", folder, f"{shown} is not named by its manifest", "remove it, or copy again")
    for name, digest in manifest.files.items():
        refuse_unsafe(folder / name)
        actual = sha256_file(folder / name)
        if actual != digest:
            said = f"{name} has SHA-256 {actual[:12]}…, the manifest says {one_line(digest, 12)}…: changed or damaged"
            raise _refusal("bundle-hash", folder, said)
    _check_hashes(folder, manifest)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` without following links and without trusting its size.

    Raises:
        ModelFileError: there is no bundle, or its manifest is a link, too large or not a manifest.
    """
    path = folder / MANIFEST
    recover(folder)
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            raise _refusal("bundle-unsafe", folder, f"{MANIFEST} is not a regular file")
        if state.st_size > _MANIFEST_BYTES_MAX:
            raise _refusal("bundle-unsafe", folder, f"{MANIFEST} has {state.st_size:,} bytes")
        manifest = Manifest.from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelFileError(
            "bundle-missing",
            f"there is no bundle: {MANIFEST} cannot be read ({error.strerror})",
            where=str(folder),
            fix="name the folder that `locum build` printed, or build one with `locum build task.yaml`",
        ) from error
    if not re.fullmatch(NAME_PATTERN, manifest.name) or manifest.name.endswith("\n"):
        said = f"its manifest calls it {one_line(manifest.name, 60)!r}; a name has lower case, digits, dot, dash"
        raise _refusal("bundle-unsafe", folder, said, "rebuild it with a name of this form in the task file")
    return manifest


def recover(folder: Path) -> None:
    """Put back a bundle that a killed process had moved aside, and say so; one that stands is left alone."""
    if not folder.exists() and recover_folder(folder):
        warn(f"{folder.name} was put back as it was: a process was killed while it replaced it")


def _refuse_name(folder: Path, name: str) -> None:
    pure = PurePosixPath(name)
    odd = not name or "\\" in name or ":" in name or "\0" in name or len(name) > 512
    if odd or pure.is_absolute() or ".." in pure.parts or pure.as_posix() != name or name == MANIFEST:
        raise _refusal("bundle-unsafe", folder, f"its manifest names {one_line(name)!r}, which is no file of a bundle")


def _regular_files(folder: Path) -> set[str]:
    """POSIX names of all files below the folder; refuses links and special files, and follows none."""
    found: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            relative = path.relative_to(folder).as_posix()
            if stat.S_ISREG(mode):
                found.add(relative)
            elif not stat.S_ISDIR(mode):
                what = "a link" if stat.S_ISLNK(mode) else "no regular file"
                raise _refusal("bundle-unsafe", folder, f"{one_line(relative)} is {what}")
        if len(found) > _FILES_MAX:
            raise _refusal("bundle-unsafe", folder, f"it holds more than {_FILES_MAX:,} files")
    return found


def _check_hashes(folder: Path, manifest: Manifest) -> None:
    """The hashes by role must be those of the files, or a certificate could be checked against a false name."""
    content = (folder / CERTIFICATE).read_bytes()
    Certificate.from_json(content, str(folder / CERTIFICATE))
    try:
        written = content_hash(json.loads(content))  # as written: a later version adds fields to the document
    except ValueError as error:
        raise _refusal("bundle-hash", folder, f"{CERTIFICATE} holds a number that is none") from error
    actual = {
        "task": manifest.files[TASK],
        "model": manifest.files[f"{MODEL}/{SPEC_NAME}"],
        "certificate": written,
    }
    for role, digest in actual.items():
        if manifest.hashes.get(role) != digest:
            raise _refusal("bundle-hash", folder, f"its manifest gives another hash for its {role} than its files have")


def _refusal(code: str, folder: Path, cause: str, fix: str = "copy the bundle again, or rebuild it") -> ModelFileError:
    return ModelFileError(code, f"bundle refused: {cause}", where=str(folder), fix=fix)
