"""What the data room hands on: one row, and the data card of a prepared data set.

Notable: prepared splits are JSON Lines, one ``Row`` a line, in a folder with ``card.json`` written last.
"""

from __future__ import annotations

from typing import Literal

from locum.schema.base import Document

SplitName = Literal["train", "dev", "calibration", "test"]


class Row(Document):
    """One example.

    Attributes:
        id: where it came from, ``train.csv:17``.
        input: what the student reads; several columns are joined as ``name: value`` lines.
        output: the right answer (a label, for classify).
        group: what the row belongs to (a conversation, a document), where the task names a column for it.
    """

    id: str
    input: str
    output: str
    group: str | None = None


class SourceFile(Document):
    """One file that was read."""

    split: SplitName
    address: str
    sha256: str
    bytes: int
    rows: int
    format: str
    encoding: str


class Dropped(Document):
    """Rows that were left out or changed, by reason, with up to 20 places."""

    reason: str
    count: int
    places: tuple[str, ...] = ()


class SplitCard(Document):
    """What one split holds.

    Attributes:
        groups: how many groups its rows belong to; None where the task names none.
        seen_in_train: rows whose input also stands in train, as messages do that come often.
        copies_left_out: rows that are not counted, because they are copies that no independent draws explain.
    """

    rows: int
    sha256: str
    labels: dict[str, int]
    chars_p50: int
    chars_p95: int
    chars_max: int
    groups: int | None = None
    seen_in_train: int = 0
    copies_left_out: int = 0


class DataCard(Document):
    """What is in the data, what was removed and why, and how good any model could get.

    Attributes:
        duplicates: counts by ``exact_within``, ``near_within``, ``exact_across``, ``near_across``.
        contradictions: inputs that stand with more than one label.
        noise_ceiling: the accuracy of a model that answers each input with its most frequent label; 1.0
            when no input contradicts itself.
        rare_labels: labels with too few rows for a statement of their own.
        warnings: sentences for the user.
        copies_across: rows that stand in several files stay in each (``duplicates: keep``).
    """

    schema_version: Literal[1] = 1
    task: str
    files: tuple[SourceFile, ...]
    input: tuple[str, ...]
    output: str
    labels: tuple[str, ...]
    splits: dict[SplitName, SplitCard]
    dropped: tuple[Dropped, ...]
    normalised: dict[str, int]
    duplicates: dict[str, int]
    contradictions: int
    contradiction_examples: tuple[str, ...] = ()
    noise_ceiling: float
    rare_labels: dict[str, int]
    warnings: tuple[str, ...]
    seed: int
    copies_across: bool = False
