"""The public fakes keep to their script."""

from __future__ import annotations

import time

import numpy as np
import pytest

from locum.core.errors import LocumError, UpstreamError
from locum.runtime import Completion, CompletionRequest, Message
from locum.testing import FakeClassifier, FakeGenerator

ASK = CompletionRequest((Message("user", "one two"),), max_tokens=3)


def test_labels_rows_and_defaults() -> None:
    fake = FakeClassifier(("a", "b"), {"x": "b", "y": [1.0, 2.0]}, default="a", margin=3)
    np.testing.assert_allclose(fake.logits(["x", "y", "z"]), [[0, 3], [1, 2], [3, 0]])
    assert fake.asked == ["x", "y", "z"]


def test_a_function_as_script_and_unknown_texts_without_default() -> None:
    assert FakeClassifier(("a", "b"), lambda text: [len(text), 0.0]).logits(["xyz"])[0, 0] == 3
    assert not FakeClassifier(("a", "b")).logits(["q"]).any()


def test_faults_and_latency_of_a_classifier() -> None:
    fake = FakeClassifier(("a",), latency_s=lambda n: 0.02 * n, fault=LocumError("runtime-engine-failed", "boom"))
    start_s = time.monotonic()
    with pytest.raises(LocumError, match="boom"):
        fake.logits(["x", "y"])
    assert time.monotonic() - start_s >= 0.04
    fake.fault = None
    assert fake.logits(["x"]).shape == (1, 1)


def test_a_generators_script_goes_round_and_raises() -> None:
    fake = FakeGenerator(
        ["one two three four", UpstreamError("upstream-timeout", "late"), Completion("x", "stop", 1, 1, "m")]
    )
    first = fake.complete(ASK)
    assert (first.text, first.finish_reason, first.input_tokens) == ("one two three", "length", 2)
    with pytest.raises(UpstreamError):
        fake.complete(ASK)
    assert fake.complete(ASK).model == "m"
    assert fake.complete(ASK).text == "one two three"
    assert len(fake.requests) == 4


def test_a_generator_cuts_at_stop_and_asks_a_function() -> None:
    fake = FakeGenerator(lambda request: request.messages[-1].content.upper())
    assert fake.complete(CompletionRequest((Message("user", "a; b"),), stop=(";",))).text == "A"


def test_an_empty_script_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no reply"):
        FakeGenerator([])
