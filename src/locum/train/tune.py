"""Supervised fine-tuning of a decoder that writes answers: the child's entry, a ``TuneRequest`` in, a folder out.

The folder afterwards holds the student in the layout of Hugging Face (``config.json``, ``generation_config.json``,
``model.safetensors`` in float32 with adapters merged, the tokenizer and its chat template), for lora and dora the
adapter in PEFT's layout in ``adapter/``, and ``trained.json``, written last: its presence means the job is whole.

Notable: started again in the same folder, it goes on from the last good checkpoint. It uses an accelerator when there
is one; where there are several it starts a process for each, unless ``torchrun`` started it. Not here: rendering and
tokenizing (``conversations``), packing (``packing``), the steps (``generating``, ``loop``).
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from locum.core.child import run_job
from locum.core.errors import UserError
from locum.core.files import write_json
from locum.core.progress import note
from locum.models.architectures import transformer_layers
from locum.models.base_files import BaseFiles, inspect_base
from locum.models.causal import load_causal, load_chat_tokenizer, save_causal
from locum.models.gguf_once import gguf_read_once
from locum.schema.candidate import Candidate
from locum.schema.training import RowCounts, Trained, TuneRequest
from locum.train.adapters import add_adapters, merge_adapter, round_frozen, save_adapter
from locum.train.attention import NAME, register
from locum.train.checkpoint import CheckpointFolder
from locum.train.conversations import ChatEncoder, Encoded, count_rows
from locum.train.forward import Machine, this_machine
from locum.train.frozen import FrozenPrefix, can_freeze
from locum.train.full import no_time
from locum.train.generating import Decoder, FrozenStates, GeneratorTrainer
from locum.train.job import LOG_NAME, TRAINED_NAME, WORK_NAME, memory_errors, student_files
from locum.train.loop import StoppedBy
from locum.train.outcome import Clock
from locum.train.ranks import ALONE, Ranks, joined, to_start
from locum.train.recipe import TUNE_RECIPES, TuneRecipe
from locum.train.schedule import Schedule, plan_schedule, read_schedule, write_schedule
from locum.train.stopping import polite_stop

_JOB = "locum.train.tune:main"
_EVAL_SHARE = 1 / 3  # a forward pass takes a third of a step
_STEP_FACTOR = 1.1  # of the passes' time: the optimiser's share


@dataclass
class TuneBench:
    """What a tuning works with.

    Attributes:
        model: the whole one, adapters on it where the method has them.
        encoder: which knows how an answer ends.
        frozen_layers: how many of the first layers stay as they are.
    """

    request: TuneRequest
    base: BaseFiles
    model: Any
    tokenizer: Any
    encoder: ChatEncoder
    train: Encoded
    dev: Encoded
    machine: Machine
    frozen_layers: int
    max_tokens: int


def main(request: Path, out: Path) -> None:
    """Tune what ``request`` (a ``TuneRequest`` as JSON) asks for into ``out``.

    Args:
        request: the document's file.
        out: the output folder; checkpoints of an earlier try in it are used.

    Raises:
        LocumError: the request, the data or the base cannot be used; NaN before anything was learned; no memory; no
            time for a quarter of an epoch.
        KeyboardInterrupt: stopped on request, after a checkpoint.
    """
    asked = TuneRequest.from_json(request.read_bytes(), str(request), UserError)
    if (out / TRAINED_NAME).is_file():
        note(f"{Path(asked.base).name}: tuned before")
        return
    out.mkdir(parents=True, exist_ok=True)
    processes = to_start()
    if processes > 1:
        threads = max(1, asked.threads // processes)
        run_job(_JOB, request, out, log=out / LOG_NAME, threads=threads, processes=processes)
        return
    clock = Clock(asked.budget_s)
    with joined() as ranks, memory_errors(asked.micro_batch):
        torch.set_num_threads(max(1, asked.threads // ranks.world))
        tune(asked, out, clock, ranks)


def tune(request: TuneRequest, out: Path, clock: Clock, ranks: Ranks = ALONE) -> None:
    """``main`` with the request read, for one of the processes that train together."""
    recipe = recipe_of(request)
    bench = prepare(request, ranks)
    rows = count_rows(bench.train, bench.dev)
    decoder = Decoder(bench.model, bench.base.architecture, bench.machine)
    prefix, states = _freeze(bench, decoder)
    trainer, reason = _run(bench, decoder, states, recipe, out / WORK_NAME, clock, ranks)
    if prefix:
        prefix.restore()
    if ranks.first:
        parameters = _save(bench, out)
        _finish(bench, out, clock, recipe, trainer, reason, rows, parameters)


def recipe_of(request: TuneRequest) -> TuneRecipe:
    """The method's hyperparameters, with the request's own in their place."""
    own = {"epochs": request.epochs, "batch_rows": request.batch_rows, "rate": request.learning_rate}
    return replace(TUNE_RECIPES[request.method], **{name: value for name, value in own.items() if value is not None})


def prepare(request: TuneRequest, ranks: Ranks = ALONE) -> TuneBench:
    """Check and load the base, read and encode the splits, put adapters on, freeze what is not tuned.

    Raises:
        ModelFileError: the base cannot be used.
        UserError: the data cannot be used, or the request does not fit the base.
    """
    base = inspect_base(Path(request.base))
    register()
    torch.manual_seed(request.seed)
    with gguf_read_once():
        tokenizer = load_chat_tokenizer(base)
        model = load_causal(base, attention=NAME)
    max_tokens = min(request.max_tokens, getattr(model.config, "max_position_embeddings", request.max_tokens))
    encoder = ChatEncoder(tokenizer, max_tokens, request.base)
    train, dev = (encoder.read(Path(path)) for path in (request.train, request.dev))
    _require_dev(request, dev)
    layers = len(transformer_layers(model.base_model, base.architecture))
    if request.layers is not None and request.layers > layers:
        raise UserError(
            "train-request", f"layers {request.layers} is more than the base's {layers}", fix="ask for fewer"
        )
    frozen_layers = layers - (request.layers or layers)
    machine = this_machine() if ranks.world == 1 else Machine(ranks.device, this_machine().bfloat16)
    if request.method == "full":
        _freeze_first(model, base, frozen_layers)
    else:
        model = add_adapters(model, base, request, frozen_layers)
        if request.method == "lora" and machine.bfloat16:
            round_frozen(model)
    model.to(machine.device)
    return TuneBench(request, base, model, tokenizer, encoder, train, dev, machine, frozen_layers, max_tokens)


def _require_dev(request: TuneRequest, dev: Encoded) -> None:
    tasks = {row.task for row in dev.examples}
    if request.for_task is not None and request.for_task not in tasks:
        seen = ", ".join(sorted(task for task in tasks if task)) or "no task"
        raise UserError(
            "train-request",
            f"no dev row is of the task {request.for_task!r} that the student is for (there: {seen})",
            where=request.dev,
            fix="give dev rows of it",
        )


def _freeze_first(model: Any, base: BaseFiles, count: int) -> None:
    """Freeze the first layers with the embedding below them; one that is also the head stays frozen as both."""
    if count:
        for part in (*transformer_layers(model.base_model, base.architecture)[:count], model.get_input_embeddings()):
            part.requires_grad_(False)


def _freeze(bench: TuneBench, decoder: Decoder) -> tuple[FrozenPrefix | None, Any]:
    """Take frozen layers out and run them once over both splits, where their states fit in memory."""
    rows = [*bench.train.examples, *bench.dev.examples]
    tokens, width = sum(len(row.ids) for row in rows), bench.model.config.hidden_size
    if not bench.frozen_layers or not can_freeze(bench.base.architecture, tokens, width):
        return None, None
    prefix = FrozenPrefix(decoder.body, bench.base.architecture, bench.frozen_layers)
    frozen = FrozenStates(decoder, prefix)
    states = (
        frozen.read(bench.train.examples, "read training rows (frozen layers)"),
        frozen.read(bench.dev.examples, "read dev rows (frozen layers)"),
    )
    prefix.remove()
    return prefix, states


def _run(
    bench: TuneBench, decoder: Decoder, states: Any, recipe: TuneRecipe, work: Path, clock: Clock, ranks: Ranks
) -> tuple[GeneratorTrainer, StoppedBy]:
    """Plan the schedule unless an earlier try did, and train by it."""
    checkpoints = CheckpointFolder(work / "checkpoints")
    request = bench.request

    def trainer(plan: Schedule) -> GeneratorTrainer:
        return GeneratorTrainer(
            decoder,
            bench.train.examples,
            bench.dev.examples,
            states=states,
            mixing=request.mixing,
            for_task=request.for_task,
            recipe=recipe,
            schedule=plan,
            checkpoints=checkpoints,
            clock=clock,
            seed=request.seed,
            ranks=ranks,
        )

    schedule: Schedule | None = ranks.from_first(read_schedule(work / "schedule.json"))
    if schedule is None:
        steps = -(-len(bench.train.examples) // recipe.batch_rows)
        probe = trainer(Schedule(0, steps, None, request.micro_batch))
        schedule = ranks.from_first(_measured_schedule(probe, recipe, clock))
        if ranks.first:
            write_schedule(work / "schedule.json", schedule)
    note("schedule", epochs=round(schedule.epochs, 2), steps=schedule.total_steps, tokens_per_s=schedule.tokens_per_s)
    if not schedule.total_steps:
        raise no_time(schedule, sum(row.length for row in bench.train.examples), clock, request.base)
    tuning = trainer(replace(schedule, micro_batch=request.micro_batch))
    with polite_stop() as stop:
        return tuning, tuning.run(stop)


def _measured_schedule(probe: GeneratorTrainer, recipe: TuneRecipe, clock: Clock) -> Schedule:
    per_token_s = _STEP_FACTOR * probe.measure()
    epoch_tokens = sum(row.length for row in probe.train_rows)
    return plan_schedule(
        recipe,
        steps_per_epoch=probe.schedule.steps_per_epoch,
        epoch_s=per_token_s * epoch_tokens,
        eval_s=_EVAL_SHARE * per_token_s * sum(row.length for row in probe.dev_rows),
        left_s=clock.left_s,
        spent_s=clock.spent_s,
        tokens_per_epoch=epoch_tokens,
    )


def _save(bench: TuneBench, out: Path) -> int:
    """Write the student, and its adapter; return how many parameters it has."""
    model = bench.model.cpu()
    if bench.request.method != "full":
        save_adapter(model, out)
        bench.model = model = merge_adapter(bench.base, out)
    ending = bench.encoder.ending[-1]
    stop_ids = sorted({ending, bench.tokenizer.eos_token_id})
    save_causal(model, bench.tokenizer, bench.base, out, stop_ids)
    return sum(weight.numel() for weight in model.parameters())


def _finish(
    bench: TuneBench,
    out: Path,
    clock: Clock,
    recipe: TuneRecipe,
    trainer: GeneratorTrainer,
    reason: StoppedBy,
    rows: RowCounts,
    parameters: int,
) -> None:
    request, curve, schedule = bench.request, trainer.curve, trainer.schedule
    best = next(point for point in curve if point.step == trainer.progress.best_step)
    adapted = {} if request.method == "full" else {"rank": request.rank, "alpha": request.alpha}
    document = Trained(
        candidate=Candidate(
            name=request.name or f"{Path(request.base).name}/{request.method}",
            family="decoder",
            base=request.base,
            method=request.method,
            multitask=request.for_task is not None,
            parameters=parameters,
        ),
        parameters=parameters,
        best_epoch=trainer.progress.best_step / schedule.steps_per_epoch,
        stopped_by=reason,
        dev_loss=best.dev_loss,
        dev_losses=best.dev_losses,
        rows=rows,
        curve=curve,
        settings={
            **recipe.to_settings(),
            **adapted,
            "mixing": request.mixing,
            "planned_steps": schedule.total_steps,
            "planned_epochs": schedule.epochs,
            "frozen_layers": bench.frozen_layers,
            "tuned_parameters": sum(weight.numel() for weight in trainer.weights),
            "bfloat16": bench.machine.bfloat16,
            "processes": trainer.ranks.world,
        },
        max_tokens=bench.max_tokens,
        train_s=round(clock.spent_s, 3),
        tokens_per_s=trainer.tokens_per_s or schedule.tokens_per_s,
        files=student_files(out),
        resumed=trainer.progress.resumed,
        same_for=trainer.same_for,
    )
    write_json(out / TRAINED_NAME, document.to_json())
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
