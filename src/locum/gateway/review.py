"""``POST /locum/review``: what a person says of an answer, kept as a row of the task in a file that the operator named.

Notable: a row is written only if the reader of builds takes it. Each says that its label was given on the page with the
answer in sight (``locum.how``): such rows are no sample of the traffic, and ``data.examples`` keeps them out of proofs.
Only the page itself may post; a page of another site is refused, whatever it knows. Not here: reading rows (``data``).
"""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from locum.core.errors import UserError
from locum.core.registry import nearest
from locum.core.text import one_line
from locum.data.examples import HOW, REVIEWED, ExampleReader
from locum.data.normalise import normalise
from locum.data.rows import Faults, RawRow
from locum.gateway.access import Headers, LineSink
from locum.gateway.documents import Document, JsonObject, Short, Text
from locum.gateway.errors import ApiError
from locum.schema.task import Task
from locum.tasks.json_answer import read_json

MAX_BYTES = 64 << 20
"""Of the file; a person's clicks do not fill it."""
_PLAIN = ("input", "output")
"""Columns of rows about a plain model, which has no task."""


class ReviewRequest(Document):
    """What a person says of an answer that was shown."""

    model: Short
    input: Annotated[Text | JsonObject, Field(description="As it was asked; of several input columns, by column.")]
    answer: Annotated[Text, Field(description="As it was shown.")]
    verdict: Annotated[
        Literal["right", "wrong"],
        Field(description="Of the answer that was shown; a right one may still be given beside it."),
    ]
    right: Annotated[Any, Field(description="The right answer, where the shown one is wrong; null: not known.")] = None
    route: Literal["local", "llm", "abstain"] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None


class ReviewFile:
    """The file that rows are appended to: JSON Lines, a row a line, written whole or not at all.

    Args:
        path: the file; made with the first row.
        task: what the rows are of; None for a plain model, whose rows have ``input`` and ``output``.
        labels: what the student can answer, where answers are labels.

    Raises:
        UserError: it is no place for JSON Lines.
    """

    def __init__(self, path: Path, task: Task | None, labels: tuple[str, ...] = ()) -> None:
        self._path = path
        self._task = task
        self._labels = labels if task is not None and task.kind == "classify" else ()
        self._lock = threading.Lock()
        check_review_file(path)

    def add(self, asked: ReviewRequest) -> bool:
        """Append one row; whether it has a right answer, so that something can be learned from it.

        Raises:
            ApiError: 400, when builds could not read it; 413, the file is full; 503, it cannot be written.
        """
        row = self._row(asked)
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        with self._lock:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size + len(line) > MAX_BYTES:
                said = f"{self._path.name} would pass {MAX_BYTES >> 20} MiB; start again with another --review file"
                raise ApiError(413, "review_full", said)
            sink = LineSink(self._path, 0o600)  # a new file is the operator's alone: it holds what people wrote
            lost = sink.write([line])
            sink.close()
        if lost:
            said = f"{self._path.name} cannot be written: is the disk full, or the folder gone?"
            raise ApiError(503, "review_failed", said, retry_after_s=5)
        return asked.verdict == "right" or asked.right is not None

    def _row(self, asked: ReviewRequest) -> dict[str, Any]:
        """The columns of the task, and beside them where the label comes from."""
        inputs, outputs = self._columns()
        columns = _by_column(asked.input, inputs, "input")
        columns = {name: normalise(value) if isinstance(value, str) else value for name, value in columns.items()}
        answer = asked.answer if asked.verdict == "right" else asked.right
        if answer is None:
            columns |= dict.fromkeys(outputs)
        else:
            columns |= _by_column(_value(asked, answer, self._task), outputs, "right")
        if self._task is not None:
            if self._task.data.group is not None:
                columns.setdefault(self._task.data.group, REVIEWED)  # one person's rows belong together
            if answer is not None:
                self._check(self._task, columns, str(answer))
        said = {HOW: REVIEWED, "at": datetime.now(UTC).isoformat(timespec="seconds"), "shown": asked.answer}
        said |= {name: getattr(asked, name) for name in ("model", "verdict", "route", "confidence")}
        return {**_nested(columns), "locum": said}

    def _columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self._task is None:
            return _PLAIN[:1], _PLAIN[1:]
        spec = self._task.data
        inputs = (spec.input,) if isinstance(spec.input, str) else spec.input
        return inputs, (spec.output,) if isinstance(spec.output, str) else spec.output

    def _check(self, task: Task, columns: dict[str, Any], answer: str) -> None:
        """Refuse what a build would refuse, in its words.

        Raises:
            ApiError: 400 ``invalid_value``.
        """
        if self._labels and answer not in self._labels:
            close = nearest(answer, self._labels)
            hint = f"; did you mean {close!r}?" if close else ""
            said = f"{one_line(answer, 80)!r} is none of the {len(self._labels)} labels{hint}"
            raise ApiError(400, "invalid_value", said, param="right")
        faults = Faults("this answer")
        if ExampleReader(task, faults, Counter()).take(RawRow("review", 1, columns)) is None:
            said = "; ".join(what for _, what in faults.places)
            raise ApiError(400, "invalid_value", f"a build could not read this row: {one_line(said, 300)}")


def check_review_file(path: Path) -> None:
    """Refuse, before anything is served, a place that rows cannot be appended to.

    Raises:
        UserError: ``gateway-review-file``.
    """
    problem = None
    if path.suffix.casefold() not in (".jsonl", ".ndjson"):
        problem = "rows are kept as JSON Lines, and its name does not end in .jsonl"
    elif not path.parent.is_dir():
        problem = "its folder does not exist"
    elif path.exists():
        problem = _not_appendable(path)
    if problem is not None:
        raise UserError(
            "gateway-review-file", problem, where=str(path), fix="give --review a file such as review.jsonl"
        )


def _not_appendable(path: Path) -> str | None:
    if not path.is_file():
        return "it is no file"
    try:
        with path.open("ab"):
            pass
        with path.open("rb") as file:
            first = file.readline(1 << 20).strip()
    except OSError as error:
        return f"it cannot be written: {error.strerror}"
    return "it holds something else than JSON Lines" if first and not first.startswith(b"{") else None


def check_same_site(headers: Headers) -> None:
    """Refuse a request that a page of another site makes, and what a form of it can send without asking.

    Raises:
        ApiError: 403 ``host_not_allowed``, 400 ``invalid_value``.
    """
    sent = {name: value for name, value in headers}  # noqa: C416 - the last of each, as a browser sends one
    site, origin, host = (sent.get(name, b"") for name in (b"sec-fetch-site", b"origin", b"host"))
    other = site != b"same-origin" if site else bool(origin) and origin.partition(b"://")[2].lower() != host.lower()
    if other:
        raise ApiError(403, "host_not_allowed", "an answer can be reviewed from the page of this server only")
    kind = sent.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        said = "an answer is reviewed with content-type: application/json"
        raise ApiError(400, "invalid_value", said, param="content-type")


def _by_column(value: Any, names: tuple[str, ...], param: str) -> dict[str, Any]:
    """What stands in each column: the value itself, or of several its members.

    Raises:
        ApiError: 400: it is not an object with these members and no other.
    """
    if len(names) == 1:
        return {names[0]: value}
    if not isinstance(value, dict) or set(value) != set(names):
        said = f"{param}: an object with {', '.join(names)} and nothing else is needed"
        raise ApiError(400, "invalid_value", said, param=param)
    return {name: value[name] for name in names}


def _value(asked: ReviewRequest, answer: Any, task: Task | None) -> Any:
    """An answer as its row has it: JSON of kinds that answer so; of a right ranking its first, the relevant one."""
    if task is None or task.kind not in ("tag", "extract", "rank"):
        return answer
    try:
        found = read_json(answer) if isinstance(answer, str) else answer
    except ValueError:
        raise ApiError(400, "invalid_value", "the answer is no JSON", param="right") from None
    return found[:1] if task.kind == "rank" and asked.verdict == "right" and isinstance(found, list) else found


def _nested(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns as a file has them: ``answers.text`` is a member of ``answers``."""
    row: dict[str, Any] = {}
    for name, value in columns.items():
        *path, last = name.split(".")
        place = row
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return row
