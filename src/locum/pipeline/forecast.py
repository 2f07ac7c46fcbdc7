"""``Expected``: what a build will read and set aside, and how long its students take to answer that, before any of it.

Notable: where answers are written, answering the held-out rows is most of a build: each takes about as long as its
prompt and its tokens, one after the other. The figures come from the functions that the build itself goes by
(``data.splits``, ``fit.time``); what a file on another machine holds is assumed. Not here: training time
(``fit.ladder``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from locum.data.inspect import Inspection
from locum.data.splits import sizes
from locum.fit.ladder import DataSize
from locum.fit.written import CHARS_PER_TOKEN, instruction_tokens, writer_estimate, writing
from locum.pipeline.answer_limit import guess_limit, writes
from locum.pipeline.rung import maker
from locum.pipeline.workspace import split_addresses
from locum.schema.answers import AnswerLimit
from locum.schema.candidate import Candidate
from locum.schema.data import DataCard, SplitName
from locum.schema.device import DeviceProfile
from locum.schema.task import Task
from locum.sources.catalogue import catalogue
from locum.tasks import open_kind

ASSUMED = DataSize(train_rows=10_000, mean_chars=80, labels=2)
"""What is planned with when the training file is not here yet."""

_HELD_OUT: tuple[SplitName, ...] = ("dev", "calibration", "test")
_ROWS_OF_A_FILE = 1000
_LEAST_ANSWER_TOKENS = 4
_LABEL_TOKENS = 8
_LINEAR_S = 0.001


@dataclass(frozen=True)
class Expected:
    """What there will be.

    Attributes:
        size: of the training rows.
        held_out: rows of dev, calibration and test.
        answer_tokens: of a middling written answer; of a label or a list of places a few.
        limit: of written answers; None for kinds that write none.
        instruction_tokens: that every prompt begins with.
        training_rows: of the training file, what is left when the held-out rows are taken from it.
        proof_rows: what the certificate can count: calibration rows, or groups where rows belong together.
    """

    size: DataSize
    held_out: dict[SplitName, int]
    answer_tokens: int
    limit: AnswerLimit | None
    instruction_tokens: int
    training_rows: int
    proof_rows: int | None

    @property
    def training(self) -> DataSize:
        """What is learned from, without the held-out rows that are taken from the training file."""
        return replace(self.size, train_rows=self.training_rows)

    @property
    def rows(self) -> int:
        """Held-out rows that every student answers."""
        return sum(self.held_out.values())

    @property
    def prompt_tokens(self) -> int:
        """Tokens of a prompt without worked examples."""
        return self.instruction_tokens + self.size.row_tokens


def expect(task: Task, seen: Inspection | None, card: DataCard | None = None) -> Expected:
    """What a build of a task will read and set aside.

    Args:
        task: what is asked.
        seen: its training file, as inspected; None when it is not here yet.
        card: of its prepared data, where an earlier build left them: then nothing is guessed.
    """
    size = ASSUMED if seen is None else _data_size(task, seen)
    rows = size.train_rows if seen is None else seen.rows
    addresses = split_addresses(task)
    units = groups_in(task, seen) or rows
    shared = sizes(units, [name for name in _HELD_OUT if name in addresses], task)
    carved = {name: round(count * rows / units) for name, count in shared.items()}
    cap = task.max_held_out
    whole: dict[SplitName, int] = {name: carved.get(name, _ROWS_OF_A_FILE) for name in _HELD_OUT}
    held_out: dict[SplitName, int] = {name: min(count, cap or count) for name, count in whole.items()}
    limit = (
        guess_limit(task, None if seen is None else _answer_tokens(seen, task, "chars_p99")) if writes(task) else None
    )
    proof_rows = held_out["calibration"] if units == rows else shared.get("calibration")
    training_rows = min(size.train_rows, max(1, rows - sum(carved.values())))
    if card is not None:
        held_out = {name: card.splits[name].rows for name in _HELD_OUT}
        proof_rows = card.splits["calibration"].groups or held_out["calibration"]
        training_rows = card.splits["train"].rows
        size = replace(size, train_rows=training_rows, labels=len(card.labels) or size.labels)
    own = open_kind(task).decoding.max_tokens if task.kind != "classify" else _LABEL_TOKENS
    most = limit.max_tokens if limit else task.generation.max_tokens or own
    answer = most if seen is None else min(most, _answer_tokens(seen, task, "chars_p50"))
    return Expected(
        size=replace(size, answer_tokens=answer),
        held_out=held_out,
        answer_tokens=answer,
        limit=limit,
        instruction_tokens=instruction_tokens(task),
        training_rows=training_rows,
        proof_rows=proof_rows,
    )


def groups_in(task: Task, seen: Inspection | None) -> int | None:
    """How many groups the training rows belong to; None where the task names none, or they are not known."""
    if task.data.group is None or seen is None or not seen.complete:
        return None
    return next((column.distinct for column in seen.columns if column.name == task.data.group), None) or None


def answer_s(task: Task, candidate: Candidate, expected: Expected, device: DeviceProfile) -> float | None:
    """Seconds for one answer of a candidate, further samples included; None when nothing is known of its base."""
    if candidate.base is None:
        return _LINEAR_S
    if maker(task.kind, candidate) not in ("prompted", "tuned"):
        return None if candidate.estimate.latency_ms is None else candidate.estimate.latency_ms / 1e3
    entry = catalogue().get(candidate.base)
    if entry is None:
        return None
    answer = writing(task, candidate.method, expected.size.row_tokens, expected.answer_tokens)
    here_ms = writer_estimate(candidate.base, candidate.method, entry.facts, answer, device).latency_ms
    return None if here_ms is None else here_ms / 1e3


def _data_size(task: Task, seen: Inspection) -> DataSize:
    rows = min(seen.rows, task.data.max_rows or seen.rows)
    output = task.data.output if isinstance(task.data.output, str) else task.data.output[0]
    labels = next((column.distinct for column in seen.columns if column.name == output), 2)
    chars = _chars(seen, task.data.input) or ASSUMED.mean_chars
    return DataSize(train_rows=rows, mean_chars=min(chars, float(task.data.max_field_chars)), labels=labels)


def _answer_tokens(seen: Inspection, task: Task, length: str) -> int:
    """Tokens of a right answer, guessed from the characters of its columns."""
    return max(_LEAST_ANSWER_TOKENS, round(_chars(seen, task.data.output, length) / CHARS_PER_TOKEN))


def _chars(seen: Inspection, names: str | tuple[str, ...], length: str = "chars") -> float:
    """Characters of some columns together, the mean unless another length is asked; of an object, where a name
    reaches into one.
    """
    wanted = {name if any(column.name == name for column in seen.columns) else name.split(".")[0]
              for name in ((names,) if isinstance(names, str) else names)}  # fmt: skip
    return sum(getattr(column, length) for column in seen.columns if column.name in wanted)
