"""A finished bundle on fresh rows: measured (``locum eval``) or certified anew (``locum certify``).

Notable: both run the bundle's own engine on the rows of a file that the user vouches for; what the bundle was
built from is known to it by hash only. Measuring changes nothing; certifying replaces policy and certificate, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from locum.bundle.operator_llm import LlmChoice, operator_llm
from locum.bundle.report import read_report
from locum.bundle.student import NO_REDACTION, open_bundle
from locum.bundle.task import read_task
from locum.bundle.verify import verify
from locum.bundle.write import MODEL, replace_certificate
from locum.cascade.certify import certify
from locum.cascade.policy import make_policy
from locum.cascade.summary import system_summary
from locum.core.cpu import usable_cores
from locum.core.errors import DataError, UserError
from locum.core.files import atomic_file, content_hash, sha256_file
from locum.data.labelled import read_labelled
from locum.evaluate import latency, metrics, runner
from locum.evaluate.answers import answer_timed
from locum.evaluate.llm import decoding_hash, evaluate_llm
from locum.evaluate.scored import Scored
from locum.evaluate.spending import purse_of
from locum.pipeline.judge import lent_judge, unmeasured
from locum.pipeline.llm import said_of_right
from locum.runtime.model_files import read_spec
from locum.runtime.open import open_classifier, open_generator
from locum.schema.bundle import Manifest
from locum.schema.certificate import Certificate
from locum.schema.data import Row, SourceFile, SplitName
from locum.schema.evaluation import Calibration, Evaluation, Latency
from locum.schema.model import ModelSpec
from locum.schema.report import BuildReport
from locum.schema.task import Guarantee, Task
from locum.students.open import open_drafter, read_confidence
from locum.tasks import open_kind


def evaluate_bundle(
    bundle: Path,
    data: Path,
    *,
    predictions: Path,
    engine: str | None = None,
    max_cost: float | None = None,
    llm: LlmChoice | None = None,
    llm_key_env: str | None = None,
) -> dict[str, Any]:
    """Measure a bundle on a file with right answers.

    Args:
        bundle: the folder.
        data: rows with the columns that the bundle's task names.
        predictions: JSON Lines file to write: id, output, gold, confidence, route.
        engine: who runs the student; None takes the one that the build chose.
        max_cost: most that the LLM may cost as a judge; None takes the task's own cap.
        llm: which LLM may be called, as for ``open_bundle``.
        llm_key_env: environment variable that holds its key, instead of the one that the bundle names.

    Returns:
        ``n``, ``metrics`` by name, ``intervals`` (95 %, ``[low, high]``), ``local_share``, ``error_local``,
        ``latency_ms``, ``engine``, ``void`` (why the certificate covers nothing, or None) and the path of the
        predictions.

    Raises:
        ModelFileError: the bundle is refused.
        DataError: the file cannot be used.
        UserError: ``cli-usage``: ``max_cost`` without the price of the task's LLM.
        UpstreamError: the LLM does not answer, or could pass its cap; what came is kept beside the file.
    """
    with open_bundle(bundle, llm, engine=engine, llm_key_env=llm_key_env) as student:
        void, threshold, manifest = student.void, student.certificate.threshold, student.manifest
    task = _with_llm(read_task(bundle), manifest, llm, llm_key_env, needed=False)
    rows = read_labelled(data, task, read_spec(bundle / MODEL).labels).rows
    with lent_judge(
        task, task.llm, data.with_suffix(".judge-answers.jsonl"), purse_of(task.llm, "--max-cost", max_cost)
    ):
        examined = _examine(bundle, task, rows, "test", engine=engine, timed=True)
    evaluation, scored = examined.evaluation, examined.scored
    in_force = threshold if void is None else None
    system = system_summary(scored.confidence, scored.correct, in_force)
    _write_predictions(predictions, rows, examined, in_force)
    timing = examined.latency
    return {
        "n": evaluation.n,
        "metrics": {name: interval.value for name, interval in evaluation.metrics.items()},
        "intervals": {name: [interval.low, interval.high] for name, interval in evaluation.metrics.items()},
        "local_share": system["local_share"],
        "error_local": system["error_local"],
        "latency_ms": {"p50": timing.p50_ms, "p95": timing.p95_ms} if timing else None,
        "answers_per_s": timing.answers_per_s if timing else None,
        "calibration": _in_short(evaluation.calibration),
        "field_calibration": _in_short(evaluation.field_calibration),
        "unknown_labels": sorted({row.output for row in rows} - set(examined.spec.labels))
        if examined.spec.purpose == "classify"
        else [],
        "engine": engine or examined.spec.engine,
        "void": void,
        "predictions": str(predictions),
    }


def _in_short(calibration: Calibration | None) -> dict[str, float | None] | None:
    return None if calibration is None else {"ece": calibration.ece, "auroc": calibration.auroc}


def certify_bundle(
    bundle: Path,
    data: Path,
    guarantee: Guarantee | None = None,
    *,
    max_cost: float | None = None,
    llm: LlmChoice | None = None,
    llm_key_env: str | None = None,
) -> Certificate:
    """Prove a bundle's guarantee on fresh calibration rows and put the new certificate in its place.

    Args:
        bundle: the folder; its policy and certificate are replaced.
        data: labelled rows from the traffic that the bundle will see, none of which it was trained or chosen on.
        guarantee: the statement to prove; None takes the task's own.
        max_cost: most that the LLM may cost, as a judge and as what is compared with; None takes the task's own cap.
        llm: which LLM may be called, as for ``open_bundle``.
        llm_key_env: environment variable that holds its key, instead of the one that the bundle names.

    Returns:
        The certificate; its threshold is None when nothing certifies.

    Raises:
        ModelFileError: the bundle is refused.
        DataError: the file cannot be used, or is one that the student learned from.
        UserError: a regret guarantee without an LLM, or ``max_cost`` without the price of the task's LLM.
        UpstreamError: the LLM does not answer, or could pass its cap; what came is kept beside the file.
    """
    manifest = verify(bundle)
    _require_fresh(bundle, data)
    named = read_task(bundle)
    wanted = guarantee or named.guarantee
    task = _with_llm(named, manifest, llm, llm_key_env, needed=wanted.kind == "regret")
    rows = read_labelled(data, task, read_spec(bundle / MODEL).labels).rows
    judge, purse = data.with_suffix(".judge-answers.jsonl"), purse_of(task.llm, "--max-cost", max_cost)
    with lent_judge(task, task.llm, judge, purse):
        examined = _examine(bundle, task, rows, "calibration")
    scored, spec = examined.scored, examined.spec
    kind = open_kind(task, spec.labels)
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
            run = evaluate_llm(generator, kind, rows, spec.labels, "calibration", cache, spending=purse)
            with lent_judge(task, task.llm, judge, purse):
                llm_correct = run.correct_at_best
        finally:
            generator.close()
    judged = read_report(bundle).judge or unmeasured(task)
    certificate = certify(
        wanted,
        scored.confidence,
        scored.correct,
        llm_correct=llm_correct,
        right_means=said_of_right(task, judged),
        judge=judged,
        answers=examined.outputs if spec.purpose == "classify" else (),
        labels=spec.labels,
        hashes={
            "model": manifest.hashes["model"],
            "task": manifest.hashes["task"],
            "calibration": content_hash([[row.input, row.output] for row in rows]),
            "decoding": decoding_hash(kind),
            "redaction": NO_REDACTION,
        },
        now=datetime.now(UTC),
    )
    replace_certificate(bundle, make_policy(certificate, spec.name, has_llm=named.llm is not None), certificate)
    return certificate


def _with_llm(task: Task, manifest: Manifest, llm: LlmChoice | None, key_variable: str | None, *, needed: bool) -> Task:
    """A bundle's task with the LLM that may be called for it; None where none may, and none is needed."""
    try:
        chosen = operator_llm(task, manifest.hashes["task"], llm, key_variable)
    except UserError:
        if needed or task.judged is not None or llm is not None:
            raise
        chosen = None
    return task.model_copy(update={"llm": chosen})


def _require_fresh(bundle: Path, data: Path) -> None:
    """Refuse the very file that the bundle was built on; that its rows stand in no other form is the user's word."""
    if not data.is_file():
        return  # the reader says what is wrong with it
    seen = sha256_file(data)
    for file in learned_files(read_report(bundle)):
        if file.sha256 == seen:
            raise DataError(
                "data-calibration-leak",
                f"the bundle was built on this file (its {file.split} data), so it proves nothing",
                where=str(data),
                fix="give rows that the student has never seen",
            )


def learned_files(report: BuildReport) -> list[SourceFile]:
    """Files that the served student was trained or chosen on, of other tasks, too, where it learned from these."""
    others = (mixed for each in report.multitask if each.student == report.chosen for mixed in each.tasks)
    files = [*report.data.files, *(file for other in others for file in other.mixed.files)]
    return [file for file in files if file.split in ("train", "dev")]


@dataclass(frozen=True, eq=False)
class _Examined:
    """What a bundle's student answered to a file's rows, whatever its confidence."""

    spec: ModelSpec
    scored: Scored
    evaluation: Evaluation
    outputs: Sequence[str | None]
    latency: Latency | None


def _examine(
    bundle: Path, task: Task, rows: Sequence[Row], split: SplitName, *, engine: str | None = None, timed: bool = False
) -> _Examined:
    """Run the student over rows through the engine that serves it."""
    folder = bundle / MODEL
    texts = [row.input for row in rows]
    if read_spec(folder).purpose == "classify":
        with closing(open_classifier(folder, threads=usable_cores(), engine=engine)) as classifier:
            spec = classifier.spec
            answers = runner.predict_rows(classifier, rows, split)
            timing = latency.measure(classifier.logits, texts, threads=usable_cores()) if timed else None
        labels = [spec.labels[column] if column >= 0 else None for column in answers.predicted]
        scored = answers.scored(spec.temperature)
        return _Examined(spec, scored, runner.evaluate(answers, spec.temperature), labels, timing)
    with closing(open_drafter(folder, task, threads=usable_cores())) as drafter:
        spec = drafter.spec
        alone = None
        if timed:
            alone = latency.time_singles(drafter.draft, texts, n=20, warmup=1, limit_s=20, name=spec.name)
        drafts, answers_per_s = answer_timed(drafter, rows, split)
        timing = alone.latency(answers_per_s, threads=usable_cores()) if alone else None
    scored = drafts.scored(open_kind(task, spec.labels), rows, read_confidence(folder, spec))
    evaluation = metrics.scored_evaluation(
        spec.name,
        split,
        scored.metrics,
        scored.n,
        confidence=scored.confidence,
        correct=scored.correct,
        fields=scored.fields,
        invalid=drafts.outputs.count(None),
    )
    return _Examined(spec, scored, evaluation, drafts.outputs, timing)


def _write_predictions(path: Path, rows: list[Row], examined: _Examined, threshold: float | None) -> None:
    with atomic_file(path) as file:
        for row, output, sure in zip(rows, examined.outputs, examined.scored.confidence, strict=True):
            local = threshold is not None and sure >= threshold
            record = {
                "id": row.id,
                "output": output,
                "gold": row.output,
                "confidence": float(sure) if sure == sure else None,  # NaN: no confidence
                "route": "local" if local else "handed over",
            }
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
