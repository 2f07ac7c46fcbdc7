"""Kinds of task: how an input becomes a prompt, how an output is parsed and scored, what its confidence is.

Notable: one file per kind, loaded only when asked for; ``tasks.protocol`` is all that a new kind must answer.
Not here: asking a model (``evaluate.llm``), training on the examples (``train``).
"""

from __future__ import annotations

from collections.abc import Sequence

from locum.core.registry import Registry
from locum.schema.data import Row
from locum.tasks.protocol import TaskKind

KINDS = Registry("kind of task", {"classify": "locum.tasks.classify:Classify"})
"""Kind of task to its implementation, a class that is built from ``(instruction, labels, examples)``."""


def open_kind(name: str, instruction: str, labels: Sequence[str], examples: Sequence[Row] = ()) -> TaskKind:
    """The implementation of a kind, for one task.

    Args:
        name: ``task.kind``.
        instruction: the question that each input answers.
        labels: the allowed answers; empty for kinds that generate.
        examples: worked examples to show a prompted model (few-shot), in order.

    Raises:
        UserError: no such kind; the message has the nearest one.
    """
    kind: TaskKind = KINDS.load(name)(instruction, tuple(labels), tuple(examples))
    return kind
