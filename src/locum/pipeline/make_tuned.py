"""A student that writes, tuned on the task's rows: conversations in the very form in which it will be asked."""

from __future__ import annotations

from pathlib import Path

from locum.core import child
from locum.core.errors import UserError
from locum.core.files import sha256_file, write_json
from locum.core.progress import note
from locum.pipeline.built import Mixture, Prepared
from locum.pipeline.conversations import Rows, write_conversations
from locum.pipeline.made import Made, base_inputs, read_trained, train_within_memory
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import SplitName
from locum.schema.kinds import TUNED
from locum.schema.model import ModelSpec
from locum.schema.prompt import Prompt
from locum.schema.training import Budgets, GeneratorExportRequest, GeneratorParity, TuneMethod, TuneRequest
from locum.sources.bases import ensure_base
from locum.students.open import PROMPT
from locum.tasks import open_kind

_SPLITS: tuple[SplitName, ...] = ("train", "dev")


def make_tuned(
    work: Workspace, data: Prepared, candidate: Candidate, budget_s: float, start: str | None = None
) -> Made:
    """Tune and export one candidate, or find both done; ``start`` is what its tuning starts from, where that was built.

    Raises:
        LocumError: a source, the training or the export failed; CheckFailed for parity.
    """
    task = work.task
    prompt = Prompt(instruction=task.instruction)
    mixture = _mixture(data, candidate)
    mixed = {"mixture": mixture.key, "mixing": mixture.temperature} if mixture else {}
    step = work.steps.settled(
        Step(
            f"train-{candidate.name}",
            f"train {candidate.name}",
            {
                "data": data.key,
                **base_inputs(work, candidate.base),
                "method": candidate.method,
                "layers": candidate.train_layers,
                "prompt": open_kind(task, data.labels, prompt).prompt_hash,
                "context": task.generation.context,
                "seed": task.seed,
                "threads": work.threads,
                **mixed,
            },
            resumable=True,
            budget_s=budget_s,
        )
    )
    trained_folder = work.steps.run(step, lambda out: _tune(work, data, candidate, prompt, budget_s, out))
    trained = read_trained(trained_folder, start)
    export = Step(f"export-{candidate.name}", f"export {candidate.name}", {"train": step.key})
    model = work.steps.run(export, lambda out: _export(work, candidate, prompt, trained_folder, out)) / "model"
    parity = GeneratorParity.from_json((model / "parity.json").read_bytes(), str(model))
    return Made(model, export.key, trained, parity)


def _tune(
    work: Workspace, data: Prepared, candidate: Candidate, prompt: Prompt, budget_s: float, out: Path
) -> Budgets | None:
    kind = open_kind(work.task, data.labels, prompt)
    for split in _SPLITS:  # of a multitask student dev.jsonl is what its export is compared on
        rows = Rows(kind, data.folder, split)
        write_conversations(out / f"{split}.jsonl", [rows])
        if rows.only_checked:
            note(f"{rows.only_checked} {split} rows only check an answer and cannot be learned from")
    mixture = _mixture(data, candidate)
    learned = mixture.folder if mixture else out
    request = TuneRequest(
        base=str(ensure_base(candidate.base or "", root=work.root, offline=work.offline)),
        train=str(learned / "train.jsonl"),
        dev=str(learned / "dev.jsonl"),
        method=_method(candidate),
        layers=candidate.train_layers,
        budget_s=budget_s,
        seed=work.task.seed,
        threads=work.threads,
        max_tokens=work.task.generation.context,
        mixing=mixture.temperature if mixture else 1.0,
        for_task=work.task.name if mixture else None,
        name=candidate.name,
    )
    train_within_memory(work, "locum.train.tune:main", request, out, candidate.name)
    return read_trained(out).same_for


def _method(candidate: Candidate) -> TuneMethod:
    """The candidate's method, as the training knows it.

    Raises:
        UserError: it tunes nothing that writes.
    """
    if candidate.method in ("full", "lora", "dora"):
        return candidate.method
    fix = f"use one of {', '.join(TUNED)}"
    raise UserError("train-request", f"{candidate.name}: {candidate.method} tunes nothing that writes", fix=fix)


def _mixture(data: Prepared, candidate: Candidate) -> Mixture | None:
    """What a candidate learns from beside the task's own rows."""
    return data.mixture if candidate.multitask else None


def _export(work: Workspace, candidate: Candidate, prompt: Prompt, trained: Path, out: Path) -> None:
    model = out / "model"
    request = GeneratorExportRequest(
        name=candidate.name,
        folder=str(trained),
        dev=str(trained / "dev.jsonl"),
        threads=work.threads,
        max_tokens=work.task.generation.context,
        rows=24,
    )
    write_json(out / "request.json", request.to_json())
    child.run_job(
        "locum.compress.job:generator", out / "request.json", out, log=out / "export.log", threads=work.threads
    )
    write_json(model / PROMPT, prompt.to_json())
    spec = ModelSpec.from_json((model / "model.json").read_bytes(), str(model))
    files = {**spec.files, PROMPT: sha256_file(model / PROMPT)}
    write_json(model / "model.json", spec.model_copy(update={"files": files}).to_json())
