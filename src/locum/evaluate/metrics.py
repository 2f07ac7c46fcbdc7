"""Metrics of one model on one split, each with a 95 % interval.

Notable: an answer that is no label (column -1) counts as wrong and as missed by its gold label, and is
nobody's false positive; a gold label that the model does not know counts as wrong. All statistics are
``locum.stats``'; this module counts, and puts them into documents. Not here: comparing models
(``evaluate.compare``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import UserError
from locum.schema import evaluation as documents
from locum.schema.data import SplitName
from locum.stats import bootstrap, calibration, intervals, ranking

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_RISK_POINTS = 200
_BLOCK_NUMBERS = 4_000_000


def evaluation(
    model: str,
    split: SplitName,
    labels: tuple[str, ...],
    gold: Ints,
    predicted: Ints,
    *,
    confidence_of: tuple[NDArray[np.float32], float] | None = None,
) -> documents.Evaluation:
    """Everything that is said about one model on one split.

    Args:
        model: its name.
        split: which rows.
        labels: class names; columns count into them.
        gold: right column per row, ``[n]``; -1 where the gold label is none of ``labels``.
        predicted: answered column per row, ``[n]``; -1 where the answer is no label.
        confidence_of: logits ``[n, labels]`` and temperature, when the model has them.

    Raises:
        UserError: no rows.
    """
    if len(gold) == 0:
        raise UserError("evaluate-no-rows", f"no rows of {split} to evaluate {model!r} on", fix="give at least one row")
    matrix = confusion(gold, predicted, len(labels))
    calibrated, risk = (None, ()) if confidence_of is None else _confidence(gold, predicted, *confidence_of)
    return documents.Evaluation(
        model=model,
        split=split,
        n=len(gold),
        labels=labels,
        metrics={
            "accuracy": document(intervals.wilson(int(((gold == predicted) & (gold >= 0)).sum()), len(gold))),
            "macro_f1": document(bootstrap.confusion_interval(matrix, _macro_f1)),
        },
        per_label=_per_label(matrix, labels),
        confusion=tuple(tuple(int(count) for count in row[:-1]) for row in matrix[:-1]),
        calibration=calibrated,
        risk_coverage=risk,
        invalid=int((predicted < 0).sum()),
    )


def document(interval: Any) -> documents.Interval:
    """An interval of ``locum.stats`` as the document that reports carry."""
    return documents.Interval(value=interval.value, low=interval.low, high=interval.high, method=interval.method)


def confusion(gold: Ints, predicted: Ints, labels: int) -> Ints:
    """Counts ``[labels + 1, labels + 1]``, rows gold, columns answered; the last of each is "none of them"."""
    return np.bincount(_codes(gold, predicted, labels), minlength=(labels + 1) ** 2).reshape(labels + 1, labels + 1)


def _codes(gold: Ints, predicted: Ints, labels: int) -> Ints:
    """One number per row for its cell of the confusion matrix; -1 goes to the last row or column."""
    return np.where(gold < 0, labels, gold) * (labels + 1) + np.where(predicted < 0, labels, predicted)


def _macro_f1(matrices: Floats) -> Floats:
    """Macro-F1 over the labels alone, of matrices whose last row and column are "none of them".

    ``bootstrap.macro_f1`` averages over every class that occurs; "none of them" has an F1 of 0 once its own
    cell is empty, so taking it out only changes what is divided by.
    """
    matrices = matrices.copy()
    matrices[:, -1, -1] = 0
    present = (matrices.sum(axis=-1) + matrices.sum(axis=-2)) > 0
    return bootstrap.macro_f1(matrices) * present.sum(axis=-1) / np.maximum(present[:, :-1].sum(axis=-1), 1)


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
            parts.append(_macro_f1(counts.reshape(len(drawn), labels + 1, labels + 1)))
        return np.concatenate(parts)

    return statistic


def macro_f1(gold: Ints, predicted: Ints, labels: int) -> float:
    """Macro-F1 over the labels that are gold or answered at least once (scikit-learn's default)."""
    return float(_macro_f1(confusion(gold, predicted, labels)[None].astype(np.float64))[0])


def _per_label(matrix: Ints, labels: tuple[str, ...]) -> tuple[documents.LabelScore, ...]:
    supports, answered, hits = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    return tuple(
        documents.LabelScore(
            label=label,
            support=int(supports[k]),
            predicted=int(answered[k]),
            precision=_ratio(hits[k], answered[k]),
            recall=_ratio(hits[k], supports[k]),
            f1=_ratio(2 * hits[k], supports[k] + answered[k]),
        )
        for k, label in enumerate(labels)
    )


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _confidence(
    gold: Ints, predicted: Ints, logits: NDArray[np.float32], temperature: float
) -> tuple[documents.Calibration | None, tuple[documents.RiskPoint, ...]]:
    """Calibration (on the rows that have a confidence) and the risk-coverage curve (on all rows)."""
    scored = predicted >= 0
    right = (gold == predicted) & scored
    claimed = np.full(len(gold), np.nan)
    if scored.any():  # a sum of rounded probabilities may pass 1 by 1e-16
        claimed[scored] = np.minimum(calibration.softmax(logits[scored], temperature).max(axis=1), 1.0)
    known = scored & (gold >= 0)
    curve = _thinned(ranking.risk_coverage(claimed, right))
    if not known.any():
        return None, curve
    calibrated = documents.Calibration(
        temperature=temperature,
        ece=calibration.ece(claimed[scored], right[scored]),
        brier=calibration.brier(claimed[scored], right[scored]),
        nll=calibration.nll(logits[known], gold[known], temperature),
        auroc=ranking.auroc(claimed, right),
        reliability=tuple(
            documents.ReliabilityBin(**vars(part))
            for part in calibration.reliability_curve(claimed[scored], right[scored])
        ),
    )
    return calibrated, curve


def _thinned(curve: ranking.RiskCoverage) -> tuple[documents.RiskPoint, ...]:
    """At most 200 points of a risk-coverage curve, evenly by coverage, the last one kept."""
    count = len(curve.thresholds)
    wanted = np.linspace(0, 1, _RISK_POINTS) * (curve.coverage[-1] if count else 0)
    kept = np.unique(np.searchsorted(curve.coverage, wanted).clip(0, count - 1)) if count else []
    return tuple(
        documents.RiskPoint(
            threshold=float(curve.thresholds[i]), coverage=float(curve.coverage[i]), risk=float(curve.risk[i])
        )
        for i in kept
    )
