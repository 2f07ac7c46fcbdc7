"""Calibrated confidence: the temperature of a student, fitted on dev.

Notable: a temperature changes no answer and no order of two answers' classes; it only makes the largest
probability mean what it says. Rows without scores, or whose gold label the student does not know, cannot
inform it and are left out. Not here: the softmax (``tasks.classify``), thresholds (``cascade.certify``).
"""

from __future__ import annotations

from locum.evaluate.predictions import Predictions
from locum.stats import calibration


def fit_temperature(dev: Predictions) -> float:
    """The temperature that makes a student's probabilities most likely on dev (Guo et al. 2017).

    Args:
        dev: predictions on the dev split.

    Returns:
        The temperature; 1.0 when no row can inform it.

    Raises:
        ValueError: the predictions are not on dev (calibration and test rows must not shape the student).
    """
    if dev.split != "dev":
        raise ValueError(f"the temperature is fitted on dev, not on {dev.split}")
    usable = (dev.predicted >= 0) & (dev.gold >= 0)
    if not usable.any():
        return 1.0
    return calibration.fit_temperature(dev.logits[usable], dev.gold[usable])
