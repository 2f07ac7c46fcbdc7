"""Where rows wait between reading and writing: an SQLite file beside the output, so that memory stays flat.

Two tables. ``rows`` holds every example as read. ``entries`` holds each distinct (input, label) of the split
it belongs to, once, with the number of its copies, numbered in the order that decides who stays: test first,
then calibration, dev, train, and within a split by the input's seeded hash. That order does not depend on the
order of the rows in the file.

Notable: 32 MiB of cache; no journal, since the file is thrown away with the folder it stands in.
Not here: deciding anything (``dedupe``, ``splits``).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from locum.core.errors import DeviceError, LocumError
from locum.data.examples import Example
from locum.schema.data import SplitName

ORDER: Final[tuple[SplitName, ...]] = ("test", "calibration", "dev", "train")
"""Splits by priority: a row that stands in two keeps its place in the first."""
_BATCH_ROWS = 2000
_CACHE_KIB = 32 * 1024
_TABLES = """
CREATE TABLE rows (
    id INTEGER PRIMARY KEY, split INTEGER, place TEXT, key BLOB, input TEXT, output TEXT
);
CREATE TABLE entries (
    i INTEGER PRIMARY KEY, split INTEGER, key BLOB, input TEXT, output TEXT, place TEXT, copies INTEGER,
    contested INTEGER, final INTEGER, fate TEXT
);
CREATE TABLE found (key BLOB, split INTEGER, output TEXT, first INTEGER, copies INTEGER, contested INTEGER);
CREATE TABLE moved (i INTEGER PRIMARY KEY, final INTEGER);
CREATE TABLE ended (i INTEGER PRIMARY KEY, fate TEXT);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One distinct example. ``i`` counts from 0; ``copies`` is how often it was read in ``split``."""

    i: int
    key: bytes
    input: str
    output: str
    place: str
    copies: int
    split: int


@dataclass(frozen=True, slots=True)
class Group:
    """Copies of one (input, label) in one split, as read: their number and the first one's row id."""

    split: int
    output: str
    copies: int
    first: int


class Staging:
    """The SQLite file and the statements that the other modules need.

    Args:
        path: the file; it must not exist.
        seed: of the order of entries.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed.to_bytes(8, "little")
        self._pending: list[tuple[int, str, bytes, str, str]] = []
        self._db = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=FILE"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file; it stays on disk."""
        self._db.close()

    def key(self, text: str) -> bytes:
        """The seeded hash of an input (BLAKE2b, 16 bytes): its identity and its place in the order."""
        return hashlib.blake2b(text.encode(), digest_size=16, key=self._seed).digest()

    def add(self, split: int, place: str, example: Example) -> None:
        """Keep one example as read."""
        self._pending.append((split, place, self.key(example.input), example.input, example.output))
        if len(self._pending) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.transaction():
            statement = "INSERT INTO rows (split, place, key, input, output) VALUES (?, ?, ?, ?, ?)"
            self._db.executemany(statement, self._pending)
        self._pending.clear()

    def relabel(self, spellings: Mapping[str, str]) -> None:
        """Write some outputs of all rows as read in another spelling."""
        if not spellings:
            return
        with self.transaction():
            self._db.execute("CREATE TABLE spelled (old TEXT PRIMARY KEY, new TEXT) WITHOUT ROWID")
            self._db.executemany("INSERT INTO spelled VALUES (?, ?)", spellings.items())
            self._db.execute("UPDATE rows SET output = spelled.new FROM spelled WHERE spelled.old = rows.output")
            self._db.execute("DROP TABLE spelled")

    def by_input(self) -> Iterator[tuple[bytes, list[Group]]]:
        """Every distinct input with its groups of copies, in the order of keys."""
        self._db.execute("CREATE INDEX rows_by_key ON rows (key, split, output, id)")
        statement = (
            "SELECT key, split, output, count(*), min(id) FROM rows GROUP BY key, split, output ORDER BY key, split"
        )
        current, groups = b"", list[Group]()
        for key, split, output, copies, first in self._db.execute(statement):
            if key != current and groups:
                yield current, groups
                groups = []
            current = key
            groups.append(Group(split, output, copies, first))
        if groups:
            yield current, groups

    def place(self, row_id: int) -> tuple[str, str]:
        """Where a row as read stands, and its input."""
        return self._db.execute("SELECT place, input FROM rows WHERE id = ?", (row_id,)).fetchone()

    def places_of(self, split: int, key: bytes, output: str) -> list[str]:
        """Where all copies of an example stand."""
        statement = "SELECT place FROM rows WHERE key = ? AND split = ? AND output = ? ORDER BY id"
        return [place for (place,) in self._db.execute(statement, (key, split, output))]

    def found(self, groups: Iterable[tuple[bytes, Group, bool]]) -> None:
        """Keep which groups become entries: key, group, whether its input has other labels too."""
        statement = "INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)"
        with self.transaction():
            self._db.executemany(
                statement, ((key, g.split, g.output, g.first, g.copies, contested) for key, g, contested in groups)
            )

    def number_entries(self) -> list[int]:
        """Make the entries from what was ``found``, in order; how many each split has, by ``ORDER``."""
        with self.transaction():
            self._db.execute("INSERT INTO entries (i) VALUES (-1)")  # so that the next number is 0
            self._db.execute(
                "INSERT INTO entries (split, key, input, output, place, copies, contested, final) "
                "SELECT f.split, f.key, r.input, f.output, r.place, f.copies, f.contested, f.split "
                "FROM found f JOIN rows r ON r.id = f.first ORDER BY f.split, f.key, f.output"
            )
            self._db.execute("DELETE FROM entries WHERE i = -1")
            self._db.execute("DROP TABLE found")
        return [self._count("split = ?", split) for split in range(len(ORDER))]

    def entries(self, where: str = "1", *values: Any, order: str = "i") -> Iterator[Entry]:
        """Entries that fulfil a condition (a constant of this room, never user text)."""
        statement = f"SELECT i, key, input, output, place, copies, split FROM entries WHERE {where} ORDER BY {order}"  # noqa: S608
        for record in self._db.execute(statement, values):
            yield Entry(*record)

    def light(self, where: str, *values: Any, order: str) -> Iterator[tuple[int, str, int]]:
        """As ``entries``, but only number, label and copies: a sort of these needs little space."""
        statement = f"SELECT i, output, copies FROM entries WHERE {where} ORDER BY {order}"  # noqa: S608
        yield from self._db.execute(statement, values)

    def texts(self, numbers: list[int]) -> dict[int, str]:
        """Inputs of entries by number."""
        texts: dict[int, str] = {}
        for start in range(0, len(numbers), 500):
            part = numbers[start : start + 500]
            marks = ",".join("?" * len(part))
            statement = f"SELECT i, input FROM entries WHERE i IN ({marks})"  # noqa: S608
            texts.update(self._db.execute(statement, part).fetchall())
        return texts

    def end(self, fates: Iterable[tuple[str, int]]) -> None:
        """Leave entries out: (reason, number); the fates may come from reading entries."""
        with self.transaction():
            self._db.executemany("INSERT INTO ended (fate, i) VALUES (?, ?)", fates)
            self._db.execute("UPDATE entries SET fate = ended.fate FROM ended WHERE ended.i = entries.i")
            self._db.execute("DELETE FROM ended")

    def move(self, moves: Iterable[tuple[int, int]]) -> None:
        """Give entries another split: (number, split by ``ORDER``); the moves may come from reading entries."""
        with self.transaction():
            self._db.executemany("INSERT INTO moved VALUES (?, ?)", moves)
            self._db.execute("UPDATE entries SET final = moved.final FROM moved WHERE moved.i = entries.i")
            self._db.execute("DELETE FROM moved")

    def label_weights(self, final: int) -> dict[str, int]:
        """Rows of each label that a split holds now, copies included, sorted by label."""
        statement = (
            "SELECT output, sum(copies) FROM entries WHERE final = ? AND fate IS NULL GROUP BY output ORDER BY output"
        )
        return dict(self._db.execute(statement, (final,)).fetchall())

    def weight(self, final: int) -> int:
        """Rows that a split holds now, copies included."""
        statement = "SELECT coalesce(sum(copies), 0) FROM entries WHERE final = ? AND fate IS NULL"
        return int(self._db.execute(statement, (final,)).fetchone()[0])

    def _count(self, where: str, *values: Any) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM entries WHERE {where}", values).fetchone()[0])  # noqa: S608

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Make the enclosed changes one transaction, which is what makes many inserts fast."""
        self._db.execute("BEGIN")
        yield
        self._db.execute("COMMIT")


@contextmanager
def open_staging(path: Path, seed: int) -> Generator[Staging, None, None]:
    """A staging file for the enclosed work, removed afterwards.

    Raises:
        DeviceError: the disk is full, or cannot be written.
    """
    try:
        staging = Staging(path, seed)
        try:
            yield staging
        finally:
            staging.close()
            path.unlink(missing_ok=True)
    except sqlite3.OperationalError as error:
        raise _disk_error(error, path) from error


def _disk_error(error: sqlite3.OperationalError, path: Path) -> LocumError:
    if error.sqlite_errorname == "SQLITE_FULL":
        return DeviceError(
            "core-disk-full",
            f"no space left on the disk that holds {path}, where rows wait while they are sorted",
            fix="free about four times the size of the data files, or choose --out on another disk",
        )
    return DeviceError(
        "core-not-writable", f"cannot write {path}: {error}", fix="choose a folder you may write, --out DIR"
    )
