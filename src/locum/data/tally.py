"""``Tally``: counts of one column while a sample of a file passes, and what they say the column is for.

Notable: columns are judged by what is in them, in any language: a label column's values repeat and are short; an input
column's values are long and mostly different; an id's are all different and have no words. English names such as
``text`` or ``label`` only break ties. Not here: what kind of task the columns make (``propose``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from locum.core.text import one_line

ValueType = Literal["text", "number", "true/false", "date", "empty", "nested"]

_MOST_DISTINCT = 5_000
_SAMPLES = 3
_MOST_LABELS = 500
_LABEL_CHARS = 80
_MIN_REPEATS = 2.0
OUTPUT_NAMES = frozenset(
    "label labels category class intent target output answer sentiment topic y tag gold etiqueta kategorie".split()  # noqa: SIM905
)
INPUT_NAMES = frozenset(
    "text input sentence message utterance query question content body prompt description texto".split()  # noqa: SIM905
)


@dataclass
class Tally:
    """Counts of one column.

    Attributes:
        filled: rows with a value.
        values: how often each value was seen, up to 5,000 different ones.
        lengths: how many values have so many characters.
        samples: the first few values, cut to one line.
    """

    name: str
    position: int
    filled: int = 0
    chars: int = 0
    words: int = 0
    types: Counter[str] = field(default_factory=Counter[str])
    values: Counter[str] = field(default_factory=Counter[str])
    distinct_full: bool = False
    lengths: Counter[int] = field(default_factory=Counter[int])
    samples: list[str] = field(default_factory=list[str])

    def take(self, value: Any) -> None:
        """Count one value."""
        text = _as_text(value)
        if not text:
            return
        self.filled += 1
        self.chars += len(text)
        self.lengths[len(text)] += 1
        self.words += len(text.split())
        self.types[_type_of(value, text)] += 1
        start = text[:1000]
        if start in self.values or len(self.values) < _MOST_DISTINCT:
            self.values[start] += 1
        else:
            self.distinct_full = True
        if len(self.samples) < _SAMPLES and one_line(text, 80) not in self.samples:
            self.samples.append(one_line(text, 80))

    @property
    def type(self) -> ValueType:
        """What most values are."""
        return self.types.most_common(1)[0][0] if self.types else "empty"  # pyright: ignore[reportReturnType]

    @property
    def mean_chars(self) -> float:
        """Mean length of a value."""
        return self.chars / self.filled if self.filled else 0.0

    def chars_at(self, share: float) -> int:
        """The least length that a share of the values does not exceed; 0 when there is no value."""
        wanted, seen = math.ceil(share * self.filled), 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= wanted:
                return length
        return 0

    @property
    def repeats(self) -> float:
        """Rows for each distinct value."""
        return self.filled / len(self.values) if self.values else 0.0

    def label_fault(self, rows: int) -> str:
        """Why the column cannot hold labels; "" when it can."""
        if self.filled < 0.5 * rows:
            return "mostly empty"
        if self.distinct_full or len(self.values) > _MOST_LABELS:
            return f"more than {_MOST_LABELS} different values"
        if len(self.values) < 2:
            return "one value only"
        if self.repeats < _MIN_REPEATS:
            return f"its values hardly repeat ({len(self.values):,} different in {self.filled:,} rows)"
        if self.mean_chars > _LABEL_CHARS or self.type in ("nested", "date"):
            return "its values are long or nested"
        if self.type == "number" and any("." in value for value in self.values):
            return "it holds fractions"
        return ""

    def id_reason(self, rows: int) -> str:
        """Why the column seems to be an identifier; "" when it does not."""
        if self.filled < rows or self.type == "nested" or self.name.casefold() in INPUT_NAMES:
            return ""
        if not (self.distinct_full or len(self.values) == self.filled) or self.filled < 3:
            return ""
        if self.type == "number":
            return "a different number in every row"
        has_digits = all(any(char.isdigit() for char in value) for value in self.values)
        if self.words == self.filled and self.mean_chars <= 64 and has_digits:
            return "a different word with digits in every row"
        return ""


def most_like_labels(tallies: Sequence[Tally], rows: int) -> Tally | None:
    """The column most like labels: it repeats, is short, is filled; ties go to the name, then to the last."""
    fit = [tally for tally in tallies if tally.label_fault(rows) == ""]
    if not fit:
        return None

    def score(tally: Tally) -> tuple[float, float, int]:
        name = tally.name.casefold()
        named = 2.0 * (name in OUTPUT_NAMES) - 2.0 * (name in INPUT_NAMES)
        kind = 0.5 if tally.type in ("text", "true/false") else 0.0
        few = 0.5 if len(tally.values) <= max(20, rows // 20) else 0.0
        return named + kind + few, -tally.mean_chars, tally.position

    return max(fit, key=score)


def by_likeness_to_input(tallies: Sequence[Tally]) -> list[Tally]:
    """Columns of text, the one most like what a student reads first: long, and different from row to row."""

    def score(tally: Tally) -> float:
        different = 1.0 if tally.distinct_full else len(tally.values) / max(1, tally.filled)
        named = 1.5 if tally.name.casefold() in INPUT_NAMES else 1.0
        return named * (0.2 + different) * min(tally.mean_chars, 400.0)

    return sorted((tally for tally in tallies if tally.type == "text"), key=score, reverse=True)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value.strip() if isinstance(value, str) else str(value)


def _type_of(value: Any, text: str) -> ValueType:
    if isinstance(value, bool) or text.casefold() in ("true", "false"):
        return "true/false"
    if isinstance(value, list | dict | bytes):
        return "nested"
    if isinstance(value, int | float) or _is_number(text):
        return "number"
    if 8 <= len(text) <= 32 and text[:4].isdecimal() and text[4] in "-/." and text[5:7].strip("-/.").isdecimal():
        return "date"
    return "text"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True
