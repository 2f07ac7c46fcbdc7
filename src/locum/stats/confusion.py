"""Confusion matrices with a place for "none of the labels", and macro-F1 over the labels alone.

Notable: labels are columns, -1 is an answer (or a gold label) that is none of them; it is missed by its gold label and
is nobody's false positive. Not here: intervals (``stats.bootstrap``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from locum.stats.bootstrap import macro_f1 as macro_f1_of_classes
from locum.stats.inputs import Floats, Ints

_BLOCK_NUMBERS = 4_000_000


def confusion(gold: Ints, predicted: Ints, labels: int) -> Ints:
    """Counts ``[labels + 1, labels + 1]``, rows gold, columns answered; the last of each is "none of them"."""
    return np.bincount(_codes(gold, predicted, labels), minlength=(labels + 1) ** 2).reshape(labels + 1, labels + 1)


def _codes(gold: Ints, predicted: Ints, labels: int) -> Ints:
    """One number per row for its cell of the confusion matrix; -1 goes to the last row or column."""
    return np.where(gold < 0, labels, gold) * (labels + 1) + np.where(predicted < 0, labels, predicted)


def macro_f1_of_labels(matrices: Floats) -> Floats:
    """Macro-F1 over the labels alone, of matrices whose last row and column are "none of them".

    ``bootstrap.macro_f1`` averages over every class that occurs; "none of them" has an F1 of 0 once its own
    cell is empty, so taking it out only changes what is divided by.
    """
    matrices = matrices.copy()
    matrices[:, -1, -1] = 0
    present = (matrices.sum(axis=-1) + matrices.sum(axis=-2)) > 0
    return macro_f1_of_classes(matrices) * present.sum(axis=-1) / np.maximum(present[:, :-1].sum(axis=-1), 1)


def macro_f1_of_rows(gold: Ints, predicted: Ints, labels: int) -> Callable[[Ints], Floats]:
    """Macro-F1 as a statistic of resampled row numbers, ``[b, m] → [b]``, for paired bootstraps.

    Args:
        gold: right column per row.
        predicted: answered column per row.
        labels: how many there are.
    """
    codes, cells = _codes(gold, predicted, labels), (labels + 1) ** 2
    block = max(1, _BLOCK_NUMBERS // cells)

    def statistic(rows: Ints) -> Floats:
        parts: list[Floats] = []
        for start in range(0, len(rows), block):
            drawn = codes[rows[start : start + block]]  # [b, m]
            offset = drawn + cells * np.arange(len(drawn))[:, None]
            counts = np.bincount(offset.ravel(), minlength=cells * len(drawn)).astype(np.float64)
            parts.append(macro_f1_of_labels(counts.reshape(len(drawn), labels + 1, labels + 1)))
        return np.concatenate(parts)

    return statistic


def macro_f1(gold: Ints, predicted: Ints, labels: int) -> float:
    """Macro-F1 over the labels that are gold or answered at least once (scikit-learn's default)."""
    return float(macro_f1_of_labels(confusion(gold, predicted, labels)[None].astype(np.float64))[0])
