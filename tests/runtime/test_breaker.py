"""The circuit breaker, on a clock of the test's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from locum.runtime.breaker import LONGEST_PAUSE_S, BreakerSettings, CircuitBreaker, CircuitOpenError, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    settings = BreakerSettings(failures=3, rate=0.5, window_s=30, window_calls=10, open_s=5, open_max_s=12, probe_s=20)
    return CircuitBreaker(settings, clock=clock)


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(breaker.admit())


def refused_for_s(breaker: CircuitBreaker) -> float:
    with pytest.raises(CircuitOpenError) as caught:
        breaker.admit()
    return caught.value.retry_after_s


def test_fault_57_failures_in_a_row_open_it_for_a_while(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open" and not breaker.is_closed
    assert refused_for_s(breaker) == 5
    clock.now_s += 4
    assert refused_for_s(breaker) == 1
    clock.now_s += 1
    assert breaker.state == "half-open"


def test_a_success_between_failures_starts_the_row_anew(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        fail(breaker, 2)
        for _ in range(4):
            breaker.succeeded(breaker.admit())
    assert breaker.state == "closed"


def test_a_high_rate_opens_it_without_a_row(breaker: CircuitBreaker) -> None:
    for _ in range(4):
        fail(breaker)
        breaker.succeeded(breaker.admit())
    assert breaker.state == "closed"  # eight outcomes say nothing yet
    fail(breaker)
    breaker.succeeded(breaker.admit())
    fail(breaker)
    assert breaker.state == "open"


def test_old_failures_leave_the_window(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(4):
        fail(breaker)
        breaker.succeeded(breaker.admit())
    clock.now_s += 31
    for _ in range(9):
        breaker.succeeded(breaker.admit())
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_one_probe_at_a_time_and_its_success_closes(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now_s += 5
    probe = breaker.admit()
    assert 0 < refused_for_s(breaker) <= 1
    breaker.succeeded(probe)
    assert breaker.state == "closed"
    breaker.succeeded(breaker.admit())


def test_a_failed_probe_doubles_the_pause_up_to_a_cap(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    for pause_s in (10, 12, 12):
        clock.now_s += 100
        breaker.failed(breaker.admit())
        assert refused_for_s(breaker) == pause_s
    clock.now_s += 100
    breaker.succeeded(breaker.admit())
    fail(breaker, 3)
    assert refused_for_s(breaker) == 5  # from the start again


def test_a_probe_that_was_given_up_or_lost_makes_way(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now_s += 5
    breaker.forget(breaker.admit())
    breaker.admit()  # free again; this one never tells
    refused_for_s(breaker)
    clock.now_s += 20
    breaker.succeeded(breaker.admit())
    assert breaker.state == "closed"


def test_late_outcomes_of_an_earlier_state_count_nothing(breaker: CircuitBreaker, clock: Clock) -> None:
    slow = breaker.admit()
    fail(breaker, 3)
    breaker.succeeded(slow)
    assert breaker.state == "open"
    breaker.failed(slow)
    assert refused_for_s(breaker) == 5
    clock.now_s += 5
    breaker.succeeded(breaker.admit())
    breaker.failed(slow)
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_threads_share_it(breaker: CircuitBreaker) -> None:
    def one(_: int) -> bool:
        try:
            fail(breaker)
        except CircuitOpenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        asked = sum(pool.map(one, range(400)))
    assert breaker.state == "open"
    assert 3 <= asked <= 3 + 8  # those under way when it opened


def test_fault_12_where_several_callers_ask_one_text_alone_never_opens_it(breaker: CircuitBreaker) -> None:
    breaker.several_callers = True
    for _ in range(200):
        breaker.failed(breaker.admit(), "a text")
    assert breaker.state == "closed"
    breaker.failed(breaker.admit(), "another text")
    assert breaker.state == "open"


def test_fault_12_a_text_counts_once_in_the_rate(breaker: CircuitBreaker) -> None:
    breaker.several_callers = True
    for number in range(30):
        breaker.failed(breaker.admit(), "a text")
        if number % 2:
            breaker.succeeded(breaker.admit())
    assert breaker.state == "closed"
    for number in range(40):
        if breaker.state == "closed":
            breaker.failed(breaker.admit(), f"text {number}")
        if number % 2 and breaker.state == "closed":
            breaker.succeeded(breaker.admit())
    assert breaker.state == "open", "two of three failed, each with another text"


def test_fault_12_a_failure_that_no_text_can_be_the_reason_of_counts_as_it_is(breaker: CircuitBreaker) -> None:
    breaker.several_callers = True
    fail(breaker, 3)
    assert breaker.state == "open"


def test_fault_21_who_is_refused_hears_the_last_cause(breaker: CircuitBreaker, clock: Clock) -> None:
    for cause in ("first", "second", "third"):
        breaker.failed(breaker.admit(), cause=cause)
    for cause in ("third", "of the probe"):
        with pytest.raises(CircuitOpenError) as caught:
            breaker.admit()
        assert caught.value.cause == cause
        clock.now_s += 100
        breaker.failed(breaker.admit(), cause="of the probe")


def test_fault_56_the_latest_time_that_was_named_holds(clock: Clock) -> None:
    limit = RateLimit(clock=clock)
    assert limit.left_s == 0
    for after_s, left_s in ((10, 10), (5, 10), (30, 30), (1e9, LONGEST_PAUSE_S)):
        limit.told(after_s)
        assert limit.left_s == left_s
    clock.now_s += LONGEST_PAUSE_S
    assert limit.left_s == 0
