"""What OpenVINO's process tells, and when; with a library that writes a letter a step."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from locum.runtime import openvino_child
from locum.runtime.openvino_child import OpenVinoSettings, Pipeline

RUNNING, FINISHED = "running", "finished"


class Handle:
    """An answer that gets a letter in every step, ``count`` in all."""

    def __init__(self, count: int) -> None:
        self.left, self.unread, self.stopped = count, list[int](), False

    def write(self) -> None:
        if self.left and not self.stopped:
            self.left -= 1
            self.unread.append(ord("a") + self.left % 26)

    def can_read(self) -> bool:
        return bool(self.unread)

    def read(self) -> dict[int, Any]:
        ids, self.unread = self.unread, []
        return {0: SimpleNamespace(generated_ids=ids, generated_log_probs=[-1.0] * len(ids), finish_reason="length")}

    def get_status(self) -> str:
        return RUNNING if self.left and not self.stopped else FINISHED

    def stop(self) -> None:
        self.stopped = True


class Library:
    """As much of ``openvino_genai`` as the child asks for."""

    GenerationStatus = SimpleNamespace(RUNNING=RUNNING, IGNORED="ignored")
    GenerationFinishReason = SimpleNamespace(LENGTH="length")
    SchedulerConfig = SimpleNamespace

    def __init__(self) -> None:
        self.handles: list[Handle] = []

    def ContinuousBatchingPipeline(self, *_: object) -> Library:
        return self

    def get_tokenizer(self) -> Library:
        return self

    def get_config(self) -> SimpleNamespace:
        return SimpleNamespace()

    def encode(self, text: str, **_: object) -> Any:
        return SimpleNamespace(input_ids=SimpleNamespace(data=SimpleNamespace(reshape=lambda _: [*map(ord, text)])))

    def decode(self, many: list[list[int]], **_: object) -> list[str]:
        return ["".join(map(chr, ids)) for ids in many]

    def add_request(self, _number: int, _ids: object, config: Any) -> Handle:
        self.handles.append(Handle(config.max_new_tokens))
        return self.handles[-1]

    def step(self) -> None:
        for handle in self.handles:
            handle.write()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Seconds that pass when a test says so."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(openvino_child, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def begin(monkeypatch: pytest.MonkeyPatch, interval_s: float, *requests: dict[str, Any]) -> tuple[Pipeline, list[Any]]:
    library = Library()
    monkeypatch.setitem(sys.modules, "openvino_genai", library)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Tensor=lambda ids: ids))
    said: list[Any] = []
    settings = OpenVinoSettings("m.gguf", n_ctx=100, stream_interval_s=interval_s)
    pipeline = Pipeline(settings, lambda *records: said.extend(records))
    for number, request in enumerate(requests):
        plain = {"id": number, "prompt": "x", "config": {"max_new_tokens": 6}, "stops": [], "logprobs": False}
        pipeline.take(plain | request)
    said.clear()
    return pipeline, said


def pieces(said: list[Any], number: int = 0) -> list[str]:
    return [record["piece"] for record in said if record.get("id") == number and "piece" in record]


def test_the_first_token_is_told_at_once_and_later_ones_together(monkeypatch, clock) -> None:
    pipeline, said = begin(monkeypatch, 0.1, {})
    for _ in range(6):
        pipeline.step()
        clock.s += 0.04
    assert pieces(said) == ["f", "edc", "ba"]
    assert said[-1] == {"id": 0, "done": {"input_tokens": 1, "output_tokens": 6, "finish_reason": "length"}}


def test_without_an_interval_each_token_is_told(monkeypatch, clock) -> None:
    pipeline, said = begin(monkeypatch, 0.0, {})
    for _ in range(6):
        pipeline.step()
    assert pieces(said) == [*"fedcba"]


def test_a_stop_string_is_looked_for_after_every_token(monkeypatch, clock) -> None:
    pipeline, said = begin(monkeypatch, 60.0, {"stops": ["d"]}, {})
    for _ in range(4):
        pipeline.step()
    assert "".join(pieces(said)) == "fe"
    done = next(record["done"] for record in said if "done" in record)
    assert done == {"input_tokens": 1, "output_tokens": 3, "finish_reason": "stop"}
    assert pieces(said, 1) == ["f"]


def test_steps_that_tell_nothing_show_a_sign_of_life(monkeypatch, clock) -> None:
    pipeline, said = begin(monkeypatch, 60.0, {"config": {"max_new_tokens": 50}})
    for _ in range(30):
        pipeline.step()
        clock.s += 0.04
    beats = [record for record in said if "beat" in record]
    assert len(beats) == 9  # of 29 steps over 1.2 s, one in 0.12 s
    assert pieces(said) == [chr(ord("a") + 49 % 26)]
