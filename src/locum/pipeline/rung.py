"""One rung of the ladder, built: made by its method, run through its engine, calibrated on dev.

Notable: making differs by method and stands in ``pipeline.make_*``, one file each; what comes after is the same for
all. Every part is a step of the cache and runs in a child process. A student that labels or tags answers all splits at
once, because that takes a moment; any other answers dev, and the rest when the choice is made (``pipeline.held_out``).
Not here: which candidates there are (``fit.ladder``) and which one is chosen (``evaluate.choose``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from locum.cascade.confidence import fit_temperature
from locum.core import child
from locum.core.files import link_or_copy, sha256_file, write_json
from locum.core.registry import Registry
from locum.data.load import iterate
from locum.evaluate.answers import Answers
from locum.evaluate.predictions import Predictions
from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.made import Made
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.confidence import GuardModel
from locum.schema.data import SplitName
from locum.schema.evaluation import Measured, MeasureRequest
from locum.schema.kinds import TUNED, WRITING
from locum.schema.model import ModelSpec
from locum.students.guard import GUARD, GUARD_VERSION, fit_guard, read_guard
from locum.students.open import CONFIDENCE, read_confidence
from locum.tasks import open_kind

MAKERS = Registry(
    "way of making a student",
    {
        "classify": "locum.pipeline.make_classifier:make_classifier",
        "tag": "locum.pipeline.make_tagger:make_tagger",
        "rank": "locum.pipeline.make_ranker:make_ranker",
        "prompted": "locum.pipeline.make_prompted:make_prompted",
        "tuned": "locum.pipeline.make_tuned:make_tuned",
    },
)
"""How a candidate is made: ``(work, data, candidate, budget_s) -> Made``."""


def maker(kind: str, candidate: Candidate) -> str:
    """Which of ``MAKERS`` makes a candidate of a task of this kind."""
    if candidate.method in ("prompt", "few_shot"):
        return "prompted"
    return "tuned" if kind in ("extract", "generate") else kind


def answers_at_once(kind: str, candidate: Candidate) -> bool:
    """Whether a candidate answers all held-out rows before the choice."""
    return maker(kind, candidate) in ("classify", "tag")


def start_of(kind: str, candidate: Candidate, built: Sequence[BuiltStudent]) -> str | None:
    """The student that a candidate's tuning starts from, among those that were built; None where it is not there."""
    if candidate.method not in TUNED:
        return None
    untuned = "prompt" if kind in WRITING else "head"
    return next(
        (
            each.candidate.name
            for each in built
            if (each.candidate.base, each.candidate.depth, each.candidate.method)
            == (candidate.base, candidate.depth, untuned)
        ),
        None,
    )


def build_rung(
    work: Workspace, data: Prepared, candidate: Candidate, budget_s: float, built: Sequence[BuiltStudent] = ()
) -> BuiltStudent:
    """Build one candidate, or find it built.

    Args:
        work: the build.
        data: its prepared data.
        candidate: what to build.
        budget_s: wall time its training may take.
        built: students that are there.

    Raises:
        LocumError: a source, the training, the export or the engine failed, or the tuning ended where another student
            is; CheckFailed for parity.
    """
    start = start_of(work.task.kind, candidate, built)
    known = {} if start is None else {"start": start}
    made: Made = MAKERS.load(maker(work.task.kind, candidate))(work, data, candidate, budget_s, **known)
    return measure_student(work, data, candidate, made)


def measure_student(
    work: Workspace, data: Prepared, candidate: Candidate, made: Made, before: BuiltStudent | None = None
) -> BuiltStudent:
    """Run what was made through its engine and calibrate it, or find both done.

    Args:
        work: the build.
        data: its prepared data.
        candidate: what it is.
        made: its model folder.
        before: the student that it is a refit of, whose calibration holds: a refit has learned from dev.

    Raises:
        LocumError: the engine failed.
    """
    labels = maker(work.task.kind, candidate) == "classify"
    scoring = {} if labels else {"kind": open_kind(work.task, data.labels).prompt_hash}
    limit = {} if work.answers is None else {"answer_tokens": work.answers.max_tokens}
    step = Step(
        f"measure-refit-{candidate.name}" if before else f"measure-{candidate.name}",
        f"measure {candidate.name}",
        {"export": made.key, "guard": GUARD_VERSION, **scoring, **limit},
    )
    splits: tuple[SplitName, ...] = data.splits if answers_at_once(work.task.kind, candidate) else ("dev",)
    answers = work.steps.run(step, lambda out: _measure(work, data, made.model, splits, out, before))
    served = answers / "model"
    return BuiltStudent(
        candidate=candidate,
        trained=made.trained,
        parity=made.parity,
        spec=ModelSpec.from_json((served / "model.json").read_bytes(), str(served)),
        measured=Measured.from_json((answers / "measured.json").read_bytes(), str(answers)),
        served=served,
        key=step.key,
        answers={split: answers / f"{split}.{'npz' if labels else 'jsonl'}" for split in splits},
        task=work.task,
        data=data,
        training=made.training,
        before=before,
    )


def answer_split(work: Workspace, student: BuiltStudent, split: SplitName) -> BuiltStudent:
    """The student with its answers to one more split, or as it is where it has answered that.

    Args:
        work: the build.
        student: calibrated; what answers is what would be served.
        split: to answer.

    Raises:
        LocumError: the engine failed.
    """
    if split in student.answers:
        return student
    name = student.candidate.name
    step = Step(f"answer-{split}-{name}", f"answer {split} with {name}", {"measured": student.key})
    folder = work.steps.run(step, lambda out: _run_job("answer", work, student.data, student.served, (split,), out))
    return replace(student, answers={**student.answers, split: folder / f"{split}.jsonl"})


def _measure(
    work: Workspace, data: Prepared, model: Path, splits: tuple[SplitName, ...], out: Path, before: BuiltStudent | None
) -> None:
    _run_job("run", work, data, model, splits, out)
    _calibrate(work, data, model, out, before)


def _run_job(
    entry: str, work: Workspace, data: Prepared, model: Path, splits: tuple[SplitName, ...], out: Path
) -> None:
    request = MeasureRequest(
        model=str(model), data=str(data.folder), task=work.task, splits=splits, threads=work.threads
    )
    write_json(out / "request.json", request.to_json())
    child.run_job(
        f"locum.evaluate.job:{entry}", out / "request.json", out, log=out / "measure.log", threads=work.threads
    )


def _calibrate(work: Workspace, data: Prepared, model: Path, out: Path, before: BuiltStudent | None) -> None:
    """Put what dev says of the confidence, and the chosen engine, into the served folder; weights are linked."""
    served = out / "model"
    served.mkdir()
    spec = ModelSpec.from_json((model / "model.json").read_bytes(), str(model))
    for name in spec.files:
        link_or_copy(model / name, served / name)
    measured = Measured.from_json((out / "measured.json").read_bytes(), str(out))
    write_json(served / GUARD, _guard(data, spec, before).to_json())
    files = {**spec.files, GUARD: sha256_file(served / GUARD)}
    if spec.purpose == "classify":
        temperature = before.spec.temperature if before else fit_temperature(Predictions.load(out / "dev.npz"))
        engine = measured.engines.engine if measured.engines else spec.engine
        changed = {"temperature": temperature, "engine": engine, "files": files}
    else:
        if before:
            confidence = read_confidence(before.served, before.spec)
        else:
            dev = Answers.load(out / "dev.jsonl")
            confidence = dev.fit_confidence(open_kind(work.task, data.labels), list(iterate(data.folder, "dev")))
        write_json(served / CONFIDENCE, confidence.to_json())
        limit = work.answers.max_tokens if work.answers is not None else None
        changed = {
            "files": {**files, CONFIDENCE: sha256_file(served / CONFIDENCE)},
            "answer_tokens": limit,
        }
    write_json(served / "model.json", spec.model_copy(update=changed).to_json())
    size_mb = sum(path.stat().st_size for path in served.iterdir()) / 1e6  # with what was added here
    write_json(out / "measured.json", measured.model_copy(update={"size_mb": size_mb}).to_json())


def _guard(data: Prepared, spec: ModelSpec, before: BuiltStudent | None) -> GuardModel:
    """What hands over inputs unlike all of train; that of the student before, where there is one: dev was new to it."""
    kept = read_guard(before.served, before.spec) if before else None
    if kept is not None:
        return kept.model
    train, dev = (list(iterate(data.folder, split)) for split in ("train", "dev"))
    labels = ([row.output for row in train], [row.output for row in dev]) if spec.purpose == "classify" else None
    texts = ([row.input for row in train], [row.input for row in dev])
    return fit_guard(*texts, ranks=spec.purpose == "rank", labels=labels)
