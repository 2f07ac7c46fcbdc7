"""A finished bundle on fresh rows: measured (``locum eval``) or certified anew (``locum certify``).

Notable: both run the bundle's own engine on the rows of a file that the user vouches for; what the bundle was
built from is known to it by hash only. Measuring changes nothing; certifying replaces policy and certificate, whole.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from locum.bundle.report import read_report
from locum.bundle.student import NO_REDACTION, open_bundle
from locum.bundle.verify import verify
from locum.bundle.write import MODEL, TASK, replace_certificate
from locum.cascade.certify import certify
from locum.cascade.policy import make_policy
from locum.cascade.summary import system_summary
from locum.core.cpu import usable_cores
from locum.core.errors import DataError, UserError
from locum.core.files import atomic_file, content_hash, sha256_file
from locum.data.labelled import read_labelled
from locum.evaluate import latency, runner
from locum.evaluate.llm import decoding_hash, evaluate_llm
from locum.evaluate.predictions import Predictions
from locum.runtime.open import open_classifier, open_generator
from locum.runtime.protocol import Classifier
from locum.schema.certificate import Certificate
from locum.schema.data import Row
from locum.schema.task import Guarantee, Task
from locum.schema.taskfile import parse_task
from locum.tasks import open_kind


def evaluate_bundle(bundle: Path, data: Path, *, predictions: Path, engine: str | None = None) -> dict[str, Any]:
    """Measure a bundle on a file with right answers.

    Args:
        bundle: the folder.
        data: rows with the columns that the bundle's task names.
        predictions: JSON Lines file to write: id, output, gold, confidence, route.
        engine: who runs the student; None takes the one that the build chose.

    Returns:
        ``n``, ``metrics`` by name, ``intervals`` (95 %, ``[low, high]``), ``local_share``, ``error_local``,
        ``latency_ms``, ``engine``, ``void`` (why the certificate covers nothing, or None) and the path of the
        predictions.

    Raises:
        ModelFileError: the bundle is refused.
        DataError: the file cannot be used.
    """
    with open_bundle(bundle, engine=engine) as student:
        void, threshold = student.void, student.certificate.threshold
    rows = read_labelled(data, _task(bundle).data)
    with _engine(bundle, engine) as classifier:
        answers = runner.predict_rows(classifier, rows, "test")
        timing = latency.measure(classifier, [row.input for row in rows], threads=usable_cores())
        temperature, labels = classifier.spec.temperature, classifier.spec.labels
    evaluation = runner.evaluate(answers, temperature)
    confidence = answers.confidence(temperature)
    in_force = threshold if void is None else None
    system = system_summary(confidence, answers.correct, in_force)
    _write_predictions(predictions, rows, answers, in_force, temperature)
    return {
        "n": evaluation.n,
        "metrics": {name: interval.value for name, interval in evaluation.metrics.items()},
        "intervals": {name: [interval.low, interval.high] for name, interval in evaluation.metrics.items()},
        "local_share": system["local_share"],
        "error_local": system["error_local"],
        "latency_ms": {"p50": timing.p50_ms, "p95": timing.p95_ms},
        "answers_per_s": timing.answers_per_s,
        "calibration": {"ece": evaluation.calibration.ece, "auroc": evaluation.calibration.auroc}
        if evaluation.calibration
        else None,
        "unknown_labels": sorted({row.output for row in rows} - set(labels)),
        "engine": engine or classifier.spec.engine,
        "void": void,
        "predictions": str(predictions),
    }


def certify_bundle(bundle: Path, data: Path, guarantee: Guarantee | None = None) -> Certificate:
    """Prove a bundle's guarantee on fresh calibration rows and put the new certificate in its place.

    Args:
        bundle: the folder; its policy and certificate are replaced.
        data: labelled rows from the traffic that the bundle will see, none of which it was trained or chosen on.
        guarantee: the statement to prove; None takes the task's own.

    Returns:
        The certificate; its threshold is None when nothing certifies.

    Raises:
        ModelFileError: the bundle is refused.
        DataError: the file cannot be used, or is one that the student learned from.
        UserError: a regret guarantee without an LLM.
    """
    manifest = verify(bundle)
    _require_fresh(bundle, data)
    task = _task(bundle)
    wanted = guarantee or task.guarantee
    rows = read_labelled(data, task.data)
    with _engine(bundle) as classifier:
        answers = runner.predict_rows(classifier, rows, "calibration")
        spec = classifier.spec
    kind = open_kind(task.kind, task.instruction, spec.labels)
    llm_correct = None
    if wanted.kind == "regret":
        if task.llm is None:
            raise UserError(
                "cascade-regret-needs-llm",
                "the bundle's task names no LLM to compare with",
                fix="choose --kind selective",
            )
        generator = open_generator(task.llm)
        try:
            cache = data.with_suffix(".llm-answers.jsonl")
            llm_correct = evaluate_llm(generator, kind, rows, spec.labels, "calibration", cache).correct_at_best
        finally:
            generator.close()
    certificate = certify(
        wanted,
        answers.confidence(spec.temperature),
        answers.correct,
        llm_correct=llm_correct,
        hashes={
            "model": manifest.hashes["model"],
            "task": manifest.hashes["task"],
            "calibration": content_hash([[row.input, row.output] for row in rows]),
            "decoding": decoding_hash(kind),
            "redaction": NO_REDACTION,
        },
        now=datetime.now(UTC),
    )
    replace_certificate(bundle, make_policy(certificate, spec.name, has_llm=task.llm is not None), certificate)
    return certificate


def _require_fresh(bundle: Path, data: Path) -> None:
    """Refuse the very file that the bundle was built on; that its rows stand in no other form is the user's word."""
    if not data.is_file():
        return  # the reader says what is wrong with it
    seen = sha256_file(data)
    for file in read_report(bundle).data.files:
        if file.sha256 == seen and file.split in ("train", "dev"):
            raise DataError(
                "data-calibration-leak",
                f"the bundle was built on this file (its {file.split} data), so it proves nothing",
                where=str(data),
                fix="give rows that the student has never seen",
            )


def _task(bundle: Path) -> Task:
    return parse_task((bundle / TASK).read_text(encoding="utf-8"), str(bundle / TASK))


@contextmanager
def _engine(bundle: Path, engine: str | None = None) -> Generator[Classifier, None, None]:
    classifier = open_classifier(bundle / MODEL, threads=usable_cores(), engine=engine)
    try:
        yield classifier
    finally:
        classifier.close()


def _write_predictions(
    path: Path, rows: list[Row], answers: Predictions, threshold: float | None, temperature: float
) -> None:
    confidence = answers.confidence(temperature)
    with atomic_file(path) as file:
        for row, column, sure in zip(rows, answers.predicted, confidence, strict=True):
            local = threshold is not None and sure >= threshold
            record = {
                "id": row.id,
                "output": answers.labels[column] if column >= 0 else None,
                "gold": row.output,
                "confidence": float(sure) if sure == sure else None,  # NaN: no confidence
                "route": "local" if local else "handed over",
            }
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
