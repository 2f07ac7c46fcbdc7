"""Which slot a request takes: one that read the same beginning, else one beside those at work."""

from __future__ import annotations

import threading
import time

from locum.runtime.llama_slots import Slots
from locum.runtime.protocol import Stop

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


def test_a_stop_ends_the_wait_and_leaves_the_place_to_who_comes_next() -> None:
    slots = Slots(1)
    held = slots.take("x", 0)
    assert held == 0
    stop = Stop()
    found: dict[str, int | None] = {}
    waiting = [
        threading.Thread(target=lambda: found.update(stopped=slots.take("y", 30, stop))),
        threading.Thread(target=lambda: found.update(wanted=slots.take("z", 30))),
    ]
    for thread in waiting:
        thread.start()
        time.sleep(0.05)
    start_s = time.monotonic()
    stop.set()
    waiting[0].join(1)
    assert found == {"stopped": None} and time.monotonic() - start_s < 1
    slots.give_back(held)
    waiting[1].join(1)
    assert found == {"stopped": None, "wanted": 0}


def test_a_place_given_back_to_one_who_was_stopped_is_passed_on() -> None:
    for _ in range(50):
        slots = Slots(1)
        stops = [Stop() for _ in range(4)]
        assert slots.take("x", 0) == 0
        threads = [threading.Thread(target=slots.take, args=("y", 30, stop)) for stop in stops]
        for thread in threads:
            thread.start()
        found: list[int | None] = []
        wanted = threading.Thread(target=lambda slots=slots, found=found: found.append(slots.take("z", 5)))
        wanted.start()
        for stop in stops:
            stop.is_set = True  # the wish is there, and nobody was woken for it yet
        slots.give_back(0)
        wanted.join(5)
        assert found == [0]
        for stop in stops:
            stop.set()
        for thread in threads:
            thread.join(5)


def test_a_stop_that_came_before_takes_no_place() -> None:
    slots, stop = Slots(1), Stop()
    stop.set()
    assert slots.take("x", 5, stop) is None
    assert slots.take("x", 0) == 0
