"""ROUGE-1, -2, -L and -Lsum of a summary (Lin 2004), through Google's ``rouge-score``.

Notable: the F-measures of the best gold summary for each kind, as ``RougeScorer.score_multi`` gives them. Lsum
splits both sides at line ends, so a summary of several sentences needs one a line. The corpus figure is the mean
of rows. Not here: splitting into sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from locum.core.errors import UserError
from locum.scoring.extras import needed

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(prediction: str, golds: Sequence[str], *, stem: bool = True) -> dict[str, float]:
    """F-measures of one summary, by kind.

    Args:
        prediction: the summary.
        golds: one or more gold summaries; each kind takes the one that it scores highest.
        stem: whether words are cut by Porter's stemmer, as summarisation papers do; it is for English.

    Returns:
        ``{"rouge1", "rouge2", "rougeL", "rougeLsum"}``, each in [0, 1]. Only ASCII letters and digits count as
        words, so text in another script scores 0.

    Raises:
        UserError: ``scoring-input`` without a gold summary; ``core-missing-extra``.
    """
    if not golds:
        raise UserError("scoring-input", "ROUGE of a summary without a gold one", fix="give at least one gold summary")
    scores = _scorer(stem).score_multi(list(golds), prediction)
    return {kind: float(scores[kind].fmeasure) for kind in KINDS}


@lru_cache
def _scorer(stem: bool) -> Any:
    return needed("rouge_score.rouge_scorer", "ROUGE").RougeScorer(KINDS, use_stemmer=stem)
