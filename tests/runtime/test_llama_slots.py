"""Which slot a request takes: one that read the same beginning, else one beside those at work."""

from __future__ import annotations

import threading
import time

from locum.runtime.llama_slots import Slots

INSTRUCTION = "Answer in one word. " * 20


def test_a_text_that_begins_alike_goes_where_it_was_read() -> None:
    slots = Slots(4)
    first, second = slots.take(INSTRUCTION + "a", 0), slots.take("quite another text " * 20, 0)
    assert first is not None and second is not None
    slots.give_back(first)
    slots.give_back(second)
    assert slots.take(INSTRUCTION + "b", 0) == first
    assert slots.take("quite another text " * 20, 0) == second


def test_a_new_text_does_not_drive_out_what_was_read_last() -> None:
    slots = Slots(3)
    taken = []
    for number in range(3):
        place = slots.take(f"{number} " * 100, 0)
        assert place is not None
        taken.append(place)
        slots.give_back(place)
        time.sleep(0.002)
    assert sorted(taken) == [0, 1, 2]


def test_requests_at_work_together_follow_each_other() -> None:
    slots = Slots(8)
    for number in range(40):  # leaves every slot used, at different times
        place = slots.take(f"{number} " * 100, 0)
        assert place is not None
        slots.give_back(place)
    working = [slots.take(f"new {number} " * 100, 0) for number in range(4)]
    places = sorted(place for place in working if place is not None)
    assert places == list(range(places[0], places[0] + 4))
    slots.give_back(places[1])
    assert slots.take("the hole is filled " * 50, 0) in {places[1], places[0] - 1, places[-1] + 1}


def test_who_finds_none_waits_and_gives_up_in_time() -> None:
    slots = Slots(1)
    held = slots.take("x", 0)
    assert held == 0
    start_s = time.monotonic()
    assert slots.take("y", 0.05) is None
    assert 0.04 < time.monotonic() - start_s < 2
    threading.Timer(0.05, slots.give_back, [held]).start()
    assert slots.take("y", 5) == 0
