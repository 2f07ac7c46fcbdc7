"""``RankerModel``: how the signals of a candidate become its score; ``ranker.json`` of a model folder that ranks.

Notable: a weighted sum, so it is read and checked by eye; the softmax of the scores over a query's candidates is the
estimate of which of them is the relevant one. Not here: signals, fitting and applying (``students.ranking``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from locum.schema.base import Document

Signal = Literal["bm25", "cosine"]
"""What is known of a candidate: its BM25 score, and the cosine of its vector with the query's."""


class RankerModel(Document):
    """Weights of the signals.

    Attributes:
        weights: at least 0, by signal; a signal that is not named is not computed.
        rows: dev rows that they were fitted on; 0 means that they are the usual ones.
    """

    schema_version: Literal[1] = 1
    weights: Annotated[dict[Signal, Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]
    rows: int
