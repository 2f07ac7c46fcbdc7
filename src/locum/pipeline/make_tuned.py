"""A student that writes, tuned on the task's rows: conversations in the very form in which it will be asked."""

from __future__ import annotations

from pathlib import Path

import orjson

from locum.core import child
from locum.core.errors import DataError
from locum.core.files import atomic_file, sha256_file, write_json
from locum.core.progress import note
from locum.data.load import iterate
from locum.pipeline.built import Prepared
from locum.pipeline.made import Made, train_within_memory
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import SplitName
from locum.schema.model import ModelSpec
from locum.schema.prompt import Prompt
from locum.schema.training import Conversation, GeneratorExportRequest, GeneratorParity, Trained, TuneRequest, Turn
from locum.sources.bases import ensure_base
from locum.students.open import PROMPT
from locum.tasks import open_kind

_LEAST_ROWS = 10


def make_tuned(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float) -> Made:
    """Tune and export one candidate, or find both done.

    Raises:
        LocumError: a source, the training or the export failed; CheckFailed for parity.
    """
    task = work.task
    prompt = Prompt(instruction=task.instruction)
    step = Step(
        f"train-{candidate.name}",
        f"train {candidate.name}",
        {
            "data": data.key,
            "base": candidate.base,
            "method": candidate.method,
            "prompt": open_kind(task, data.labels, prompt).prompt_hash,
            "context": task.generation.context,
            "budget_s": budget_s,
            "seed": task.seed,
            "threads": work.threads,
        },
        resumable=True,
    )
    trained_folder = work.steps.run(step, lambda out: _tune(work, data, candidate, prompt, budget_s, out))
    trained = Trained.from_json((trained_folder / "trained.json").read_bytes(), str(trained_folder))
    export = Step(f"export-{candidate.name}", f"export {candidate.name}", {"train": step.key})
    model = work.steps.run(export, lambda out: _export(work, candidate, prompt, trained_folder, out)) / "model"
    parity = GeneratorParity.from_json((model / "parity.json").read_bytes(), str(model))
    return Made(model, export.key, trained, parity)


def _tune(work: Workspace, data: Prepared, candidate: Candidate, prompt: Prompt, budget_s: float, out: Path) -> None:
    for split in ("train", "dev"):
        _write_conversations(work, data, prompt, split, out / f"{split}.jsonl")
    request = TuneRequest(
        base=str(ensure_base(candidate.base or "", root=work.root, offline=work.offline)),
        train=str(out / "train.jsonl"),
        dev=str(out / "dev.jsonl"),
        method="full" if candidate.method == "full" else "dora" if candidate.method == "dora" else "lora",
        budget_s=budget_s,
        seed=work.task.seed,
        threads=work.threads,
        max_tokens=work.task.generation.context,
    )
    train_within_memory(work, "locum.train.tune:main", request, out, candidate.name)


def _write_conversations(work: Workspace, data: Prepared, prompt: Prompt, split: SplitName, path: Path) -> None:
    """The rows of a split as conversations; those whose gold answer is only a check teach nothing.

    Raises:
        DataError: hardly any row says what to write.
    """
    kind = open_kind(work.task, data.labels, prompt)
    written = left_out = 0
    with atomic_file(path) as file:
        for row in iterate(data.folder, split):
            completion = kind.target(row)
            if completion is None:
                left_out += 1
                continue
            turns = tuple(Turn(role=m.role, content=m.content) for m in kind.messages(row.input))
            line = Conversation(id=row.id, messages=turns, completion=completion)
            file.write(orjson.dumps(line.to_json(), option=orjson.OPT_APPEND_NEWLINE))
            written += 1
    if left_out:
        note(f"{left_out} {split} rows only check an answer and cannot be learned from")
    if written < _LEAST_ROWS:
        raise DataError(
            "data-nothing-to-learn",
            f"{written} {split} rows say what to write",
            fix="give rows with right answers, or use prompted students (method: prompt or few_shot)",
        )


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
