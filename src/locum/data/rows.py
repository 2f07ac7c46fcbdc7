"""What every reader gives: raw rows, and an account of those that could not be read.

Notable: a reader never stops at the first bad row. It tells ``Faults``, which keeps the first 20 places
and counts the rest, so that the user sees all of it at once; ``settle`` then stops, or lets it pass when
the task says ``skip_bad``.
Not here: turning a raw row into an input and an output (``data.examples``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locum.core.errors import DataError
from locum.core.text import count_of

MAX_PLACES = 20
"""How many places a list of bad rows names; the rest is counted."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in its file.

    Attributes:
        file: the file's name (in a folder of files, the file inside it).
        number: its line in a text file, its position (from 1) in a JSON array, Parquet or Arrow file.
        columns: values by column name; text in CSV and TSV, any JSON-like value elsewhere.
    """

    file: str
    number: int
    columns: dict[str, Any]

    @property
    def place(self) -> str:
        """``train.csv:17``."""
        return f"{self.file}:{self.number}"


@dataclass
class Faults:
    """Rows of one source that cannot be used: counts by reason, and the first places of all of them.

    Attributes:
        how: what makes such rows be skipped, for the message.
    """

    source: str
    how: str = "data.skip_bad: true in the task file"
    counts: dict[str, int] = field(default_factory=dict)
    places: list[tuple[str, str]] = field(default_factory=list)
    by_reason: dict[str, list[str]] = field(default_factory=dict)

    def add(self, place: str, reason: str, detail: str = "") -> None:
        """Count one bad row.

        Args:
            place: where it stands, ``train.csv:17``.
            reason: what is wrong in general; counts go by it.
            detail: what was seen there.
        """
        self.counts[reason] = self.counts.get(reason, 0) + 1
        kept = self.by_reason.setdefault(reason, [])
        if len(kept) < MAX_PLACES:
            kept.append(place)
        if len(self.places) < MAX_PLACES:
            self.places.append((place, f"{reason}: {detail}" if detail else reason))

    @property
    def total(self) -> int:
        """How many rows are bad."""
        return sum(self.counts.values())

    @property
    def summary(self) -> str:
        """How many rows are bad and why, most frequent first: ``2 rows (no label: 2)``."""
        reasons = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return f"{count_of(self.total, 'row')} ({'; '.join(f'{reason}: {count:,}' for reason, count in reasons)})"

    def settle(self, skip_bad: bool) -> None:
        """Stop when there are bad rows, unless the task lets them be skipped.

        Raises:
            DataError: ``data-bad-rows``, with a line for each of the first 20.
        """
        if not self.places or skip_bad:
            return
        listed = "".join(f"\n  {place}: {what}" for place, what in self.places)
        more = f"\n  … and {self.total - len(self.places):,} more" if self.total > len(self.places) else ""
        raise DataError(
            "data-bad-rows",
            f"{count_of(self.total, 'row')} cannot be used:{listed}{more}\n",
            fix=f"mend them, or count and skip them with {self.how}",
            where=self.source,
        )


@dataclass(frozen=True)
class Table:
    """A file or folder of rows that has been looked at and can now be read.

    Attributes:
        path: what was opened.
        format: csv, tsv, jsonl, json, parquet, arrow (``.gz`` behind it when compressed).
        encoding: text encoding; ``binary`` for Parquet and Arrow.
        columns: column names, in the file's order.
        rows: reads it from the start, one pass a call; bad rows go to the ``Faults``.
        delimiter: between fields, for CSV and TSV.
        classes: names of the class numbers in the first wanted column that has any, in the numbers' order.
        sha256: of the file, or of the listing of a folder's files and their hashes.
        bytes: size on disk.
        recheck: raises ``data-changed`` when the file is no longer what it was when opened.
    """

    path: Path
    format: str
    encoding: str
    columns: tuple[str, ...]
    rows: Callable[[Faults], Iterator[RawRow]]
    sha256: str
    bytes: int
    recheck: Callable[[], None]
    delimiter: str = ""
    classes: tuple[str, ...] = ()
