"""Rankings: nDCG, reciprocal rank and recall, each cut at k.

Notable: the best possible ranking that nDCG divides by is over all judged documents, not only those that were
returned (as in trec_eval). A document that is returned twice counts where it stands first. A query without any
relevant document scores 0, as in trec_eval's averages over all queries. Not here: the area under a ROC curve
(``stats.ranking``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from locum.core.errors import UserError

Gain = Literal["exponential", "linear"]


def ndcg(ranked: Sequence[str], relevance: Mapping[str, float], k: int, *, gain: Gain = "exponential") -> float:
    """Normalised discounted cumulative gain of the first k documents, discount 1/log₂(rank + 1).

    Args:
        ranked: document names, best first.
        relevance: grade of every judged document, at least 0; one that is missing counts as 0.
        k: how many are looked at.
        gain: "exponential" for 2^grade − 1 (Burges et al. 2005), "linear" for the grade (Järvelin & Kekäläinen
            2002; trec_eval and scikit-learn).

    Raises:
        UserError: ``scoring-input`` for k below 1 or a negative grade.
    """
    _check(k)
    if any(grade < 0 for grade in relevance.values()):
        raise UserError("scoring-input", "a relevance grade is negative", fix="grades are 0 and above")
    gained = [_gain(relevance.get(name, 0.0), gain) for name in _first(ranked, k)]
    best = sorted((_gain(grade, gain) for grade in relevance.values()), reverse=True)[:k]
    ideal = _discounted(best)
    return _discounted(gained) / ideal if ideal > 0 else 0.0


def reciprocal_rank(ranked: Sequence[str], relevance: Mapping[str, float], k: int) -> float:
    """1/rank of the first relevant document within k, else 0; its mean over queries is MRR@k (Voorhees 1999).

    Args:
        ranked: document names, best first.
        relevance: grade of every judged document; above 0 is relevant.
        k: how many are looked at.

    Raises:
        UserError: ``scoring-input`` for k below 1.
    """
    _check(k)
    ranks = (rank for rank, name in enumerate(_first(ranked, k), 1) if relevance.get(name, 0.0) > 0)
    return 1 / next(ranks, math.inf)


def recall(ranked: Sequence[str], relevance: Mapping[str, float], k: int) -> float:
    """Share of all relevant documents among the first k.

    Args:
        ranked: document names, best first.
        relevance: grade of every judged document; above 0 is relevant.
        k: how many are looked at.

    Raises:
        UserError: ``scoring-input`` for k below 1.
    """
    _check(k)
    relevant = {name for name, grade in relevance.items() if grade > 0}
    return len(relevant.intersection(_first(ranked, k))) / len(relevant) if relevant else 0.0


def _first(ranked: Iterable[str], k: int) -> list[str]:
    return list(dict.fromkeys(ranked))[:k]


def _gain(grade: float, gain: Gain) -> float:
    return 2.0**grade - 1 if gain == "exponential" else float(grade)


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gained / math.log2(rank + 1) for rank, gained in enumerate(gains, 1))


def _check(k: int) -> None:
    if k < 1:
        raise UserError("scoring-input", f"k is {k}", fix="look at least at 1 document")
