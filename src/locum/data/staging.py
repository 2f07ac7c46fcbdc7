"""Where rows wait between reading and writing: an SQLite file beside the output, so that memory stays flat.

``rows`` holds every example as read. ``entries`` holds each distinct (input, label) of a file once, numbered in the
order that decides who stays: test, calibration, dev, train, then the input's seeded hash. ``draws`` holds the rows that
are counted, copies of an entry one by one, each with the split it ends in. No order depends on that of the file.
Not here: deciding anything (``dedupe``, ``splits``).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
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
BATCH_CHARACTERS = 1 << 22
"""Most characters of texts that wait in memory together: rows of megabytes wait for few others."""
_CACHE_KIB = 32 * 1024
_TABLES = """
CREATE TABLE rows (
    id INTEGER PRIMARY KEY, split INTEGER, place TEXT, key BLOB, input TEXT, output TEXT, owner TEXT
);
CREATE TABLE entries (
    i INTEGER PRIMARY KEY, split INTEGER, key BLOB, input TEXT, output TEXT, place TEXT, copies INTEGER,
    contested INTEGER
);
CREATE TABLE draws (
    d INTEGER PRIMARY KEY, i INTEGER, copy INTEGER, place TEXT, owner TEXT, rank BLOB, unit, final INTEGER, fate TEXT
);
CREATE TABLE found (key BLOB, split INTEGER, output TEXT, first INTEGER, copies INTEGER, contested INTEGER);
CREATE TABLE moved (unit PRIMARY KEY, final INTEGER);
CREATE TABLE ended (d INTEGER PRIMARY KEY, fate TEXT);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One distinct example of a file. ``i`` counts from 0; ``copies`` is how often it was read in ``split``."""

    i: int
    key: bytes
    input: str
    output: str
    place: str
    copies: int
    split: int


@dataclass(frozen=True, slots=True)
class Draw:
    """One row that is counted: a copy of entry ``i``, where it stands, and whom it belongs to."""

    d: int
    i: int
    copy: int
    input: str
    output: str
    place: str
    owner: str | None


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
        self._pending: list[tuple[int, str, bytes, str, str, str | None]] = []
        self._waiting_characters = 0
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

    def add(self, split: int, place: str, example: Example, group: str | None = None) -> None:
        """Keep one example as read."""
        self._pending.append((split, place, self.key(example.input), example.input, example.output, group))
        self._waiting_characters += len(example.input) + len(example.output)
        if len(self._pending) >= _BATCH_ROWS or self._waiting_characters >= BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.transaction():
            statement = "INSERT INTO rows (split, place, key, input, output, owner) VALUES (?, ?, ?, ?, ?, ?)"
            self._db.executemany(statement, self._pending)
        self._pending.clear()
        self._waiting_characters = 0

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
                "INSERT INTO entries (split, key, input, output, place, copies, contested) "
                "SELECT f.split, f.key, r.input, f.output, r.place, f.copies, f.contested "
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

    def learned(self) -> Iterator[tuple[str, int]]:
        """Texts that a student learns from or is chosen on, and how often they came, copies left out there included."""
        splits = ", ".join(str(ORDER.index(split)) for split in ("train", "dev"))
        same = "'near', 'exact', 'copy', 'contradiction'"
        yield from self._db.execute(
            "SELECT e.input, count(*) FROM draws d JOIN entries e ON e.i = d.i "  # noqa: S608
            f"WHERE d.final IN ({splits}) AND (d.fate IS NULL OR d.fate IN ({same})) GROUP BY d.i"
        )

    def copies_by_input(self, splits: Sequence[int]) -> Iterator[tuple[bytes, int]]:
        """Every distinct input of some files and how often it came there."""
        marks = ",".join("?" * len(splits))
        statement = f"SELECT key, sum(copies) FROM entries WHERE split IN ({marks}) GROUP BY key"  # noqa: S608
        yield from self._db.execute(statement, tuple(splits))

    def texts(self, numbers: list[int]) -> dict[int, str]:
        """Inputs of entries by number."""
        texts: dict[int, str] = {}
        for start in range(0, len(numbers), 500):
            part = numbers[start : start + 500]
            marks = ",".join("?" * len(part))
            statement = f"SELECT i, input FROM entries WHERE i IN ({marks})"  # noqa: S608
            texts.update(self._db.execute(statement, part).fetchall())
        return texts

    def draw(self) -> None:
        """Make the draws: every row of every entry, in the split of its file, each a unit of its own.

        A copy's place in the order (``rank``) is a hash of its input and of which copy it is, so copies are spread like
        any other rows; the first one's is the second half of the input's own hash (the first half decides which of two
        near-duplicates is kept, and both must not be decided by one number).
        """
        self._db.create_function("rank", 3, self._rank, deterministic=True)
        self._db.create_function("unit_rank", 1, self._unit_rank, deterministic=True)
        with self.transaction():
            self._db.execute(
                "INSERT INTO draws (i, copy, place, owner, rank, final) "
                "SELECT e.i, n.copy, n.place, n.owner, rank(e.key, e.output, n.copy), e.split FROM entries e JOIN ("
                "SELECT key, split, output, place, owner, "
                "row_number() OVER (PARTITION BY key, split, output ORDER BY owner, id) - 1 AS copy FROM rows"
                ") n ON n.key = e.key AND n.split = e.split AND n.output = e.output ORDER BY e.i, n.copy"
            )
            self._db.execute("UPDATE draws SET unit = d")
            self._db.execute("CREATE INDEX draws_by_entry ON draws (i)")

    def _rank(self, key: bytes, output: str, copy: int) -> bytes:
        if copy == 0:
            return key[8:]
        which = key + copy.to_bytes(8, "little") + output.encode()
        return hashlib.blake2b(which, digest_size=8, key=self._seed).digest()

    def _unit_rank(self, unit: bytes | str) -> bytes:
        """The place of a unit of several rows: a hash of its own, so that large units stand no further in front."""
        which = unit if isinstance(unit, bytes) else unit.encode()
        return hashlib.blake2b(which, digest_size=8, key=self._seed).digest()

    def own(self) -> None:
        """Make all rows of an owner one unit."""
        self._db.execute("UPDATE draws SET unit = owner")

    def join(self, units: Iterable[tuple[int, int]]) -> None:
        """Make all rows of some entries one unit, known by the input of its root: (root, entry)."""
        with self.transaction():
            self._db.executemany("UPDATE draws SET unit = (SELECT key FROM entries WHERE i = ?) WHERE i = ?", units)

    def draws(self, where: str = "1", *values: Any, order: str = "d.i, d.copy") -> Iterator[Draw]:
        """Draws that are counted and fulfil a condition (a constant of this room, never user text)."""
        statement = (
            "SELECT d.d, d.i, d.copy, e.input, e.output, d.place, d.owner FROM draws d JOIN entries e ON e.i = d.i "  # noqa: S608
            f"WHERE d.fate IS NULL AND {where} ORDER BY {order}"
        )
        for record in self._db.execute(statement, values):
            yield Draw(*record)

    def light(self, final: int, *, by_label: bool) -> Iterator[tuple[int, str]]:
        """Number and label of the draws of a split, in random order, within each label where ``by_label``."""
        statement = (
            "SELECT d.d, e.output FROM draws d JOIN entries e ON e.i = d.i WHERE d.fate IS NULL AND d.final = ? "  # noqa: S608
            f"ORDER BY {'e.output, ' if by_label else ''}d.rank, d.d"
        )
        yield from self._db.execute(statement, (final,))

    def by_turns(self, final: int) -> Iterator[int]:
        """Numbers of the draws of a split: one of each unit, then a second of each, at random among these."""
        statement = (
            "SELECT d FROM (SELECT d, unit, row_number() OVER (PARTITION BY unit ORDER BY rank, d) AS turn FROM draws "
            "WHERE fate IS NULL AND final = ?) ORDER BY turn, unit_rank(unit), unit"
        )
        for (number,) in self._db.execute(statement, (final,)):
            yield number

    def units(self, final: int, *, by_label: bool) -> Iterator[tuple[Any, str]]:
        """Units of a split with the label of their first row ("" unless ``by_label``), by label and at random."""
        # beside min(), SQLite takes the other columns from the row that has the least rank
        yield from self._db.execute(
            f"SELECT unit, output FROM (SELECT d.unit AS unit, {'e.output' if by_label else chr(39) * 2} AS output, "  # noqa: S608
            "min(d.rank) AS least FROM draws d JOIN entries e ON e.i = d.i WHERE d.fate IS NULL AND d.final = ? "
            "GROUP BY d.unit) ORDER BY output, iif(typeof(unit) = 'integer', least, unit_rank(unit)), unit",
            (final,),
        )

    def unit_count(self, final: int) -> int:
        """Units that a split holds now."""
        statement = "SELECT count(DISTINCT unit) FROM draws WHERE fate IS NULL AND final = ?"
        return int(self._db.execute(statement, (final,)).fetchone()[0])

    def weight(self, final: int) -> int:
        """Rows that a split holds now, copies included."""
        return self._count_draws("final = ?", final)

    def present(self, final: int) -> list[int]:
        """Numbers of the entries that have a row in a split now."""
        statement = "SELECT DISTINCT i FROM draws WHERE fate IS NULL AND final = ?"
        return [i for (i,) in self._db.execute(statement, (final,))]

    def seen_in(self, final: int, other: int) -> int:
        """Rows of one split whose input also stands in another."""
        statement = (
            "SELECT count(*) FROM draws d JOIN entries e ON e.i = d.i WHERE d.fate IS NULL AND d.final = ? AND e.key "
            "IN (SELECT o.key FROM draws p JOIN entries o ON o.i = p.i WHERE p.fate IS NULL AND p.final = ?)"
        )
        return int(self._db.execute(statement, (final, other)).fetchone()[0])

    def end(self, fates: Iterable[tuple[str, int]]) -> None:
        """Leave draws out: (reason, number); the fates may come from reading draws."""
        with self.transaction():
            self._db.executemany("INSERT INTO ended (fate, d) VALUES (?, ?)", fates)
            self._db.execute("UPDATE draws SET fate = ended.fate FROM ended WHERE ended.d = draws.d")
            self._db.execute("DELETE FROM ended")

    def end_entries(self, fates: Iterable[tuple[str, int]], final: int) -> None:
        """Leave all draws of entries out of a split: (reason, entry)."""
        with self.transaction():
            self._db.executemany(
                "UPDATE draws SET fate = ? WHERE i = ? AND fate IS NULL AND final = ?",
                ((fate, i, final) for fate, i in fates),
            )

    def end_copies(self, fate: str, final: int) -> int:
        """Leave all copies of an entry but the first out of a split; how many were left out."""
        before = self.weight(final)
        self._db.execute(
            "UPDATE draws SET fate = ? WHERE fate IS NULL AND final = ? AND d NOT IN "
            "(SELECT min(d) FROM draws WHERE fate IS NULL AND final = ? GROUP BY i)",
            (fate, final, final),
        )
        return before - self.weight(final)

    def end_all_but_one(self, fate: str, final: int) -> int:
        """Leave all rows of a unit but one, drawn at random, out of a split; how many were left out."""
        before = self.weight(final)
        self._db.execute(
            "UPDATE draws SET fate = ? WHERE fate IS NULL AND final = ? AND d NOT IN (SELECT d FROM "
            "(SELECT d, min(rank) FROM draws WHERE fate IS NULL AND final = ? GROUP BY unit))",
            (fate, final, final),
        )
        return before - self.weight(final)

    def end_owned_across(self) -> list[tuple[int, int, int]]:
        """Leave rows out whose owner stands in a file of higher priority: (split, that file's, how many)."""
        statement = (
            "SELECT d.final, o.least, count(*) FROM draws d JOIN (SELECT owner, min(final) AS least FROM draws "
            "WHERE fate IS NULL GROUP BY owner) o ON o.owner = d.owner WHERE d.fate IS NULL AND d.final > o.least "
            "GROUP BY d.final, o.least"
        )
        found = self._db.execute(statement).fetchall()
        self._db.execute(
            "UPDATE draws SET fate = 'group' FROM (SELECT owner, min(final) AS least FROM draws WHERE fate IS NULL "
            "GROUP BY owner) o WHERE o.owner = draws.owner AND draws.fate IS NULL AND draws.final > o.least"
        )
        return found

    def move(self, moves: Iterable[tuple[Any, int]]) -> None:
        """Give units another split: (unit, split by ``ORDER``); the moves may come from reading units."""
        with self.transaction():
            self._db.executemany("INSERT INTO moved VALUES (?, ?)", moves)
            self._db.execute("UPDATE draws SET final = moved.final FROM moved WHERE moved.unit = draws.unit")
            self._db.execute("DELETE FROM moved")

    def keep_in(self, final: int, places: Iterable[str]) -> int:
        """Leave the rows that stand in these places of a split's file in that split; how many they are."""
        with self.transaction():
            self._db.execute("CREATE TABLE named (place TEXT PRIMARY KEY) WITHOUT ROWID")
            self._db.executemany("INSERT INTO named VALUES (?)", ((place,) for place in places))
            named = "place IN (SELECT place FROM named) AND i IN (SELECT i FROM entries WHERE split = ?)"
            self._db.execute(f"UPDATE draws SET final = ? WHERE {named}", (final, final))  # noqa: S608
            count = self._count_draws(named, final)
            self._db.execute("DROP TABLE named")
        return count

    def _count_draws(self, where: str, *values: Any) -> int:
        statement = f"SELECT count(*) FROM draws WHERE fate IS NULL AND {where}"  # noqa: S608
        return int(self._db.execute(statement, values).fetchone()[0])

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
