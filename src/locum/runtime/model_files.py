"""What stands in a model folder, checked before any engine sees it.

Notable: nothing is opened that ``model.json`` does not name, every named file must have its SHA-256, and
files that can run code when read (pickle, PyTorch archives) are refused by name and by their first bytes.
``seal`` is the other side: it writes ``model.json``, last, for whoever exports a model. Not here: what is
inside an ONNX (``onnx_check``) or GGUF (``gguf_check``) file.
"""

from __future__ import annotations

import errno
import mmap
import re
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from locum.core.errors import DeviceError, ModelFileError
from locum.core.files import hash_folder, sha256_file, write_json
from locum.schema.model import ModelSpec

SPEC_NAME = "model.json"
_SPEC_BYTES_MAX = 16 << 20  # 100,000 labels fit; more is not a model.json
_CODE_SUFFIXES = {
    *(".pkl", ".pickle", ".pt", ".pt2", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".mar", ".nemo", ".keras", ".h5"),
    *(".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh"),
}
_LFS_START = b"version https://git-lfs.github.com/spec/"
_PICKLE_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(6))
# Protocols 0 and 1 have no mark: MARKs, then a global (c MODULE NEWLINE NAME NEWLINE), list or dict; "." ends each.
_OLD_PICKLE = re.compile(rb"\(*(?:c[\w.]+\n[\w.]+\n|[ld]p\d+\n|\]q|\}q)")
_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"Rar!": "rar",
    b"x\x01": "zlib",
    b"x\x9c": "zlib",
    b"x\xda": "zlib",
}
_TAR_MARK = slice(257, 262)
_START_BYTES = 512


@contextmanager
def mapped(path: Path) -> Generator[mmap.mmap, None, None]:
    """A file's bytes, mapped for reading while it is checked.

    Raises:
        DeviceError: ``runtime-check``: the check could not run for want of memory, so nothing is known of the file.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        raise DeviceError(
            "runtime-check",
            f"the file could not be checked: its {path.stat().st_size:,} bytes need more address space than there is",
            where=str(path),
            fix="close other programs, or allow this process more memory (ulimit -v)",
        ) from error


def seal(folder: Path, **fields: Any) -> ModelSpec:
    """Hash every file of a finished model folder and write its ``model.json``, last.

    Args:
        folder: the folder with weights, tokenizer and whatever else the engine reads.
        fields: the fields of ``ModelSpec`` but ``files``.

    Returns:
        The document that was written.

    Raises:
        ModelFileError: a file of the folder may not be served (pickle, LFS pointer).
    """
    files = {name: digest for name, digest in hash_folder(folder).items() if name != SPEC_NAME}
    spec = ModelSpec(files=files, **fields)
    for name in files:
        refuse_unsafe(folder / name)
    write_json(folder / SPEC_NAME, spec.to_json())
    return spec


def read_spec(folder: Path) -> ModelSpec:
    """Read ``model.json`` of a folder; no other file is touched.

    Raises:
        ModelFileError: it is missing, too large or not a valid ``ModelSpec``.
    """
    path = folder / SPEC_NAME
    try:
        if path.stat().st_size > _SPEC_BYTES_MAX:
            raise ModelFileError(
                "runtime-not-a-model-folder", f"model.json is over {_SPEC_BYTES_MAX} bytes", where=str(path)
            )
        text = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            "runtime-not-a-model-folder",
            f"no readable model.json: {error.strerror}",
            where=str(folder),
            fix="name a bundle's model folder, or build one with `locum build task.yaml`",
        ) from error
    return ModelSpec.from_json(text, str(path))


def verify_folder(folder: Path) -> ModelSpec:
    """Read ``model.json`` and check every file it names: inside the folder, safe to open, right SHA-256.

    Files that it does not name are never opened and not checked.

    Raises:
        ModelFileError: the folder is refused; the message names the file and both hashes.
    """
    spec = read_spec(folder)
    for name in {spec.weights, *spec.files}:
        path = resolve_inside(folder, name)
        if name not in spec.files:
            raise ModelFileError("runtime-hash", f"model.json gives no SHA-256 for {name}", where=str(folder))
        if not path.is_file():
            raise ModelFileError(
                "runtime-file-missing",
                f"{name} is named by model.json and is not there",
                where=str(folder),
                fix="copy the whole folder again, or rebuild it",
            )
        refuse_unsafe(path)
        found = sha256_file(path)
        if found != spec.files[name]:
            raise ModelFileError(
                "runtime-hash",
                f"{name} has SHA-256 {found[:12]}…, model.json says {spec.files[name][:12]}…: changed or damaged",
                where=str(folder),
                fix="copy the folder again, or rebuild it",
            )
    labelled = spec.purpose in ("classify", "tag")
    if len(set(spec.labels)) != len(spec.labels) or bool(spec.labels) != labelled:
        raise ModelFileError("runtime-mismatch", "labels must be given and differ", where=str(folder / SPEC_NAME))
    return spec


def resolve_inside(folder: Path, name: str) -> Path:
    """The path of a file of the folder, by POSIX name.

    Raises:
        ModelFileError: the name is absolute, climbs out with ``..``, or is a link that leads out.
    """
    pure = PurePosixPath(name)
    unsafe = not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name
    path = folder / name if not unsafe else folder
    if unsafe or folder.resolve() not in path.resolve().parents:
        raise ModelFileError(
            "runtime-unsafe-path", f"the model names {name!r}, which is not inside its folder", where=str(folder)
        )
    return path


def refuse_unsafe(path: Path) -> None:
    """Refuse a file that can run code when read, or that is only a pointer to the real one.

    Raises:
        ModelFileError: by name (.pt, .pkl, .bin…), by first bytes (pickle, PyTorch zip, or an archive, which is
            how pickles are hidden from scanners), or a Git LFS pointer.
    """
    if path.suffix.lower() in _CODE_SUFFIXES:
        raise _pickle_error(path, f"files named *{path.suffix.lower()} are not served")
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
        file.seek(max(0, path.stat().st_size - 1))
        last = file.read(1)
    if start.startswith(_LFS_START):
        raise ModelFileError(
            "runtime-lfs-pointer",
            "this is a Git LFS pointer, not the file",
            where=str(path),
            fix="run `git lfs pull` where it was cloned, then copy it again",
        )
    if start[:2] in _PICKLE_PROTOCOLS or (last == b"." and _OLD_PICKLE.match(start)):
        raise _pickle_error(path, "it starts as a pickle does")
    if start[:2] == b"PK" and _holds_pickle(path):
        raise _pickle_error(path, "it is a zip archive that holds a pickle, as PyTorch writes")
    archive = (
        "tar" if start[_TAR_MARK] == b"ustar" else next((_ARCHIVES[m] for m in _ARCHIVES if start.startswith(m)), "")
    )
    if archive:
        raise _pickle_error(path, f"it is a {archive} archive, which no engine reads and which may hold a pickle")


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return True  # it starts as a zip and cannot be read as one: nothing that is served looks so
    return any(PurePosixPath(name).suffix.lower() in _CODE_SUFFIXES or name.endswith("data.pkl") for name in names)


def _pickle_error(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "runtime-pickle",
        f"{why}; reading such a file can run code",
        where=str(path),
        fix="export the model to ONNX or GGUF; `locum build` does",
    )
