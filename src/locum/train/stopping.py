"""A polite stop: SIGINT and SIGTERM set a flag that training looks at between two steps.

Notable: an exception in the middle of an optimiser step would leave weights half updated; a flag does not.
A second signal stops at once. Not here: what is saved (``checkpoint``).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """Whether a stop was asked for."""

    def __init__(self) -> None:
        self.asked = False

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Note the first signal; raise on the second."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def polite_stop() -> Generator[StopFlag, None, None]:
    """Catch SIGINT and SIGTERM for the block (in the main thread; elsewhere signals never arrive)."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
