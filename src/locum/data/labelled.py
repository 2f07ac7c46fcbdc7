"""``read_labelled``: a file of inputs and right answers as rows, cleaned as the build cleaned its own.

Notable: for measuring and certifying a bundle on fresh rows; each counts as often as it came, unless copies are more
than independent messages explain (``stats.copies``). Not here: splitting, near-duplicates (``prepare``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from locum.core.errors import DataError
from locum.core.progress import warn
from locum.data.examples import ExampleReader
from locum.data.label_sets import check_known, spellings
from locum.data.readers import open_table, wanted_columns
from locum.data.rows import Faults
from locum.data.verify import input_hash
from locum.schema.data import Row
from locum.schema.task import Task
from locum.stats.copies import strange_count

_PLACES_SHOWN = 5


@dataclass(frozen=True)
class Labelled:
    """The rows of a file that count.

    Attributes:
        rows: in the file's order.
        copies_left_out: rows that are not among them, because they are copies that no independent draws explain.
        every: all usable rows as they came.
        skipped: rows that cannot be used, by reason; only where they are skipped.
        reviewed: how many of the rows a person picked on the gateway's page and judged with the answer in sight; of a
            proof's file, how many were left out for that.
    """

    rows: list[Row]
    copies_left_out: int = 0
    every: Sequence[Row] = ()
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])
    reviewed: int = 0


def read_labelled(
    path: Path, task: Task, labels: Sequence[str] = (), *, skip_bad: bool = False, to_prove: bool = False
) -> Labelled:
    """All usable rows of a file.

    Args:
        path: any format that a build reads.
        task: names the columns and the options for reading.
        labels: what the student can answer; labels of the file are written as these are.
        skip_bad: count and skip rows that cannot be used, as ``data.skip_bad`` of the task does.
        to_prove: leave out rows that were picked and judged on the gateway's page: they are no sample of the traffic.

    Raises:
        DataError: the file cannot be read, lacks a column, holds bad rows, none that can be used, or labels that the
            student does not have and no other.
    """
    spec = task.data
    table = open_table(path, format=spec.format, encoding=spec.encoding, wanted=wanted_columns(spec))
    faults = Faults(str(path), how="--skip-bad")
    skip_bad = skip_bad or spec.skip_bad
    examples = ExampleReader(task, faults, Counter())
    rows: list[Row] = []
    for raw in table.rows(faults):
        example = examples.take(raw)
        if example is not None and not (to_prove and raw.place in examples.reviewed):
            group = examples.group_of(raw)
            rows.append(Row(id=raw.place, input=example.input, output=example.output, group=group))
    table.recheck()
    examples.finish(skip_bad)
    faults.settle(skip_bad)
    if faults.total:
        warn(f"{path.name}: {faults.summary} cannot be used and {'is' if faults.total == 1 else 'are'} skipped")
    for column, count in examples.missing.counts.items():
        places = ", ".join(examples.missing.by_reason[column][:_PLACES_SHOWN])
        warn(f"{path.name}: rows without a value in the input column {column!r}", rows=count, places=places)
    _tell_reviewed(examples, path, to_prove=to_prove, left=len(rows))
    if not rows:
        raise DataError("data-empty", "no usable rows", where=str(path), fix="give a file with rows")
    if task.kind == "classify":
        rows = _in_known_spelling(rows, labels, path)
    return replace(_counted(rows, task, path), skipped=faults.counts, reviewed=len(examples.reviewed))


def _tell_reviewed(examples: ExampleReader, path: Path, *, to_prove: bool, left: int) -> None:
    """Say what rows of the gateway's page are good for; refuse a proof by nothing else.

    Raises:
        DataError: ``data-hand-picked``.
    """
    if examples.only_wrong:
        said = "rows that say that an answer was wrong, and not what is right, are left out; so figures are too good"
        warn(f"{path.name}: {said}", rows=examples.only_wrong)
    reviewed = len(examples.reviewed)
    if not (to_prove and reviewed):
        return
    why = "a person picked them on the page and saw the answer first, so they are no sample of the traffic"
    if not left:
        fix = "learn from these (data.train) or measure on them (locum eval); prove on rows as they came"
        raise DataError("data-hand-picked", f"all {reviewed:,} rows prove nothing: {why}", where=str(path), fix=fix)
    warn(f"{path.name}: rows left out of the proof: {why}", rows=reviewed)


def _counted(rows: list[Row], task: Task, path: Path) -> Labelled:
    """All rows; one of each input, drawn by a hash of its place, where copies are no independent draws."""
    if task.duplicates == "keep" or task.data.group is not None:
        return Labelled(rows, every=rows)
    size = strange_count(Counter(row.input for row in rows).values())
    if size is None:
        return Labelled(rows, every=rows)
    drawn: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: input_hash(row.id)):
        drawn.setdefault(row.input, row)
    kept = {row.id for row in drawn.values()}
    warn(
        f"{path.name}: more texts stand {size} times than independent messages could, so each is counted once; name "
        "what belongs together under data.group, or say that these are separate messages with data.duplicates: keep",
        rows=len(rows) - len(kept),
    )
    return Labelled([row for row in rows if row.id in kept], len(rows) - len(kept), rows)


def _in_known_spelling(rows: list[Row], labels: Sequence[str], path: Path) -> list[Row]:
    """Rows whose labels are spelled as the student's are, where they are the same numbers or truth values."""
    alike = spellings({row.output for row in rows}, labels)
    rows = [row.model_copy(update={"output": alike[row.output]}) if row.output in alike else row for row in rows]
    check_known(Counter(row.output for row in rows), labels, where=str(path), source="the bundle")
    return rows
