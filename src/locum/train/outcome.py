"""What every method hands to the job, and the clock it must respect."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from locum.schema.training import Budgets, CurvePoint


@dataclass(frozen=True)
class Outcome:
    """A trained student, whose files stand in the output folder.

    Attributes:
        dev_logits: of the kept weights, computed in float32, ``[n_dev, C]``.
        dev_accuracy: as in ``Trained``; None where it is the share of rows whose highest logit is the gold label's.
        parameters, best_epoch, stopped_by, curve, settings, tokens_per_s, resumed, same_for: as in ``Trained``.
    """

    dev_logits: NDArray[np.float32]
    parameters: int
    best_epoch: float
    stopped_by: Literal["schedule", "patience", "budget", "nan"]
    curve: tuple[CurvePoint, ...]
    settings: dict[str, str | int | float | bool]
    tokens_per_s: float | None = None
    resumed: int = 0
    dev_accuracy: float | None = None
    same_for: Budgets | None = None


@dataclass
class Clock:
    """Seconds spent on a job; a resumed job starts with what its earlier tries spent.

    Attributes:
        budget_s: what it may spend in all.
        before_s: what earlier tries spent.
    """

    budget_s: float
    before_s: float = 0.0
    _start_s: float = field(default_factory=time.monotonic)

    @property
    def spent_s(self) -> float:
        """Seconds spent so far, earlier tries included."""
        return self.before_s + time.monotonic() - self._start_s

    @property
    def left_s(self) -> float:
        """Seconds left; negative when overspent."""
        return self.budget_s - self.spent_s
