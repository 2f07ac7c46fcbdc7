"""An LLM as the judge of answers: who judges, what it is shown, and verdicts that are asked for once.

Notable: kinds of task know no models, so whoever runs the work says who judges: ``with judging(complete): ...`` holds
for all that is scored within, threads included when they copy the context. The judge sees the instruction, the input,
the gold answer and the answer, each as a quoted string. A verdict that cannot be read counts as 0 and is told; more
than one in twenty is an error. A judge that is also the LLM of the task judges its own answers kindly: its agreement
with people (``scoring.judge.agreement``) belongs beside its scores. Not here: asking a model.
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
from locum.schema.message import Message
from locum.scoring.judge import Complete, Rubric, Verdict
from locum.tasks.prompt import quote

CRITERION = (
    "Does the answer do what the task asks, as well as the reference answer does, and say nothing that is wrong?"
)
AT_ONCE = 4
"""Verdicts asked for at once."""
_MOST_UNREADABLE = 0.05
_RUBRIC = Rubric(CRITERION)


class _Judge:
    """Asks for each verdict once."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._verdicts: dict[str, Verdict] = {}

    def verdict(self, messages: tuple[Message, ...]) -> Verdict:
        key = content_hash([[message.role, message.content] for message in messages])
        if key not in self._verdicts:  # two threads may ask the same once more: that is harmless
            self._verdicts[key] = _RUBRIC.read(self._complete(messages))
        return self._verdicts[key]


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


def judge_rows(instruction: str, outputs: Sequence[str | None], rows: Sequence[Row]) -> list[float]:
    """The judge's score of each answer, in [0, 1]; 0 where there is no answer.

    Args:
        instruction: of the task.
        outputs: the answers.
        rows: with their inputs and gold answers, in the same order.

    Raises:
        UserError: ``tasks-judge``: nobody judges here, or more than one verdict in twenty cannot be read.
    """
    judge = _judge.get()
    if judge is None:
        raise UserError(
            "tasks-judge", "scorer: judge, and no LLM judges here", fix="name one under llm in the task file"
        )
    asked = [
        (place, _RUBRIC.messages(f"{instruction}\n\nInput: {row.input}", output, quote, row.output or None))
        for place, (output, row) in enumerate(zip(outputs, rows, strict=True))
        if output is not None and output.strip()
    ]
    scores, unreadable = [0.0] * len(rows), 0
    with track("judge answers", total=len(asked), unit="answer") as tracker, ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [(place, pool.submit(copy_context().run, judge.verdict, messages)) for place, messages in asked]
        try:
            for place, verdict in waiting:
                scores[place] = verdict.result().score
                unreadable += verdict.result().grade is None
                tracker.advance()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if unreadable > _MOST_UNREADABLE * len(asked):
        cause = f"{unreadable} of {len(asked)} verdicts hold no grade from 1 to {_RUBRIC.best}"
        raise UserError("tasks-judge", cause, fix="take an LLM that can judge under llm, or a scorer of your own")
    if unreadable:
        warn(f"{unreadable} of {len(asked)} verdicts cannot be read and count as 0")
    return scores
