"""Opening a data file as bytes and as text: gzip with a cap, archives refused, encodings found out.

Notable: the file is read once before anything is parsed, which gives its SHA-256 (checked again after
reading, so a file that changes meanwhile is noticed) and proves or disproves UTF-8 over its whole length.
A file may expand 200 times and no further, once it is past 16 MiB (gzip here, columns in ``columnar``). Archives
(zip, tar) are never unpacked here, so a member named ``../../x`` has no chance; ``sources`` has rules of its own.
Not here: what the text means (``delimited``, ``jsonlines``).
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from locum.core.errors import DataError
from locum.core.files import sha256_file
from locum.core.registry import nearest
from locum.core.text import one_line
from locum.data.encoding import Utf8Check, guess_encoding, known_encoding, with_mark

MAX_RATIO = 200
FREE_EXPANSION_BYTES = 16 << 20
MAX_LINE_CHARS = 64 << 20
"""A line, or a quoted field, longer than this is refused: it would have to stand in memory at once."""
_SAMPLE_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 20
_UNPACK = "unpack it, and give the CSV, TSV, JSON Lines, JSON or Parquet file that is in it"
_SPREADSHEET = "save the sheet as CSV UTF-8 (in the program that made it: save as, or export), and give that file"
_PYTHON = "write it as JSON Lines or Parquet in Python, and give that file"
_MAGIC = {
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"PK\x05\x06": ("an empty zip archive", "give the CSV, TSV, JSON Lines, JSON or Parquet file itself"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!": ("a rar archive", _UNPACK),
    b"BZh": ("a bzip2 file", "unpack it (bunzip2), or pack it with gzip, which is read"),
    b"\xfd7zXZ\x00": ("an xz file", "unpack it (unxz), or pack it with gzip, which is read"),
    b"\x28\xb5\x2f\xfd": ("a zstandard file", "unpack it (unzstd), or pack it with gzip, which is read"),
    b"\x04\x22\x4d\x18": ("an lz4 file", "unpack it (lz4 -d), or pack it with gzip, which is read"),
    b"\xd0\xcf\x11\xe0": ("a document of an old Office program, such as an Excel 97 workbook", _SPREADSHEET),
    b"SQLite format 3": (
        "an SQLite database",
        'write the rows as CSV: sqlite3 -header -csv FILE "select text, label from TABLE" > rows.csv',
    ),
    b"%PDF": ("a PDF", "give its texts as rows of a CSV or JSON Lines file"),
    b"{\\rtf": ("a document of a word processor", "give its texts as rows of a CSV or JSON Lines file"),
    b"\x93NUMPY": ("a NumPy array", _PYTHON),
    b"\x89HDF": ("an HDF5 file", _PYTHON),
    b"Obj\x01": ("an Avro file", _PYTHON),
    b"ORC": ("an ORC file", _PYTHON),
    **{b"\x80" + bytes([version]): ("a pickle", _PYTHON) for version in range(2, 6)},
}
"""What a file starts with that is no data file, what it is, and what to do."""
_IN_ZIP = (
    ("xl/", "an Excel workbook (.xlsx)", _SPREADSHEET),
    ("content.xml", "an OpenDocument file, such as a sheet (.ods)", _SPREADSHEET),
    ("Index/", "a document of Apple's Numbers or Pages", _SPREADSHEET),
    ("word/", "a Word document (.docx)", "give its texts as rows of a CSV or JSON Lines file"),
    ("archive/data.pkl", "a PyTorch file", _PYTHON),
)
"""Members by which a zip file is known, in the order that they are looked for."""
_PAGE = re.compile(rb"\s*(?:<!doctype html|<html|<head|<\?xml|<svg)", re.IGNORECASE)


@dataclass(frozen=True)
class Survey:
    """What one pass over a file's bytes found.

    Attributes:
        head: its first bytes, unpacked (up to 256 KiB).
        encoding: a codec name that Python knows.
        expanded_bytes: its size once unpacked.
        tabs: how many tabs every line holds, when it is the same number on each; else None.
    """

    path: Path
    gzipped: bool
    sha256: str
    bytes: int
    expanded_bytes: int
    head: bytes
    encoding: str
    tabs: int | None


class Expansion:
    """Counts what a file unpacks to, and stops it where that is out of proportion.

    Args:
        path: the file.
        what: what it is packed as, for the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._packed_bytes = path.stat().st_size
        self._count_bytes = 0

    def count(self, size_bytes: int) -> None:
        """Add unpacked bytes.

        Raises:
            DataError: ``data-expands``: they are more than 200 times the file, once past 16 MiB.
        """
        self._count_bytes += size_bytes
        limit_bytes = max(FREE_EXPANSION_BYTES, self._packed_bytes * MAX_RATIO)
        if self._count_bytes > limit_bytes:
            raise DataError(
                "data-expands",
                f"{self._packed_bytes:,} bytes of {self._what} unpack to more than {limit_bytes:,}, as a zip bomb does",
                where=str(self._path),
                fix="unpack it yourself if you trust it, and give the data as CSV or JSON Lines",
            )


class _CappedGzip(io.RawIOBase):
    """A gzip stream that stops when it expands too far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = path.open("rb")
        self._file = gzip.GzipFile(fileobj=self._raw)
        self._expansion = Expansion(path, "gzip")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            chunk = self._file.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            cause = f"damaged or truncated gzip data: {error}"
            raise DataError("data-damaged", cause, where=str(self._path), fix="get the file again") from error
        buffer[: len(chunk)] = chunk
        self._expansion.count(len(chunk))
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        self._raw.close()
        super().close()


def open_bytes(path: Path, gzipped: bool) -> BinaryIO:
    """The file's bytes, unpacked when it is gzip.

    Raises:
        DataError: (while reading) the gzip data is damaged, or expands too far.
    """
    if gzipped:
        return io.BufferedReader(_CappedGzip(path), _CHUNK_BYTES)  # pyright: ignore[reportReturnType]
    return path.open("rb")


def open_text(survey: Survey, newline: str | None) -> TextIO:
    """The file's text; bytes that are not text become lone surrogates, which ``normalise`` rejects by row.

    Args:
        survey: what ``survey`` found.
        newline: as in ``open``: None translates every line end, "" keeps them (for CSV).
    """
    binary = open_bytes(survey.path, survey.gzipped)
    return io.TextIOWrapper(binary, encoding=survey.encoding, errors="surrogateescape", newline=newline)


def lines(text: TextIO, where: str) -> Iterator[str]:
    """Lines of a text, each bounded.

    Raises:
        DataError: a line is longer than 64 Mi characters, or the bytes do not fit the encoding.
    """
    try:
        while line := text.readline(MAX_LINE_CHARS):
            if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
                cause = f"a line is longer than {MAX_LINE_CHARS:,} characters"
                raise DataError("data-too-long", cause, where=where, fix="is this the right file and format?")
            yield line
    except UnicodeDecodeError as error:
        raise _not_encoded(error, where) from error


def block(text: TextIO, chars: int, where: str) -> str:
    """The next characters of a text, "" at its end.

    Raises:
        DataError: the bytes do not fit the encoding.
    """
    try:
        return text.read(chars)
    except UnicodeDecodeError as error:
        raise _not_encoded(error, where) from error


def _not_encoded(error: UnicodeDecodeError, where: str) -> DataError:
    cause = f"not {error.encoding} text: {error.reason} at byte {error.start:,} of a block"
    fix = "name the right one in the task file, e.g. data.encoding: cp1252 (`locum init --encoding cp1252`)"
    return DataError("data-encoding", cause, where=where, fix=fix)


def survey(path: Path, encoding: str | None) -> Survey:
    """Read a file once: hash, size, head, encoding.

    Args:
        path: a regular file.
        encoding: the user's own word on the encoding, or None to find out.

    Raises:
        DataError: it is missing, unreadable, empty, an archive, damaged, or its encoding is ambiguous.
    """
    gzipped = _check_kind(path)
    if encoding is not None:
        encoding = known_encoding(encoding, str(path))
    check = Utf8Check(_SAMPLE_BYTES)
    tabs = _TabCount()
    expanded_bytes = 0
    head = b""
    with open_bytes(path, gzipped) as file:
        while chunk := file.read(_CHUNK_BYTES):
            head = head or chunk[:_SAMPLE_BYTES]
            expanded_bytes += len(chunk)
            check.feed(chunk)
            tabs.feed(chunk)
    if head[257:262] == b"ustar":
        raise _refusal(path, "a tar archive", _UNPACK)
    if _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        what = "XML" if b"<?xml" in head[:100].lower() and b"<html" not in head[:2000].lower() else "a web page (HTML)"
        how = "download the data themselves: of a shared sheet as CSV, of a repository the raw file"
        raise _refusal(path, what, how if "page" in what else "write its rows as CSV or JSON Lines")
    if not head.strip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"):
        raise DataError("data-empty", "the file is empty", where=str(path), fix="give a file with a header and rows")
    return Survey(
        path=path,
        gzipped=gzipped,
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        expanded_bytes=expanded_bytes,
        head=head,
        encoding=with_mark(encoding, head) if encoding else guess_encoding(head, check, str(path)),
        tabs=tabs.constant,
    )


def recheck(path: Path, sha256: str) -> None:
    """Compare a file with what it was when surveyed.

    Raises:
        DataError: ``data-changed``.
    """
    if sha256_file(path) != sha256:
        raise DataError(
            "data-changed",
            "the file changed while it was being read",
            where=str(path),
            fix="wait until nothing writes to it, and run the same command again",
        )


def _check_kind(path: Path) -> bool:
    """Whether the file is gzip; refuse what is no data file."""
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except FileNotFoundError as error:
        raise DataError("data-missing", "no such file", where=str(path), fix=_look_for(path)) from error
    except OSError as error:
        cause = f"cannot be read: {error.strerror}"
        raise DataError("data-missing", cause, where=str(path), fix="check its permissions") from error
    for start, (what, how) in _MAGIC.items():
        if magic.startswith(start):
            raise _refusal(path, *(_zip_kind(path) if what == "a zip archive" else (what, how)))
    return magic.startswith(b"\x1f\x8b")


def _refusal(path: Path, what: str, how: str) -> DataError:
    return DataError("data-archive", f"this is {what}, which is not read as data", where=str(path), fix=how)


def _zip_kind(path: Path) -> tuple[str, str]:
    """What a zip file is by the names of its members, and what to do; nothing of it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = []
    for member, what, how in _IN_ZIP:
        if any(name.startswith(member) for name in names):
            return what, how
    data = [one_line(name, 60) for name in names if not name.endswith("/")][:3]
    inside = f" of {len(names):,} files ({', '.join(data)})" if data else ""
    return f"a zip archive{inside}", _UNPACK


def _look_for(path: Path) -> str:
    """What to do about a file that is not there."""
    name = str(path)
    if re.match(r"(https?|hf|pypi|s3|gs):/", name):
        return "download it and give the file; in a task file data.train takes https://, hf:// and pypi:// addresses"
    here = path.parent
    close = nearest(path.name, (each.name for each in here.iterdir())) if here.is_dir() else None
    return f"did you mean {here / close}?" if close else "check its name, or data.* in the task"


class _TabCount:
    """Whether every line of a byte stream holds the same number of tabs."""

    def __init__(self) -> None:
        self._rest = b""
        self._numbers: set[int] = set()

    def feed(self, chunk: bytes) -> None:
        if len(self._numbers) > 1:
            return
        block, newline, rest = (self._rest + chunk).rpartition(b"\n")
        self._rest = rest[:_CHUNK_BYTES]
        if newline:
            self._numbers |= {line.count(b"\t") for line in block.split(b"\n") if line.strip()}

    @property
    def constant(self) -> int | None:
        numbers = self._numbers | ({self._rest.count(b"\t")} if self._rest.strip() else set())
        return numbers.pop() if len(numbers) == 1 else None
