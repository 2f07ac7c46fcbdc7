"""Kinds of task: how an input becomes a prompt, how an output is parsed and scored.

Notable: one file per kind, loaded only when asked for; ``tasks.protocol`` is all that a new kind must answer.
Not here: asking a model (``students``), training on the examples (``train``), the scorers themselves (``scoring``).
"""

from __future__ import annotations

from collections.abc import Sequence

from locum.core.registry import Registry
from locum.schema.prompt import Prompt
from locum.schema.task import Task
from locum.tasks.protocol import TaskKind

KINDS = Registry(
    "kind of task",
    {
        "classify": "locum.tasks.classify:Classify",
        "tag": "locum.tasks.tag:Tag",
        "extract": "locum.tasks.extract:Extract",
        "rank": "locum.tasks.rank:Rank",
        "qa": "locum.tasks.qa:QuestionAnswering",
        "maths": "locum.tasks.maths:Maths",
        "summarise": "locum.tasks.summarise:Summarise",
        "translate": "locum.tasks.translate:Translate",
        "code": "locum.tasks.code:Code",
        "chat": "locum.tasks.chat:Chat",
        "custom": "locum.tasks.custom:Custom",
    },
)
"""Form of task (kind, or profile of ``generate``) to its implementation, a class with ``of(task, labels, prompt)``."""


def open_kind(task: Task, labels: Sequence[str] = (), prompt: Prompt | None = None) -> TaskKind:
    """The implementation of a task's kind.

    Args:
        task: what is asked.
        labels: the allowed answers; empty for kinds that have none.
        prompt: how a prompted model is asked; None takes the task's instruction alone.

    Raises:
        UserError: no such kind; the message has the nearest one.
    """
    kind: TaskKind = KINDS.load(task.form).of(task, tuple(labels), prompt or Prompt(instruction=task.instruction))
    return kind
