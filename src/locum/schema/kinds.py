"""The kinds of task and their metrics, by name: what a task file may ask, and what choices go by when it does not say.

Notable: ``form`` is the kind, or for ``generate`` its profile; prompts, scorers and defaults hang on it. The first
metric of a form is the one that choices go by. Not here: how any of them is computed (``tasks``, ``scoring``).
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["classify", "tag", "extract", "generate", "rank"]
Profile = Literal["qa", "maths", "summarise", "translate", "code", "chat", "custom"]

METRICS: dict[str, tuple[str, ...]] = {
    "classify": ("accuracy", "macro_f1"),
    "tag": ("span_f1", "accuracy"),
    "extract": ("field_f1", "accuracy", "valid"),
    "rank": ("ndcg_at_10", "mrr_at_10", "recall_at_10", "accuracy"),
    "qa": ("f1", "accuracy"),
    "maths": ("accuracy",),
    "summarise": ("rouge_l", "rouge_1", "rouge_2", "accuracy"),
    "translate": ("chrf", "bleu", "accuracy"),
    "code": ("accuracy",),
    "chat": ("instruction", "accuracy"),
    "custom": ("score", "accuracy"),
}
"""Metrics by form; ``accuracy`` is always the share of answers that count as correct, as the certificate counts."""

CORRECT_AT: dict[str, float] = {
    "qa": 1.0,
    "summarise": 0.3,
    "translate": 0.5,
    "chat": 1.0,
    "custom": 1.0,
    "rank": 1.0,
}
"""From which value of its row score a graded answer counts as correct when the task file does not say
(``target.correct_at``): exact match for ``qa``, ROUGE-L of a summary, sentence chrF of a translation, every instruction
followed, the first of the ranking relevant."""


def form(kind: str, profile: str | None) -> str:
    """The kind, or for ``generate`` its profile."""
    return profile or kind
