"""``CircuitBreaker``: after repeated failures a server is left alone for a while, then tried with one request.

Notable: three states (Nygard, *Release It!*, 2007). Closed: all may ask. Open, after failures in a row or a high rate
of them within a window: nobody may. Half-open, when the pause is over: one probe may; its success closes the circuit,
its failure opens it again for twice as long. The clock is monotonic and can be replaced. Not here: what counts as a
failure (``runtime.openai``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half-open"]


class CircuitOpenError(Exception):
    """Nobody may ask now.

    Attributes:
        retry_after_s: when to ask again.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class BreakerSettings:
    """When a circuit opens, and for how long.

    Attributes:
        failures: so many in a row open it.
        rate: so large a share of failures within the window opens it.
        window_s: how far the rate looks back.
        window_calls: outcomes in the window below which the rate says nothing.
        open_s: first pause; doubled after each failed probe.
        open_max_s: longest pause.
        probe_s: a probe that said nothing for so long is taken for lost.
    """

    failures: int = 5
    rate: float = 0.5
    window_s: float = 30.0
    window_calls: int = 20
    open_s: float = 5.0
    open_max_s: float = 60.0
    probe_s: float = 60.0


class CircuitBreaker:
    """One circuit, shared by all threads that ask one server.

    Every ``admit`` is followed by one of ``succeeded``, ``failed`` or ``forget`` with the number that it returned.

    Args:
        settings: the thresholds.
        clock: monotonic seconds.
    """

    def __init__(self, settings: BreakerSettings | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings or BreakerSettings()
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0  # grows with each change of state, so that a late outcome of an earlier state counts nothing
        self._streak = 0
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=4096)
        self._open_until_s: float | None = None
        self._pause_s = self._settings.open_s
        self._probe_until_s: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether all may ask."""
        return self._open_until_s is None

    @property
    def state(self) -> State:
        """Closed, open, or half-open."""
        with self._lock:
            if self._open_until_s is None:
                return "closed"
            return "open" if self._clock() < self._open_until_s else "half-open"

    def admit(self) -> int:
        """Ask to ask.

        Returns:
            A number to tell the outcome with.

        Raises:
            CircuitOpenError: not now.
        """
        if self.is_closed:  # the common case, without the lock: a number read late counts nothing
            return self._turn
        with self._lock:
            until_s = self._open_until_s
            if until_s is None:  # closed by another thread in between
                return self._turn
            now_s = self._clock()
            if now_s < until_s:
                raise CircuitOpenError(until_s - now_s)
            if self._probe_until_s is not None and now_s < self._probe_until_s:
                raise CircuitOpenError(min(1.0, self._probe_until_s - now_s))
            self._turn += 1
            self._probe_until_s = now_s + self._settings.probe_s
            return self._turn

    def succeeded(self, turn: int) -> None:
        """The server answered."""
        with self._lock:
            if turn != self._turn:
                return
            if self._open_until_s is not None:
                self._close()
            self._streak = 0
            self._outcomes.append((self._clock(), True))

    def failed(self, turn: int) -> None:
        """The server did not answer, or not properly."""
        with self._lock:
            if turn != self._turn:
                return
            now_s = self._clock()
            if self._open_until_s is not None:
                self._pause_s = min(self._settings.open_max_s, 2 * self._pause_s)
                self._open(now_s)
                return
            self._streak += 1
            self._outcomes.append((now_s, False))
            if self._streak >= self._settings.failures or self._rate_is_high(now_s):
                self._open(now_s)

    def forget(self, turn: int) -> None:
        """The caller gave up before an outcome; a probe's place is free again."""
        with self._lock:
            if turn == self._turn:
                self._probe_until_s = None

    def _rate_is_high(self, now_s: float) -> bool:
        while self._outcomes and self._outcomes[0][0] < now_s - self._settings.window_s:
            self._outcomes.popleft()
        if len(self._outcomes) < self._settings.window_calls:
            return False
        failures = sum(not good for _, good in self._outcomes)
        return failures >= self._settings.rate * len(self._outcomes)

    def _open(self, now_s: float) -> None:
        self._turn += 1
        self._open_until_s = now_s + self._pause_s
        self._probe_until_s = None

    def _close(self) -> None:
        self._turn += 1
        self._open_until_s = self._probe_until_s = None
        self._pause_s = self._settings.open_s
        self._outcomes.clear()
