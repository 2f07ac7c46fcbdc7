"""A student that scores labels: trained, then exported with parity; or trained again with the choices of before.

Notable: the second training learns from train and dev together and chooses nothing (``train.repeat``).
"""

from __future__ import annotations

from pathlib import Path

from locum.core import child
from locum.core.files import atomic_file, write_json
from locum.pipeline.built import Prepared
from locum.pipeline.made import Made, Training, base_inputs, read_trained, train_within_memory
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.runtime.linear import WORDS_MAX
from locum.schema.candidate import Candidate
from locum.schema.model import Parity
from locum.schema.training import Budgets, ExportRequest, TrainRequest
from locum.sources.bases import ensure_base

_WORK = "work"  # of a training job, which removes it in the end
TRAIN, EXPORT = "locum.train.job:main", "locum.compress.job:main"


def make_classifier(
    work: Workspace,
    data: Prepared,
    candidate: Candidate,
    budget_s: float,
    train_job: str = TRAIN,
    export_job: str = EXPORT,
    repeat: Training | None = None,
    start: str | None = None,
) -> Made:
    """Train and export one candidate, or find both done.

    Args:
        work: the build.
        data: its prepared data.
        candidate: what to build.
        budget_s: wall time its training may take.
        train_job: ``package.module:function`` that answers a ``TrainRequest``.
        export_job: the same for an ``ExportRequest``.
        repeat: the candidate's finished training, to be repeated on train and dev together.
        start: the student that its tuning starts from, where that was built.

    Raises:
        LocumError: a source, the training or the export failed; CheckFailed for parity.
    """
    name = candidate.name
    train_step = _training(work, data, candidate, budget_s)
    if repeat is not None:
        name, whole_s = f"refit-{candidate.name}", work.task.budget.build_minutes * 60
        label = f"train {candidate.name} on train and dev"
        train_step = Step(name, label, {"train": repeat.key}, resumable=True, budget_s=whole_s)
    train_step = work.steps.settled(train_step)
    folder = _train(work, data, candidate, budget_s, train_job, train_step, repeat)
    trained = read_trained(folder, start)
    step = Step(f"export-{name}", f"export {candidate.name}", {"train": train_step.key})
    model = work.steps.run(step, lambda out: _export(work, data, candidate, folder, out, export_job)) / "model"
    parity = Parity.from_json((model.parent / "parity.json").read_bytes(), str(model.parent))
    return Made(model, step.key, trained, parity, Training(folder, train_step.key))


def _training(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float) -> Step:
    return Step(
        f"train-{candidate.name}",
        f"train {candidate.name}",
        {
            "data": data.key,
            **base_inputs(work, candidate.base),
            "family": candidate.family,
            "method": candidate.method,
            "depth": candidate.depth,
            "seed": work.task.seed,
            "threads": work.threads,
            **_limit(candidate),
        },
        resumable=True,
        budget_s=budget_s,
    )


def _limit(candidate: Candidate) -> dict[str, int]:
    """How much of a text a student reads, where that is not the usual: to a linear one a further word costs little."""
    return {"max_tokens": WORDS_MAX} if candidate.method == "linear" else {}


def _train(
    work: Workspace,
    data: Prepared,
    candidate: Candidate,
    budget_s: float,
    job: str,
    step: Step,
    repeat: Training | None,
) -> Path:
    def train(out: Path) -> Budgets | None:
        base = ensure_base(candidate.base, root=work.root, offline=work.offline) if candidate.base else None
        rows = data.folder / "train.jsonl" if repeat is None else _joined(data, out)
        request = TrainRequest(
            candidate=candidate,
            base=str(base) if base else None,
            train=str(rows),
            dev=str(data.folder / "dev.jsonl"),
            labels=data.labels,
            budget_s=budget_s,
            seed=work.task.seed,
            threads=work.threads,
            kind=work.task.kind,
            repeat=str(repeat.folder) if repeat else None,
            **_limit(candidate),
        )
        train_within_memory(work, job, request, out, candidate.name)
        trained = read_trained(out)
        if repeat is None:
            return trained.same_for
        # of one that was finished nothing depends on time; one that was not is tried again where there is more of it
        return Budgets() if trained.stopped_by == "schedule" else None

    return work.steps.run(step, train)


def _joined(data: Prepared, out: Path) -> Path:
    """Train and dev rows in one file, which is not part of the student."""
    path = out / _WORK / "rows.jsonl"
    with atomic_file(path) as file:
        for split in ("train", "dev"):
            file.write((data.folder / f"{split}.jsonl").read_bytes())
    return path


def _export(work: Workspace, data: Prepared, candidate: Candidate, trained: Path, out: Path, job: str) -> None:
    request = ExportRequest(
        name=candidate.name,
        labels=data.labels,
        trained=str(trained),
        dev=str(data.folder / "dev.jsonl"),
        threads=work.threads,
    )
    write_json(out / "request.json", request.to_json())
    child.run_job(job, out / "request.json", out, log=out / "export.log", threads=work.threads)
