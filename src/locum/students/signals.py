"""What is known of the candidates of a query: BM25 scores and cosines of vectors; and how they become one score.

Notable: candidates repeat from query to query, so their vectors and counted words are kept, the latest used ones, by
text. The weights of the signals are fitted by maximum likelihood: the softmax of a query's scores is to put its mass
where the relevance is (the conditional logit of McFadden 1974; with grades, ListNet's top-one loss, Cao et al. 2007,
ICML). They cannot fall below 0, so no signal is ever turned round. Not here: the student (``students.ranking``).
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from locum.runtime.bm25 import Bm25, words_of
from locum.runtime.protocol import Embedder
from locum.schema.ranking import RankerModel, Signal
from locum.tasks.rank import Candidates

KEPT_TEXTS = 20_000
"""Candidates whose vectors (31 MB at 384 dimensions) and words are kept."""
USUAL: dict[Signal, float] = {"bm25": 1.0, "cosine": 20.0}
"""Weights where there is nothing to fit them on; 20 is the inverse of the temperature that encoders are tuned with."""

_LEAST_ROWS = 10
_RIDGE = 1e-4

Value = TypeVar("Value")
Matrix = NDArray[np.float64]


class Kept(Generic[Value]):
    """Values by text, the latest used ones; safe to use from several threads.

    Args:
        compute: values of texts, in order.
        most: values that are kept.
    """

    def __init__(self, compute: Callable[[Sequence[str]], Iterable[Value]], most: int = KEPT_TEXTS) -> None:
        self._compute, self._most = compute, most
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, texts: Iterable[str]) -> dict[str, Value]:
        """The value of each text; those that are not kept are computed in one go."""
        wanted = list(dict.fromkeys(texts))
        with self._lock:
            found = {text: self._values[text] for text in wanted if text in self._values}
        missing = [text for text in wanted if text not in found]
        if missing:
            found |= dict(zip(missing, self._compute(missing), strict=True))
        with self._lock:
            for text in wanted:
                self._values[text] = found[text]
                self._values.move_to_end(text)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return found


class Signals:
    """Computes signals.

    Args:
        wanted: which.
        bm25: for the signal of that name.
        embedder: for ``cosine``; None where that is not wanted.
    """

    def __init__(self, wanted: Iterable[Signal], bm25: Bm25, embedder: Embedder | None) -> None:
        self.wanted: tuple[Signal, ...] = tuple(wanted)
        self._bm25, self._embedder = bm25, embedder
        self._counts = Kept(lambda texts: (Counter(words_of(text)) for text in texts))
        self._vectors = Kept(partial(_vectors, embedder)) if embedder else None

    def of(self, queries: Sequence[Candidates]) -> list[Matrix]:
        """Signals of every candidate of each query, ``[candidates, signals]`` each.

        Raises:
            LocumError: the engine failed.
        """
        return [signals for signals, _ in self.read(queries)]

    def read(self, queries: Sequence[Candidates]) -> list[tuple[Matrix, int]]:
        """The same, each with how many tokens of the query and its candidates the encoder did not read.

        Raises:
            LocumError: the engine failed.
        """
        columns: list[list[Matrix]] = []
        dropped = [0] * len(queries)
        for signal in self.wanted:
            if signal == "bm25":
                columns.append(self._bm25_scores(queries))
            else:
                cosines, dropped = self._cosines(queries)
                columns.append(cosines)
        matrices = [np.stack(each, axis=1) for each in zip(*columns, strict=True)]
        return list(zip(matrices, dropped, strict=True))

    def _bm25_scores(self, queries: Sequence[Candidates]) -> list[Matrix]:
        counts = self._counts.of(text for query in queries for text in query.texts)
        found: list[Matrix] = []
        for query in queries:
            asked = words_of(query.query)
            found.append(np.array([self._bm25.score(asked, counts[text]) for text in query.texts]))
        return found

    def _cosines(self, queries: Sequence[Candidates]) -> tuple[list[Matrix], list[int]]:
        if self._embedder is None or self._vectors is None:
            raise RuntimeError("cosines need an embedder")
        vectors = self._vectors.of(text for query in queries for text in query.texts)
        asked = _vectors(self._embedder, [query.query for query in queries])
        cosines: list[Matrix] = []
        dropped: list[int] = []
        for query, (vector, cut) in zip(queries, asked, strict=True):
            cosines.append(np.array([float(vectors[text][0] @ vector) for text in query.texts]))
            dropped.append(cut + sum(vectors[text][1] for text in query.texts))
        return cosines, dropped


def _vectors(embedder: Embedder, texts: Sequence[str]) -> list[tuple[NDArray[np.float32], int]]:
    """The vector of each text, and how many of its tokens were not read."""
    read = embedder.read(texts)
    return list(zip(read.vectors, read.dropped.tolist(), strict=True))


def scores_of(model: RankerModel, wanted: Sequence[Signal], signals: Matrix) -> Matrix:
    """The score of each candidate, ``[n]``, from signals ``[n, len(wanted)]``."""
    weights = np.array([model.weights[signal] for signal in wanted])
    return signals @ weights


def fit_ranker(wanted: Sequence[Signal], rows: Sequence[tuple[Matrix, Sequence[float]]]) -> RankerModel:
    """The weights that make the relevance on dev most likely.

    Minimises, over weights of at least 0, the mean of ``-Σ p(i) · log softmax(signals @ weights)(i)``, where p shares
    out 1 among a row's candidates by their grades, and a small ridge on standardised signals.

    Args:
        wanted: the signals, by column.
        rows: signals ``[candidates, signals]`` of each row, and its candidates' grades.

    Returns:
        The model. Degenerate: with fewer than ten rows that have both a relevant and an irrelevant candidate the
        weights are the usual ones, and ``rows`` is 0.
    """
    from scipy.optimize import minimize

    usable = [(signals, np.asarray(grades, dtype=np.float64)) for signals, grades in rows if _tells(grades)]
    if len(usable) < _LEAST_ROWS:
        return RankerModel(weights={signal: USUAL[signal] for signal in wanted}, rows=0)
    scale = np.concatenate([signals for signals, _ in usable]).std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    listed = [((signals - signals.mean(axis=0)) / scale, grades / grades.sum()) for signals, grades in usable]

    def loss(weights: Matrix) -> tuple[float, Matrix]:
        total, slope = 0.0, np.zeros(len(wanted))
        for signals, shares in listed:
            logs = log_softmax(signals @ weights)
            total -= float(shares @ logs)
            slope += (np.exp(logs) - shares) @ signals
        return (
            total / len(listed) + _RIDGE * float(weights @ weights),
            slope / len(listed) + 2 * _RIDGE * weights,
        )

    start = np.array([USUAL[signal] for signal in wanted]) * scale
    bounds = [(0.0, None)] * len(wanted)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x / scale
    weights: Mapping[Signal, float] = {signal: float(w) for signal, w in zip(wanted, found, strict=True)}
    return RankerModel(weights=dict(weights), rows=len(listed))


def log_softmax(scores: Matrix) -> Matrix:
    """Logarithms of the softmax of some scores, ``[n]``."""
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())


def _tells(grades: Sequence[float]) -> bool:
    relevant = sum(grade > 0 for grade in grades)
    return 0 < relevant < len(grades)
