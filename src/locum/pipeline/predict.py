"""A bundle's answers to rows that nobody has labelled (``locum predict``): the file again, with three columns more.

Notable: the student alone answers, unless the LLM is asked for; an answer that no certificate covers is given only when
it is asked for, and its route says so. The file is written whole or not at all. Not here: measuring (``examine``).
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from locum.bundle.operator_llm import LlmChoice
from locum.bundle.student import Student, open_bundle
from locum.core.errors import UpstreamError, UserError
from locum.core.files import atomic_file
from locum.core.progress import track, warn
from locum.data.examples import BadRow, ExampleReader
from locum.data.readers import open_table
from locum.data.rows import Faults, RawRow, Table
from locum.evaluate.spending import Spending, purse_of
from locum.runtime.completion import Completion, CompletionRequest, FinishedStream
from locum.runtime.protocol import CompletionStream, Generator, Stop
from locum.schema.certificate import Answer
from locum.schema.task import Task

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
_COLUMNS = ("answer", "confidence", "route", "reason")
_HANDED_OVER, _NO_INPUT = "handed over", "no input"
_BATCH_ROWS = 256
_PARQUET_ROWS = 4096
_LLM_FAULTS_MAX = 3


class _Said(NamedTuple):
    answer: str | None
    confidence: float | None
    route: str
    reason: str


def predict_bundle(
    bundle: Path,
    data: Path,
    out: Path,
    *,
    llm: LlmChoice | None = "none",
    llm_key_env: str | None = None,
    engine: str | None = None,
    only_handed_over: bool = False,
    all_answers: bool = False,
    reasons: bool = False,
    skip_bad: bool = False,
    max_cost: float | None = None,
) -> dict[str, Any]:
    """Answer every row of a file, and write the file again with ``answer``, ``confidence`` and ``route``.

    A route is ``local`` (covered by the certificate), ``llm``, ``abstain`` (the LLM gave no answer), ``handed over``
    (the student is not sure enough, and no LLM was asked), or ``no input``. Where the file has a column of such a name,
    all of them are called ``locum_answer`` and so on.

    Args:
        bundle: the folder.
        data: rows with the input columns that the bundle's task names, in any format that a build reads.
        out: file to write; its ending says how: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        llm: who answers what the student hands over, as for ``open_bundle``; ``"none"`` keeps everything here.
        llm_key_env: environment variable that holds its key, instead of the one that the bundle names.
        engine: who runs the student; None takes the one that the build chose.
        only_handed_over: write only the rows that the student hands over: those to label next.
        all_answers: give the student's answer also where it would hand over; the route still says that it would.
        reasons: write a fourth column, ``reason``: why a row took its route.
        skip_bad: leave out and count lines that are no rows.
        max_cost: most that the LLM may cost; None takes the task's own cap.

    Returns:
        ``n``, ``written``, ``routes`` (rows by route), ``skipped``, ``llm_failed``, ``columns`` (those added), ``void``
        (why the certificate covers nothing, or None) and the path of the file.

    Raises:
        ModelFileError: the bundle is refused.
        DataError: the file cannot be read, or lacks an input column.
        UserError: the ending of ``out`` is none of these, or it is the data file itself.
    """
    _check_target(out, data)
    with open_bundle(bundle, llm, engine=engine, llm_key_env=llm_key_env) as student:
        purse = purse_of(student.task.llm, "--max-cost", max_cost)
        student.wrap(llm=lambda generator: _Paid(generator, purse))
        table = _open(data, student.task)
        reader = _Reader(student, all_answers)
        faults = Faults(str(data), how="--skip-bad")
        names = _names(table.columns, _COLUMNS if reasons else _COLUMNS[:-1])
        counts: Counter[str] = Counter()

        def answered() -> Iterator[dict[str, Any]]:
            for row, said in reader.answers(table.rows(faults), data):
                counts[said.route] += 1
                if not only_handed_over or said.route == _HANDED_OVER:
                    counts["written"] += 1
                    kept = {name: row.columns.get(name) for name in table.columns}
                    yield kept | dict(zip(names, said, strict=False))

        with atomic_file(out) as file:
            _write(answered(), [*table.columns, *names], out, file)
            table.recheck()
            faults.settle(skip_bad)
        void = student.void
    written = counts.pop("written", 0)
    if faults.total:
        warn(f"{data.name}: {faults.summary} cannot be read and are left out")
    return {
        "n": counts.total(),
        "written": written,
        "routes": dict(counts),
        "skipped": faults.counts,
        "llm_failed": reader.llm_failed,
        "columns": names,
        "void": void,
        "out": str(out),
    }


def _check_target(out: Path, data: Path) -> None:
    if out.suffix.lower() not in FORMATS:
        ending = out.suffix or "no ending"
        raise UserError("cli-usage", f"--out {out}: {ending} is no format", fix=f"end it in {', '.join(FORMATS)}")
    if out.exists() and data.exists() and out.samefile(data):
        raise UserError("cli-usage", f"--out {out} is the data file itself", fix="name another file")


_UNASKED = _Said(None, None, _NO_INPUT, "no text stands in the input columns")


class _Reader:
    """Answers rows in batches; counts what the LLM failed to answer."""

    def __init__(self, student: Student, all_answers: bool) -> None:
        self.student = student
        self.llm_failed = 0
        self._all = all_answers
        self._faults_in_row = 0

    def answers(self, rows: Iterator[RawRow], data: Path) -> Iterator[tuple[RawRow, _Said]]:
        """Each row with what was said to it, in order."""
        examples = ExampleReader(self.student.task, Faults(str(data)), Counter())
        with track(f"answer {data.name}", unit="row") as tracker:
            while batch := list(islice(rows, _BATCH_ROWS)):
                texts = [_input(examples, row) for row in batch]
                said = iter(self._say([text for text in texts if text is not None]))
                yield from (
                    (
                        row,
                        _UNASKED if text is None else next(said),
                    )
                    for row, text in zip(batch, texts, strict=True)
                )
                tracker.advance(len(batch))

    def _say(self, texts: list[str]) -> list[_Said]:
        if self.student.llm is not None and self._faults_in_row < _LLM_FAULTS_MAX:
            try:
                answers = self.student.many(texts)
                self._faults_in_row = 0
            except UpstreamError as fault:
                self._faults_in_row += 1
                warn(f"the LLM did not answer, what is handed over stays open: {fault.cause} [{fault.code}]")
            else:
                return [_Said(each.output, each.confidence, each.route, each.reason) for each in answers]
        local = [_alone(each) for each in self.student.many(texts, "local")]
        if self.student.llm is not None:
            self.llm_failed += sum(each.route == _HANDED_OVER for each in local)
        return [each if self._all or each.route == "local" else each._replace(answer=None) for each in local]


def _alone(answer: Answer) -> _Said:
    """What the student says when no LLM is asked."""
    route = "local" if answer.certificate is not None else _HANDED_OVER
    return _Said(answer.output, answer.confidence, route, answer.reason.removeprefix("asked for local only: "))


class _Paid:
    """The LLM, asked within a cap."""

    def __init__(self, generator: Generator, purse: Spending) -> None:
        self._generator = generator
        self._purse = purse

    @property
    def model(self) -> str:
        return self._generator.model

    def complete(self, request: CompletionRequest) -> Completion:
        return self._purse.complete(self._generator, request)

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> CompletionStream:
        del stop  # an answer is waited for: it is paid
        return FinishedStream(self.complete(request))

    def close(self) -> None:
        self._generator.close()


def _input(examples: ExampleReader, row: RawRow) -> str | None:
    """A row's input as the build read it; None where nothing stands there, or no text."""
    try:
        return examples.input_of(row)
    except BadRow:
        return None


def _open(data: Path, task: Task) -> Table:
    """The file with all of its columns; those of the input must be there."""
    spec = task.data
    inputs = (spec.input,) if isinstance(spec.input, str) else spec.input
    format = "auto" if data.suffix else spec.format

    def opened(wanted: Iterable[str]) -> Table:
        named = "the input of the bundle's task"
        return open_table(data, format=format, encoding=spec.encoding, wanted=tuple(wanted), named=named)

    table = opened(inputs)
    if table.encoding == "binary":  # only the columns that are wanted are read of it
        table = opened((*inputs, *table.columns))
    seen = dict.fromkeys(table.columns)
    if table.format.startswith("json"):
        for row in table.rows(Faults(str(data))):
            seen |= dict.fromkeys(row.columns)
    members = {name for name in inputs if "." in name and name.partition(".")[0] in seen}
    return replace(table, columns=tuple(name for name in seen if name not in members))


def _names(columns: Iterable[str], added: Sequence[str]) -> list[str]:
    """What the columns that are added are called, so that none of the file's own is lost."""
    taken, prefix = set(columns), ""
    while taken & {f"{prefix}{name}" for name in added}:
        prefix = "locum_" if not prefix else f"{prefix}_"
    return [f"{prefix}{name}" for name in added]


def _write(rows: Iterator[dict[str, Any]], columns: list[str], out: Path, file: Any) -> None:
    form = out.suffix.lower()
    if form == ".jsonl":
        for row in rows:
            file.write(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))
    elif form == ".parquet":
        _write_parquet(rows, columns, out, file)
    else:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, delimiter="\t" if form == ".tsv" else ",", lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[name]) for name in columns])
        text.detach()


def _cell(value: Any) -> Any:
    """A value as one field: objects and lists as JSON, truth values in small letters."""
    if isinstance(value, Mapping | list | tuple | bool):
        return orjson.dumps(value, default=str).decode()
    return "" if value is None else value


def _write_parquet(rows: Iterator[dict[str, Any]], columns: list[str], out: Path, file: Any) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            "core-missing-extra", f"{out.name} needs pyarrow, which is not installed", fix="write .jsonl or .csv"
        ) from error
    parts: list[Any] = []  # in memory as columns, which take about what the file takes
    try:
        while batch := list(islice(rows, _PARQUET_ROWS)):
            parts.append(pa.table({name: [row[name] for row in batch] for name in columns}))
        empty = pa.table({name: pa.nulls(0) for name in columns})
        table = pa.concat_tables(parts or [empty], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        mixed = f"a column of mixed types: {error}"
        raise UserError("cli-usage", mixed, fix="write .jsonl, which keeps them") from error
    pq.write_table(table, file)
