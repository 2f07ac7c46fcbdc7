"""``Slots``: which of llama.cpp's sequences a request takes.

Notable: llama.cpp computes sequences that work at the same time in one batch only when their numbers follow each
other, so a request goes beside those at work; unless a free slot has read a text that begins alike, which is then not
read again. Not here: how long a request may wait (``llama_process``).
"""

from __future__ import annotations

import threading
import time

from locum.runtime.protocol import Stop

_ALIKE_SHARE = 0.5
_ALIKE_CHARS = 32


class Slots:
    """A fixed number of places, given out one by one; safe to use from several threads.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._free = set(range(count))
        self._texts = [""] * count
        self._used_s = [0.0] * count
        self._count = count

    def take(self, text: str, timeout_s: float, stop: Stop | None = None) -> int | None:
        """Wait for a place.

        Args:
            text: what the request will make its slot read.
            timeout_s: longest wait.
            stop: ends the wait.

        Returns:
            Its number; None when none became free in time, or it was stopped.
        """
        stop = stop or Stop()
        call_off = stop.calls(self._wake)
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: self._free or stop.is_set, timeout_s):
                    return None
                if stop.is_set:
                    self._changed.notify()  # the place that it may have been woken for is another's
                    return None
                place = self._choose(text)
                self._free.remove(place)
                self._texts[place] = text
                return place
        finally:
            call_off()

    def give_back(self, place: int) -> None:
        """The request is done."""
        with self._changed:
            self._used_s[place] = time.monotonic()
            self._free.add(place)
            self._changed.notify()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _choose(self, text: str) -> int:
        """The free place that has read most of the text; else the longest unused one beside those at work."""
        alike = {place: _alike(text, self._texts[place]) for place in self._free}
        best = max(alike, key=lambda place: (alike[place], -place))
        if alike[best] >= max(_ALIKE_CHARS, _ALIKE_SHARE * len(text)):
            return best
        working = set(range(self._count)) - self._free
        beside = {place for place in self._free if working and min(working) - 1 <= place <= max(working) + 1}
        return min(beside or self._free, key=lambda place: (self._used_s[place], place))


def _alike(one: str, other: str) -> int:
    """With how many equal characters two texts begin; by halving, because slices compare faster than characters."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
