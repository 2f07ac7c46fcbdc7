"""``AnswerLimit``: how many tokens a written answer may have, and where that number comes from."""

from __future__ import annotations

from typing import Literal

from locum.schema.base import Document


class AnswerLimit(Document):
    """The most tokens of a written answer; the same for every student and for the LLM.

    Attributes:
        max_tokens: an answer that is longer is cut there.
        source: ``task``: generation.max_tokens says so; ``train``: from the right answers there; ``kind``: no answer
            could be counted, so the kind's own number.
        long_tokens: tokens that 99 in 100 right answers of train do not exceed; None unless ``source`` is train.
        rows: right answers that were counted.
        tokenizers: whose tokens were counted, the longest taken; empty where characters were (``locum plan``).
    """

    max_tokens: int
    source: Literal["task", "train", "kind"]
    long_tokens: int | None = None
    rows: int = 0
    tokenizers: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Where the number comes from, in words."""
        if self.source == "task":
            return "as the task file says"
        if self.source == "kind":
            return "as for every task of its kind"
        how = "" if self.tokenizers else "about "
        return f"99 in 100 right answers of train have at most {how}{self.long_tokens}"
