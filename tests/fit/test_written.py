"""What writing costs: by hand, ruled out by the budget, and against llama.cpp itself."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import pytest

from locum.core.cpu import usable_cores
from locum.core.errors import SourceError
from locum.fit.device import profile_device
from locum.fit.ladder import DataSize, Machines, make_ladder
from locum.fit.memory import SERVING_LIBRARIES_MB, cache_bytes_per_token
from locum.fit.time import OVERHEAD_MS, SERVING_EFFICIENCY, forward_flops
from locum.fit.written import Writing, instruction_tokens, weight_format, writer_estimate, writing
from locum.runtime.completion import CompletionRequest, Message
from locum.runtime.llama_settings import STUDENT_SLOTS
from locum.runtime.memory import resident_mb
from locum.runtime.open import open_model
from locum.schema.device import DeviceProfile
from locum.schema.task import Task
from locum.sources.catalogue import catalogue
from locum.students.open import patient_settings

BASE = "SmolLM2-135M-Instruct"
FACTS = catalogue().find(BASE).facts
DEVICE = DeviceProfile(
    name="this",
    source="measured",
    system="Linux",
    cpu="server",
    architecture="x86_64",
    cores=2,
    memory_mb=24000,
    instructions=("avx2",),
    matmul_gflops=260.0,
    memory_gb_s=14.0,
)
HERE = Machines(DEVICE, DEVICE)
CACHED = 2 * 30 * 192 * 2
"""Bytes a token: keys and values of 30 layers, a third of 576 wide, in f16."""
WITHIN = 3.0
"""The factor that an estimated latency may be off by, as docs/tasks.md says."""


def task(**fields: Any) -> Task:
    return Task.model_validate(
        {
            "version": 1,
            "name": "t",
            "kind": "generate",
            "profile": "summarise",
            "instruction": "Sum it up.",
            "data": {"train": "t.csv", "input": "text", "output": "summary"},
            **fields,
        }
    )


def size(answer_tokens: int | None) -> DataSize:
    return DataSize(train_rows=500, mean_chars=400, labels=2, answer_tokens=answer_tokens)


def test_what_is_read_and_written_by_hand() -> None:
    head = instruction_tokens(task())
    assert head == 120 + 2
    assert writing(task(), "prompt", 100, 30) == Writing(head + 100, 30, 2048, head)
    assert writing(task(), "few_shot", 100, 30) == Writing(head + 100 + 4 * 130, 30, 2048, head + 4 * 130)
    assert writing(task(generation={"samples": 2}), "full", 100, 30).written == 90
    assert writing(task(generation={"context": 256}), "few_shot", 100, 30) == Writing(256, 30, 256, 156)


def test_latency_and_memory_by_hand() -> None:
    assert cache_bytes_per_token(FACTS) == CACHED
    found = writer_estimate(BASE, "prompt", FACTS, Writing(200, 40, 2048), DEVICE)
    read_s = forward_flops(FACTS, 200, sequence=200) / (260e9 * SERVING_EFFICIENCY)
    bytes_each = FACTS.parameters * 20 / 32 + CACHED * (200 + 40 / 2)
    assert found.latency_ms == pytest.approx(OVERHEAD_MS + 1e3 * (read_s + 40 * bytes_each / 14e9))
    shared = writer_estimate(BASE, "prompt", FACTS, Writing(1200, 40, 2048, 1000), DEVICE)
    whole = writer_estimate(BASE, "prompt", FACTS, Writing(1200, 40, 2048), DEVICE)
    beyond_s = (forward_flops(FACTS, 200, sequence=1200) - forward_flops(FACTS, 200, sequence=200)) / (
        260e9 * SERVING_EFFICIENCY
    )  # what every prompt begins with is read once for all answers, and attended to by each
    assert shared.latency_ms == pytest.approx(found.latency_ms + 1e3 * (beyond_s + 40 * CACHED * 1000 / 14e9))
    assert whole.latency_ms is not None and shared.latency_ms is not None and whole.latency_ms > 1.3 * shared.latency_ms
    least_mb = SERVING_LIBRARIES_MB + (FACTS.parameters * 20 / 32 + CACHED * 2048 * STUDENT_SLOTS) / 1e6
    assert found.memory_mb is not None and least_mb < found.memory_mb < least_mb + 100
    assert found.inputs["tokens written"] == 40 and found.inputs["tokens of cache"] == 8192
    assert found.inputs["memory GB/s"] == 14.0 and found.inputs["format"] == "q4_1"


def test_the_format_is_that_of_what_is_served() -> None:
    assert weight_format(BASE, "full") == "q8_0"
    assert weight_format("gemma-3-270m", "prompt") == "q4_k_m"
    assert weight_format("Qwen2.5-Coder-1.5B-Instruct", "few_shot") == "q4_k_m"


@pytest.mark.parametrize("students", ["auto", [{"base": BASE, "method": "prompt"}]])
def test_long_answers_cannot_meet_a_budget_that_short_ones_can(students: Any) -> None:
    asked = task(students=students, budget={"latency_ms": 1000})
    short, long = (make_ladder(asked, size(tokens), HERE)[0] for tokens in (10, 200))
    assert short.skipped is None
    assert long.skipped is not None and "over the 1000 ms of the budget" in long.skipped
    assert "writes 200" in long.skipped


def test_a_long_context_takes_memory() -> None:
    few, many = (
        make_ladder(task(generation={"context": context}), size(10), HERE)[0].estimate.memory_mb or 0
        for context in (512, 8192)
    )
    assert many - few == pytest.approx(CACHED * 7680 * STUDENT_SLOTS / 1e6)
    ruled_out = make_ladder(task(budget={"memory_mb": 200}), size(10), HERE)[0]
    assert ruled_out.skipped is not None and "memory" in ruled_out.skipped


def test_a_length_that_is_not_known_is_no_latency() -> None:
    ladder = make_ladder(task(budget={"latency_ms": 0.1}), size(None), HERE)
    assert [(each.skipped, each.estimate.latency_ms) for each in ladder] == [(None, None)] * 3


def test_a_prompted_classifier_writes_too() -> None:
    students = [{"base": BASE, "method": "prompt"}]
    (candidate,) = make_ladder(task(kind="classify", profile=None, students=students), size(4), HERE)
    assert candidate.estimate.inputs["tokens written"] == 4


@pytest.mark.models
@pytest.mark.engines
def test_against_llama_cpp_on_this_machine() -> None:
    from locum.sources.bases import ensure_base

    try:
        path = ensure_base(BASE, format="gguf")
    except SourceError as error:
        pytest.skip(f"{BASE} cannot be had here: {error}")
    device = profile_device(measure=True)
    model = open_model(path, patient_settings(usable_cores(), task()))
    taken: list[float] = []
    read = written = 0
    try:
        for number in range(4):
            words = f"Number {number}. " + "The parcel came late and the courier left no note. " * 14
            request = CompletionRequest((Message("user", words),), max_tokens=40, whole=True)
            read = len(model.prompt_tokens(request))
            start_s = time.perf_counter()
            written = model.complete(request).output_tokens
            taken.append(1e3 * (time.perf_counter() - start_s))
        resident = resident_mb(model.process.pid)
    finally:
        model.close()
    guess = writer_estimate(BASE, "prompt", FACTS, Writing(read, written, 2048), device)
    assert guess.latency_ms is not None and guess.memory_mb is not None and resident is not None
    measured_ms = median(taken[1:])  # the first one warms up
    print(f"{read} read, {written} written: {measured_ms:.0f} ms, estimated {guess.latency_ms:.0f}")
    print(f"{resident:.0f} MB, estimated {guess.memory_mb:.0f}, from {guess.inputs}")
    assert measured_ms / WITHIN <= guess.latency_ms <= measured_ms * WITHIN
    assert resident / 1.6 <= guess.memory_mb <= resident * 1.6
