"""ROUGE-1, -2, -L and -Lsum of a summary (Lin 2004), through Google's ``rouge-score``.

Notable: the F-measures of the best gold summary for each kind, as ``RougeScorer.score_multi`` gives them. Lsum
splits both sides at line ends, so a summary of several sentences needs one a line. The corpus figure is the mean
of rows. ``rouge-score`` knows no words but those of a to z and 0 to 9, so that two Russian or Chinese texts share none,
or digits alone; where most letters of a gold summary are others, it is given words of any script, each Chinese
character and kana being one, and no stemmer. Such figures compare with those of the same rule only. Not here: splitting
into sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from locum.core.errors import UserError
from locum.scoring.extras import needed
from locum.scoring.scripts import is_a_to_z, words

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(prediction: str, golds: Sequence[str], *, stem: bool = True) -> dict[str, float]:
    """F-measures of one summary, by kind.

    Args:
        prediction: the summary.
        golds: one or more gold summaries; each kind takes the one that it scores highest.
        stem: whether words are cut by Porter's stemmer, as summarisation papers do; it is for English.

    Returns:
        ``{"rouge1", "rouge2", "rougeL", "rougeLsum"}``, each in [0, 1]: as ``rouge-score`` has them for gold summaries
        with at least half of their letters from a to z, else over words of any script (``scripts.words``).

    Raises:
        UserError: ``scoring-input`` without a gold summary; ``core-missing-extra``.
    """
    if not golds:
        raise UserError("scoring-input", "ROUGE of a summary without a gold one", fix="give at least one gold summary")
    scores = [(_scorer(stem) if is_a_to_z([gold]) else _any_script()).score(gold, prediction) for gold in golds]
    return {kind: max(float(score[kind].fmeasure) for score in scores) for kind in KINDS}


class _Words:
    """A tokenizer as ``rouge-score`` asks for it."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@lru_cache
def _scorer(stem: bool) -> Any:
    return needed("rouge_score.rouge_scorer", "ROUGE").RougeScorer(KINDS, use_stemmer=stem)


@lru_cache
def _any_script() -> Any:
    return needed("rouge_score.rouge_scorer", "ROUGE").RougeScorer(KINDS, tokenizer=_Words())
