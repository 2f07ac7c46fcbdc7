"""A finished bundle measured on labelled rows (``locum eval``), by the engine that serves it.

Notable: measuring changes nothing. It says how many rows the student has learned from, and whether the rows break what
the certificate promises. Not here: certifying anew (``recertify``), which examines rows with what is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from locum.bundle.operator_llm import LlmChoice, operator_llm
from locum.bundle.student import open_bundle
from locum.bundle.task import read_task
from locum.bundle.write import LEARNED, MODEL
from locum.cascade.policy import answering_threshold
from locum.cascade.sampling import independent_draws
from locum.cascade.summary import check_promise, system_summary
from locum.core.cpu import usable_cores
from locum.core.errors import UserError
from locum.core.files import atomic_file
from locum.data.fingerprint import Seen, compare, read_fingerprint
from locum.data.labelled import read_labelled
from locum.evaluate import latency, metrics, runner
from locum.evaluate.answers import answer_timed
from locum.evaluate.scored import Scored
from locum.evaluate.spending import purse_of
from locum.pipeline.judge import lent_judge
from locum.report.facts import promise_sentence
from locum.runtime.model_files import read_spec
from locum.runtime.open import open_classifier
from locum.schema.bundle import Manifest
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import Calibration, Evaluation, Latency
from locum.schema.model import ModelSpec
from locum.schema.task import Task
from locum.students.guard import read_guard, without_unlike
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
    skip_bad: bool = False,
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
        skip_bad: count and skip rows that cannot be used, instead of stopping.

    Returns:
        ``n``, ``metrics`` by name, ``intervals`` (95 %, ``[low, high]``), ``local_share``, ``error_local``,
        ``latency_ms``, ``engine``, ``void`` (why the certificate covers nothing, or None), ``promise`` (an exact test
        of what it promises, or None where that cannot be told), ``seen`` (rows that the student learned from, and near
        copies of such; None where the bundle does not record them), ``skipped`` (rows that cannot be used, by reason),
        ``reviewed`` (rows that a person picked and judged on the gateway's page) and the path of the predictions.

    Raises:
        ModelFileError: the bundle is refused.
        DataError: the file cannot be used.
        UserError: ``cli-usage``: ``max_cost`` without the price of the task's LLM.
        UpstreamError: the LLM does not answer, or could pass its cap; what came is kept beside the file.
    """
    with open_bundle(bundle, llm, engine=engine, llm_key_env=llm_key_env) as student:
        void, certificate, manifest = student.void, student.certificate, student.manifest
        threshold = answering_threshold(student.policy, certificate) if void is None else None
    task = with_llm(read_task(bundle), manifest, llm, llm_key_env, needed=False)
    labelled = read_labelled(data, task, read_spec(bundle / MODEL).labels, skip_bad=skip_bad)
    rows, seen = labelled.rows, seen_rows(bundle, labelled.every)
    with lent_judge(
        task, task.llm, data.with_suffix(".judge-answers.jsonl"), purse_of(task.llm, "--max-cost", max_cost)
    ):
        examined = examine_rows(bundle, task, rows, "test", engine=engine, timed=True)
    evaluation, scored = examined.evaluation, examined.scored
    system = system_summary(scored.confidence, scored.correct, threshold)
    drawn = independent_draws(rows, task, labelled.copies_left_out).positions
    promise = check_promise(certificate, scored.confidence[drawn], scored.correct[drawn], threshold)
    _write_predictions(predictions, rows, examined, threshold)
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
        "promise": None if promise is None else {**promise.to_json(), "statement": promise_sentence(promise)},
        "seen": None if seen is None else {"rows": len(seen.exact), "near": len(seen.near), "of": seen.n},
        "skipped": dict(labelled.skipped),
        "reviewed": labelled.reviewed,
        "predictions": str(predictions),
    }


def with_llm(task: Task, manifest: Manifest, llm: LlmChoice | None, key_variable: str | None, *, needed: bool) -> Task:
    """A bundle's task with the LLM that may be called for it; None where none may, and none is needed.

    Raises:
        UserError: nobody accepted the LLM that is needed, or that was asked for.
    """
    try:
        chosen = operator_llm(task, manifest.hashes["task"], llm, key_variable)
    except UserError:
        if needed or task.judged is not None or llm is not None:
            raise
        chosen = None
    return task.model_copy(update={"llm": chosen})


def seen_rows(bundle: Path, rows: Sequence[Row]) -> Seen | None:
    """Which rows, as they came, a bundle's student learned from; None where the bundle does not record that.

    Raises:
        ModelFileError: the record cannot be read.
    """
    path = bundle / LEARNED
    return compare(read_fingerprint(path), [row.input for row in rows]) if path.is_file() else None


def _in_short(calibration: Calibration | None) -> dict[str, float | None] | None:
    return None if calibration is None else {"ece": calibration.ece, "auroc": calibration.auroc}


@dataclass(frozen=True, eq=False)
class Examined:
    """What a bundle's student answered to a file's rows, whatever its confidence."""

    spec: ModelSpec
    scored: Scored
    evaluation: Evaluation
    outputs: Sequence[str | None]
    latency: Latency | None


def examine_rows(
    bundle: Path, task: Task, rows: Sequence[Row], split: SplitName, *, engine: str | None = None, timed: bool = False
) -> Examined:
    """Run the student over rows through the engine that serves it, with its guard."""
    folder = bundle / MODEL
    examined = _examine(folder, task, rows, split, engine, timed)
    labels = examined.outputs if examined.spec.purpose == "classify" else ()
    guard, texts = read_guard(folder, examined.spec), [row.input for row in rows]
    sure = without_unlike(guard, examined.scored.confidence, texts, labels)
    return replace(examined, scored=replace(examined.scored, confidence=sure))


def _examine(
    folder: Path, task: Task, rows: Sequence[Row], split: SplitName, engine: str | None, timed: bool
) -> Examined:
    texts = [row.input for row in rows]
    if read_spec(folder).purpose == "classify":
        with closing(open_classifier(folder, threads=usable_cores(), engine=engine)) as classifier:
            spec = classifier.spec
            answers = runner.predict_rows(classifier, rows, split)
            timing = latency.measure(classifier.logits, texts, threads=usable_cores()) if timed else None
        labels = [spec.labels[column] if column >= 0 else None for column in answers.predicted]
        scored = answers.scored(spec.temperature)
        return Examined(spec, scored, runner.evaluate(answers, spec.temperature), labels, timing)
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
    return Examined(spec, scored, evaluation, drafts.outputs, timing)


def _write_predictions(path: Path, rows: list[Row], examined: Examined, threshold: float | None) -> None:
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
