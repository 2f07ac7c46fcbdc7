"""A student that scores labels: trained, then exported with parity."""

from __future__ import annotations

from pathlib import Path

from locum.core import child
from locum.core.files import write_json
from locum.pipeline.built import Prepared
from locum.pipeline.made import Made, train_within_memory
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.model import Parity
from locum.schema.training import ExportRequest, Trained, TrainRequest
from locum.sources.bases import ensure_base

TRAIN, EXPORT = "locum.train.job:main", "locum.compress.job:main"


def make_classifier(
    work: Workspace,
    data: Prepared,
    candidate: Candidate,
    budget_s: float,
    train_job: str = TRAIN,
    export_job: str = EXPORT,
) -> Made:
    """Train and export one candidate, or find both done.

    Args:
        work: the build.
        data: its prepared data.
        candidate: what to build.
        budget_s: wall time its training may take.
        train_job: ``package.module:function`` that answers a ``TrainRequest``.
        export_job: the same for an ``ExportRequest``.

    Raises:
        LocumError: a source, the training or the export failed; CheckFailed for parity.
    """
    trained_folder, train_step = _train(work, data, candidate, budget_s, train_job)
    trained = Trained.from_json((trained_folder / "trained.json").read_bytes(), str(trained_folder))
    step = Step(f"export-{candidate.name}", f"export {candidate.name}", {"train": train_step.key})
    model = work.steps.run(step, lambda out: _export(work, data, candidate, trained_folder, out, export_job)) / "model"
    parity = Parity.from_json((model.parent / "parity.json").read_bytes(), str(model.parent))
    return Made(model, step.key, trained, parity)


def _train(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float, job: str) -> tuple[Path, Step]:
    task = work.task
    step = Step(
        f"train-{candidate.name}",
        f"train {candidate.name}",
        {
            "data": data.key,
            "base": candidate.base,
            "family": candidate.family,
            "method": candidate.method,
            "depth": candidate.depth,
            "budget_s": budget_s,
            "seed": task.seed,
            "threads": work.threads,
        },
        resumable=True,
    )

    def train(out: Path) -> None:
        base = ensure_base(candidate.base, root=work.root, offline=work.offline) if candidate.base else None
        request = TrainRequest(
            candidate=candidate,
            base=str(base) if base else None,
            train=str(data.folder / "train.jsonl"),
            dev=str(data.folder / "dev.jsonl"),
            labels=data.labels,
            budget_s=budget_s,
            seed=task.seed,
            threads=work.threads,
            kind=task.kind,
        )
        train_within_memory(work, job, request, out, candidate.name)

    return work.steps.run(step, train), step


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
