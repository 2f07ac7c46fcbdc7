"""``inspect``: what a user's file seems to hold, before there is a task file.

Notable: columns are judged by what is in them (``tally``), and a kind of task is proposed only when it can read them
(``propose``); every guess comes with its reason and can be overruled.
Not here: asking the user (``cli``), reading every row (the first 20,000 are enough for a proposal).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from locum.core.errors import DataError
from locum.core.text import one_line
from locum.data.propose import Proposal, Wish, propose, with_members
from locum.data.readers import open_table
from locum.data.rows import Faults, RawRow
from locum.data.tally import Tally, ValueType, by_likeness_to_input, most_like_labels
from locum.schema.base import Document
from locum.schema.kinds import Kind, Profile

SAMPLE_ROWS = 20_000
_KEPT_ROWS = 200


class ColumnView(Document):
    """One column as seen in the sample.

    Attributes:
        type: what most values are.
        missing: share of rows without a value.
        distinct: how many different values; capped at 5,000.
        chars: mean length of a value as text.
        chars_p50, chars_p99: length that half of the values, and 99 in 100, do not exceed.
        samples: the first few values, cut to one line.
        looks_like: what the column seems to be for.
        why: the reason for that.
    """

    name: str
    type: ValueType
    missing: float
    distinct: int
    chars: float
    chars_p50: int
    chars_p99: int
    samples: tuple[str, ...]
    looks_like: Literal["input", "output", "id", "other"]
    why: str


class Inspection(Document):
    """What a data file seems to hold.

    Attributes:
        rows: rows read for this; ``complete`` when that was all of them.
        input: proposed input columns; empty when none fits.
        output: proposed output column, several for kinds that take more, or None.
        kind: of task, or None when the columns make none; ``why`` says why.
        profile: for generate.
        answer_schema: for extract, a draft.
        labels: for classify, labels of the output column and their counts, most frequent first.
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
    output: str | tuple[str, ...] | None
    kind: Kind | None
    profile: Profile | None = None
    answer_schema: dict[str, Any] | None = None
    why: str
    labels: dict[str, int]
    warnings: tuple[str, ...]


def inspect(path: Path, *, format: str = "auto", encoding: str | None = None, wish: Wish | None = None) -> Inspection:
    """Look at a data file and propose what a task file should say about it.

    Args:
        path: a file or folder, as for ``readers.open_table``.
        format: its format when known.
        encoding: its encoding when known.
        wish: what the user has said already.

    Raises:
        DataError: the file cannot be read at all, or has no rows.
        UserError: it needs pyarrow, which is not installed.
    """
    table = open_table(path, format=format, encoding=encoding)
    faults = Faults(str(path))
    tallies = [Tally(name, position) for position, name in enumerate(table.columns)]
    sample: list[RawRow] = []
    rows, complete = _count(table.rows(faults), tallies, sample)
    if rows == 0:
        faults.settle(skip_bad=False)
        raise DataError("data-empty", "a header, and no rows", where=str(path), fix="give a file with rows")
    found = propose(tallies, sample, rows, wish or Wish())
    inputs = found.input if found else tuple(tally.name for tally in _readable(tallies, rows)[:1])
    output = None if found is None else found.output[0] if len(found.output) == 1 else found.output
    labels = next((t for t in tallies if found and found.kind == "classify" and t.name == output), None)
    return Inspection(
        path=str(path),
        format=table.format,
        encoding=table.encoding,
        delimiter=table.delimiter,
        rows=rows,
        complete=complete,
        columns=tuple(_view(tally, rows, found, inputs) for tally in tallies),
        input=inputs,
        output=output,
        kind=found.kind if found else None,
        profile=found.profile if found else None,
        answer_schema=found.answer_schema if found else None,
        why=found.why if found else _why_none(tallies, rows),
        labels={one_line(label, 200): count for label, count in labels.values.most_common()} if labels else {},
        warnings=tuple(_warnings(tallies, found, inputs, faults, rows)),
    )


def _count(source: Iterator[RawRow], tallies: Sequence[Tally], sample: list[RawRow]) -> tuple[int, bool]:
    rows = 0
    for row in islice(source, SAMPLE_ROWS):
        rows += 1
        for tally in tallies:
            tally.take(row.columns.get(tally.name))
        if rows <= _KEPT_ROWS:
            sample.append(with_members(row))
    return rows, next(source, None) is None


def _readable(tallies: Sequence[Tally], rows: int) -> list[Tally]:
    """Text columns, the best input first, without labels and identifiers."""
    output = most_like_labels(tallies, rows)
    return by_likeness_to_input([tally for tally in tallies if tally is not output and not tally.id_reason(rows)])


def _view(tally: Tally, rows: int, found: Proposal | None, inputs: Sequence[str]) -> ColumnView:
    looks_like: Literal["input", "output", "id", "other"] = "other"
    why = tally.label_fault(rows) or "could hold labels too"
    if found and tally.name in (name.split(".")[0] for name in found.output):
        looks_like, why = "output", found.why
        if found.kind == "classify":
            why = f"{len(tally.values):,} short values, each {tally.repeats:.0f} times on average"
    elif tally.name in (name.split(".")[0] for name in inputs):
        looks_like, why = "input", f"differs from row to row ({tally.mean_chars:.0f} characters)"
    elif tally.id_reason(rows):
        looks_like, why = "id", tally.id_reason(rows)
    return ColumnView(
        name=tally.name,
        type=tally.type,
        missing=round(1 - tally.filled / rows, 4),
        distinct=len(tally.values),
        chars=round(tally.mean_chars, 1),
        chars_p50=tally.chars_at(0.5),
        chars_p99=tally.chars_at(0.99),
        samples=tuple(tally.samples),
        looks_like=looks_like,
        why=why,
    )


def _why_none(tallies: Sequence[Tally], rows: int) -> str:
    faults = "; ".join(f"{tally.name}: {tally.label_fault(rows)}" for tally in tallies[:8])
    return f"no columns make a task that can be told; as labels: {faults}"


def _warnings(
    tallies: Sequence[Tally], found: Proposal | None, inputs: Sequence[str], faults: Faults, rows: int
) -> Iterator[str]:
    if faults.total:
        place, what = faults.places[0]
        yield f"rows that cannot be read: {faults.total:,}, the first at {place} ({what})"
    if not inputs:
        yield "no column looks like text to read; name it with --input"
    unread = [t.name for t in _readable(tallies, rows) if found and t.name not in (*found.input, *found.output)]
    if unread:
        yield f"text that is not read: {', '.join(unread)}; name all input columns with --input to change that"
    if found and found.fault:
        yield f"a row of the sample cannot be used so: {found.fault}"
    if found is None or found.kind != "classify":
        return
    others = [t.name for t in tallies if t.name not in (*found.output, *inputs) and not t.label_fault(rows)]
    if others:
        yield f"columns that could be the output as well: {', '.join(others)}"
    output = next((tally for tally in tallies if tally.name == found.output[0]), None)
    if output is not None:
        yield from _label_warnings(output)


def _label_warnings(output: Tally) -> Iterator[str]:
    folded = Counter("".join(label.casefold().split()) for label in output.values)
    if any(count > 1 for count in folded.values()):
        yield "some labels differ only in case or spaces; they stay apart unless you mend them"
    once = sum(count == 1 for count in output.values.values())
    if once:
        yield f"labels that stand once only: {once:,}"
