"""``ConfidenceModel``: how features of a draft become the probability that it is right; ``confidence.json``.

Notable: a logistic regression on standardised features, so it is read and checked by eye. Not here: fitting and
applying it (``students.confidence``).
"""

from __future__ import annotations

from locum.schema.base import Document


class ConfidenceModel(Document):
    """Weights of standardised features.

    Attributes:
        features: names, in the order of the weights.
        mean, scale: of each feature on dev; a feature is standardised before it is weighed.
        weights: log-odds per standard deviation.
        intercept: log-odds at the means.
        rows: dev rows that it was fitted on; 0 means it says nothing, and every answer has the same confidence.
        fields: the same for one field of an answer (``rows`` are fields then); None where fields have no confidence.
    """

    schema_version: int = 1
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    rows: int
    fields: ConfidenceModel | None = None
