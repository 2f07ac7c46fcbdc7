"""Progress events: what long work says while it runs, and who listens.

Notable: a room that works calls ``track`` or ``note``; it knows nothing of terminals. The listener is
a context variable, so the CLI, a test or a parent process can each set its own, and the default
listener drops everything.

    with track("train MiniLM", total=1200, unit="step") as tracker:
        tracker.advance(1, loss=0.3)

Not here: drawing (``cli``), which subscribes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

EventKind = Literal["start", "advance", "done", "note", "warning", "overall"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: start, advance and done belong to a tracked piece of work; note and warning stand alone; overall tells how
            far the whole is, of which the tracked work is a part.
        label: what is being done, in the user's words.
        done: how much of ``total`` is done, in ``unit``.
        total: how much there is, or None when unknown.
        unit: step, row, byte…
        facts: figures worth showing beside it (loss, rate, accuracy).
    """

    kind: EventKind
    label: str
    done: float = 0
    total: float | None = None
    unit: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The event as a JSON object, to cross a process boundary."""
        return asdict(self)


Listener = Callable[[Event], None]


def _ignore(_event: Event) -> None:
    """The default listener: nobody is watching."""


_listener: ContextVar[Listener] = ContextVar("locum_progress_listener", default=_ignore)


@contextmanager
def listening(listener: Listener) -> Generator[None, None, None]:
    """Send the events of the enclosed work to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def emit(event: Event) -> None:
    """Hand one event to whoever listens."""
    _listener.get()(event)


def note(label: str, **facts: Any) -> None:
    """Say something worth knowing that is not a problem."""
    emit(Event("note", label, facts=facts))


def warn(label: str, **facts: Any) -> None:
    """Say something the user should act on or know, that does not stop the work."""
    emit(Event("warning", label, facts=facts))


class Tracker:
    """Counts one piece of work and emits at most about ten events a second."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0.0
        self._last_s = 0.0

    def advance(self, amount: float = 1, **facts: Any) -> None:
        """Count ``amount`` more units done; facts are shown beside the bar."""
        self.done += amount
        now_s = time.monotonic()
        if now_s - self._last_s >= 0.1 or self.done == self.total:
            self._last_s = now_s
            emit(Event("advance", self.label, self.done, self.total, self.unit, facts))


@contextmanager
def track(label: str, total: float | None = None, unit: str = "") -> Generator[Tracker, None, None]:
    """Announce a piece of work, count it, and announce its end (not on an exception)."""
    tracker = Tracker(label, total, unit)
    start_s = time.monotonic()
    emit(Event("start", label, 0, total, unit))
    yield tracker
    seconds = round(time.monotonic() - start_s, 3)
    emit(Event("done", label, tracker.done, tracker.total, unit, {"seconds": seconds}))
