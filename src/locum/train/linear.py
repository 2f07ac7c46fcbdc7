"""TF-IDF over words and characters with a linear support vector classifier: the first rung of the ladder.

Notable: word 1-2-grams and character 2-5-grams inside words, side by side, score 2 points above words alone
on banking intents and TREC questions; C is chosen on dev; texts are cut where serving cuts them. The student is
written in the form that serving reads (``runtime.linear``): NumPy arrays and JSON, no pickle, weights in float16.

Source: Fan et al. 2008, LIBLINEAR; one-vs-rest squared hinge loss. Not here: computing features at serving
time (``runtime.ngrams``).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import DataError
from locum.core.progress import note, track
from locum.runtime.linear import part_read, write_linear
from locum.runtime.ngrams import TOKEN_PATTERNS, Ngrams
from locum.schema.training import Budgets, CurvePoint, TrainRequest
from locum.train.outcome import Clock, Outcome
from locum.train.repeat import choices
from locum.train.rows import Split, read_split

_PENALTIES = (0.3, 1.0, 3.0)
_FEATURES_MAX = 200_000
_ABSENT_BIAS = -100.0  # score of a label that no training row has: never chosen
_SMALL_DATA_ROWS = 2_000


def train(request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """Fit the features and one classifier for each C, keep the best on dev, write ``vectorizer.json`` and
    ``weights.npz``.

    Raises:
        DataError: training rows of fewer than two labels, or rows the splits cannot be read from.
    """
    from sklearn.svm import LinearSVC

    (split, cut), (dev, dev_cut) = (_read(Path(path), request) for path in (request.train, request.dev))
    if len(set(split.targets)) < 2:
        raise DataError("train-request", "the training rows have only one label", where=request.train)
    repeated = choices(request)
    penalties = (repeated.number("C"),) if repeated else _PENALTIES
    blocks, idf, rows, dev_rows = _features(split, dev)
    targets, dev_targets = np.asarray(split.targets), np.asarray(dev.targets)
    curve: list[CurvePoint] = []
    best: tuple[float, float, NDArray[Any], NDArray[Any]] | None = None
    stopped, least_s = "schedule", 0.0
    with track("fit TF-IDF and linear model", len(penalties), "fit") as tracker:
        for number, penalty in enumerate(penalties, 1):
            started_s = clock.spent_s
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "did not converge": dev decides, not the optimum
                model = LinearSVC(C=penalty, random_state=request.seed).fit(rows, targets)
            coef, bias = _all_labels(model, len(request.labels))
            accuracy = float((_logits(dev_rows, coef, bias).argmax(axis=1) == dev_targets).mean())
            curve.append(_point(number, accuracy, clock.spent_s))
            tracker.advance(1, C=penalty, dev_accuracy=round(accuracy, 4))
            if best is None or accuracy > best[0]:
                best = (accuracy, penalty, coef, bias)
            if number == len(penalties):
                break
            spent_s = clock.spent_s
            least_s = max(least_s, spent_s + 2 * (spent_s - started_s))  # less would have ended the search
            if clock.budget_s < least_s:
                stopped = "budget"
                note("the time budget ends the search for C", tried=number)
                break
    if best is None:
        raise RuntimeError("no penalty was tried")
    _, penalty, coef, bias = best
    write_linear(out, blocks, idf, coef, bias)
    return Outcome(
        dev_logits=_logits(dev_rows, coef, bias),
        parameters=int(coef.size + bias.size),
        best_epoch=float(penalties.index(penalty) + 1),
        stopped_by="budget" if stopped == "budget" else "schedule",
        same_for=Budgets(least_s=least_s) if stopped == "schedule" else None,
        curve=tuple(curve),
        settings={
            "C": penalty,
            "features": int(coef.shape[1]),
            "loss": "squared hinge, one-vs-rest",
            "cut_texts": cut + dev_cut,
        },
    )


def _read(path: Path, request: TrainRequest) -> tuple[Split, int]:
    """A split as serving will read it, and how many of its texts are longer than that."""
    split = read_split(path, request.labels)
    parts = [part_read(text, request.max_tokens) for text in split.texts]
    return Split([text for text, _ in parts], split.targets), sum(dropped > 0 for _, dropped in parts)


def _features(split: Split, dev: Split) -> tuple[list[Ngrams], NDArray[Any], Any, Any]:
    """The two blocks' descriptions, idf ``[F]``, and sparse features ``[n, F]`` of both splits."""
    import scipy.sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    word_pattern = TOKEN_PATTERNS[2]  # a punctuation mark is a word: "?" tells questions from complaints
    rare = 2 if len(split.texts) >= _SMALL_DATA_ROWS else 1
    common: dict[str, Any] = {"sublinear_tf": True, "max_features": _FEATURES_MAX // 2, "dtype": np.float32}
    settings: tuple[dict[str, Any], ...] = (
        {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": word_pattern},
        {"analyzer": "char_wb", "ngram_range": (2, 5), "token_pattern": None, "min_df": rare},
    )
    blocks: list[Ngrams] = []
    parts: list[tuple[Any, Any, NDArray[Any]]] = []
    for setting in settings:
        vectorizer = TfidfVectorizer(**common, **setting)
        try:
            rows = vectorizer.fit_transform(split.texts)
        except ValueError as error:  # "empty vocabulary"
            raise DataError("train-request", f"no words in the training texts: {error}") from error
        parts.append((rows, vectorizer.transform(dev.texts), vectorizer.idf_))
        terms = tuple(str(term) for term in vectorizer.get_feature_names_out())
        fields = {key: value for key, value in setting.items() if key not in {"min_df", "token_pattern"}}
        blocks.append(Ngrams(**fields, token_pattern=word_pattern, vocabulary=terms))
    rows, dev_rows = (scipy.sparse.hstack([part[side] for part in parts]).tocsr() for side in (0, 1))
    return blocks, np.concatenate([part[2] for part in parts]), rows, dev_rows


def _all_labels(model: Any, n_labels: int) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Weights ``[C, F]`` and bias ``[C]`` for every label, as they are stored; absent labels never win."""
    coef, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if coef.shape[0] == 1:  # scikit-learn keeps one row for two labels: the second's
        coef, bias = np.concatenate([np.zeros_like(coef), coef]), np.concatenate([np.zeros_like(bias), bias])
    whole = np.zeros((n_labels, coef.shape[1]), dtype=np.float16)
    whole_bias = np.full(n_labels, _ABSENT_BIAS, dtype=np.float32)
    whole[model.classes_], whole_bias[model.classes_] = coef.astype(np.float16), bias
    return whole, whole_bias


def _logits(rows: Any, coef: NDArray[np.float16], bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """``rows @ coef.T + bias``, ``[n, C]``, with the weights as stored."""
    return np.asarray(rows @ coef.T.astype(np.float32) + bias, dtype=np.float32)


def _point(number: int, accuracy: float, elapsed_s: float) -> CurvePoint:
    return CurvePoint(
        epoch=number, step=number, train_loss=None, dev_loss=None, dev_accuracy=accuracy, elapsed_s=elapsed_s
    )
