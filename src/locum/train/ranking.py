"""Students that rank, trained: BM25 fitted, an encoder as it is, or an encoder tuned on the rows.

The folder afterwards holds ``bm25.json``; for an encoder ``config.json``, ``model.safetensors`` and ``tokenizer.json``;
``dev_logits.npy``, the score of every candidate of the first dev rows (BM25's, or the cosine), float32 ``[n, 1]``; and
``trained.json``, written last.

Notable: BM25's k1 and b are the ones with the best nDCG at 10 on dev. Not here: encoders (``ranking_encoder``), how
signals are weighed (``students.signals``, fitted on what is served).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.files import write_json
from locum.core.progress import note, track
from locum.core.registry import Registry
from locum.data.rankings import DEV_ROWS, Rankings, read_rankings
from locum.runtime.bm25 import Bm25, count_words, words_of
from locum.schema.training import Budgets, CurvePoint, TrainRequest
from locum.students.ranking import BM25
from locum.train.job import run
from locum.train.outcome import Clock, Outcome
from locum.train.rows import read_rows

METHODS = Registry(
    "way of training a ranker",
    {
        "linear": "locum.train.ranking:linear",
        "head": "locum.train.ranking_encoder:head",
        "full": "locum.train.ranking_encoder:full",
    },
)
_K1 = (1.2, 0.6, 0.9, 1.6, 2.0)  # the usual value first: it stays unless another one is better
_B = (0.75, 0.0, 0.25, 0.5, 1.0)


def main(request: Path, out: Path) -> None:
    """Train the ranker that ``request`` asks for into ``out``; arguments and errors as ``train.job.run``."""
    run(request, out, METHODS)


def linear(request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """Fit BM25 and nothing else.

    Raises:
        DataError: the rows cannot be read.
    """
    train, dev = read_both(request)
    bm25, curve = fit_bm25(train, dev, out, clock)
    scores = _scores(bm25, dev, _counted(dev))
    found = bm25.statistics
    return Outcome(
        dev_logits=np.concatenate(scores)[:, None].astype(np.float32),
        dev_accuracy=dev.mean_ndcg(scores),
        parameters=len(found.words) + 2,
        best_epoch=1.0,
        stopped_by="schedule",
        same_for=Budgets(),
        curve=tuple(curve),
        settings={"k1": found.k1, "b": found.b, "words": len(found.words), "texts": found.texts},
    )


def read_both(request: TrainRequest) -> tuple[Rankings, Rankings]:
    """The training rows, and the first dev rows, which are enough to choose a handful of numbers by.

    Raises:
        DataError: the rows cannot be read.
    """
    train = read_rankings(row for _, row in read_rows(Path(request.train)))
    return train, read_rankings((row for _, row in read_rows(Path(request.dev))), DEV_ROWS)


def fit_bm25(train: Rankings, dev: Rankings, out: Path, clock: Clock) -> tuple[Bm25, list[CurvePoint]]:
    """Count the words of the training candidates, choose k1 and b on dev, write ``bm25.json``.

    Returns:
        The fit, and one curve point for each pair of k1 and b.
    """
    counted, dev_counts = count_words(train.texts), _counted(dev)
    curve: list[CurvePoint] = []
    best, best_ndcg = Bm25(counted), -1.0
    with track("fit BM25", len(_K1) * len(_B), "fit") as tracker:
        for k1, b in ((k1, b) for k1 in _K1 for b in _B):
            bm25 = Bm25(counted.model_copy(update={"k1": k1, "b": b}))
            found = dev.mean_ndcg(_scores(bm25, dev, dev_counts))
            step = len(curve) + 1
            spent_s = clock.spent_s
            curve.append(
                CurvePoint(epoch=step, step=step, train_loss=None, dev_loss=None, dev_accuracy=found, elapsed_s=spent_s)
            )
            tracker.advance(1, k1=k1, b=b, ndcg=round(found, 4))
            if found > best_ndcg + 1e-9:
                best, best_ndcg = bm25, found
    note("BM25", k1=best.statistics.k1, b=best.statistics.b, ndcg=round(best_ndcg, 4))
    write_json(out / BM25, best.statistics.to_json())
    return best, curve


def _counted(rankings: Rankings) -> list[Counter[str]]:
    """The words of each candidate."""
    return [Counter(words_of(text)) for text in rankings.texts]


def _scores(bm25: Bm25, rankings: Rankings, counts: list[Counter[str]]) -> list[NDArray[np.float64]]:
    asked = [words_of(query.query) for query in rankings.queries]
    return [
        np.array([bm25.score(words, counts[place]) for place in places])
        for words, places in zip(asked, rankings.places, strict=True)
    ]
