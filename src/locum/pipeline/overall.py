"""``Overall``: how far a build is and how much time is left, from its plan and from what its steps took so far.

Notable: what a step was expected to take is corrected by how the steps before it went, and never beyond what is left of
the budget, since a build leaves out what does not fit. Steps that the plan did not know are counted as they come; those
that will not be taken are dropped. Not here: drawing (``cli.view``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from locum.core.progress import Event, emit
from locum.schema.plan import PlannedStep

_PRIOR_S = 20.0  # so much time is taken to have gone as planned: one short step says little
_SLOWEST, _FASTEST = 4.0, 0.25
_LEFT_SHARE = 0.1  # of a step that has overrun: it may end at any time
_UNKNOWN_S = 30.0


class Overall:
    """The build's own progress.

    Args:
        steps: of the plan.
        budget_s: of the build.
        clock: seconds; for tests.
    """

    def __init__(
        self, steps: Sequence[PlannedStep], budget_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left = {step.name: step.seconds for step in steps if not step.done}
        self._over: set[str] = {step.name for step in steps if step.done}
        self._budget_s, self._clock, self._start_s = budget_s, clock, clock()
        self._planned_s = self._took_s = _PRIOR_S
        self._running: tuple[str, float, float | None] | None = None

    @property
    def total(self) -> int:
        """Steps in all, as far as is known."""
        return len(self._left) + len(self._over) + (self._running is not None)

    @property
    def left_s(self) -> float:
        """About how many seconds are left."""
        now_s = self._clock()
        speed = min(_SLOWEST, max(_FASTEST, self._took_s / self._planned_s))
        left_s = speed * sum(_UNKNOWN_S if each is None else each for each in self._left.values())
        if self._running:
            _, began_s, expected_s = self._running
            whole_s = speed * (_UNKNOWN_S if expected_s is None else expected_s)
            left_s += max(whole_s - (now_s - began_s), _LEFT_SHARE * whole_s)
        return min(left_s, max(self._budget_s - (now_s - self._start_s), 5.0))

    def begin(self, name: str, label: str) -> None:
        """A step begins."""
        place = self._place(name)
        self._running = (name, self._clock(), self._left.pop(place, None) if place else None)
        self._tell(label)

    def end(self, name: str, took_s: float | None = None) -> None:
        """A step is done; ``took_s`` None: it was done before."""
        expected_s = self._running[2] if self._running and self._running[0] == name else None
        if took_s is not None and expected_s is not None:
            self._planned_s += expected_s
            self._took_s += took_s
        if place := self._place(name):
            del self._left[place]
        self._running = None
        self._over.add(name)

    def drop(self, candidate: str) -> None:
        """A candidate is not built."""
        for name in [name for name in self._left if name.endswith(f"-{candidate}")]:
            del self._left[name]

    def last(self, label: str) -> None:
        """What comes after all steps of the cache; whatever was planned beside it is not needed."""
        self._running, self._left = ("certify", self._clock(), self._left.get("certify")), {}
        self._tell(label)

    def _place(self, name: str) -> str | None:
        """What a step is called in the plan, which did not know of whom the last ones would be."""
        planned = (name, *(each for each in ("export-refit", "measure-refit", "refit", "answer-calibration")
                           if name.startswith(f"{each}-")))  # fmt: skip
        return next((each for each in planned if each in self._left), None)

    def _tell(self, label: str) -> None:
        elapsed_s = self._clock() - self._start_s
        facts = {"elapsed_s": round(elapsed_s), "left_s": round(self.left_s), "budget_s": round(self._budget_s)}
        emit(Event("overall", label, len(self._over) + 1, self.total, "step", facts))
