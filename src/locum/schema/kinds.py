"""The kinds of task, their methods and metrics, by name: what a task file may ask, and what choices go by.

Notable: ``form`` is the kind, or for ``generate`` its profile; prompts, scorers and defaults hang on it. The first
metric of a form is the one that choices go by. Not here: how any of them is computed (``tasks``, ``scoring``).
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["classify", "tag", "extract", "generate", "rank"]
Profile = Literal["qa", "maths", "summarise", "translate", "code", "chat", "custom"]

WRITING: tuple[Kind, ...] = ("extract", "generate")
"""Kinds whose students write their answers."""

Method = Literal["linear", "head", "full", "lora", "dora", "prompt", "few_shot"]
TUNED: tuple[Method, ...] = ("full", "lora", "dora")
"""Methods that tune a decoder which writes."""
PROMPTED: tuple[Method, ...] = ("prompt", "few_shot")
"""Methods that train nothing: a decoder is asked as it is."""
METHODS: dict[Kind, tuple[Method, ...]] = {
    "classify": ("linear", "head", *TUNED, *PROMPTED),
    "tag": ("head", *TUNED, *PROMPTED),
    "rank": ("linear", "head", "full", *PROMPTED),
    "extract": (*TUNED, *PROMPTED),
    "generate": (*TUNED, *PROMPTED),
}
"""Methods that make a student of each kind."""

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


_RIGHT: dict[str, str] = {
    "classify": "the label is the right one",
    "tag": "every span and its label are the right ones, and none is missing",
    "extract": "the whole JSON object is the right one",
    "rank": "nDCG at 10 is at least {at}",
    "qa": "the word F1 with a right answer is at least {at}",
    "maths": "the number it arrives at is the right one",
    "summarise": "ROUGE-L with the reference is at least {at}",
    "translate": "chrF with the reference is at least {at}",
    "code": "the program passes every test",
    "chat": "the share of instructions followed is at least {at}",
    "custom": "the scorer gives at least {at}",
}


def right_means(form: str, correct_at: float) -> str:
    """What "right" means in a certificate for a form of task, in words."""
    if form == "qa" and correct_at == 1.0:
        return "it equals a right answer, but for case, articles and punctuation"
    if form == "rank" and correct_at == 1.0:
        return "its first candidate is a relevant one"
    return _RIGHT[form].format(at=f"{100 * correct_at:.4g} %")


def judged_right_means(judge: str, right_from: int, grades: int) -> str:
    """What "right" means where an LLM judges, in words.

    Args:
        judge: the LLM's name, fit to be shown.
        right_from: the lowest grade that counts as right.
        grades: how many there are.
    """
    least = f"the best grade, {grades}" if right_from == grades else f"grade {right_from} or more of {grades}"
    return f"the judge, {judge}, gives it {least}"
