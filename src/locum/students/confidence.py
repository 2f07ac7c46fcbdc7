"""Fitting and applying the confidence of drafted answers: a ridge-penalised logistic regression on their features.

Notable: features that never vary on dev are left out; missing values (NaN) become the feature's mean; the penalty is
chosen by cross-validated log loss on dev, so that on few rows the model shrinks towards the base rate and never past
it. A draft without an output has no confidence. Not here: the features themselves (each student's own).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from locum.schema.confidence import ConfidenceModel
from locum.students.protocol import Draft

_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_FOLDS = 5
_LEAST_PER_CLASS = 5
_TELLING = ("logprob", "logprob_mean")
"""Features that fall as an answer becomes doubtful, whatever the task; a student has one of them."""

_EDGE = 1e-4


def fit_confidence(drafts: Sequence[Draft], correct: NDArray[np.bool_]) -> ConfidenceModel:
    """The model that makes what came true on dev most likely.

    Args:
        drafts: of the dev split; those without an output are left out.
        correct: whether each is right, same rows.

    Returns:
        The model. Degenerate: with fewer than five right or five wrong answers nothing can be learned about which are
        which. A middling answer then gets the smoothed share of right ones (Laplace's rule of succession), and odds
        change by e with each standard deviation of the answer's log-probability; without that all get the same.
    """
    kept = [index for index, draft in enumerate(drafts) if draft.output is not None]
    right = np.asarray(correct, dtype=np.bool_)[kept]
    names = sorted({name for index in kept for name in drafts[index].features})
    values = _matrix([drafts[index] for index in kept], names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature that is NaN everywhere has no mean
        mean, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    varies = np.isfinite(mean) & (scale > 1e-12)
    chosen = [name for name, use in zip(names, varies, strict=True) if use]
    base = (right.sum() + 1) / (len(right) + 2)
    if min(right.sum(), (~right).sum()) < _LEAST_PER_CLASS or not chosen:
        telling = [chosen.index(name) for name in _TELLING if name in chosen][:1]
        return ConfidenceModel(
            features=tuple(chosen[place] for place in telling),
            mean=tuple(float(mean[varies][place]) for place in telling),
            scale=tuple(float(scale[varies][place]) for place in telling),
            weights=(1.0,) * len(telling),
            intercept=float(np.log(base / (1 - base))),
            rows=len(right),
        )
    mean, scale = mean[varies], scale[varies]
    X = _standardised(values[:, varies], mean, scale)
    weights, intercept = _fit(X, right)
    return ConfidenceModel(
        features=tuple(chosen),
        mean=tuple(map(float, mean)),
        scale=tuple(map(float, scale)),
        weights=weights,
        intercept=intercept,
        rows=len(right),
    )


def confidence_of(model: ConfidenceModel, drafts: Sequence[Draft]) -> NDArray[np.float64]:
    """The confidence of drafts, ``[n]``, in (0, 1); NaN for a draft without an output."""
    if not drafts:
        return np.empty(0)
    mean, scale = np.asarray(model.mean), np.asarray(model.scale)
    X = _standardised(_matrix(drafts, model.features), mean, scale)
    odds = X @ np.asarray(model.weights) + model.intercept
    sure = np.clip(1 / (1 + np.exp(-np.clip(odds, -60, 60))), _EDGE, 1 - _EDGE)
    return np.where([draft.output is None for draft in drafts], np.nan, sure)


def _fit(X: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[tuple[float, ...], float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(min(_FOLDS, int(right.sum()), int((~right).sum())), shuffle=True, random_state=0)

    def held_out(penalty: float) -> float:
        model = LogisticRegression(C=penalty, max_iter=1000)
        return float(cross_val_score(model, X, right, cv=folds, scoring="neg_log_loss").mean())

    best = max(_PENALTIES, key=held_out)
    model = LogisticRegression(C=best, max_iter=1000).fit(X, right)
    return tuple(float(weight) for weight in model.coef_[0]), float(model.intercept_[0])


def _matrix(drafts: Sequence[Draft], names: Sequence[str]) -> NDArray[np.float64]:
    """Feature values, ``[n, features]``; NaN where a draft lacks one, or it is infinite."""
    values = [[draft.features.get(name, np.nan) for name in names] for draft in drafts]
    found = np.array(values, dtype=np.float64).reshape(len(drafts), len(names))
    return np.where(np.isfinite(found), found, np.nan)


def _standardised(
    values: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standard scores, with the mean for what is missing; beyond ten deviations nothing more is said."""
    return np.clip(np.nan_to_num((values - mean) / scale), -10, 10)
