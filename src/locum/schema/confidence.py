"""``ConfidenceModel``: how features of a draft become the probability that it is right; ``confidence.json``.

Also ``GuardModel``: which inputs are handed over whatever the confidence; ``guard.json``.
Notable: a logistic regression on standardised features, so it is read and checked by eye. Not here: fitting and
applying them (``students.confidence``, ``students.guard``).
"""

from __future__ import annotations

from typing import Literal

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


class LabelLimits(Document):
    """What an input must have in common with the training rows of one label for a student to give it that label.

    Attributes:
        least_words: an input with fewer different known words is handed over; 0: none is.
        any_word: whether a short input must have a word that is not of small talk, whichever it is.
        speaks: words, as ``GuardModel.known``, of which a short input must have one; None where it need not.
    """

    label: str
    least_words: int
    any_word: bool = False
    speaks: str | None


class GuardModel(Document):
    """What an input must have in common with the training rows for a student to answer it.

    Attributes:
        reads: what of an input is looked at: the whole text, or the query of one that is to be ranked.
        empty: whether an input without a single word is handed over.
        least_words: an input with fewer different known words is handed over; 0: none is.
        least_share: one of whose words, marks and pairs of neighbours a smaller share is known is handed over; 0: none.
        rows: training and dev rows that the limits were set on.
        dev_share: share of dev rows that they hand over.
        known: what is known, as hashes (CRC-32, ascending, four bytes each, the lowest first) in Base64.
        labels: limits of single labels, where the student gives labels; guards of version 1 have none.
    """

    schema_version: Literal[1, 2] = 2
    reads: Literal["text", "query"] = "text"
    empty: bool
    least_words: int
    least_share: float
    rows: int
    dev_share: float
    known: str
    labels: tuple[LabelLimits, ...] = ()
