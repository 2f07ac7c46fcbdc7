"""Can the confidence be believed: temperature scaling, ECE, reliability curve, Brier, NLL.

Notable: the temperature is fitted by bisection on the derivative of the NLL, which is convex in 1/T, so
there is one minimum and no step size; it is bounded, so perfectly right or constant logits stay finite.
Not here: whether confidence *sorts* right from wrong (``stats.ranking``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locum.stats.inputs import Bools, Floats, Ints, as_outcomes, as_scores, check_open_unit, floats, input_error
from locum.stats.intervals import wilson
from locum.stats.special import special

Binning = Literal["equal-width", "equal-mass"]

TEMPERATURE_MIN = 0.02
TEMPERATURE_MAX = 50.0


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers whose confidence lies in [low, high): mean claimed confidence against observed accuracy.

    Attributes:
        accuracy_low: lower end of the accuracy's Wilson interval; ``accuracy_high`` its upper end.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Probabilities: softmax of logits / T over the last axis, shape (n, k) → (n, k); stable for large logits."""
    scaled = floats(logits) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _checked_logits(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    array, gold = floats(logits), np.asarray(labels, dtype=np.int64)
    if array.ndim != 2 or gold.shape != array.shape[:1] or array.size == 0:
        raise input_error(f"logits need shape (n, k) and labels (n,), got {array.shape} and {gold.shape}")
    if not bool(np.isfinite(array).all()):
        raise input_error("logits hold NaN or infinity", fix="leave out such rows; they are never answered locally")
    if int(gold.min()) < 0 or int(gold.max()) >= array.shape[1]:
        raise input_error(f"labels run from {gold.min()} to {gold.max()}, there are {array.shape[1]} classes")
    return array, gold


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that minimises the mean NLL of softmax(logits / T) (Guo et al. 2017).

    With β = 1/T the NLL is convex, and its derivative is mean(E_softmax[logit] − logit of the label); its
    root is found by bisection on log T within [0.02, 50].

    Args:
        logits: shape (n, k), finite.
        labels: gold class numbers, shape (n,).

    Returns:
        T. Degenerate: rows whose logits are all equal carry no information; when no row does, or there is
        one class, T = 1. All right → TEMPERATURE_MIN; worse than chance → TEMPERATURE_MAX.

    Raises:
        UserError: shapes do not fit, a logit is not finite, or a label is no class.
    """
    array, gold = _checked_logits(logits, labels)
    centred = array - array.max(axis=1, keepdims=True)
    if float(np.ptp(centred, axis=1).max()) == 0.0:
        return 1.0
    of_label = centred[np.arange(len(gold)), gold]

    def slope(temperature: float) -> float:  # of the mean NLL in β = 1/T
        return float(((softmax(centred, temperature) * centred).sum(axis=1) - of_label).mean())

    low, high = np.log(TEMPERATURE_MIN), np.log(TEMPERATURE_MAX)
    if slope(TEMPERATURE_MIN) <= 0:
        return TEMPERATURE_MIN
    if slope(TEMPERATURE_MAX) >= 0:
        return TEMPERATURE_MAX
    for _ in range(50):
        middle = (low + high) / 2
        if slope(float(np.exp(middle))) > 0:  # too sharp: a larger T is better
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def nll(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Mean negative log likelihood, in nats, of the gold labels under softmax(logits / T).

    Raises:
        UserError: shapes do not fit, a logit is not finite, or a label is no class.
    """
    array, gold = _checked_logits(logits, labels)
    log_probability = floats(special.log_softmax(array / temperature, axis=-1))
    return float(-log_probability[np.arange(len(gold)), gold].mean())


def confidence_nll(confidence: ArrayLike, right: ArrayLike, floor: float = 1e-12) -> float:
    """Mean log loss, in nats, of "the answer is right" as an event of probability ``confidence``.

    Degenerate: a certainty that proves wrong costs −ln(floor), not infinity.

    Raises:
        UserError: no rows, unequal lengths, confidence outside [0, 1].
    """
    claimed, came_true = _checked_confidence(confidence, right)
    probability = np.clip(np.where(came_true, claimed, 1 - claimed), floor, 1.0)
    return float(-np.log(probability).mean())


def brier(confidence: ArrayLike, right: ArrayLike) -> float:
    """Mean squared gap between confidence and right/wrong (Brier 1950, two classes: right and wrong).

    Raises:
        UserError: no rows, unequal lengths, confidence outside [0, 1].
    """
    claimed, came_true = _checked_confidence(confidence, right)
    return float(((claimed - came_true) ** 2).mean())


def brier_multiclass(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over rows of Σ_k (p_k − 1[gold = k])², in [0, 2] (Brier 1950, the original form).

    Raises:
        UserError: shapes do not fit, or a label is no class.
    """
    array, gold = _checked_logits(probabilities, labels)
    gap = array.copy()
    gap[np.arange(len(gold)), gold] -= 1
    return float((gap**2).sum(axis=1).mean())


def _checked_confidence(confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Bools]:
    claimed = as_scores("confidence", confidence)
    if len(claimed) == 0:
        raise input_error("no rows to calibrate on")
    return claimed, as_outcomes("right", right, n=len(claimed))


def _bin_numbers(claimed: Floats, bins: int, binning: Binning) -> tuple[Ints, Floats]:
    """Each row's bin and the bins' edges, shape (bins + 1,); ties share a bin."""
    if bins < 1:
        raise input_error(f"{bins} bins")
    edges: NDArray[Any] = np.linspace(0.0, 1.0, bins + 1)
    if binning == "equal-mass":
        edges = np.unique(np.concatenate([[0.0], np.quantile(claimed, edges[1:-1]), [1.0]]))
    number = np.clip(np.searchsorted(edges, claimed, side="right") - 1, 0, len(edges) - 2)
    return number.astype(np.int64), floats(edges)


def ece(
    confidence: ArrayLike,
    right: ArrayLike,
    *,
    bins: int = 15,
    binning: Binning = "equal-width",
    debias: bool = False,
) -> float:
    """Expected calibration error Σ_b n_b/n · |accuracy_b − confidence_b| (Naeini et al. 2015; Guo et al. 2017).

    Args:
        confidence: in [0, 1], shape (n,).
        right: whether the answer was right, same rows.
        bins: at most this many.
        binning: equal-width [0, 1], the published form; or equal-mass, less noisy (Nixon et al. 2019).
        debias: take off what sampling noise alone adds. The plug-in |·| is biased upward; with d_b the gap
            and v_b = a(1−a)/(n_b−1) its variance, √max(0, d² − v) replaces |d| in every bin (the bin-wise
            correction of Kumar, Liang & Ma 2019, brought from the squared to the absolute gap).

    Returns:
        ECE in [0, 1]. Degenerate: with ``debias`` a bin of one row counts as 0, nothing can be told from it.

    Raises:
        UserError: no rows, unequal lengths, confidence outside [0, 1].
    """
    claimed, came_true = _checked_confidence(confidence, right)
    number, edges = _bin_numbers(claimed, bins, binning)
    size = len(edges) - 1
    count = np.bincount(number, minlength=size)
    filled = count > 0
    count = count[filled]
    accuracy = np.bincount(number, came_true, size)[filled] / count
    gap = np.abs(accuracy - np.bincount(number, claimed, size)[filled] / count)
    if debias:
        variance = np.where(count > 1, accuracy * (1 - accuracy) / np.maximum(count - 1, 1), np.inf)
        gap = np.sqrt(np.maximum(gap**2 - variance, 0.0))
    return float((gap * count).sum() / len(claimed))


def reliability_curve(
    confidence: ArrayLike,
    right: ArrayLike,
    *,
    bins: int = 15,
    binning: Binning = "equal-width",
    level: float = 0.95,
) -> tuple[ReliabilityBin, ...]:
    """Claimed confidence against observed accuracy per bin, with Wilson intervals (DeGroot & Fienberg 1983).

    Args:
        confidence: in [0, 1], shape (n,).
        right: whether the answer was right, same rows.
        bins: at most this many; empty bins are left out.
        binning: equal-width or equal-mass (ties share a bin, so there may be fewer).
        level: coverage of each bin's interval.

    Raises:
        UserError: no rows, unequal lengths, confidence outside [0, 1].
    """
    claimed, came_true = _checked_confidence(confidence, right)
    check_open_unit("level", level)
    number, edges = _bin_numbers(claimed, bins, binning)
    curve: list[ReliabilityBin] = []
    for index in np.unique(number):
        inside = number == index
        n, hits = int(inside.sum()), int(came_true[inside].sum())
        accuracy = wilson(hits, n, level)
        curve.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                n=n,
                confidence=float(claimed[inside].mean()),
                accuracy=accuracy.value,
                accuracy_low=accuracy.low,
                accuracy_high=accuracy.high,
            )
        )
    return tuple(curve)
