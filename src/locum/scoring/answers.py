"""Short answers: SQuAD's exact match and F1, and the last number of a worked solution (GSM8K).

Notable: the texts are normalised as SQuAD's official script does (lower case, punctuation away, articles away,
spaces collapsed), a question without gold answers is answered rightly by an empty answer alone, and numbers are
taken out by lm-evaluation-harness's two patterns, or, for the tasks' own scores, by a third that is not led astray by
what stands after the answer. Not here: whether a model should have abstained (the cascade).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal

NumberMode = Literal["strict", "flexible", "value"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_STRICT_NUMBER = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_VALUE = re.compile(r"-?[$0-9.,]+")
_DIGIT = re.compile(r"[0-9]")
_IGNORED = tuple(re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"))


def normalise_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces (SQuAD's official script)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _golds(golds: Sequence[str]) -> list[str]:
    """Gold answers that hold something once normalised, else the empty answer (SQuAD v2: unanswerable)."""
    return [gold for gold in golds if normalise_answer(gold)] or [""]


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 when the prediction equals one of the gold answers, both normalised.

    Args:
        prediction: the answer; empty for "no answer".
        golds: every accepted answer; none for a question that has no answer.

    Source: the official scripts of SQuAD v1.1 and v2.0 (Rajpurkar et al. 2016, 2018).
    """
    answer = normalise_answer(prediction)
    return float(any(answer == normalise_answer(gold) for gold in _golds(golds)))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """The largest F1 of words, as multisets, between the prediction and a gold answer, both normalised.

    Args:
        prediction: the answer; empty for "no answer".
        golds: every accepted answer; none for a question that has no answer.

    Returns:
        F1 in [0, 1]. Degenerate, as in the v2.0 script: where one side has no words, 1 if the other has none
        either, else 0.

    Source: the official scripts of SQuAD v1.1 and v2.0 (Rajpurkar et al. 2016, 2018).
    """
    words = normalise_answer(prediction).split()
    return max(_words_f1(words, normalise_answer(gold).split()) for gold in _golds(golds))


def _words_f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    shared = sum((Counter(words) & Counter(gold)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def extract_number(text: str, mode: NumberMode = "flexible") -> str | None:
    """The number that a worked solution arrives at, as it is written there.

    Args:
        text: a solution.
        mode: "strict" takes the first number after ``####``, "flexible" the last number of the text, for which it takes
            an ellipsis, too; "value" the first number after the last ``####`` and, where none is, the last of the text,
            with at least one digit.

    Returns:
        The number with its commas and dollar sign, or None where there is none.

    Source: lm-evaluation-harness, ``gsm8k.yaml``, filters strict-match and flexible-extract; "value" is our own.
    """
    if mode == "value":
        _, marked, ending = text.rpartition("####")
        return next(iter((_numbers(ending)[:1] if marked else []) or _numbers(text)[-1:]), None)
    if mode == "strict":
        found = _STRICT_NUMBER.search(text)
    else:
        *_, found = (None, *_FLEXIBLE_NUMBER.finditer(text))
    return None if found is None else next(group for group in found.groups() if group)


def _numbers(text: str) -> list[str]:
    return [found.group() for found in _VALUE.finditer(text) if _DIGIT.search(found.group())]


def number_match(prediction: str, gold: str, mode: NumberMode = "flexible") -> float:
    """1.0 when the solution arrives at the gold number.

    Args:
        prediction: a worked solution, or a number alone.
        gold: the number, or a gold solution that ends in ``#### 72``.
        mode: "strict" and "flexible" compare as lm-evaluation-harness does, as text without commas, dollar signs
            and a last full stop, so 18.00 is not 18; "value" compares the values of numbers.

    Source: lm-evaluation-harness, ``gsm8k.yaml`` (metric exact_match and its ``regexes_to_ignore``).
    """
    found = extract_number(prediction, mode)
    if found is None:
        return 0.0
    answer, right = _bare(found), _bare(gold)
    if mode == "value":
        value, wanted = _value(answer), _value(right)
        return float(value is not None and value == wanted)
    return float(answer == right)


def _bare(number: str) -> str:
    for ignored in _IGNORED:
        number = ignored.sub("", number)
    return number.strip().lower()


def _value(number: str) -> Decimal | None:
    try:
        return Decimal(number.strip(".%"))
    except InvalidOperation:  # "1.2.3", "-", or a gold answer that is no number
        return None
