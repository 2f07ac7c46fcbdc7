"""Latency through an engine of known speed, memory it adds, and money."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from locum.evaluate.cost import cost, cost_per_1000
from locum.evaluate.latency import measure, open_measured, time_singles
from locum.runtime.fake import FakeClassifier
from locum.schema.task import Price


def test_single_answers_and_batches_are_timed() -> None:
    student = FakeClassifier(("a", "b"), latency_s=lambda n: 0.004 if n == 1 else 0.01)
    made = measure(student.logits, [f"text {i}" for i in range(64)], threads=2, n=20, warmup=2, limit_s=1.0)
    assert 4 <= made.p50_ms <= made.p95_ms < 100
    assert made.n == 20 and made.threads == 2
    assert 500 < made.answers_per_s < 3200  # 32 texts in 10 ms and a little
    assert student.asked[2] == "text 0" and student.asked[21] == "text 63"


def test_the_limit_is_kept_and_one_text_is_enough() -> None:
    student = FakeClassifier(("a", "b"), latency_s=0.02)
    made = measure(student.logits, ["only"], threads=1, n=1000, warmup=0, limit_s=0.1)
    assert 1 <= made.n <= 7
    assert made.answers_per_s < 51


def test_single_answers_go_with_a_rate_that_is_known() -> None:
    student = FakeClassifier(("a", "b"))
    alone = time_singles(student.logits, ["x", "y"], n=4, warmup=1, limit_s=20, name="it")
    made = alone.latency(7.5, threads=2)
    assert (made.answers_per_s, made.threads, made.n, made.p50_ms) == (7.5, 2, 4, alone.p50_ms)
    assert len(student.asked) == 5


def test_no_texts() -> None:
    with pytest.raises(ValueError, match="at least one text"):
        measure(FakeClassifier(("a",)).logits, [], threads=1)


def test_memory_that_opening_adds_is_counted() -> None:
    held: list[np.ndarray] = []

    def heavy() -> FakeClassifier:
        held.append(np.ones(32_000_000))  # 256 MB
        return FakeClassifier(("a", "b"))

    gc.collect()  # what a collection frees meanwhile would be taken off
    student, memory_mb = open_measured(heavy, lambda opened: opened.logits, ["x"])
    assert student.asked == ["x"]
    assert memory_mb is None or 150 < memory_mb < 400


def test_cost_per_1000_answers() -> None:
    price = Price(input=0.15, output=0.60)
    assert cost_per_1000(100_000, 2_000, 200, price) == pytest.approx(0.081)
    assert cost_per_1000(100, 2, 0, price) is None
    assert cost_per_1000(100, 2, 10, None) is None


def test_cascade_costs_what_is_handed_over_and_audited() -> None:
    made = cost(2.0, 0.8, audit_rate=0.01)
    assert made.cascade_per_1000 == pytest.approx(2.0 * 0.208)
    assert made.saved_share == pytest.approx(0.792)
    assert cost(None, 0.8).cascade_per_1000 is None
    assert cost(0.0, 0.8).saved_share is None
    with pytest.raises(ValueError, match="shares"):
        cost(1.0, 1.1)
