"""Time estimates follow their formulas and stay within a factor of three of what was measured."""

import pytest

from locum.fit.devices import find_device
from locum.fit.time import (
    OVERHEAD_MS,
    TRAINING_EFFICIENCY,
    forward_flops,
    latency_ms,
    training_flops,
    training_seconds,
    training_seconds_at,
)
from locum.schema.device import DeviceProfile
from locum.sources.catalogue import catalogue
from locum.sources.facts import BaseFacts

MINILM = catalogue().find("all-MiniLM-L6-v2").facts
SMOLLM = catalogue().find("SmolLM2-135M").facts
TINY = BaseFacts(
    family="decoder",
    architecture="llama",
    parameters=1400,
    layers=4,
    hidden=10,
    intermediate=20,
    heads=2,
    key_value_heads=1,
    vocabulary=100,
    max_tokens=64,
)
# two cores of a server with AVX-512 VNNI and AMX, on which the measured figures below were taken
SERVER = DeviceProfile(
    name="this",
    source="measured",
    system="Linux",
    cpu="server",
    architecture="x86_64",
    cores=2,
    memory_mb=24000,
    instructions=("avx2", "avx512f", "avx512_vnni"),
    matmul_gflops=260.0,
    memory_gb_s=14.0,
)
UNKNOWN = SERVER.model_copy(update={"matmul_gflops": None, "memory_gb_s": None})


def test_forward_by_hand():
    assert forward_flops(TINY, 6, sequence=3) == 2 * 400 * 6 + 4 * 4 * 10 * 3 * 6
    assert forward_flops(TINY, 6, sequence=3, depth=2) == 2 * 200 * 6 + 4 * 2 * 10 * 3 * 6


def test_training_counts_backward_and_epochs_only_where_they_are():
    once = forward_flops(TINY, 6, sequence=3)
    assert training_flops(TINY, "full", tokens=6, sequence=3, epochs=5) == 15 * once
    assert training_flops(TINY, "head", tokens=6, sequence=3, epochs=5) == once
    assert training_flops(TINY, "linear", tokens=6, sequence=3, epochs=5) == 0


def test_seconds_by_hand_and_unknown():
    assert training_seconds(260e9 * TRAINING_EFFICIENCY * 7, SERVER) == pytest.approx(7)
    assert training_seconds(1e12, UNKNOWN) is None
    assert training_seconds_at(1000, 250) == 4
    with pytest.raises(ValueError, match="positive"):
        training_seconds_at(1000, 0)


def within(estimate, measured, factor=3.0):
    return estimate is not None and measured / factor <= estimate <= measured * factor


def test_against_measured_latency_of_an_encoder():
    assert within(latency_ms(MINILM, "int8", SERVER, input_tokens=16), 1.9)


def test_against_measured_prefill_and_decode_of_a_decoder():
    prefill = latency_ms(SMOLLM, "q4_1", SERVER, input_tokens=512)
    assert within(prefill, 512 / 350 * 1e3)
    longer = latency_ms(SMOLLM, "q4_1", SERVER, input_tokens=512, output_tokens=100)
    assert prefill is not None
    assert longer is not None
    assert within((longer - prefill) / 100, 1e3 / 139)


def test_against_measured_training():
    """10,003 short messages, tuned in about 7 minutes on two cores; their features taken in under one."""
    full = training_flops(MINILM, "full", tokens=10_003 * 20, sequence=20, epochs=5)
    assert within(training_seconds(full, SERVER), 420)
    head = training_flops(MINILM, "head", tokens=10_003 * 20, sequence=20, epochs=5)
    assert within(training_seconds(head, SERVER), 50)


def test_latency_is_unknown_on_an_unmeasured_device():
    assert latency_ms(MINILM, "int8", UNKNOWN, input_tokens=16) is None


def test_latency_grows_and_has_a_floor():
    here = [latency_ms(SMOLLM, "int8", SERVER, input_tokens=count) for count in (1, 64, 256)]
    assert all(value is not None and value > OVERHEAD_MS for value in here)
    assert here == sorted(here)  # type: ignore[type-var]
    shallow = latency_ms(SMOLLM, "int8", SERVER, input_tokens=64, depth=8)
    assert shallow is not None
    assert shallow < (here[1] or 0)


def test_int8_instructions_help():
    plain = SERVER.model_copy(update={"instructions": ("avx2",)})
    fast = latency_ms(MINILM, "int8", SERVER, input_tokens=256)
    slow = latency_ms(MINILM, "int8", plain, input_tokens=256)
    assert fast is not None
    assert slow is not None
    assert fast < slow


def test_every_named_device_gets_an_estimate():
    for name in ("raspberry-pi-5", "phone-6gb", "laptop", "server-cpu-2"):
        assert latency_ms(MINILM, "int8", find_device(name), input_tokens=32) is not None
