"""``Written``: what the kinds whose answers are written text have in common; each kind adds how it reads and scores.

Notable: the conversation is a system message with the instruction, worked examples as turns, and the input as it is in
the last user message, with the control tokens of chat templates broken. That is also the form in which a student is
tuned, so a tuned student is asked as it was taught. A refusal is no answer, unless the instruction, or the criterion of
a judge, speaks of refusing, declining or apologising: then it may be what is wanted. Not here: any one kind.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from locum.core.files import content_hash
from locum.schema.data import Row
from locum.schema.message import Message
from locum.schema.prompt import Demonstration, Prompt
from locum.schema.task import Task
from locum.scoring.spoken import spoken
from locum.stats.rowwise import Mean, Metric
from locum.tasks.prompt import plain
from locum.tasks.protocol import Decoding
from locum.tasks.refusals import is_refusal

_MAY_REFUSE = re.compile(r"\b(?:refus|declin|apolog)", re.IGNORECASE)
_REPEATED_WORDS = 4
_ENDING_TOKENS = 8  # of the turn's end, and of a word or two around an answer


class GoldFault(ValueError):
    """Why a gold answer, or its input, cannot be used."""


class Written(ABC):
    """A kind whose answers are text.

    Args:
        task: what is asked.
        labels: what an answer may name; empty for most kinds.
        prompt: instruction and worked examples.

    Attributes:
        name: the form.
        addition: what the system message says after the instruction.
        tokens: most tokens of an answer where neither the task nor its right answers say.
        least: fewest that an answer is allowed, however short the right ones are; ``tokens`` where a model may have to
            write more than the right answers hold (working, words around code).
        spread: how much longer than the right ones an answer may be and still be read.
        sample: as in ``TaskKind``; its ``…`` is hashed as a zero byte, which no input holds.
        version: of how answers are read and scored; part of the prompt's hash.
    """

    name: ClassVar[str]
    addition: ClassVar[str] = ""
    tokens: ClassVar[int] = 128
    least: ClassVar[int] = 16
    spread: ClassVar[float] = 1.25
    sample: ClassVar[str] = "…"
    version: ClassVar[int] = 1

    def __init__(self, task: Task, labels: tuple[str, ...], prompt: Prompt) -> None:
        self.task = task
        self.labels = labels
        self._may_refuse = any(
            _MAY_REFUSE.search(asked) for asked in (task.instruction, task.judged.criterion if task.judged else "")
        )
        system = "\n\n".join(part for part in (prompt.instruction.strip(), self.system_addition()) if part)
        judged = [task.judged.criterion, task.judged.grades] if task.judged else []
        self._head = (Message("system", system), *self._turns(prompt.examples))
        self._hash = content_hash(
            {
                "head": [[message.role, message.content] for message in self._head],
                "form": self.ask(self.sample.replace("…", "\0")),
                "reader": [self.name, self.version, task.correct_at, task.scorer, *judged],
                "neighbours": [prompt.neighbours, prompt.pool],
            }
        )

    @classmethod
    def of(cls, task: Task, labels: tuple[str, ...], prompt: Prompt) -> Self:
        """The kind for a task and a prompt."""
        return cls(task, labels, prompt)

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of the instruction, examples, form of the question and way of reading."""
        return self._hash

    @property
    def decoding(self) -> Decoding:
        """Greedy, to the end of the turn, or as many tokens as the task allows."""
        return Decoding(max_tokens=self.task.generation.max_tokens or self.tokens)

    def allowed_tokens(self, long_tokens: int) -> int:
        """Most tokens of an answer, given what nearly all right answers do not exceed; at most half of the context."""
        wanted = math.ceil(self.spread * long_tokens) + _ENDING_TOKENS
        return min(max(wanted, self.least), self.task.generation.context // 2)

    def messages(self, text: str, shots: Sequence[Row] = ()) -> tuple[Message, ...]:
        """System message, worked examples as turns, and the input as the last user message."""
        return (*self._head, *self._turns(shots), Message("user", self.ask(text)))

    def system_addition(self) -> str:
        """What the system message says after the instruction."""
        return self.addition

    def ask(self, text: str) -> str:
        """The user message for an input."""
        return plain(text)

    def parse(self, completion: str, text: str) -> str | None:
        """The text, without what a model thought aloud; None when nothing is left, or a refusal."""
        said = spoken(completion)
        return None if self.refused(said, text) else said or None

    def refused(self, said: str, text: str) -> bool:
        """Whether a model declined to answer an input, where that is not what the task asks for."""
        return not self._may_refuse and is_refusal(said, text)

    def target(self, row: Row) -> str | None:
        """The gold answer, as a student is to write it."""
        return row.output

    def written(self, output: str, text: str) -> str:
        """The answer, which is the text that a model wrote."""
        del text
        return output

    def fault(self, row: Row) -> str | None:
        """None: any text is a gold answer."""
        del row
        return None

    def same(self, output: str, other: str | None) -> bool:
        """Whether two answers are one text, but for case and spacing."""
        return other is not None and output.casefold().split() == other.casefold().split()

    def features(self, text: str, output: str) -> dict[str, float]:
        """Length in words, the share of them that stand in the input, and how much is said again."""
        words = output.casefold().split()
        known = set(text.casefold().split())
        runs = [tuple(words[at : at + _REPEATED_WORDS]) for at in range(len(words) - _REPEATED_WORDS + 1)]
        return {
            "words": float(len(words)),
            "words_in_input": sum(word in known for word in words) / max(1, len(words)),
            "repeated": 1 - len(set(runs)) / max(1, len(runs)) if runs else 0.0,
        }

    @abstractmethod
    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """The kind's metrics; see ``tasks.protocol``."""

    def _turns(self, rows: Sequence[Row]) -> list[Message]:
        turns: list[Message] = []
        for row in rows:
            answer = row.answer if isinstance(row, Demonstration) else self.target(row)
            if answer is not None:
                turns += [Message("user", self.ask(row.input)), Message("assistant", answer)]
        return turns


def mean(values: Sequence[float]) -> Mean:
    """The mean of a score per row."""
    return Mean(np.asarray(values, dtype=np.float64))


def right_from(values: Sequence[float], least: float) -> Mean:
    """``accuracy`` of graded answers: the share whose score is at least ``least``."""
    return Mean((np.asarray(values, dtype=np.float64) >= least - 1e-12).astype(np.float64))


def several(gold: str) -> tuple[str, ...]:
    """The right answers that a gold answer stands for: the strings of a JSON list, or the text itself."""
    if gold.startswith("["):
        try:
            listed: Any = json.loads(gold)
        except ValueError:
            return (gold,)
        if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
            return tuple(listed)
    return (gold,)
