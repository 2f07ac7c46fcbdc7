"""``inspect``: what a user's file seems to hold, before there is a task file.

Notable: columns are judged by what is in them, in any language: an output column's values repeat and are short;
an input column's values are long and mostly different; an id's are all different and have no words. English names
such as ``text`` or ``label`` only break ties. Every guess comes with its reason and can be overruled.
Not here: asking the user (``cli``), reading every row (the first 20,000 are enough for a proposal).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from locum.core.errors import DataError
from locum.core.text import one_line
from locum.data.readers import open_table
from locum.data.rows import Faults, RawRow
from locum.schema.base import Document

SAMPLE_ROWS = 20_000
_MOST_DISTINCT = 5_000
_SAMPLES = 3
_MOST_LABELS = 500
_LABEL_CHARS = 80
_MIN_REPEATS = 2.0
_OUTPUT_NAMES = frozenset(
    "label labels category class intent target output answer sentiment topic y tag gold etiqueta kategorie".split()  # noqa: SIM905
)
_INPUT_NAMES = frozenset(
    "text input sentence message utterance query question content body prompt description texto".split()  # noqa: SIM905
)

ValueType = Literal["text", "number", "true/false", "date", "empty", "nested"]


class ColumnView(Document):
    """One column as seen in the sample.

    Attributes:
        type: what most values are.
        missing: share of rows without a value.
        distinct: how many different values; capped at 5,000.
        chars: mean length of a value as text.
        samples: the first few values, cut to one line.
        looks_like: what the column seems to be for.
        why: the reason for that.
    """

    name: str
    type: ValueType
    missing: float
    distinct: int
    chars: float
    samples: tuple[str, ...]
    looks_like: Literal["input", "output", "id", "other"]
    why: str


class Inspection(Document):
    """What a data file seems to hold.

    Attributes:
        rows: rows read for this; ``complete`` when that was all of them.
        input: proposed input columns, most likely first; empty when none fits.
        output: proposed output column, or None.
        kind: classify, or None when no column holds labels; ``why`` says why.
        labels: labels of the output column and their counts, most frequent first.
        warnings: what the user should look at.
    """

    path: str
    format: str
    encoding: str
    delimiter: str
    rows: int
    complete: bool
    columns: tuple[ColumnView, ...]
    input: tuple[str, ...]
    output: str | None
    kind: Literal["classify"] | None
    why: str
    labels: dict[str, int]
    warnings: tuple[str, ...]


@dataclass
class _Tally:
    """Counts of one column while the sample passes."""

    name: str
    position: int
    filled: int = 0
    chars: int = 0
    words: int = 0
    types: Counter[str] = field(default_factory=Counter[str])
    values: Counter[str] = field(default_factory=Counter[str])
    distinct_full: bool = False
    samples: list[str] = field(default_factory=list[str])

    def take(self, value: Any) -> None:
        """Count one value."""
        text = _as_text(value)
        if not text:
            return
        self.filled += 1
        self.chars += len(text)
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

    @property
    def repeats(self) -> float:
        """Rows for each distinct value."""
        return self.filled / len(self.values) if self.values else 0.0


def inspect(path: Path, *, format: str = "auto", encoding: str | None = None) -> Inspection:
    """Look at a data file and propose what a task file should say about it.

    Args:
        path: a file or folder, as for ``readers.open_table``.
        format: its format when known.
        encoding: its encoding when known.

    Raises:
        DataError: the file cannot be read at all, or has no rows.
        UserError: it needs pyarrow, which is not installed.
    """
    table = open_table(path, format=format, encoding=encoding)
    faults = Faults(str(path))
    tallies = [_Tally(name, position) for position, name in enumerate(table.columns)]
    rows, complete = _count(table.rows(faults), tallies)
    if rows == 0:
        faults.settle(skip_bad=False)
        raise DataError("data-empty", "a header, and no rows", where=str(path), fix="give a file with rows")
    output = _guess_output(tallies, rows)
    ids = {tally.name: why for tally in tallies if tally is not output and (why := _id_reason(tally, rows))}
    inputs = _guess_inputs([tally for tally in tallies if tally is not output and tally.name not in ids])
    labels = {one_line(label, 200): count for label, count in output.values.most_common()} if output else {}
    return Inspection(
        path=str(path),
        format=table.format,
        encoding=table.encoding,
        delimiter=table.delimiter,
        rows=rows,
        complete=complete,
        columns=tuple(_view(tally, rows, output, inputs, ids) for tally in tallies),
        input=tuple(tally.name for tally in inputs),
        output=output.name if output else None,
        kind="classify" if output else None,
        why=_why_kind(output, tallies, rows),
        labels=labels,
        warnings=tuple(_warnings(tallies, output, inputs, faults, rows)),
    )


def _count(source: Iterator[RawRow], tallies: Sequence[_Tally]) -> tuple[int, bool]:
    rows = 0
    for row in islice(source, SAMPLE_ROWS):
        rows += 1
        for tally in tallies:
            tally.take(row.columns.get(tally.name))
    return rows, next(source, None) is None


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


def _guess_output(tallies: Sequence[_Tally], rows: int) -> _Tally | None:
    """The column most like labels: it repeats, is short, is filled; ties go to the name, then to the last."""
    fit = [tally for tally in tallies if _label_fault(tally, rows) == ""]
    if not fit:
        return None

    def score(tally: _Tally) -> tuple[float, float, int]:
        named = 2.0 * (tally.name.casefold() in _OUTPUT_NAMES) - 2.0 * (tally.name.casefold() in _INPUT_NAMES)
        kind = 0.5 if tally.type in ("text", "true/false") else 0.0
        few = 0.5 if len(tally.values) <= max(20, rows // 20) else 0.0
        return named + kind + few, -tally.mean_chars, tally.position

    return max(fit, key=score)


def _label_fault(tally: _Tally, rows: int) -> str:
    """Why a column cannot hold labels; "" when it can."""
    if tally.filled < 0.5 * rows:
        return "mostly empty"
    if tally.distinct_full or len(tally.values) > _MOST_LABELS:
        return f"more than {_MOST_LABELS} different values"
    if len(tally.values) < 2:
        return "one value only"
    if tally.repeats < _MIN_REPEATS:
        return f"its values hardly repeat ({len(tally.values):,} different in {tally.filled:,} rows)"
    if tally.mean_chars > _LABEL_CHARS or tally.type in ("nested", "date"):
        return "its values are long or nested"
    if tally.type == "number" and any("." in value for value in tally.values):
        return "it holds fractions"
    return ""


def _id_reason(tally: _Tally, rows: int) -> str:
    """Why a column seems to be an identifier; "" when it does not."""
    if tally.filled < rows or tally.type == "nested" or tally.name.casefold() in _INPUT_NAMES:
        return ""
    if not (tally.distinct_full or len(tally.values) == tally.filled) or tally.filled < 3:
        return ""
    if tally.type == "number":
        return "a different number in every row"
    has_digits = all(any(char.isdigit() for char in value) for value in tally.values)
    if tally.words == tally.filled and tally.mean_chars <= 64 and has_digits:
        return "a different word with digits in every row"
    return ""


def _guess_inputs(tallies: Sequence[_Tally]) -> list[_Tally]:
    """The column most like what a student reads: text, long, mostly different from row to row."""
    fit = [tally for tally in tallies if tally.type == "text"]
    if not fit:
        return []

    def score(tally: _Tally) -> float:
        different = 1.0 if tally.distinct_full else len(tally.values) / max(1, tally.filled)
        named = 1.5 if tally.name.casefold() in _INPUT_NAMES else 1.0
        return named * (0.2 + different) * min(tally.mean_chars, 400.0)

    best = max(fit, key=score)
    return [best]


def _view(tally: _Tally, rows: int, output: _Tally | None, inputs: Sequence[_Tally], ids: dict[str, str]) -> ColumnView:
    looks_like: Literal["input", "output", "id", "other"] = "other"
    why = _label_fault(tally, rows) or "could hold labels too"
    if tally is output:
        looks_like, why = "output", f"{len(tally.values):,} short values, each {tally.repeats:.0f} times on average"
    elif tally in inputs:
        looks_like, why = "input", f"the longest text that differs from row to row ({tally.mean_chars:.0f} characters)"
    elif tally.name in ids:
        looks_like, why = "id", ids[tally.name]
    return ColumnView(
        name=tally.name,
        type=tally.type,
        missing=round(1 - tally.filled / rows, 4),
        distinct=len(tally.values),
        chars=round(tally.mean_chars, 1),
        samples=tuple(tally.samples),
        looks_like=looks_like,
        why=why,
    )


def _why_kind(output: _Tally | None, tallies: Sequence[_Tally], rows: int) -> str:
    if output:
        return f"column {output.name!r} holds {len(output.values):,} values that repeat, as labels do"
    faults = "; ".join(f"{tally.name}: {_label_fault(tally, rows)}" for tally in tallies[:8])
    return f"no column looks like labels ({faults})"


def _warnings(
    tallies: Sequence[_Tally], output: _Tally | None, inputs: Sequence[_Tally], faults: Faults, rows: int
) -> Iterator[str]:
    if faults.total:
        place, what = faults.places[0]
        yield f"rows that cannot be read: {faults.total:,}, the first at {place} ({what})"
    if not inputs:
        yield "no column looks like text to read; name it with --input"
    if output is None:
        return
    others = [t.name for t in tallies if t is not output and not _label_fault(t, rows) and t not in inputs]
    if others:
        yield f"columns that could be the output as well: {', '.join(others)}"
    folded = Counter("".join(label.casefold().split()) for label in output.values)
    if any(count > 1 for count in folded.values()):
        yield "some labels differ only in case or spaces; they stay apart unless you mend them"
    once = sum(count == 1 for count in output.values.values())
    if once:
        yield f"labels that stand once only: {once:,}"
