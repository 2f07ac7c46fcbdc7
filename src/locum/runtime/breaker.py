"""``CircuitBreaker``: after repeated failures a server is left alone for a while, then tried with one request.

Notable: three states (Nygard, *Release It!*, 2007). Closed: all may ask. Open, after failures in a row or a high rate
of them within a window: nobody may. Half-open, when the pause is over: one probe may; its success closes the circuit,
its failure opens it again for twice as long. Where several callers ask, one text that the server cannot answer says
nothing about the server, and failures must have come from more than one. ``RateLimit`` is the pause that a server asks
for itself. The clock is monotonic and can be replaced. Not here: what counts as a failure (``runtime.openai``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

LONGEST_PAUSE_S = 86_400.0
"""A pause that a server asks for is not kept for longer than a day: what names more is a mistake."""

State = Literal["closed", "open", "half-open"]


class CircuitOpenError(Exception):
    """Nobody may ask now.

    Attributes:
        retry_after_s: when to ask again.
        cause: the last failure, in words.
    """

    def __init__(self, retry_after_s: float, cause: str = "") -> None:
        super().__init__(retry_after_s, cause)
        self.retry_after_s = retry_after_s
        self.cause = cause


@dataclass(frozen=True)
class BreakerSettings:
    """When a circuit opens, and for how long.

    Attributes:
        failures: so many requests that failed in a row open it.
        texts: where several callers ask, those in a row must have asked at least so many different texts.
        rate: so large a share of failures within the window opens it; where several callers ask, a text counts once.
        window_s: how far the rate looks back.
        window_calls: outcomes in the window below which the rate says nothing.
        open_s: first pause; doubled after each failed probe.
        open_max_s: longest pause.
        probe_s: a probe that said nothing for so long is taken for lost.
    """

    failures: int = 5
    texts: int = 2
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

    Attributes:
        several_callers: whether those who ask are strangers to each other (a service), not one program.
    """

    def __init__(self, settings: BreakerSettings | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings or BreakerSettings()
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0  # grows with each change of state, so that a late outcome of an earlier state counts nothing
        self._streak: deque[Hashable] = deque(maxlen=max(self._settings.failures, 64))  # what was asked, None: unknown
        self._outcomes: deque[tuple[float, bool, Hashable]] = deque(maxlen=4096)
        self._cause = ""
        self.several_callers = False
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
                raise CircuitOpenError(until_s - now_s, self._cause)
            if self._probe_until_s is not None and now_s < self._probe_until_s:
                raise CircuitOpenError(min(1.0, self._probe_until_s - now_s), self._cause)
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
            self._streak.clear()
            self._outcomes.append((self._clock(), True, None))

    def failed(self, turn: int, about: Hashable = None, cause: str = "") -> None:
        """The server did not answer a request, or not properly, however often it was sent.

        Args:
            turn: from ``admit``.
            about: what stands for the text that was asked; None where the text cannot be the reason (no connection).
            cause: told to those who are refused afterwards.
        """
        with self._lock:
            if turn != self._turn:
                return
            now_s = self._clock()
            self._cause = cause
            if self._open_until_s is not None:
                self._pause_s = min(self._settings.open_max_s, 2 * self._pause_s)
                self._open(now_s)
                return
            self._streak.append(about)
            self._outcomes.append((now_s, False, about))
            if self._row_is_long() or self._rate_is_high(now_s):
                self._open(now_s)

    def forget(self, turn: int) -> None:
        """The caller gave up before an outcome; a probe's place is free again."""
        with self._lock:
            if turn == self._turn:
                self._probe_until_s = None

    def _row_is_long(self) -> bool:
        least = self._settings.texts if self.several_callers else 1
        several = None in self._streak or len(set(self._streak)) >= least
        return several and len(self._streak) >= self._settings.failures

    def _rate_is_high(self, now_s: float) -> bool:
        while self._outcomes and self._outcomes[0][0] < now_s - self._settings.window_s:
            self._outcomes.popleft()
        failed = [about for _, good, about in self._outcomes if not good]
        failures, good = len(failed), len(self._outcomes) - len(failed)
        if self.several_callers:
            failures = failed.count(None) + len(set(failed) - {None})
        calls = failures + good
        return calls >= self._settings.window_calls and failures >= self._settings.rate * calls

    def _open(self, now_s: float) -> None:
        self._turn += 1
        self._open_until_s = now_s + self._pause_s
        self._probe_until_s = None

    def _close(self) -> None:
        self._turn += 1
        self._open_until_s = self._probe_until_s = None
        self._pause_s = self._settings.open_s
        self._outcomes.clear()


class RateLimit:
    """Until when a server wants to be left alone (``Retry-After`` of a 429), for all that ask it.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.until_s: float | None = None

    @property
    def left_s(self) -> float:
        """For how long nobody may ask; 0 when all may."""
        until_s = self.until_s  # read once, without the lock: most of the time there is none
        return 0.0 if until_s is None else max(0.0, until_s - self._clock())

    def told(self, after_s: float) -> None:
        """The server named a time; an earlier one than is known changes nothing."""
        until_s = self._clock() + min(after_s, LONGEST_PAUSE_S)
        with self._lock:
            self.until_s = until_s if self.until_s is None else max(self.until_s, until_s)
