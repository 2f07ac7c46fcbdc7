"""``TaskKind``: what every kind of task answers, so that evaluation and the cascade need know none of them.

Notable: a kind is a value made for one task; two kinds with the same ``prompt_hash`` send a model the same
words, so stored answers can be used again and a certificate can name the prompt it speaks about.
Not here: any kind.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from locum.schema.message import Message


@runtime_checkable
class TaskKind(Protocol):
    """How one task is put to a prompted model, and how what comes back is read and scored."""

    @property
    def name(self) -> str:
        """The kind's name in a task file, e.g. ``classify``."""
        ...

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of everything that shapes a prompt but the input itself, and of how the answer is read."""
        ...

    @property
    def max_tokens(self) -> int:
        """Most tokens an answer needs."""
        ...

    def messages(self, text: str) -> tuple[Message, ...]:
        """The conversation that asks for the answer to one input."""
        ...

    def parse(self, completion: str) -> str | None:
        """The answer in what a model wrote; None when there is none (a refusal, nothing, something else)."""
        ...

    def correct(self, output: str | None, gold: str) -> bool:
        """Whether an answer is right; None never is."""
        ...
