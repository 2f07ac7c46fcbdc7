"""A student that needs no training: a base's own GGUF file with a searched instruction and chosen examples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import orjson

from locum.core.files import atomic_file, link_or_copy, write_json
from locum.data.load import iterate
from locum.evaluate.search import Found, search_prompt
from locum.pipeline.built import Prepared
from locum.pipeline.made import Made, base_inputs
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.runtime.gguf_check import check_gguf, require_one_file
from locum.runtime.model_files import seal
from locum.runtime.open import open_model
from locum.schema.candidate import Candidate
from locum.schema.data import Row
from locum.schema.model import ModelSpec
from locum.schema.training import Budgets
from locum.sources.bases import ensure_base
from locum.students.open import PROMPT, patient_settings
from locum.tasks import open_kind

WEIGHTS, POOL = "model.gguf", "pool.jsonl"


def make_prompted(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float) -> Made:
    """Search the prompt of one candidate and put it beside the base's weights, or find that done.

    Raises:
        LocumError: the base cannot be had, or the engine failed.
    """
    task = work.task
    scored_by = {"scored_by": open_kind(task, data.labels).prompt_hash} if task.scorer else {}
    step = work.steps.settled(
        Step(
            f"prompt-{candidate.name}",
            f"find a prompt for {candidate.name}",
            {
                "data": data.key,
                **base_inputs(work, candidate.base, "gguf"),
                "method": candidate.method,
                "instruction": task.instruction,
                "generation": task.generation.to_json(),
                "metric": task.metric,
                "correct_at": task.correct_at,
                "form": task.form,
                "answer_schema": task.answer_schema,
                "seed": task.seed,
                **scored_by,
            },
            budget_s=budget_s,
        )
    )
    folder = work.steps.run(step, lambda out: _make(work, data, candidate, budget_s, out))
    return Made(folder / "model", step.key)


def _make(work: Workspace, data: Prepared, candidate: Candidate, budget_s: float, out: Path) -> Budgets | None:
    model = out / "model"
    model.mkdir()
    weights = ensure_base(candidate.base or "", root=work.root, offline=work.offline, format="gguf")
    require_one_file(weights, "a bundle")
    link_or_copy(weights, model / WEIGHTS)
    header = check_gguf(model / WEIGHTS)
    fields = {
        "name": candidate.name,
        "engine": "llamacpp",
        "family": "decoder",
        "precision": header.precision,
        "labels": data.labels,
        "weights": WEIGHTS,
        "max_tokens": work.task.generation.context,
        "parameters": header.parameters,
        "purpose": "generate",
    }
    found = _search(work, data, candidate, ModelSpec.model_validate({**fields, "files": {}}), model, budget_s)
    write_json(out / "search.json", found.report.to_json())
    prompt = found.prompt.model_copy(update={"pool": POOL if found.pool else None})
    write_json(model / PROMPT, prompt.to_json())
    if found.pool:
        _write_pool(model / POOL, found.pool)
    seal(model, **fields)
    return found.report.same_for


def _search(
    work: Workspace, data: Prepared, candidate: Candidate, spec: ModelSpec, model: Path, budget_s: float
) -> Found:
    with closing(open_model(model / spec.weights, patient_settings(work.threads, work.task))) as generator:
        return search_prompt(
            generator,
            spec,
            work.task,
            list(iterate(data.folder, "train")),
            list(iterate(data.folder, "dev")),
            few_shot=candidate.method == "few_shot",
            calls=work.task.generation.search_calls,
            budget_s=budget_s,
        )


def _write_pool(path: Path, rows: Sequence[Row]) -> None:
    with atomic_file(path) as file:
        for row in rows:
            file.write(orjson.dumps(row.to_json(), option=orjson.OPT_APPEND_NEWLINE))
