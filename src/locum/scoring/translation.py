"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) through sacreBLEU (Post 2018).

Notable: every figure is sacreBLEU's divided by 100, and comes with sacreBLEU's signature, without which a BLEU
cannot be compared. Its tokeniser goes by the script of the gold translations. The corpus metrics are no means of rows:
``bleu_rows`` and ``chrf_rows`` keep what each row adds.
Not here: learned metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from locum.core.errors import UserError
from locum.scoring.counts import Floats, check_rows
from locum.scoring.extras import needed
from locum.scoring.scripts import is_han_or_kana
from locum.stats.rowwise import Pooled

Golds = Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Translations(Pooled):
    """What each row adds to a corpus metric, and how that is computed.

    Attributes:
        signature: sacreBLEU's: version, tokeniser, smoothing, number of references.
    """

    signature: str


def sentence_bleu(prediction: str, golds: Sequence[str], *, tokenize: str = "13a") -> float:
    """BLEU of one row in [0, 1], exponential smoothing, only the n-gram orders that the row has.

    Args:
        prediction: the translation.
        golds: one or more gold translations.
        tokenize: sacreBLEU's tokeniser ("13a", "zh", "intl", "char", "none").

    Raises:
        UserError: ``scoring-input`` without a gold translation; ``core-missing-extra``.
    """
    return _sentence(_bleu(tokenize, True), prediction, golds)


def sentence_chrf(prediction: str, golds: Sequence[str], *, word_order: int = 0) -> float:
    """Character F-score (chrF) of one row in [0, 1]: n-grams of up to 6 characters, β = 2.

    Args:
        prediction: the translation.
        golds: one or more gold translations.
        word_order: 0 for chrF, 2 for chrF++.

    Raises:
        UserError: ``scoring-input`` without a gold translation; ``core-missing-extra``.
    """
    return _sentence(_chrf(word_order), prediction, golds)


def tokeniser(golds: Golds) -> str:
    """The tokeniser of sacreBLEU for a whole set: "zh" where most letters of its gold translations are Chinese
    characters or kana, else its default, "13a". Those for words of Japanese and Korean need packages of their own and
    are never taken.
    """
    return "zh" if is_han_or_kana(gold for row in golds for gold in row) else "13a"


def bleu_rows(predictions: Sequence[str], golds: Golds, *, tokenize: str = "13a") -> Translations:
    """What each row adds to corpus BLEU: both lengths, then matched and all n-grams, n = 1 to 4; ``[n, 10]``.

    Args:
        predictions: a translation a row.
        golds: one or more gold translations a row.
        tokenize: sacreBLEU's tokeniser.

    Raises:
        UserError: ``scoring-input`` when the rows do not fit; ``core-missing-extra``.
    """
    return _rows(_bleu(tokenize, False), predictions, golds)


def chrf_rows(predictions: Sequence[str], golds: Golds, *, word_order: int = 0) -> Translations:
    """What each row adds to corpus chrF: predicted, gold and matched n-grams of every order; ``[n, 18]`` for chrF.

    Args:
        predictions: a translation a row.
        golds: one or more gold translations a row; the one with the highest F of a row is counted.
        word_order: 0 for chrF, 2 for chrF++.

    Raises:
        UserError: ``scoring-input`` when the rows do not fit; ``core-missing-extra``.
    """
    return _rows(_chrf(word_order), predictions, golds)


@lru_cache
def _bleu(tokenize: str, one_row: bool) -> Any:
    return needed("sacrebleu.metrics", "BLEU").BLEU(tokenize=tokenize, effective_order=one_row, force=True)


@lru_cache
def _chrf(word_order: int) -> Any:
    return needed("sacrebleu.metrics", "chrF").CHRF(word_order=word_order)


def _sentence(metric: Any, prediction: str, golds: Sequence[str]) -> float:
    if not golds:
        raise UserError("scoring-input", "a translation without a gold one", fix="give at least one gold translation")
    return min(1.0, metric.sentence_score(prediction, list(golds)).score / 100)  # 100.00000000000004 is possible


def _rows(metric: Any, predictions: Sequence[str], golds: Golds) -> Translations:
    check_rows(len(predictions), len(golds))
    most = max(map(len, golds))
    if not min(map(len, golds)):
        raise UserError("scoring-input", "a row has no gold translation", fix="give every row at least one")
    streams = [[row[i] if i < len(row) else None for row in golds] for i in range(most)]
    metric.corpus_score(list(predictions), streams)  # the signature counts references only once a corpus was scored
    # sacreBLEU keeps its per-row statistics private; the tests hold this line to its public corpus score.
    counts = metric._extract_corpus_statistics(list(predictions), streams)
    value = _value(metric._compute_score_from_stats)
    return Translations(np.asarray(counts, dtype=np.float64), value, str(metric.get_signature()))


def _value(score: Callable[[list[float]], Any]) -> Callable[[Floats], Floats]:
    def value(sums: Floats) -> Floats:
        flat = [score(row.tolist()).score / 100 for row in sums.reshape(-1, sums.shape[-1])]
        return np.minimum(np.asarray(flat, dtype=np.float64), 1.0).reshape(sums.shape[:-1])

    return value
