"""The choice of an engine, on engines of known speed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from locum.core.errors import LocumError, ModelFileError
from locum.evaluate import engines
from locum.evaluate.engines import choose_engine, decide
from locum.runtime.fake import FakeClassifier
from locum.schema.evaluation import EngineTrial, Measured
from locum.schema.model import ModelSpec

LABELS = ("a", "b")
TEXTS = [f"text {n}" for n in range(40)]


class Engine(FakeClassifier):
    """A fake whose ``spec`` is for ONNX."""

    @property
    def spec(self) -> ModelSpec:
        return super().spec.model_copy(update={"engine": "onnx"})


def by_parity(text: str) -> str:
    return LABELS[int(text.split()[1]) % 2]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "is_installed", lambda _name: True)


def trial(engine: str, p50_ms: float | None, reason: str = "") -> EngineTrial:
    return EngineTrial.model_validate({"engine": engine, "p50_ms": p50_ms, "reason": reason})


@pytest.mark.parametrize(
    ("own_ms", "other_ms", "chosen", "words"),
    [
        (2.0, 2.4, "onnx", "onnx is the fastest"),
        (2.0, 1.81, "onnx", "gains only 9%"),
        (2.0, 1.79, "openvino", "90% of onnx's time"),
        (2.0, 0.5, "openvino", "25% of onnx's time"),
    ],
)
def test_a_gain_of_less_than_a_tenth_keeps_the_default(own_ms: float, other_ms: float, chosen: str, words: str) -> None:
    choice = decide("onnx", [trial("onnx", own_ms), trial("openvino", other_ms)], 200)
    assert choice.engine == chosen and choice.default == "onnx"
    assert words in choice.why
    assert len(choice.trials) == 2


def test_an_engine_that_is_out_is_not_chosen() -> None:
    choice = decide("onnx", [trial("onnx", 2.0), trial("openvino", None, "not installed")], 200)
    assert choice.engine == "onnx"


def test_the_faster_engine_is_taken_with_its_figures() -> None:
    slow, fast = Engine(LABELS, by_parity, latency_s=0.004), Engine(LABELS, by_parity, latency_s=0.001)
    choice, opened = choose_engine(slow.spec, slow, lambda _name: fast, TEXTS, n=20)
    assert choice.engine == "openvino"
    assert set(opened) == {"onnx", "openvino"} and not fast.closed
    found = {each.engine: each for each in choice.trials}
    assert found["openvino"].p50_ms is not None and 1 <= found["openvino"].p50_ms < 4
    assert found["onnx"].n == found["openvino"].n == 20
    assert found["openvino"].agreement == 1.0
    assert found["openvino"].answers_per_s is not None and found["openvino"].answers_per_s > 32


def test_requests_are_interleaved_text_by_text() -> None:
    order: list[tuple[str, str]] = []

    class Noting(Engine):
        def __init__(self, name: str) -> None:
            super().__init__(LABELS, by_parity)
            self.name = name

        def logits(self, texts: Sequence[str]) -> np.ndarray:
            if len(texts) == 1:
                order.append((self.name, texts[0]))
            return super().logits(texts)

    first, second = Noting("first"), Noting("second")
    choose_engine(first.spec, first, lambda _name: second, TEXTS, n=12)
    timed = order[-24:]
    pairs = [timed[k : k + 2] for k in range(0, 24, 2)]
    assert all({name for name, _ in pair} == {"first", "second"} and pair[0][1] == pair[1][1] for pair in pairs)
    assert {pair[0][0] for pair in pairs} == {"first", "second"}  # they take turns in going first


def test_an_engine_with_other_labels_is_closed_and_left_out() -> None:
    own, wrong = Engine(LABELS, by_parity), Engine(LABELS, default="a")
    choice, opened = choose_engine(own.spec, own, lambda _name: wrong, TEXTS, n=5)
    assert choice.engine == "onnx" and set(opened) == {"onnx"} and wrong.closed
    (out,) = choice.trials
    assert out.agreement == pytest.approx(0.5, abs=0.05)
    assert "only" in out.reason and out.p50_ms is None


@pytest.mark.parametrize("when", ["open", "answer"])
def test_an_engine_that_cannot_is_left_out_with_the_reason(when: str) -> None:
    own = Engine(LABELS, by_parity)

    def open_engine(_name: str) -> FakeClassifier:
        if when == "open":
            raise ModelFileError("runtime-unsupported", "it has an operator that it lacks")
        return Engine(LABELS, by_parity, fault=LocumError("runtime-engine-failed", "it has an operator that it lacks"))

    choice, opened = choose_engine(own.spec, own, open_engine, TEXTS, n=5)
    assert choice.engine == "onnx" and set(opened) == {"onnx"}
    assert choice.trials[0].reason == "it has an operator that it lacks"


def test_without_another_engine_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "is_installed", lambda _name: False)
    own = Engine(LABELS, by_parity)
    choice, _ = choose_engine(own.spec, own, lambda _name: own, TEXTS)
    assert choice.n == 0 and not own.asked
    assert choice.trials[0].reason == "not installed"
    linear = FakeClassifier(LABELS, by_parity)
    assert choose_engine(linear.spec, linear, lambda _name: linear, TEXTS)[0].trials == ()


def test_the_limit_is_kept_and_no_texts_are_refused() -> None:
    own, other = Engine(LABELS, by_parity, latency_s=0.02), Engine(LABELS, by_parity, latency_s=0.02)
    start_s = time.monotonic()
    choice, _ = choose_engine(own.spec, own, lambda _name: other, TEXTS, n=1000, limit_s=0.2)
    assert time.monotonic() - start_s < 5
    assert 1 <= choice.trials[0].n < 20
    with pytest.raises(ValueError, match="at least one text"):
        choose_engine(own.spec, own, lambda _name: other, [])


def test_a_measurement_from_before_there_was_a_choice_is_read() -> None:
    latency = '{"p50_ms": 1, "p95_ms": 2, "n": 3, "answers_per_s": 4, "threads": 1}'
    old = f'{{"latency": {latency}, "memory_mb": null, "size_mb": 1}}'
    assert Measured.from_json(old, "measured.json").engines is None
