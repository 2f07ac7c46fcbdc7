"""Fitting and applying the confidence of drafted answers, and of their fields: a ridge-penalised logistic regression.

Notable: features that never vary on dev are left out; missing values (NaN) become the feature's mean; the penalty is
chosen by cross-validated log loss on dev, so that on few rows the model shrinks towards the base rate and never past
it. A draft without an output has no confidence. Fields of one answer are not independent, so they stand in one fold.
Not here: the features themselves (each student's own).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

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


def fit_confidence(
    drafts: Sequence[Draft], correct: NDArray[np.bool_], groups: Sequence[int] | None = None
) -> ConfidenceModel:
    """The model that makes what came true on dev most likely.

    Args:
        drafts: of the dev split; those without an output are left out.
        correct: whether each is right, same rows.
        groups: drafts of one number depend on each other, and count as one where there are few; None: each its own.

    Returns:
        The model. Degenerate: with fewer than five right or five wrong answers nothing can be learned about which are
        which. A middling answer then gets the smoothed share of right ones (Laplace's rule of succession), and odds
        change by e with each standard deviation of the answer's log-probability; without that all get the same.
    """
    kept = [index for index, draft in enumerate(drafts) if draft.output is not None]
    right = np.asarray(correct, dtype=np.bool_)[kept]
    group = np.arange(len(kept)) if groups is None else np.asarray(groups, dtype=np.int64)[kept]
    names = sorted({name for index in kept for name in drafts[index].features})
    values = _matrix([drafts[index] for index in kept], names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature that is NaN everywhere has no mean
        mean, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    varies = np.isfinite(mean) & (scale > 1e-12)
    chosen = [name for name, use in zip(names, varies, strict=True) if use]
    base = (right.sum() + 1) / (len(right) + 2)
    if _per_class(right, group) < _LEAST_PER_CLASS or not chosen:
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
    weights, intercept = _fit(X, right, group)
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


def fit_fields(drafts: Sequence[Draft], correct: Sequence[Mapping[str, bool]]) -> ConfidenceModel | None:
    """The model of single fields; None where no field has features.

    Args:
        drafts: of the dev split.
        correct: whether each field is right, by path, same rows.
    """
    listed = _known_fields(drafts, correct)
    if not listed:
        return None
    groups, fields, right = zip(*listed, strict=True)
    return fit_confidence(fields, np.array(right, dtype=np.bool_), groups)


def fields_of(model: ConfidenceModel, draft: Draft) -> dict[str, float] | None:
    """The confidence of each field of a draft, by path; None where the model or the draft says nothing of fields."""
    if model.fields is None or draft.output is None or not draft.fields:
        return None
    sure = confidence_of(model.fields, [Draft(draft.output, features) for features in draft.fields.values()])
    return {path: float(value) for path, value in zip(draft.fields, sure, strict=True)}


def fields_and_truth(
    model: ConfidenceModel, drafts: Sequence[Draft], correct: Sequence[Mapping[str, bool]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """The confidence of every field of many drafts and whether it is right, ``[fields]`` each; None for no field."""
    listed = _known_fields(drafts, correct)
    if model.fields is None or not listed:
        return None
    return confidence_of(model.fields, [field for _, field, _ in listed]), np.array([right for *_, right in listed])


def _known_fields(drafts: Sequence[Draft], correct: Sequence[Mapping[str, bool]]) -> list[tuple[int, Draft, bool]]:
    """Each field with features as a draft of its own, with its answer's number and whether it is right."""
    return [
        (number, Draft(draft.output, features), verdicts[path])
        for number, (draft, verdicts) in enumerate(zip(drafts, correct, strict=True))
        for path, features in draft.fields.items()
        if path in verdicts
    ]


def _per_class(right: NDArray[np.bool_], group: NDArray[np.int64]) -> int:
    """Groups that hold one of the rarer class."""
    return min(len(np.unique(group[right])), len(np.unique(group[~right])))


def _fit(X: NDArray[np.float64], right: NDArray[np.bool_], group: NDArray[np.int64]) -> tuple[tuple[float, ...], float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict

    count = min(_FOLDS, _per_class(right, group))
    if len(np.unique(group)) == len(group):
        folds = list(StratifiedKFold(count, shuffle=True, random_state=0).split(X, right))
    else:
        folds = list(StratifiedGroupKFold(count, shuffle=True, random_state=0).split(X, right, group))

    def held_out(penalty: float) -> float:
        model = LogisticRegression(C=penalty, max_iter=1000)
        return -float(log_loss(right, cross_val_predict(model, X, right, cv=folds, method="predict_proba")))

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
