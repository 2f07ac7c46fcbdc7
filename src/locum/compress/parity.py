"""Does the exported model answer as the trained one did? Two tables of logits in, a verdict out; NumPy only.

Notable: labels are compared row by row, because two models of equal accuracy can still disagree; accuracy is
compared on the same rows, so that its noise is only that of the rows where they differ. Logits that are NaN or
infinite agree with nothing. Not here: where the logits come from (``export``).

n rows, C labels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from locum.schema.model import Parity, Precision

MIN_AGREEMENT = 0.97
"""Sound int8 exports agree on 99 % and more; a collapsed one falls far below (docs/log.md)."""
MAX_ACCURACY_DROP = 0.005
_Z = 2.0  # standard errors


def check(
    trained_logits: NDArray[np.float32],
    exported_logits: NDArray[np.float32],
    gold: NDArray[np.intp],
    *,
    engine: str,
    precision: Precision,
    min_agreement: float = MIN_AGREEMENT,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    tried: tuple[str, ...] = (),
) -> Parity:
    """Compare an exported model with the trained one.

    It passes when the share of equal labels is at least ``min_agreement`` and the loss of accuracy is at most
    ``max_accuracy_drop``, or not above what chance does: b rows lost and c gained with b - c ≤ 2√(b + c)
    (McNemar 1947, Psychometrika 12:153, one-sided at z = 2).

    Args:
        trained_logits: of the trained weights, ``[n, C]``.
        exported_logits: of the file, through its engine, ``[n, C]``.
        gold: index of the right label, ``[n]``.
        engine: that answered, for the report.
        precision: of the exported file, for the report.
        min_agreement: share of rows whose label must be equal.
        max_accuracy_drop: loss of accuracy that is accepted.
        tried: what was exported before and not kept.

    Returns:
        The comparison, with ``passed``.

    Raises:
        ValueError: shapes differ, or there are no rows.
    """
    if trained_logits.shape != exported_logits.shape or trained_logits.shape[:1] != gold.shape or not len(gold):
        raise ValueError(f"shapes {trained_logits.shape}, {exported_logits.shape} and {gold.shape} do not fit")
    rows = np.arange(len(gold))
    sound = np.isfinite(exported_logits).all(axis=1)
    before = trained_logits.argmax(axis=1)
    after = np.where(sound, np.where(sound[:, None], exported_logits, 0.0).argmax(axis=1), -1)  # -1 equals no label
    agreement = float((before == after).mean())
    gaps = np.where(sound[:, None], np.abs(softmax(trained_logits) - softmax(exported_logits)), 1.0)
    lost = int(((before == gold) & (after != gold)).sum())
    gained = int(((before != gold) & (after == gold)).sum())
    drop = (lost - gained) / len(gold)
    holds = drop <= max_accuracy_drop or lost - gained <= _Z * math.sqrt(lost + gained)
    return Parity(
        n=len(gold),
        engine=engine,
        precision=precision,
        label_agreement=agreement,
        mean_gap=float(gaps.mean()),
        max_gap=float(gaps[rows, before].max()),
        accuracy_trained=float((before == gold).mean()),
        accuracy_exported=float((after == gold).mean()),
        min_agreement=min_agreement,
        max_accuracy_drop=max_accuracy_drop,
        passed=agreement >= min_agreement and holds,
        tried=tried,
    )


def describe_failure(parity: Parity) -> str:
    """Why an export was not kept, in one line: ``int8: labels agree on 91.0 % of 500 rows, needed 97.0 %``."""
    what = f"{parity.engine} {parity.precision}"
    if parity.label_agreement < parity.min_agreement:
        share, needed = 100 * parity.label_agreement, 100 * parity.min_agreement
        return f"{what}: labels agree on {share:.1f} % of {parity.n} rows, needed {needed:.1f} %"
    return (
        f"{what}: accuracy {parity.accuracy_exported:.3f} on {parity.n} rows, "
        f"trained {parity.accuracy_trained:.3f}: more than chance loses"
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities, ``[n, C]``; logits that are NaN or infinite count as 0."""
    finite = np.where(np.isfinite(logits), logits, 0.0).astype(np.float64)
    powers = np.exp(finite - finite.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
