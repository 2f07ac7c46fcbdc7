"""A student that ranks: BM25, or an encoder beside it, trained, exported with parity, its signals weighed on dev."""

from __future__ import annotations

from pathlib import Path

from locum.core import child
from locum.core.files import write_json
from locum.pipeline.built import Prepared
from locum.pipeline.made import Made, base_inputs, read_trained, train_within_memory
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.model import Parity
from locum.schema.training import Budgets, ExportRequest, TrainRequest
from locum.sources.bases import ensure_base

EXPORT = "locum.compress.ranker:main"
SAME_FIRST = 0.9
"""Share of dev rows whose first candidate must stay; near ties change places, and nDCG is held besides."""


def make_ranker(
    work: Workspace, data: Prepared, candidate: Candidate, budget_s: float, start: str | None = None
) -> Made:
    """Train and export one candidate, or find both done; ``start`` is what its tuning starts from, where that is there.

    Raises:
        LocumError: a source, the training or the export failed; CheckFailed for parity.
    """
    train = work.steps.settled(
        Step(
            f"train-{candidate.name}",
            f"train {candidate.name}",
            {
                "data": data.key,
                "kind": "rank",
                **base_inputs(work, candidate.base),
                "method": candidate.method,
                "depth": candidate.depth,
                "seed": work.task.seed,
                "threads": work.threads,
            },
            resumable=True,
            budget_s=budget_s,
        )
    )
    trained_folder = work.steps.run(train, lambda out: _train(work, data, candidate, budget_s, out))
    trained = read_trained(trained_folder, start)
    export = Step(
        f"export-{candidate.name}", f"export {candidate.name}", {"train": train.key, "same_first": SAME_FIRST}
    )
    model = work.steps.run(export, lambda out: _export(work, data, candidate, trained_folder, out)) / "model"
    parity = Parity.from_json((model.parent / "parity.json").read_bytes(), str(model.parent))
    return Made(model, export.key, trained, parity)


def _train(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float, out: Path) -> Budgets | None:
    base = ensure_base(candidate.base, root=work.root, offline=work.offline) if candidate.base else None
    request = TrainRequest(
        candidate=candidate,
        base=str(base) if base else None,
        train=str(data.folder / "train.jsonl"),
        dev=str(data.folder / "dev.jsonl"),
        labels=(),
        budget_s=budget_s,
        seed=work.task.seed,
        threads=work.threads,
    )
    train_within_memory(work, "locum.train.ranking:main", request, out, candidate.name)
    return read_trained(out).same_for


def _export(work: Workspace, data: Prepared, candidate: Candidate, trained: Path, out: Path) -> None:
    request = ExportRequest(
        name=candidate.name,
        labels=(),
        trained=str(trained),
        dev=str(data.folder / "dev.jsonl"),
        threads=work.threads,
        min_agreement=SAME_FIRST,
    )
    write_json(out / "request.json", request.to_json())
    child.run_job(EXPORT, out / "request.json", out, log=out / "export.log", threads=work.threads)
