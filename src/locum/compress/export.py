"""A trained student becomes a model folder that answers as it did, or no folder at all.

Notable: formats are tried in order of preference (int8 before fp32). Each is written whole, opened by the engine that
will serve it, asked the whole dev split, and kept only when it answers as the trained weights did; why one was not
kept stands in the result. When none passes there is no export: what was measured is what is served. Not here: how a
format is written (``onnx_export``, ``int8``, ``gguf_export``), the verdict itself (``parity``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locum.compress.parity import MAX_ACCURACY_DROP, MIN_AGREEMENT, check, describe_failure
from locum.compress.student_files import Dev, read_dev, read_trained
from locum.core.errors import CheckFailed, LocumError, ModelFileError
from locum.core.files import atomic_folder, write_bytes
from locum.core.progress import note, track, warn
from locum.runtime.linear import VECTORIZER_NAME, WEIGHTS_NAME
from locum.runtime.model_files import seal
from locum.runtime.open import open_classifier
from locum.schema.candidate import Family
from locum.schema.model import EngineName, ModelSpec, Parity, Precision
from locum.schema.training import ExportFormat, Trained

if TYPE_CHECKING:
    from locum.models.classifier import SequenceClassifier

ONNX_NAME = "model.onnx"
GGUF_NAME = "model.gguf"
TOKENIZER_NAME = "tokenizer.json"

_FORMATS: dict[ExportFormat, tuple[EngineName, Precision]] = {
    "onnx-int8": ("onnx", "int8"),
    "onnx-fp32": ("onnx", "fp32"),
    "gguf-q8_0": ("llamacpp", "q8_0"),
    "gguf-f16": ("llamacpp", "f16"),
}
_DEFAULT: dict[Family, tuple[ExportFormat, ...]] = {
    "encoder": ("onnx-int8", "onnx-fp32"),
    "decoder": ("onnx-int8", "onnx-fp32"),
}
_ROWS_A_STEP = 64


@dataclass
class _Job:
    """One export: what it reads, and what several formats share."""

    folder: Path
    trained: Trained
    labels: tuple[str, ...]
    name: str
    scratch: Path
    tried: list[str] = field(default_factory=list)

    @cached_property
    def student(self) -> SequenceClassifier:
        from locum.models.classifier import load_student

        return load_student(self.folder)

    @cached_property
    def fp32(self) -> Path:
        """The ONNX file in fp32, written once: int8 is made from it."""
        from locum.compress.onnx_export import export_onnx

        path = self.scratch / ONNX_NAME
        with track("write ONNX"):
            export_onnx(self.student, path, max_tokens=self.trained.max_tokens)
        return path


def export(
    trained: Path,
    dev: Path,
    out: Path,
    *,
    name: str,
    labels: Sequence[str],
    threads: int,
    formats: Sequence[ExportFormat] | None = None,
    min_agreement: float = MIN_AGREEMENT,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
) -> tuple[ModelSpec, Parity]:
    """Export a trained student in the first format that answers as the trained weights did.

    Args:
        trained: folder that a training job wrote.
        dev: prepared split, JSON Lines of ``schema.data.Row``, in the order of the student's ``dev_logits.npy``.
        out: the model folder; complete or absent, an old one is replaced.
        name: of the model, for ``model.json``.
        labels: class names in the order of the logits' columns.
        threads: CPU threads of the engine.
        formats: in order of preference; None takes the family's own. Not read for the linear family.
        min_agreement: share of dev rows whose label must be the trained model's.
        max_accuracy_drop: loss of dev accuracy that is accepted.

    Returns:
        The ``model.json`` that was written, and the comparison.

    Raises:
        CheckFailed: no format answered as the trained weights did (``compress-parity``); nothing is written.
        ModelFileError: the trained folder is incomplete, damaged, or must not be opened.
        LocumError: the student cannot be written in a format that was asked for.
    """
    record = read_trained(trained)
    split = read_dev(trained, dev, labels)
    with atomic_folder(out) as folder:
        scratch = folder / ".scratch"
        scratch.mkdir()
        job = _Job(trained, record, tuple(labels), name, scratch)
        model = folder / "model"
        spec, parity = _first_that_holds(job, split, model, formats, threads, (min_agreement, max_accuracy_drop))
        shutil.rmtree(scratch)
        for path in model.iterdir():
            path.rename(folder / path.name)
        model.rmdir()
    note(
        f"exported {name} as {spec.engine} {spec.precision}",
        agreement=round(parity.label_agreement, 4),
        size_mb=round(sum(file.stat().st_size for file in out.iterdir()) / 1e6, 2),
    )
    return spec, parity


def _first_that_holds(
    job: _Job,
    split: Dev,
    model: Path,
    formats: Sequence[ExportFormat] | None,
    threads: int,
    tolerance: tuple[float, float],
) -> tuple[ModelSpec, Parity]:
    if job.trained.candidate.family == "linear":
        choices: tuple[ExportFormat | None, ...] = (None,)
    else:
        choices = tuple(formats or _DEFAULT[job.trained.candidate.family])
    for choice in choices:
        shutil.rmtree(model, ignore_errors=True)
        model.mkdir()
        spec = _write(job, model, choice)
        parity = _compare(model, spec, split, threads, tolerance, tuple(job.tried))
        if parity.passed:
            return spec, parity
        job.tried.append(describe_failure(parity))
        warn(f"not kept: {job.tried[-1]}")
    raise CheckFailed(
        "compress-parity",
        f"the exported model does not answer as the trained one did: {'; '.join(job.tried)}",
        where=str(job.folder),
        fix="train it again; if it stays, exclude this candidate from `students` and report it",
    )


def _compare(
    model: Path, spec: ModelSpec, split: Dev, threads: int, tolerance: tuple[float, float], tried: tuple[str, ...]
) -> Parity:
    import numpy as np

    answers = np.empty_like(split.logits)
    classifier = open_classifier(model, threads=threads)
    try:
        with track(f"check {spec.engine} {spec.precision} on dev", total=len(split.texts), unit="row") as tracker:
            for start in range(0, len(split.texts), _ROWS_A_STEP):
                texts = split.texts[start : start + _ROWS_A_STEP]
                answers[start : start + len(texts)] = classifier.logits(texts)
                tracker.advance(len(texts))
    finally:
        classifier.close()
    return check(
        split.logits,
        answers,
        split.gold,
        engine=spec.engine,
        precision=spec.precision,
        min_agreement=tolerance[0],
        max_accuracy_drop=tolerance[1],
        tried=tried,
    )


def _write(job: _Job, model: Path, choice: ExportFormat | None) -> ModelSpec:
    """Write one format with everything its engine reads, ``model.json`` last."""
    fields: dict[str, Any] = {
        "name": job.name,
        "family": job.trained.candidate.family,
        "labels": job.labels,
        "max_tokens": job.trained.max_tokens,
        "parameters": job.trained.parameters,
    }
    if choice is None:
        for name in (VECTORIZER_NAME, WEIGHTS_NAME):
            _copy(job.folder, model, name)
        return seal(model, engine="linear", precision="fp32", weights=WEIGHTS_NAME, **fields)
    engine, precision = _FORMATS[choice]
    _copy(job.folder, model, TOKENIZER_NAME)
    if engine == "onnx":
        _write_onnx(job, model / ONNX_NAME, precision)
        return seal(model, engine=engine, precision=precision, weights=ONNX_NAME, **fields)
    from locum.compress.gguf_export import export_gguf

    if job.trained.candidate.family != "decoder":
        raise LocumError("compress-export", f"{choice} is for decoders; this is a {job.trained.candidate.family}")
    with track(f"write GGUF {precision}"):
        kind = "q8_0" if precision == "q8_0" else "f16"
        export_gguf(job.student, job.folder / TOKENIZER_NAME, model / GGUF_NAME, kind=kind, name=job.name)
    pooling = job.student.pooling
    return seal(model, engine=engine, precision=precision, weights=GGUF_NAME, pooling=pooling, **fields)


def _write_onnx(job: _Job, path: Path, precision: Precision) -> None:
    if precision == "fp32":
        write_bytes(path, job.fp32.read_bytes())
        return
    from locum.compress.int8 import quantize_int8

    source = job.fp32
    with track("quantise to int8"):
        quantize_int8(source, path)


def _copy(source: Path, target: Path, name: str) -> None:
    if not (source / name).is_file():
        raise ModelFileError("compress-trained", f"{name} is missing", where=str(source), fix="train it again")
    write_bytes(target / name, (source / name).read_bytes())
