"""Tuning from the head's solution: linear probing first, then all weights or adapters (LP-FT; full, lora, dora).

Notable: the head starts where logistic regression on the frozen body ends, so early gradients do not tear
up what pre-training learned (Kumar et al. 2022). Decoders keep a prefix of their layers frozen, whose
output is computed once. Adapters are merged before anything is measured or saved, so a student does not show how it was
tuned. The number of epochs is what the time budget allows. Not here: the loop (``loop``), the hyperparameters
(``recipe``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from locum.core.errors import UserError
from locum.core.progress import note
from locum.models.architectures import transformer_layers
from locum.models.base_files import read_json
from locum.schema.candidate import Family
from locum.schema.training import ADAPTER_ALPHA, ADAPTER_RANK, TrainRequest
from locum.train.adapters import ADAPTED, adapt
from locum.train.average import load
from locum.train.batches import shuffled_batches
from locum.train.checkpoint import CheckpointFolder
from locum.train.classifying import ClassifierTrainer
from locum.train.dropout import set_dropout
from locum.train.frozen import FrozenPrefix, can_freeze
from locum.train.head import HEAD_NAME, fit_head
from locum.train.loop import StoppedBy, Trainer
from locum.train.outcome import Clock, Outcome
from locum.train.recipe import RECIPES, Pace, Recipe, for_adapters
from locum.train.repeat import Choices, choices
from locum.train.schedule import Schedule, plan_schedule, read_schedule, write_schedule
from locum.train.stopping import polite_stop
from locum.train.workbench import Workbench, prepare

_PROBE_PLACES = (0.5, 0.1, 0.3, 0.5, 0.7, 0.9)  # of the batches in order of length; the first only warms up
_EVAL_SHARE = 1 / 3  # a forward pass takes a third of a step

AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)


def train(request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """Fit the head, plan the schedule, tune, and save the best weights on dev as a student.

    Raises:
        ModelFileError: the base cannot be used.
        LocumError: NaN before anything was learned.
        KeyboardInterrupt: stopped on request, after a checkpoint.
    """
    family: Family = request.candidate.family
    recipe = RECIPES[family] if family in RECIPES else RECIPES["encoder"]
    return train_with(for_adapters(recipe) if request.candidate.method in ADAPTED else recipe, request, out, clock)


def train_with(recipe: Recipe, request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """``train`` with other hyperparameters, for experiments and tests."""
    repeated = choices(request)
    bench = prepare(request, out)
    prefix = _freeze(bench, recipe)
    adapters = adapt(bench.model, request.candidate.method) if request.candidate.method in ADAPTED else None
    trainer, reason = _tune(request, out / "work", clock, bench, recipe, repeated)
    if adapters:
        adapters.merge_and_unload()
    if prefix:
        prefix.restore()
        bench.dev.states = None
    penalty = read_json(out / "work" / HEAD_NAME)["penalty"]
    logits = bench.finish(out, repeated)
    schedule = trainer.schedule
    return Outcome(
        dev_logits=logits.numpy(),
        parameters=bench.model.parameters_count,
        best_epoch=trainer.progress.best_step / schedule.steps_per_epoch,
        stopped_by=reason,
        same_for=trainer.same_for,
        curve=trainer.curve,
        settings={
            **recipe.to_settings(),
            **tuned_settings(request, trainer),
            "penalty": penalty,
            "planned_steps": schedule.total_steps,
            "planned_epochs": schedule.epochs,
            "frozen_layers": prefix.count if prefix else 0,
            "pooling": bench.model.pooling,
            "wide_scale": bench.wide_scale,
            "cut_texts": bench.cut,
            "bfloat16": bench.machine.bfloat16,
        },
        tokens_per_s=schedule.tokens_per_s,
        resumed=trainer.progress.resumed,
    )


def tuned_settings(request: TrainRequest, trainer: Trainer) -> dict[str, int | float]:
    """How many weights were tuned, and the size of the adapters where there were any."""
    adapted = {"rank": ADAPTER_RANK, "alpha": ADAPTER_ALPHA} if request.candidate.method in ADAPTED else {}
    return {**adapted, "tuned_parameters": sum(weight.numel() for weight in trainer.weights)}


def _freeze(bench: Workbench, recipe: Recipe) -> FrozenPrefix | None:
    """Take the recipe's share of layers out and run them once over both splits."""
    layers = len(transformer_layers(bench.model.body, bench.model.architecture))
    count = int(recipe.frozen_share * layers)
    tokens = sum(bench.train.lengths) + sum(bench.dev.lengths)
    if count == 0 or not can_freeze(bench.model.architecture, tokens, bench.model.head.in_features):
        return None
    prefix = FrozenPrefix(bench.model.body, bench.model.architecture, count)
    prefix.read(bench.train, bench.pad_id, bench.machine, "read training texts (frozen layers)")
    prefix.read(bench.dev, bench.pad_id, bench.machine, "read dev texts (frozen layers)")
    prefix.remove()
    return prefix


def _tune(
    request: TrainRequest, work: Path, clock: Clock, bench: Workbench, recipe: Recipe, repeated: Choices | None
) -> tuple[ClassifierTrainer, StoppedBy]:
    set_dropout(bench.model.body, recipe.dropout)

    def trainer(plan: Schedule, checkpoints: CheckpointFolder) -> ClassifierTrainer:
        return ClassifierTrainer(
            bench.model,
            bench.train,
            bench.dev,
            pad_id=bench.pad_id,
            machine=bench.machine,
            recipe=recipe,
            schedule=plan,
            checkpoints=checkpoints,
            clock=clock,
            seed=request.seed,
        )

    lengths = bench.train.lengths, bench.dev.lengths
    return tune_by_plan(request, work, clock, recipe, lengths, trainer, lambda: fit_head(bench, work, clock, repeated))


def tune_by_plan(
    request: TrainRequest,
    work: Path,
    clock: Clock,
    recipe: Pace,
    lengths: tuple[list[int], list[int]],
    trainer: Callable[[Schedule, CheckpointFolder], AnyTrainer],
    fit: Callable[[], object],
) -> tuple[AnyTrainer, StoppedBy]:
    """Fit the head unless a checkpoint has a later one, then train by a schedule that fits the time.

    Args:
        request: for its seed and micro-batch.
        work: the folder of checkpoints and schedule.
        clock: of the job.
        recipe: hyperparameters.
        lengths: tokens of each row of train and of dev.
        trainer: makes the trainer of a schedule.
        fit: fits the head and puts it in place.

    Returns:
        The trainer, whose model holds the best weights, and why it stopped.

    Raises:
        UserError: there is no time for a quarter of an epoch, so that it would be what it starts from.
        KeyboardInterrupt: stopped on request, after a checkpoint.
    """
    checkpoints = CheckpointFolder(work / "checkpoints")
    schedule = read_schedule(work / "schedule.json")
    if schedule is None or checkpoints.newest() is None:
        fit()
    if schedule is None:
        steps = len(shuffled_batches(lengths[0], recipe.batch_rows, request.seed, 0))
        repeated = choices(request)
        if repeated:
            schedule = repeated.schedule(steps, request.micro_batch)
        else:
            probe = trainer(Schedule(1000, steps, None, request.micro_batch), checkpoints)
            schedule = _measured_schedule(probe, recipe, clock, lengths)
        write_schedule(work / "schedule.json", schedule)
    note("schedule", epochs=round(schedule.epochs, 2), steps=schedule.total_steps, tokens_per_s=schedule.tokens_per_s)
    if not schedule.total_steps and not choices(request):
        raise no_time(schedule, sum(lengths[0]), clock, request.base or "")
    tuning = trainer(replace(schedule, micro_batch=request.micro_batch), checkpoints)
    with polite_stop() as stop:
        return tuning, tuning.run(stop)


def no_time(schedule: Schedule, epoch_tokens: int, clock: Clock, base: str) -> UserError:
    """Why nothing is tuned; what it would start from is a cheaper candidate of its own."""
    epoch_s = epoch_tokens / (schedule.tokens_per_s or 1.0)
    return UserError(
        "train-no-time",
        f"an epoch takes about {epoch_s:.0f} s, and of {clock.budget_s:.0f} s, {max(0.0, clock.left_s):.0f} are left "
        "after loading, too few for a quarter of one and the evaluations",
        where=base,
        fix="raise budget.build_minutes, or give fewer or shorter rows",
    )


def _measured_schedule(
    probe: Trainer, recipe: Pace, clock: Clock, both_lengths: tuple[list[int], list[int]]
) -> Schedule:
    """Time a few real steps, undo them, and plan."""
    lengths, dev_lengths = both_lengths
    batches = shuffled_batches(lengths, recipe.batch_rows, probe.seed, 0)
    batches.sort(key=lambda batch: sum(lengths[row] for row in batch))
    kept = [weight.detach().clone() for weight in probe.weights]
    seconds, tokens = 0.0, 0
    for number, place in enumerate(_PROBE_PLACES):
        batch = batches[int(place * len(batches))]
        started_s = time.monotonic()
        probe.step(batch)
        if number > 0:
            seconds += time.monotonic() - started_s
            tokens += sum(lengths[row] for row in batch)
    load(probe.weights, kept)
    per_token_s = seconds / tokens
    epoch_tokens = sum(lengths)
    return plan_schedule(
        recipe,
        steps_per_epoch=probe.schedule.steps_per_epoch,
        epoch_s=per_token_s * epoch_tokens,
        eval_s=_EVAL_SHARE * per_token_s * sum(dev_lengths),
        left_s=clock.left_s,
        spent_s=clock.spent_s,
        tokens_per_epoch=epoch_tokens,
    )
