"""The wish to end an answer: it is told once to all who asked to be told, and no more to who called it off."""

from __future__ import annotations

import threading
import time

from locum.runtime.protocol import Stop, pause


def test_all_are_called_once_and_later_ones_at_once() -> None:
    stop, called = Stop(), list[str]()
    stop.calls(lambda: called.append("first"))
    stop.calls(lambda: called.append("second"))
    assert not stop.is_set and called == []
    stop.set()
    stop.set()
    assert stop.is_set and called == ["first", "second"]
    stop.calls(lambda: called.append("late"))()
    assert called == ["first", "second", "late"]


def test_what_was_called_off_is_not_called() -> None:
    stop, called = Stop(), list[str]()
    call_off = stop.calls(lambda: called.append("off"))
    stop.calls(lambda: called.append("on"))
    call_off()
    call_off()
    stop.set()
    assert called == ["on"]


def test_who_calls_off_waits_for_a_call_under_way() -> None:
    stop, begun, ended = Stop(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        time.sleep(0.1)
        ended.set()

    call_off = stop.calls(call)
    setting = threading.Thread(target=stop.set)
    setting.start()
    assert begun.wait(5)
    call_off()
    assert ended.is_set()
    setting.join()


def test_a_pause_lasts_until_the_first_of_the_wishes() -> None:
    first, second = Stop(), Stop()
    start_s = time.monotonic()
    pause(0.05, first, second)
    assert 0.04 < time.monotonic() - start_s < 1
    threading.Timer(0.05, second.set).start()
    pause(30, first, second)
    pause(30, second)
    assert time.monotonic() - start_s < 2 and not first.is_set
