"""Fitting the wide part: a linear support vector machine on hashed token n-grams, scaled on dev.

Notable: features and weights are worked out exactly as ``models.wide`` computes them, from the same buckets. How
much the wide part counts is decided by the likelihood of the dev labels under the sum, at the best temperature of
each scale; scale 0 means that it does not help, and then there is none. Weights are rounded to 8 bits here, so that
what is exported is what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from locum.core.progress import note, track
from locum.models.wide import BUCKETS, Wide, ngram_buckets
from locum.stats.calibration import fit_temperature, nll

SCALES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
_LEVELS = 127  # of a signed byte
_LEAST_GAIN = 0.002  # nats a row; less is noise


def fit_wide(
    ids: Sequence[Sequence[int]],
    gold: NDArray[np.int64],
    dev_ids: Sequence[Sequence[int]],
    dev_gold: NDArray[np.int64],
    dev_logits: NDArray[np.float32],
    scale: float | None = None,
) -> tuple[Wide | None, float]:
    """Fit the wide part and choose its scale.

    Args:
        ids: token ids of the training rows, in the whole vocabulary.
        gold: their labels, ``[n]``.
        dev_ids: token ids of the dev rows.
        dev_gold: their labels, ``[m]``.
        dev_logits: of the deep part, ``[m, C]``.
        scale: chosen before, 0 for no wide part; None chooses on dev.

    Returns:
        The part with its scale folded in, and the scale; None and 0 when it does not make the dev labels likelier.
    """
    from sklearn.svm import LinearSVC

    n_labels = dev_logits.shape[1]
    with track("fit the wide part"):
        buckets = [row_buckets(row) for row in ids]
        idf = inverse_document_frequency(buckets)
        machine = LinearSVC(C=1.0, random_state=0).fit(_features(buckets, idf), gold)
        coefficients, bias = _all_labels(machine.coef_, machine.intercept_, machine.classes_, n_labels)
        step = float(np.abs(coefficients).max() / _LEVELS) or 1.0
        table = np.round(coefficients / step).T.astype(np.int8)  # [BUCKETS, C]
        wide_logits = _features([row_buckets(row) for row in dev_ids], idf) @ table.astype(np.float32) * step + bias
    if scale is None:
        scale = _choose_scale(dev_logits, wide_logits, dev_gold)
    if scale == 0:
        return None, 0.0
    wide = Wide(n_labels)
    wide.idf.copy_(torch.from_numpy(idf))
    wide.table.copy_(torch.from_numpy(table))
    wide.step.fill_(scale * step)
    wide.bias.copy_(torch.from_numpy(scale * bias))
    return wide, scale


def _choose_scale(
    dev_logits: NDArray[np.float32], wide_logits: NDArray[np.float32], dev_gold: NDArray[np.int64]
) -> float:
    """The scale under which the dev labels are the likeliest; 0 when the gain is noise."""
    losses = [_best_nll(dev_logits + scale * wide_logits, dev_gold) for scale in SCALES]
    best = int(np.argmin(losses))
    kept = losses[0] - losses[best] >= _LEAST_GAIN
    note(
        "wide part kept" if kept else "wide part not kept",
        scale=SCALES[best],
        dev_nll_without=losses[0],
        dev_nll_with=losses[best],
    )
    return SCALES[best] if kept else 0.0


def row_buckets(ids: Sequence[int]) -> NDArray[np.int64]:
    """Buckets of one row's unigrams and bigrams, with repeats, as the model's graph has them."""
    unigrams, bigrams = ngram_buckets(torch.tensor([list(ids)], dtype=torch.int64))
    return torch.cat([unigrams[0], bigrams[0, :-1]]).numpy()


def inverse_document_frequency(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """``ln((1+n)/(1+df)) + 1`` for every bucket, 0 for one that no training row has, ``[BUCKETS]``."""
    frequency = np.zeros(BUCKETS)
    for row in rows:
        frequency[np.unique(row)] += 1
    idf = np.log((1 + len(rows)) / (1 + frequency)) + 1
    idf[frequency == 0] = 0
    return idf.astype(np.float32)


def _features(rows: Sequence[NDArray[np.int64]], idf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sparse matrix ``[n, BUCKETS]`` of idf weights, each row divided by the norm over its n-grams."""
    from scipy.sparse import csr_matrix

    columns = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    places = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    weights = idf[columns].astype(np.float64)
    norms = np.sqrt(np.maximum(np.bincount(places, weights * weights, minlength=len(rows)), 1e-12))
    return csr_matrix((weights / norms[places], (places, columns)), shape=(len(rows), BUCKETS))


def _all_labels(
    coefficients: NDArray[np.float64], intercept: NDArray[np.float64], present: NDArray[np.int64], n_labels: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """One row a label: two for a binary machine, and a row that is never chosen for labels without training rows."""
    if len(present) == 2:
        coefficients, intercept = np.vstack([-coefficients, coefficients]), np.concatenate([-intercept, intercept])
    full = np.zeros((n_labels, coefficients.shape[1]))
    bias = np.full(n_labels, float(intercept.min()) - 1)
    full[present], bias[present] = coefficients, intercept
    return full, bias.astype(np.float32)


def _best_nll(logits: NDArray[np.float64], gold: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood at the temperature that makes it least."""
    return float(nll(logits, gold, fit_temperature(logits, gold)))
