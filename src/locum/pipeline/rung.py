"""One rung of the ladder, built: fetched, trained, exported with parity, and run through its engine.

Notable: training, export and measurement each run in a child process; a memory kill while training is
answered with half the micro-batch, which changes nothing in the mathematics. Each is a step of the cache.
Not here: which candidates there are (``fit.ladder``) and which one is chosen (``evaluate.choose``).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from locum.cascade.confidence import fit_temperature
from locum.core.child import run_job
from locum.core.errors import LocumError
from locum.core.files import write_json
from locum.core.progress import warn
from locum.evaluate.predictions import Predictions
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import SplitName
from locum.schema.evaluation import Measured, MeasureRequest
from locum.schema.model import ModelSpec, Parity
from locum.schema.training import ExportRequest, Trained, TrainRequest
from locum.sources.bases import ensure_base

_MICRO_BATCHES = (None, 16, 8, 4, 2, 1)
OUT_OF_MEMORY = ("core-child-killed", "train-memory")
"""Codes of a training that was killed for memory, and of one that ran out of it and could say so."""


@dataclass(frozen=True)
class BuiltStudent:
    """A candidate that was built.

    Attributes:
        served: folder the engine opens, with its name and the temperature in its ``model.json``.
        answers: folder with its predictions, one npz file per split.
    """

    candidate: Candidate
    trained: Trained
    parity: Parity
    spec: ModelSpec
    measured: Measured
    served: Path
    answers: Path

    def predictions(self, split: SplitName) -> Predictions:
        """What the served engine answered on a split."""
        return Predictions.load(self.answers / f"{split}.npz")

    @property
    def temperature(self) -> float:
        """Fitted on dev; the confidence of every split uses it."""
        return self.spec.temperature


@dataclass(frozen=True)
class Prepared:
    """The prepared data set.

    Attributes:
        key: hash of what the splits hold; whatever is made from them depends on it.
    """

    folder: Path
    key: str
    labels: tuple[str, ...]
    splits: tuple[SplitName, ...]


def build_rung(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float) -> BuiltStudent:
    """Build one candidate, or find it built.

    Args:
        work: the build.
        data: its prepared data.
        candidate: what to build.
        budget_s: wall time its training may take.

    Raises:
        LocumError: a source, the training, the export or the engine failed; CheckFailed for parity.
    """
    trained_folder, train_step = _train(work, data, candidate, budget_s)
    trained = Trained.from_json((trained_folder / "trained.json").read_bytes(), str(trained_folder))
    export_step = Step(f"export-{candidate.name}", f"export {candidate.name}", {"train": train_step.key})
    model = work.steps.run(export_step, lambda out: _export(work, data, candidate, trained_folder, out)) / "model"
    measure_step = Step(f"measure-{candidate.name}", f"measure {candidate.name}", {"export": export_step.key})
    answers = work.steps.run(measure_step, lambda out: _measure(work, data, model, out))
    served = answers / "model"
    return BuiltStudent(
        candidate=candidate,
        trained=trained,
        parity=Parity.from_json((model.parent / "parity.json").read_bytes(), str(model.parent)),
        spec=ModelSpec.from_json((served / "model.json").read_bytes(), str(served)),
        measured=Measured.from_json((answers / "measured.json").read_bytes(), str(answers)),
        served=served,
        answers=answers,
    )


def _train(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float) -> tuple[Path, Step]:
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
        )
        _train_within_memory(work, request, out)

    return work.steps.run(step, train), step


def _train_within_memory(work: Workspace, request: TrainRequest, out: Path) -> None:
    """Train; when memory runs out, again from the last checkpoint with a smaller micro-batch."""
    for position, micro_batch in enumerate(_MICRO_BATCHES):
        write_json(out / "request.json", request.model_copy(update={"micro_batch": micro_batch}).to_json())
        try:
            run_job("locum.train.job:main", out / "request.json", out, log=out / "train.log", threads=work.threads)
        except LocumError as error:
            if error.code not in OUT_OF_MEMORY or position == len(_MICRO_BATCHES) - 1:
                raise
            warn(f"{request.candidate.name}: out of memory; trying again with {_MICRO_BATCHES[position + 1]} rows")
        else:
            return


def _export(work: Workspace, data: Prepared, candidate: Candidate, trained: Path, out: Path) -> None:
    request = ExportRequest(
        name=candidate.name,
        labels=data.labels,
        trained=str(trained),
        dev=str(data.folder / "dev.jsonl"),
        threads=work.threads,
    )
    write_json(out / "request.json", request.to_json())
    run_job("locum.compress.job:main", out / "request.json", out, log=out / "export.log", threads=work.threads)


def _measure(work: Workspace, data: Prepared, model: Path, out: Path) -> None:
    request = MeasureRequest(model=str(model), data=str(data.folder), splits=data.splits, threads=work.threads)
    write_json(out / "request.json", request.to_json())
    run_job("locum.evaluate.job:run", out / "request.json", out, log=out / "measure.log", threads=work.threads)
    _calibrate(model, out)


def _calibrate(model: Path, out: Path) -> None:
    """Put temperature and chosen engine into the served model's ``model.json``; weights are linked where possible."""
    served = out / "model"
    served.mkdir()
    spec = ModelSpec.from_json((model / "model.json").read_bytes(), str(model))
    for name in spec.files:
        try:
            (served / name).hardlink_to(model / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(model / name, served / name)
    temperature = fit_temperature(Predictions.load(out / "dev.npz"))
    measured = Measured.from_json((out / "measured.json").read_bytes(), str(out))
    engine = measured.engines.engine if measured.engines else spec.engine
    write_json(served / "model.json", spec.model_copy(update={"temperature": temperature, "engine": engine}).to_json())
