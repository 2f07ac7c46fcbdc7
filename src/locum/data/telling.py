"""``told_by``: how well a text tells a column's value, by a quick linear fit on a sample.

Notable: folds are drawn at random, always the same, and texts that repeat count once, so a value is never learned from
the text that it is asked for. The figure orders columns for a proposal and is no estimate of a student's accuracy.
Not here: which columns are tried (``propose``).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

ROWS = 1000
"""Rows that a fit looks at."""
_LEAST_ROWS = 30
_FOLDS = 3
_CHARS = 600
_FEATURES = 20_000
_MANY_LABELS = 30


class Told(NamedTuple):
    """Share of rows whose value the text told, and the share of the most frequent value."""

    share: float
    chance: float
    rows: int

    @property
    def gain(self) -> float:
        """The part of what chance leaves: (share − chance) / (1 − chance)."""
        return (self.share - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0


def told_by(texts: Sequence[str], values: Sequence[str]) -> Told | None:
    """How often a linear model over word and character n-grams gets a value right that it has not learned from.

    Args:
        texts: of the column that is read.
        values: of the column that is to be told, "" for none; of the same length.

    Returns:
        None where there are fewer than 30 different texts with a value, or one value only.
    """
    pairs: dict[str, str] = {}
    for text, value in zip(texts, values, strict=True):
        if text and value:
            pairs.setdefault(text[:_CHARS], value)
        if len(pairs) == ROWS:
            break
    counts = Counter(pairs.values())
    if len(pairs) < _LEAST_ROWS or len(counts) < 2:
        return None
    features, golds = _features(list(pairs)), list(pairs.values())
    if features is None:
        return None
    from sklearn.svm import LinearSVC

    right = asked = 0
    order = Random(0).sample(range(len(golds)), len(golds))
    for fold in range(1 if len(counts) > _MANY_LABELS else _FOLDS):
        held = order[fold::_FOLDS]
        kept = [place for number, place in enumerate(order) if number % _FOLDS != fold]
        learned = [golds[place] for place in kept]
        if len(set(learned)) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "did not converge": an order of columns needs no optimum
            model = LinearSVC(C=1.0, random_state=0, max_iter=200).fit(features[kept], learned)
        right += sum(found == golds[place] for found, place in zip(model.predict(features[held]), held, strict=True))
        asked += len(held)
    return Told(right / asked, max(counts.values()) / len(golds), len(pairs)) if asked else None


def _features(texts: Sequence[str]) -> Any:
    """Weights of word 1-2-grams; where most texts hold no space, as in Chinese, of character 1-3-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    spaced = 2 * sum(" " in text for text in texts) >= len(texts)
    settings: dict[str, Any] = {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"}
    if not spaced:
        settings = {"analyzer": "char", "ngram_range": (1, 3)}
    try:
        return TfidfVectorizer(sublinear_tf=True, max_features=_FEATURES, **settings).fit_transform(texts)
    except ValueError:  # no words in them
        return None
