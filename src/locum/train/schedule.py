"""How many steps fit the time budget: measured on a few steps, written down, and then kept.

Notable: a resumed job reads the schedule of its first try, so it ends with the same weights. The rate falls
to zero over the planned steps, which is worth more than a few more steps cut short. Not here: stopping when
the machine turns out slower than measured (``loop``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from locum.core.errors import LocumError
from locum.core.files import write_json
from locum.models.base_files import read_json
from locum.schema.training import Budgets
from locum.train.recipe import Pace

_USABLE_SHARE = 0.85  # of what is left: machines slow down, and the last evaluation is in float32
_LEAST_SHARE = 0.25  # of an epoch; less teaches nothing
_EXACT_FACTOR = 4.0  # float32 evaluation over bfloat16


@dataclass(frozen=True)
class Schedule:
    """The plan of a training.

    Attributes:
        total_steps: optimiser steps in all; 0 when the budget allows none.
        steps_per_epoch: optimiser steps in one pass over the training rows.
        tokens_per_s: measured, padding not counted; None when nothing was measured.
        micro_batch: rows in one forward pass that was asked for, or None.
        until: the step whose weights are kept, where that was chosen before (``repeat``); None lets dev choose.
        least_s, below_s: the job's time budgets that give as many steps at the speed that was measured; least_s None
            where that is not known.
    """

    total_steps: int
    steps_per_epoch: int
    tokens_per_s: float | None
    micro_batch: int | None = None
    until: int | None = None
    least_s: float | None = None
    below_s: float | None = None

    @property
    def last_step(self) -> int:
        """Where training ends; rates fall to zero at ``total_steps``."""
        return self.total_steps if self.until is None else min(self.until, self.total_steps)

    @property
    def epochs(self) -> float:
        """Passes over the training rows."""
        return self.total_steps / self.steps_per_epoch

    def same_for(self, spent_s: float) -> Budgets | None:
        """The budgets under which a training that ended after ``spent_s`` would have been the same; None: unknown.

        A smaller one than was spent would have cut it short.
        """
        if self.least_s is None:
            return None
        return Budgets(least_s=max(self.least_s, spent_s), below_s=self.below_s)


def plan_schedule(
    recipe: Pace,
    *,
    steps_per_epoch: int,
    epoch_s: float,
    eval_s: float,
    left_s: float,
    tokens_per_epoch: int,
    spent_s: float = 0.0,
) -> Schedule:
    """The longest schedule of whole epochs that fits, at most the recipe's; part of one epoch when one does not.

    Args:
        recipe: for its number of epochs.
        steps_per_epoch: optimiser steps in an epoch.
        epoch_s: measured seconds of an epoch's steps.
        eval_s: measured seconds of one evaluation on dev.
        left_s: seconds left of the budget.
        tokens_per_epoch: for the rate.
        spent_s: of the budget, before the first step.
    """
    usable_s = _USABLE_SHARE * left_s - _EXACT_FACTOR * eval_s
    rate = round(tokens_per_epoch / epoch_s, 1)
    whole = min(recipe.epochs, int(usable_s / (epoch_s + eval_s))) if usable_s > 0 else 0
    steps = whole * steps_per_epoch
    least_s, below_s = whole * (epoch_s + eval_s), (whole + 1) * (epoch_s + eval_s)  # usable seconds, for as many steps
    if whole == 0:  # part of an epoch, if it is enough to learn something
        share = (usable_s - eval_s) / epoch_s
        steps = int(share * steps_per_epoch) if share >= _LEAST_SHARE else 0
        least_s = max(_LEAST_SHARE, steps / steps_per_epoch) * epoch_s + eval_s
        below_s = min(below_s, (steps + 1) / steps_per_epoch * epoch_s + eval_s)

    def budget_s(usable_s: float) -> float:
        return spent_s + (usable_s + _EXACT_FACTOR * eval_s) / _USABLE_SHARE

    most_s = None if whole == recipe.epochs else budget_s(below_s)
    return Schedule(steps, steps_per_epoch, rate, least_s=budget_s(least_s) if steps else None, below_s=most_s)


def write_schedule(path: Path, schedule: Schedule) -> None:
    """Write the schedule down."""
    write_json(path, asdict(schedule))


def read_schedule(path: Path) -> Schedule | None:
    """The schedule an earlier try wrote down, or None.

    Raises:
        LocumError: it stands there and is not a schedule.
    """
    if not path.is_file():
        return None
    fields: dict[str, Any] = read_json(path)
    try:
        return Schedule(**fields)
    except TypeError as error:
        raise LocumError(
            "schema-invalid", f"not a schedule: {error}", where=str(path), fix="remove the folder it stands in"
        ) from error
