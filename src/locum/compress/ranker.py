"""A trained ranker becomes a model folder that ranks as it did, or no folder at all; then its signals are weighed.

Notable: int8 is tried before fp32; each is opened by the engine that will serve it and reads the first dev rows, and is
kept when it puts the same candidates first and its rankings are as good. The weights of BM25 and cosine are fitted
after that, on what is served, so rounding is weighed in. Not here: writing the encoder (``embedder``), the fit
(``students.signals``).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.compress.embedder import export_embedder
from locum.compress.student_files import read_logits, read_trained
from locum.core.errors import CheckFailed, DataError, LocumError, ModelFileError, UserError
from locum.core.files import atomic_folder, write_bytes, write_json
from locum.core.progress import note, track, warn
from locum.data.rankings import DEV_ROWS, Rankings, ndcg_of, read_rankings
from locum.runtime.model_files import seal
from locum.runtime.open import open_onnx_embedder
from locum.runtime.protocol import Embedder
from locum.schema.data import Row
from locum.schema.model import ModelSpec, Parity, Precision
from locum.schema.ranking import Signal
from locum.schema.training import EmbedderRequest, ExportFormat, ExportRequest, Trained
from locum.students.ranking import BM25, RANKER, read_bm25
from locum.students.signals import USUAL, Signals, fit_ranker, log_softmax

MODEL_FOLDER, PARITY_NAME = "model", "parity.json"
_PRECISIONS: dict[ExportFormat, Precision] = {"onnx-int8": "int8", "onnx-fp32": "fp32"}
_ROWS_A_STEP = 16
_Z = 2.0  # standard errors

Scores = Sequence[NDArray[np.floating]]


def main(request: Path, out: Path) -> None:
    """Run one export as a job for a child process.

    Args:
        request: JSON file with an ``ExportRequest``.
        out: existing folder to fill: ``model/`` and, written last, ``parity.json``.

    Raises:
        LocumError: as ``export_ranker``; ``schema-invalid`` for a request that is none.
    """
    asked = ExportRequest.from_json(request.read_bytes(), str(request), UserError)
    _, parity = export_ranker(asked, out / MODEL_FOLDER)
    write_json(out / PARITY_NAME, parity.to_json())


def export_ranker(asked: ExportRequest, out: Path) -> tuple[ModelSpec, Parity]:
    """Export a trained ranker in the first format that ranks as the trained weights did.

    Args:
        asked: what to export, and how near it must stay.
        out: the model folder; complete or absent, an old one is replaced.

    Returns:
        The ``model.json`` that was written, and the comparison.

    Raises:
        CheckFailed: no format ranked as the trained weights did (``compress-parity``); nothing is written.
        ModelFileError: the trained folder is incomplete, damaged, or must not be opened.
        DataError: the dev split is empty or damaged.
        LocumError: a format was asked for that rankers do not have, or PyTorch cannot export it.
    """
    folder = Path(asked.trained)
    trained = read_trained(folder)
    dev = _read_dev(Path(asked.dev))
    wanted = dev.split(_dev_scores(folder, dev))
    tried: list[str] = []
    with atomic_folder(out) as whole:
        model = whole / "model"
        for choice in _choices(asked, trained):
            shutil.rmtree(model, ignore_errors=True)
            found = _try(asked, trained, dev, wanted, model, choice, tried)
            if found is not None:
                break
        else:
            raise CheckFailed(
                "compress-parity",
                f"the exported ranker does not rank as the trained one did: {'; '.join(tried)}",
                where=asked.trained,
                fix="train it again; if it stays, exclude this candidate from `students` and report it",
            )
        for path in model.iterdir():
            path.rename(whole / path.name)
        model.rmdir()
    spec, parity = found
    note(f"exported {asked.name} as {spec.engine} {spec.precision}", agreement=round(parity.label_agreement, 4))
    return spec, parity


def check_scores(
    dev: Rankings, trained: Scores, exported: Scores, signal: Signal, asked: ExportRequest, precision: Precision
) -> Parity:
    """Compare an exported ranker's scores with the trained one's, on the same rows.

    It passes when the share of rows with the same first candidate is at least ``min_agreement``, and the mean loss of
    nDCG is at most ``max_accuracy_drop``, or not above two standard errors of the paired differences.

    Args:
        dev: the rows.
        trained: scores of each row's candidates by the trained weights.
        exported: the same by the exported file.
        signal: what the scores are; the usual weight makes probabilities of them.
        asked: the tolerance.
        precision: of the exported file, for the report.
    """
    sound = [bool(np.isfinite(row).all()) for row in exported]
    kept = [row if good else np.zeros(len(row)) for row, good in zip(exported, sound, strict=True)]
    same = [
        good and int(before.argmax()) == int(after.argmax())
        for before, after, good in zip(trained, kept, sound, strict=True)
    ]
    gaps = [
        np.abs(_shares(before, signal) - _shares(after, signal)) if good else np.ones(len(before))
        for before, after, good in zip(trained, kept, sound, strict=True)
    ]
    old, new = (
        np.array([ndcg_of(row, grades) for row, grades in zip(scores, dev.grades, strict=True)])
        for scores in (trained, kept)
    )
    new = np.where(sound, new, 0.0)
    lost = old - new
    noise = _Z * float(lost.std(ddof=1)) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
    holds = float(lost.mean()) <= max(asked.max_accuracy_drop, noise)
    agreement = float(np.mean(same))
    return Parity(
        n=len(same),
        engine="linear" if signal == "bm25" else "onnx",
        precision=precision,
        label_agreement=agreement,
        mean_gap=float(np.concatenate(gaps).mean()),
        max_gap=max(float(gap[row.argmax()]) for gap, row in zip(gaps, trained, strict=True)),
        accuracy_trained=float(old.mean()),
        accuracy_exported=float(new.mean()),
        min_agreement=asked.min_agreement,
        max_accuracy_drop=asked.max_accuracy_drop,
        passed=agreement >= asked.min_agreement and holds,
    )


def _try(
    asked: ExportRequest,
    trained: Trained,
    dev: Rankings,
    wanted: Scores,
    model: Path,
    choice: ExportFormat | None,
    tried: list[str],
) -> tuple[ModelSpec, Parity] | None:
    """Write one format, compare, weigh the signals; None, with the reason in ``tried``, when it is not kept."""
    precision = "fp32" if choice is None else _PRECISIONS[choice]
    embedder: Embedder | None = None
    if choice is None:
        model.mkdir()
    else:
        try:
            export_embedder(_embedder_request(asked, trained, precision), model)
        except CheckFailed as problem:
            tried.append(problem.cause)
            return None
        embedder = open_onnx_embedder(model, threads=asked.threads)
    try:
        write_bytes(model / BM25, (Path(asked.trained) / BM25).read_bytes())
        signals: tuple[Signal, ...] = ("bm25",) if embedder is None else ("cosine", "bm25")
        found = _signals(dev, Signals(signals, read_bm25(model / BM25), embedder))
    finally:
        if embedder is not None:
            embedder.close()
    parity = check_scores(dev, wanted, [row[:, 0] for row in found], signals[0], asked, precision)
    if not parity.passed:
        tried.append(_failure(parity))
        warn(f"not kept: {tried[-1]}")
        return None
    ranker = fit_ranker(signals, list(zip(found, dev.grades, strict=True)))
    note("signals", **{signal: round(weight, 4) for signal, weight in ranker.weights.items()})
    write_json(model / RANKER, ranker.to_json())
    return _seal(asked, trained, model, precision), parity.model_copy(update={"tried": tuple(tried)})


def _seal(asked: ExportRequest, trained: Trained, model: Path, precision: Precision) -> ModelSpec:
    linear = trained.candidate.family == "linear"
    fields: dict[str, Any] = {"engine": "linear", "weights": BM25} if linear else {}
    (model / "model.json").unlink(missing_ok=True)  # the embedder's
    return seal(
        model,
        **{"engine": "onnx", "weights": "model.onnx", **fields},
        name=asked.name,
        family=trained.candidate.family,
        precision=precision,
        labels=(),
        max_tokens=trained.max_tokens,
        parameters=trained.parameters,
        purpose="rank",
    )


def _choices(asked: ExportRequest, trained: Trained) -> tuple[ExportFormat | None, ...]:
    if trained.candidate.family == "linear":
        return (None,)
    chosen = asked.formats or tuple(_PRECISIONS)
    foreign = [choice for choice in chosen if choice not in _PRECISIONS]
    if foreign:
        raise LocumError(
            "compress-export", f"{foreign[0]} is not for rankers", fix=f"choose {' or '.join(_PRECISIONS)}"
        )
    return tuple(chosen)


def _embedder_request(asked: ExportRequest, trained: Trained, precision: Precision) -> EmbedderRequest:
    return EmbedderRequest(
        name=asked.name,
        base=asked.trained,
        pooling="mean",  # as encoders are pooled in training (``models.architectures``)
        max_tokens=trained.max_tokens,
        parameters=trained.parameters,
        threads=asked.threads,
        formats=("int8",) if precision == "int8" else ("fp32",),
    )


def _signals(dev: Rankings, signals: Signals) -> list[NDArray[np.float64]]:
    found: list[NDArray[np.float64]] = []
    with track("read dev candidates", total=len(dev.queries), unit="row") as tracker:
        for start in range(0, len(dev.queries), _ROWS_A_STEP):
            some = dev.queries[start : start + _ROWS_A_STEP]
            found += signals.of(some)
            tracker.advance(len(some))
    return found


def _read_dev(split: Path) -> Rankings:
    with split.open(encoding="utf-8") as file:
        rows = [Row.from_json(line, f"{split}:{number}", DataError) for number, line in enumerate(file, 1)]
    if not rows:
        raise DataError("compress-dev", "the dev split holds no rows", where=str(split), fix="train again on this data")
    return read_rankings(rows, DEV_ROWS)


def _dev_scores(folder: Path, dev: Rankings) -> NDArray[np.float32]:
    scores = read_logits(folder)
    wanted = sum(map(len, dev.places))
    if scores.shape != (wanted, 1):
        raise ModelFileError(
            "compress-trained",
            f"training left {scores.shape} scores for {wanted} candidates of dev",
            where=str(folder),
            fix="train it again",
        )
    return scores[:, 0]


def _shares(scores: NDArray[np.floating], signal: Signal) -> NDArray[np.float64]:
    return np.exp(log_softmax(np.asarray(scores, dtype=np.float64) * USUAL[signal]))


def _failure(parity: Parity) -> str:
    """Why an export was not kept, in one line."""
    what = f"{parity.engine} {parity.precision}"
    if parity.label_agreement < parity.min_agreement:
        share, needed = 100 * parity.label_agreement, 100 * parity.min_agreement
        return f"{what}: the first candidate agrees on {share:.1f} % of {parity.n} rows, needed {needed:.1f} %"
    return f"{what}: nDCG {parity.accuracy_exported:.3f}, trained {parity.accuracy_trained:.3f}"
