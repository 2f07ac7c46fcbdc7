"""``RankingStudent``: ranks the candidates of a query by BM25, by an encoder's vectors, or by both.

Notable: equal scores stand in an order that the input alone decides (``tasks.rank``). The features of an answer are
of the softmax over the scores: how likely the first is, how far before the second, the entropy.
Not here: signals and weights (``students.signals``), training (``train.ranking``).

The folder:
    bm25.json     statistics of words (``runtime.bm25``)
    ranker.json   weights of the signals (``schema.ranking``)
    model.onnx, tokenizer.json    the encoder, where vectors are a signal; engine onnx, else linear
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from locum.core.errors import ModelFileError
from locum.runtime.bm25 import Bm25, Bm25Statistics
from locum.runtime.protocol import Embedder
from locum.schema.model import ModelSpec
from locum.schema.ranking import RankerModel
from locum.schema.task import Task
from locum.students.protocol import Draft
from locum.students.signals import Matrix, Signals, log_softmax, scores_of
from locum.tasks import open_kind
from locum.tasks.protocol import TaskKind
from locum.tasks.rank import ranking, read_candidates

BM25, RANKER = "bm25.json", "ranker.json"


class RankingStudent:
    """Signals, weights and a kind that knows what an answer looks like.

    Args:
        spec: of the model folder.
        kind: the task.
        ranker: weights of the signals.
        bm25: statistics of words.
        embedder: the encoder, open; the student closes it. None where vectors are no signal.
    """

    def __init__(
        self, spec: ModelSpec, kind: TaskKind, ranker: RankerModel, bm25: Bm25, embedder: Embedder | None = None
    ) -> None:
        self._spec, self._kind, self._ranker, self._embedder = spec, kind, ranker, embedder
        self._signals = Signals(ranker.weights, bm25, embedder)

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        return self._spec

    def draft(self, texts: Sequence[str]) -> list[Draft]:
        """Rankings in order; the vectors of all new candidates are computed together.

        Raises:
            UserError: ``tasks-input``: an input is no query with candidates.
            LocumError: the engine failed.
        """
        start_s = time.perf_counter()
        queries = [read_candidates(text) for text in texts]
        found = self._signals.read(queries)
        seconds = (time.perf_counter() - start_s) / max(1, len(texts))
        drafts = [self._draft(text, signals, dropped) for text, (signals, dropped) in zip(texts, found, strict=True)]
        return [replace(draft, seconds=seconds) for draft in drafts]

    def close(self) -> None:
        """Close the encoder."""
        if self._embedder is not None:
            self._embedder.close()

    def _draft(self, text: str, signals: Matrix, dropped: int) -> Draft:
        scores = scores_of(self._ranker, self._signals.wanted, signals)
        output = ranking(text, scores.tolist())
        features = {**ranking_features(scores), **self._kind.features(text, output)}
        if len(self._signals.wanted) > 1:  # how many of the signals would put the same candidate first
            features["signals_agree"] = float((signals.argmax(axis=0) == scores.argmax()).mean())
        return Draft(output, features, truncated_tokens=dropped)


def ranking_features(scores: Matrix) -> dict[str, float]:
    """Numbers about a ranking that bear on whether it is right.

    Args:
        scores: of the candidates, two or more, in any order, ``[n]``.
    """
    logs = log_softmax(np.sort(scores)[::-1])
    shares = np.exp(logs)
    return {
        "first_score": float(scores.max()),
        "first_share": float(shares[0]),
        "margin": float(shares[0] - shares[1]),
        "margin_log": float(logs[0] - logs[1]),
        "entropy": float(-(shares * logs).sum()),
    }


def open_ranking(folder: Path, spec: ModelSpec, task: Task, threads: int) -> RankingStudent:
    """A ranker from its verified folder.

    Raises:
        ModelFileError: a file is missing or damaged, or the signals need an encoder that is not there.
    """
    ranker = RankerModel.from_json(_named(folder, spec, RANKER).read_bytes(), str(folder / RANKER))
    if ("cosine" in ranker.weights) != (spec.engine == "onnx"):
        raise ModelFileError(
            "runtime-mismatch",
            f"{RANKER} weighs {', '.join(ranker.weights)} and the engine is {spec.engine}",
            where=str(folder),
            fix="build it again",
        )
    bm25 = read_bm25(_named(folder, spec, BM25))
    kind = open_kind(task, spec.labels)
    if spec.engine != "onnx":
        return RankingStudent(spec, kind, ranker, bm25)
    from locum.runtime.onnx_embedder import OnnxEmbedder

    return RankingStudent(spec, kind, ranker, bm25, OnnxEmbedder(folder, spec, threads=threads))


def read_bm25(path: Path) -> Bm25:
    """BM25 from its file.

    Raises:
        ModelFileError: it is damaged.
    """
    try:
        return Bm25(Bm25Statistics.from_json(path.read_bytes(), str(path)))
    except ValueError as problem:
        raise ModelFileError("runtime-mismatch", str(problem), where=str(path), fix="build it again") from problem


def _named(folder: Path, spec: ModelSpec, name: str) -> Path:
    if name not in spec.files:
        raise ModelFileError("runtime-file-missing", f"a student that ranks needs {name}", where=str(folder))
    return folder / name
