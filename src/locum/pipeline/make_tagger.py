"""A student that tags tokens: trained on the spans of its types, then exported with parity."""

from __future__ import annotations

from locum.pipeline.built import Prepared
from locum.pipeline.made import Made, Training
from locum.pipeline.make_classifier import make_classifier
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate

TRAIN, EXPORT = "locum.train.tagging:main", "locum.compress.tagger:main"


def make_tagger(
    work: Workspace,
    data: Prepared,
    candidate: Candidate,
    budget_s: float,
    *,
    repeat: Training | None = None,
    start: str | None = None,
) -> Made:
    """Train and export one candidate, or find both done; a classifier whose labels are those of tokens.

    Arguments as for ``make_classifier``.

    Raises:
        LocumError: a source, the training or the export failed; CheckFailed for parity.
    """
    return make_classifier(work, data, candidate, budget_s, TRAIN, EXPORT, repeat, start)
