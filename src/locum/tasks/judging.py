"""An LLM as the judge of answers: who judges, what it is shown, and verdicts that are asked for once.

Notable: kinds of task know no models, so whoever runs the work says who judges: ``with judging(complete): ...`` holds
for all that is scored within, threads included when they copy the context. The judge sees the instruction, the input,
the gold answer and the answer, each as a quoted string. A verdict that cannot be read counts as 0 and is told; more
than one in twenty is an error. A judge that is also the LLM of the task judges its own answers kindly: its agreement
with people (``grade_answers``, ``scoring.judge.agreement``) belongs beside its scores. Not here: asking a model.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context

from locum.core.errors import UserError
from locum.core.files import content_hash
from locum.core.progress import track, warn
from locum.schema.data import Row
from locum.schema.judging import GradedAnswer
from locum.schema.message import Message
from locum.schema.task import JudgeSpec, Task
from locum.scoring.judge import Complete, Rubric, Verdict
from locum.tasks.prompt import quote

AT_ONCE = 4
"""Verdicts asked for at once."""
_MOST_UNREADABLE = 0.05
Messages = tuple[Message, ...]


class _Judge:
    """Asks for each verdict once."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._said: dict[str, str] = {}

    def verdict(self, by: Rubric, messages: Messages) -> Verdict:
        key = content_hash([[message.role, message.content] for message in messages])
        if key not in self._said:  # two threads may ask the same once more: that is harmless
            self._said[key] = self._complete(messages)
        return by.read(self._said[key])


_judge: ContextVar[_Judge | None] = ContextVar("locum_judge", default=None)


@contextmanager
def judging(complete: Complete) -> Generator[None, None, None]:
    """Let a model judge all that is scored by ``scorer: judge`` in the enclosed work.

    Args:
        complete: asks the judging model; safe to call from several threads. What it raises reaches the caller.
    """
    token = _judge.set(_Judge(complete))
    try:
        yield
    finally:
        _judge.reset(token)


def rubric(task: Task) -> Rubric:
    """What a task's judge goes by."""
    spec = task.judged or JudgeSpec()
    return Rubric(spec.criterion, spec.grades)


def judge_rows(task: Task, outputs: Sequence[str | None], rows: Sequence[Row]) -> list[float]:
    """The judge's score of each answer, in [0, 1]; 0 where there is no answer.

    Args:
        task: has the instruction and what the judge goes by.
        outputs: the answers.
        rows: with their inputs and gold answers, in the same order.

    Raises:
        UserError: ``tasks-judge``: nobody judges here, or more than one verdict in twenty cannot be read.
    """
    asked = [
        (place, _question(task, row.input, output, row.output or None))
        for place, (output, row) in enumerate(zip(outputs, rows, strict=True))
        if output is not None and output.strip()
    ]
    verdicts = _ask(rubric(task), [messages for _, messages in asked], "judge answers")
    scores = [0.0] * len(rows)
    for (place, _), verdict in zip(asked, verdicts, strict=True):
        scores[place] = verdict.score
    unreadable = sum(verdict.grade is None for verdict in verdicts)
    if unreadable > _MOST_UNREADABLE * len(asked):
        cause = f"{unreadable} of {len(asked)} verdicts hold no grade from 1 to {rubric(task).best}"
        raise UserError("tasks-judge", cause, fix="take an LLM that can judge under llm, or a scorer of your own")
    if unreadable:
        warn(f"{unreadable} of {len(asked)} verdicts cannot be read and count as 0")
    return scores


def grade_answers(task: Task, answers: Sequence[GradedAnswer]) -> list[int | None]:
    """The judge's grade of each answer that people graded; None where its verdict cannot be read, however many.

    Args:
        task: has the instruction and what the judge goes by.
        answers: none of them empty. A reference is shown where there is one.

    Raises:
        UserError: ``tasks-judge``: nobody judges here.
    """
    asked = [_question(task, answer.input, answer.answer, answer.reference) for answer in answers]
    return [verdict.grade for verdict in _ask(rubric(task), asked, "judge answers that people graded")]


def _question(task: Task, text: str, output: str, reference: str | None) -> Messages:
    return rubric(task).messages(f"{task.instruction}\n\nInput: {text}", output, quote, reference)


def _ask(by: Rubric, asked: Sequence[Messages], label: str) -> list[Verdict]:
    """Verdicts in the order of the questions."""
    judge = _judge.get()
    if judge is None:
        raise UserError(
            "tasks-judge", "scorer: judge, and no LLM judges here", fix="name one under llm in the task file"
        )
    verdicts: list[Verdict] = []
    with track(label, total=len(asked), unit="answer") as tracker, ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(copy_context().run, judge.verdict, by, messages) for messages in asked]
        try:
            for verdict in waiting:
                verdicts.append(verdict.result())
                tracker.advance()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return verdicts
