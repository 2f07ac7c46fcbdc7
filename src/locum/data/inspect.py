"""``inspect``: what a user's file seems to hold, before there is a task file.

Notable: columns are judged by what is in them (``tally``), and a kind of task is proposed only when it can read them
(``propose``); every guess comes with its reason and can be overruled.
Not here: asking the user (``cli``), reading every row (the first 20,000 are enough for a proposal).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal

from locum.core.errors import DataError
from locum.core.text import one_line
from locum.data.label_sets import SEVERAL_LABELS, spellings
from locum.data.propose import Proposal, Wish, propose, says_answer, with_members
from locum.data.readers import open_table
from locum.data.rows import Faults, RawRow
from locum.data.shapes import JOIN, Shape, known_shape, odd_lists
from locum.data.tally import OUTPUT_NAMES, Tally, ValueType, by_likeness_to_input, by_likeness_to_labels, cell_text
from locum.data.telling import Told
from locum.data.turns import PICKS, reach
from locum.schema.base import Document
from locum.schema.kinds import Kind, Profile

SAMPLE_ROWS = 20_000
_KEPT_ROWS = 200
_HEAD_ROWS = 100
_FIT_ROWS, _FIT_CHARS = 2000, 600
_TOLD_GAIN = 0.05
_GIVEN_AWAY, _GIVEN_ROWS = 1.0, 300


class ColumnView(Document):
    """One column as seen in the sample.

    Attributes:
        type: what most values are.
        missing: share of rows without a value.
        distinct: how many different values; capped at 5,000.
        chars: mean length of a value as text.
        chars_p50, chars_p99: length that half of the values, and 99 in 100, do not exceed.
        samples: the first few values, cut to one line.
        told, chance: for columns that could be labels, the share of some rows in which a quick linear fit on the input
            tells the value, and the share of the most frequent value.
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
    told: float | None = None
    chance: float | None = None
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
        instruction: what the system says in every row of a log; "" for nothing.
        labels: for classify, labels of the output column as a build writes them, and their counts, most frequent first.
        others: for classify, columns that could be the output as well.
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
    instruction: str = ""
    why: str
    labels: dict[str, int]
    others: tuple[str, ...] = ()
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
    wish = wish or Wish()
    table = open_table(path, format=format, encoding=encoding)
    head = list(islice(table.rows(Faults(str(path))), _HEAD_ROWS))
    shape = known_shape(head) if head else None
    picks = [name for name in _picked(shape, wish) if name not in table.columns and _is_reached(name, head)]
    if picks:
        table = open_table(path, format=format, encoding=encoding, wanted=(*table.columns, *dict.fromkeys(picks)))
    faults = Faults(str(path))
    tallies = [Tally(name, position) for position, name in enumerate(table.columns)]
    sample, texts = list[RawRow](), list[dict[str, str]]()
    rows, complete = _count(table.rows(faults), tallies, sample, texts)
    if rows == 0:
        faults.settle(skip_bad=False)
        raise DataError("data-empty", "a header, and no rows", where=str(path), fix="give a file with rows")
    hidden = shape.hidden if shape else ()
    seen = [tally for tally in tallies if tally.name not in hidden]
    sample = [replace(row, columns={k: v for k, v in row.columns.items() if k not in hidden}) for row in sample]
    found = propose(seen, sample, rows, wish, shape=shape, texts=texts)
    _check_one_label(seen, found, wish, path)
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
        columns=tuple(_view(tally, rows, found, inputs, hidden) for tally in tallies),
        input=inputs,
        output=output,
        kind=found.kind if found else None,
        profile=found.profile if found else None,
        answer_schema=found.answer_schema if found else None,
        instruction=shape.instruction if shape and found and set(found.input) & set(shape.input) else "",
        why=found.why if found else _why_none(seen, sample, rows, shape),
        labels=_labels(labels) if labels else {},
        others=_others(seen, found, inputs, rows),
        warnings=tuple(_warnings(seen, found, inputs, faults, rows)),
    )


def _picked(shape: Shape | None, wish: Wish) -> tuple[str, ...]:
    """Names that reach into columns: of the shape, and those that the user gave."""
    known = (*shape.columns, *shape.input, *shape.output) if shape else ()
    return (*known, *wish.input, *wish.output)


def _is_reached(name: str, rows: Sequence[RawRow]) -> bool:
    return any(reach(row.columns, name)[0] for row in rows)


def _labels(tally: Tally) -> dict[str, int]:
    """The labels as a build writes them, and their counts, most frequent first."""
    alike, counts = spellings(tally.values), Counter[str]()
    for label, count in tally.values.items():
        counts[one_line(alike.get(label, label), 200)] += count
    return dict(counts.most_common())


def _check_one_label(tallies: Sequence[Tally], found: Proposal | None, wish: Wish, path: Path) -> None:
    """Refuse lists of labels where they are what the task would be about.

    Raises:
        DataError: ``data-several-labels``.
    """
    several = next((t for t in tallies if t.has_several_labels and wish.output in ((), (t.name,))), None)
    many = len(found.output) > 1 if found else False  # a row that is checked by a program
    if several is None or many or wish.kind not in (None, "classify"):
        return
    if found is not None and several.name not in (*found.input, *found.output):
        fit, name = found.told.get(found.output[0]), found.output[0]
        told = name.casefold() in OUTPUT_NAMES or (fit is not None and fit.gain >= _TOLD_GAIN)
        if found.kind not in ("classify", "generate") or told or says_answer(name):
            return
    shown = ", ".join(one_line(item, 30) for item, _ in several.items.most_common(5))
    raise DataError(
        "data-several-labels",
        f"column {several.name!r} holds several labels in {several.several:,} of {several.lists:,} rows ({shown}, …)",
        where=str(path),
        fix=SEVERAL_LABELS,
    )


def _count(
    source: Iterator[RawRow], tallies: Sequence[Tally], sample: list[RawRow], texts: list[dict[str, str]]
) -> tuple[int, bool]:
    """Count the rows; keep the first as they are, and some drawn from all of them (Vitter's algorithm R) as texts."""
    rows, draw = 0, Random(0)
    for row in islice(source, SAMPLE_ROWS):
        rows += 1
        place = len(texts) if len(texts) < _FIT_ROWS else draw.randrange(rows)
        if place < _FIT_ROWS:
            kept = {name: cell_text(value)[:_FIT_CHARS] for name, value in row.columns.items()}
            texts[place : place + 1] = [kept]
        for tally in tallies:
            tally.take(row.columns.get(tally.name))
        if rows <= _KEPT_ROWS:
            sample.append(with_members(row))
    return rows, next(source, None) is None


def _readable(tallies: Sequence[Tally], rows: int) -> list[Tally]:
    """Text columns, the best input first, without labels and identifiers."""
    output = next(iter(by_likeness_to_labels(tallies, rows)), None)
    return by_likeness_to_input([tally for tally in tallies if tally is not output and not tally.id_reason(rows)])


def _view(tally: Tally, rows: int, found: Proposal | None, inputs: Sequence[str], hidden: Sequence[str]) -> ColumnView:
    looks_like: Literal["input", "output", "id", "other"] = "other"
    fit = found.told.get(tally.name) if found else None
    told = f"; the input tells {fit.share:.0%} of them (chance {fit.chance:.0%})" if fit else ""
    why = tally.label_fault(rows) or "could hold labels too" + told
    if tally.name in hidden:
        why = "holds turns, which are read by names such as those below"
    elif found and (tally.name in found.output or tally.name in (name.split(".")[0] for name in found.output)):
        looks_like, why = "output", found.why
        if found.kind == "classify":
            why = f"{len(tally.values):,} short values, each {tally.repeats:.0f} times on average{told}"
    elif tally.name in inputs or tally.name in (name.split(".")[0] for name in inputs):
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
        told=round(fit.share, 4) if fit else None,
        chance=round(fit.chance, 4) if fit else None,
        looks_like=looks_like,
        why=why,
    )


def _why_none(tallies: Sequence[Tally], sample: Sequence[RawRow], rows: int, shape: Shape | None) -> str:
    odd = odd_lists(sample)
    if shape is not None and not shape.output:
        return f"{shape.why}, and no column holds answers; {JOIN}"
    faults = "; ".join(f"{tally.name}: {tally.label_fault(rows)}" for tally in tallies[:8])
    return f"no columns make a task that can be told; as labels: {faults}{'; ' if odd else ''}{odd}"


def _others(tallies: Sequence[Tally], found: Proposal | None, inputs: Sequence[str], rows: int) -> tuple[str, ...]:
    if found is None or found.kind != "classify":
        return ()
    taken = (*found.output, *inputs)
    return tuple(t.name for t in tallies if t.name not in taken and not t.label_fault(rows))


def _warnings(
    tallies: Sequence[Tally], found: Proposal | None, inputs: Sequence[str], faults: Faults, rows: int
) -> Iterator[str]:
    if faults.total:
        place, what = faults.places[0]
        yield f"rows that cannot be read: {faults.total:,}, the first at {place} ({what})"
    if not inputs:
        yield "no column looks like text to read; name it with --input"
    taken = (*found.input, *found.output) if found else ()
    others = [t for t in _readable(tallies, rows) if found and t.name not in taken and len(t.values) > 1]
    unread = [t.name for t in others if t.label_fault(rows) and t.name.rpartition(".")[2] not in PICKS]
    if unread:
        yield f"text that is not read: {', '.join(unread)}; name all input columns with --input to change that"
    if found and found.fault:
        yield f"a row of the sample cannot be used so: {found.fault}"
    several = [t.name for t in tallies if t.has_several_labels]
    if several:
        yield f"several labels in one row, which Locum does not learn: {', '.join(several)}"
    if found is None:
        return
    output = next((tally for tally in tallies if tally.name == found.output[0]), None)
    if output is not None and output.filled < rows:
        lacking = (
            f"1 of {rows:,} rows has"
            if rows - output.filled == 1
            else f"{rows - output.filled:,} of {rows:,} rows have"
        )
        yield f"{lacking} no {output.name}: left out and counted, as data.skip_bad: true says"
    if found.kind != "classify":
        return
    if others := _others(tallies, found, inputs, rows):
        yield f"columns that could be the output as well: {', '.join(others)}"
    if found.copies:
        yield (
            f"columns that say nearly the same as {found.output[0]} (a model's answers, or its copy?): "
            f"{', '.join(found.copies)}"
        )
    fit = found.told.get(found.output[0])
    if fit is not None:
        yield from _told_warnings(found.output[0], fit)
    if output is not None:
        yield from _label_warnings(output)


def _told_warnings(name: str, fit: Told) -> Iterator[str]:
    if fit.gain < _TOLD_GAIN:
        yield (
            f"the input hardly tells {name}: a quick linear fit is right in {fit.share:.0%} of {fit.rows:,} rows, and "
            f"who always says the most frequent value in {fit.chance:.0%}; is it the right column?"
        )
    elif fit.share >= _GIVEN_AWAY and fit.rows >= _GIVEN_ROWS:
        yield f"the input tells {name} in all of {fit.rows:,} rows; does the text hold the answer itself?"


def _label_warnings(output: Tally) -> Iterator[str]:
    folded = Counter("".join(label.casefold().split()) for label in output.values)
    if any(count > 1 for count in folded.values()):
        yield "some labels differ only in case or spaces; they stay apart unless you mend them"
    once = sum(count == 1 for count in output.values.values())
    if once:
        yield f"labels that stand once only: {once:,}"
