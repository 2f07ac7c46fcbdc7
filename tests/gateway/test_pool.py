"""Threads that run what they are given, as many as allowed, and hold up no stop."""

from __future__ import annotations

import threading
import time

import pytest

from locum.gateway.pool import DaemonPool


def test_results_and_errors_reach_who_waits():
    pool = DaemonPool(2, "t")
    assert pool.submit(lambda: 3).result(5) == 3
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(5)
    assert pool.close(1)


def test_no_more_threads_than_allowed_and_no_fewer_than_needed():
    pool = DaemonPool(3, "t")
    running, most, lock, go = 0, 0, threading.Lock(), threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(5)
        with lock:
            running -= 1

    futures = [pool.submit(work) for _ in range(9)]
    deadline = time.monotonic() + 5
    while most < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    go.set()
    for future in futures:
        future.result(5)
    assert most == 3
    assert pool.close(1)


def test_a_cancelled_job_is_not_run():
    pool = DaemonPool(1, "t")
    go, ran = threading.Event(), []
    first = pool.submit(lambda: go.wait(5))
    second = pool.submit(lambda: ran.append(1))
    assert second.cancel()
    go.set()
    first.result(5)
    assert pool.close(1) and ran == []


def test_fault_50_what_is_stuck_is_left_behind():
    pool = DaemonPool(2, "t")
    go = threading.Event()
    pool.submit(lambda: go.wait(20))
    start_s = time.monotonic()
    assert not pool.close(0.2)
    assert time.monotonic() - start_s < 2
    with pytest.raises(RuntimeError):
        pool.submit(lambda: None)
    go.set()
