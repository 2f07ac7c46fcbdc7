"""The training loop: steps by a written schedule, dev evaluated with averaged weights, checkpoints, stops.

Notable: everything random is seeded by the step's number, so a job that was killed and resumed takes the
same steps with the same masks and ends with the same weights, bit by bit at the same number of threads.
The start (a fitted head on the untouched body, the untouched base) is the first candidate for "best", so tuning never
ends below it on dev. Not here: what is trained (``classifying``, ``generating``), the schedule's arithmetic
(``schedule``).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from locum.core.errors import LocumError
from locum.core.progress import note, track, warn
from locum.schema.training import Budgets, CurvePoint
from locum.train.average import Average, load
from locum.train.checkpoint import CheckpointFolder
from locum.train.optimiser import rate_factor, set_rates
from locum.train.outcome import Clock
from locum.train.ranks import ALONE, Ranks
from locum.train.recipe import Pace
from locum.train.schedule import Schedule
from locum.train.stopping import StopFlag

CHECKPOINT_S = 30.0
_CHECKPOINT_SHARE = 0.05  # of the time at most goes into checkpoints
StoppedBy = Literal["schedule", "patience", "budget", "nan"]


@dataclass
class Progress:
    """How far a training has come; the facts of a checkpoint.

    Attributes:
        step: optimiser steps taken.
        best: file and SHA-256 of the best weights.
        best_accuracy, best_loss, best_step: on dev; accuracy counts first, and is 0 where there is none.
        stale: evaluations since the best, in the second half of the schedule.
        loss_sum, loss_count: of the running epoch.
        resumed: how often the job went on from a checkpoint.
        elapsed_s: seconds spent when it was saved.
    """

    step: int = 0
    best: dict[str, str] = field(default_factory=dict)
    best_accuracy: float = -1.0
    best_loss: float = 1e30
    best_step: int = 0
    stale: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    resumed: int = 0
    elapsed_s: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """What dev says of some weights; accuracy counts first where there is one.

    Attributes:
        loss: mean cross-entropy.
        accuracy: of a classifier.
        losses: the loss by task.
    """

    loss: float
    accuracy: float | None = None
    losses: dict[str, float] = field(default_factory=dict)


class Trainer(ABC):
    """Trains some weights by a schedule; what a step's loss is, and what dev says, is for subclasses.

    Args:
        model: whose weights they are; weights that do not require gradients stay as they are.
        optimiser: over its trainable weights.
        average: of the same weights, to be evaluated and kept in their place; None keeps the weights themselves.
        seed: fixes batches and dropout.
        ranks: the processes that train together.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        average: Average | None,
        recipe: Pace,
        schedule: Schedule,
        checkpoints: CheckpointFolder,
        clock: Clock,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.optimiser, self.average = model, optimiser, average
        self.pace, self.schedule = recipe, schedule
        self.checkpoints, self.clock, self.seed, self.ranks = checkpoints, clock, seed, ranks
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.progress = Progress()
        self.same_for: Budgets | None = None
        self._saved_s = time.monotonic()
        self._save_cost_s = 0.0

    @abstractmethod
    def batches(self, epoch: int) -> list[list[int]]:
        """The rows of each optimiser step of an epoch (from 0); depends on seed and epoch alone."""

    @abstractmethod
    def losses(self, batch: list[int]) -> Iterator[Tensor]:
        """Losses of the micro-batches of a batch, whose sum is the batch's; each is backpropagated before the next."""

    @abstractmethod
    def score(self) -> Score:
        """What dev says of the weights as they are."""

    def run(self, stop: StopFlag) -> StoppedBy:
        """Train to the end of the schedule, or until patience, budget, NaN or a stop request ends it.

        Returns:
            Why it ended; the model then holds the best weights.

        Raises:
            LocumError: what training starts from answers NaN.
            KeyboardInterrupt: a stop was asked for; a checkpoint was saved.
        """
        if not self._resume():
            self._evaluate(None)
            if self.progress.best_accuracy < 0 and self.schedule.until is None:
                raise LocumError(
                    "train-nan", "the base answers dev with NaN", fix="choose another base; this one is damaged"
                )
            self._save()
        total = self.schedule.last_step
        reason: StoppedBy = "budget" if total == 0 and self.schedule.until is None else "schedule"
        with track("tune", total, "step") as tracker:
            tracker.advance(self.progress.step)
            while self.progress.step < total and self.progress.stale < self.pace.patience:
                ended = self._one_epoch(tracker, stop)
                if ended:
                    reason = ended
                    break
            if reason == "schedule" and self.progress.step < total:
                reason = "patience"
        self.same_for = None if reason == "budget" else self.schedule.same_for(self.clock.spent_s)
        self._load_best()
        return reason

    @property
    def curve(self) -> tuple[CurvePoint, ...]:
        """Every evaluation on dev."""
        return tuple(CurvePoint(**point) for point in self.progress.curve)

    def _one_epoch(self, tracker: Any, stop: StopFlag) -> StoppedBy | None:
        """Train to the end of the running epoch and evaluate; a reason means that training ends here."""
        steps_per_epoch = self.schedule.steps_per_epoch
        epoch, first = divmod(self.progress.step, steps_per_epoch)
        for batch in self.batches(epoch)[first:]:
            if self.progress.step >= self.schedule.last_step:
                break
            stopped, overspent = self.ranks.any(stop.asked, self.clock.left_s < 0)
            if stopped:
                self._save()
                raise KeyboardInterrupt
            if overspent:
                note("the time budget is spent before the schedule's end", step=self.progress.step)
                self._evaluate(self._epoch_loss())
                return "budget"
            loss = self.step(batch)
            if not math.isfinite(loss):
                warn("the loss became NaN; the best weights so far are kept", step=self.progress.step)
                return "nan"
            self.progress.loss_sum += loss
            self.progress.loss_count += 1
            tracker.advance(1, loss=round(loss, 4), epoch=round(self.progress.step / steps_per_epoch, 2))
            if time.monotonic() - self._saved_s > max(CHECKPOINT_S, self._save_cost_s / _CHECKPOINT_SHARE):
                self._save()
        self._evaluate(self._epoch_loss())
        self.progress.loss_sum, self.progress.loss_count = 0.0, 0
        self._save()
        return None

    def step(self, batch: list[int]) -> float:
        """One optimiser step on a batch, in micro-batches where needed; returns the mean loss.

        A loss of NaN leaves the weights as they are.
        """
        self.model.train()
        torch.manual_seed((self.seed << 32) + self.progress.step)  # dropout's masks
        total = 0.0
        for loss in self.losses(batch):
            loss.backward()
            total += loss.item()
        total = self.ranks.sums([total])[0]
        self.ranks.sum_gradients(self.weights)
        if math.isfinite(total):
            norm = nn.utils.clip_grad_norm_(self.weights, self.pace.clip_norm)
            if not bool(torch.isfinite(norm)):
                total = math.nan
        if math.isfinite(total):
            set_rates(self.optimiser, rate_factor(self.progress.step, self.schedule.total_steps, self.pace.warmup))
            self.optimiser.step()
            if self.average:
                self.average.update(self.progress.step)
            self.progress.step += 1
        self.optimiser.zero_grad(set_to_none=True)
        return total

    def _epoch_loss(self) -> float | None:
        return self.progress.loss_sum / self.progress.loss_count if self.progress.loss_count else None

    def _evaluate(self, train_loss: float | None) -> None:
        """Score the weights (averaged, where they are) on dev, and keep them when they are the best so far.

        Where the last step was chosen before, dev says nothing and the latest weights are kept.
        """
        if self.schedule.until is not None:
            self._keep()
            return
        with self.average.in_place() if self.average else nullcontext():
            score = self.score()
        loss, accuracy = score.loss, score.accuracy or 0.0
        progress = self.progress
        epoch = progress.step / self.schedule.steps_per_epoch
        point = CurvePoint(
            epoch=epoch,
            step=progress.step,
            train_loss=train_loss,
            dev_loss=loss if math.isfinite(loss) else None,
            dev_accuracy=score.accuracy,
            dev_losses={task: value for task, value in score.losses.items() if math.isfinite(value)},
            elapsed_s=round(self.clock.spent_s, 3),
        )
        progress.curve.append(point.to_json())
        shown = {} if score.accuracy is None else {"accuracy": round(accuracy, 4)}
        note("dev", epoch=round(epoch, 2), **shown, loss=round(loss, 4))
        # Before the middle the rate is high and dev says little: tuned weights first lose what the head was fitted to.
        progress.stale += progress.step > self.schedule.total_steps / 2
        if math.isfinite(loss) and (accuracy, -loss) > (progress.best_accuracy, -progress.best_loss):
            progress.best_accuracy, progress.best_loss, progress.stale = accuracy, loss, 0
            self._keep()

    def _keep(self) -> None:
        """Keep the weights as they are now (averaged, where they are)."""
        self.progress.best_step = self.progress.step
        if self.ranks.first:
            kept = self.average.values if self.average else [weight.detach() for weight in self.weights]
            values = {str(place): value for place, value in enumerate(kept)}
            self.progress.best = self.checkpoints.save_best(self.progress.step, values)

    def _save(self) -> None:
        if not self.ranks.first:
            return
        started_s = time.monotonic()
        self.progress.elapsed_s = self.clock.spent_s
        tensors: dict[str, Tensor] = {}
        for place, weight in enumerate(self.weights):
            tensors[f"weight.{place}"] = weight.detach()
            if self.average:
                tensors[f"average.{place}"] = self.average.values[place]
            for name, value in self.optimiser.state.get(weight, {}).items():
                tensors[f"{name}.{place}"] = value
        self.checkpoints.save(self.progress.step, tensors, vars(self.progress))
        self._saved_s = time.monotonic()
        self._save_cost_s = self._saved_s - started_s

    def _resume(self) -> bool:
        """Go on from the newest whole checkpoint; False when there is none."""
        found = self.checkpoints.newest()
        if found is None:
            return False
        facts = {name: value for name, value in found.facts.items() if name != "sha256"}
        self.progress = Progress(**facts)
        self.progress.resumed += 1
        self.clock.before_s += self.progress.elapsed_s
        load(self.weights, [found.tensors[f"weight.{place}"] for place in range(len(self.weights))])
        if self.average:
            self.average.values = [found.tensors[f"average.{place}"].clone() for place in range(len(self.weights))]
        for place, weight in enumerate(self.weights):
            names = [name for name in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{place}" in found.tensors]
            if names:
                self.optimiser.state[weight] = {name: found.tensors[f"{name}.{place}"] for name in names}
        note("going on from a checkpoint", step=self.progress.step)
        return True

    def _load_best(self) -> None:
        if not self.ranks.first:
            return
        tensors = self.checkpoints.load_best(self.progress.best)
        load(self.weights, [tensors[str(place)] for place in range(len(self.weights))])
