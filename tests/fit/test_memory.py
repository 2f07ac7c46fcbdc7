"""Memory estimates follow their formulas, grow with what they depend on, and refuse in time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.core.errors import DeviceError
from locum.fit.devices import find_device
from locum.fit.memory import (
    SERVING_LIBRARIES_MB,
    TRAINING_LIBRARIES_MB,
    activation_bytes_per_token,
    free_mb,
    kept_parameters,
    largest_depth,
    require_memory,
    serving_memory,
    size_mb,
    training_memory,
)
from locum.sources.catalogue import catalogue
from locum.sources.facts import BaseFacts

MINILM = catalogue().find("all-MiniLM-L6-v2").facts
SMOLLM = catalogue().find("SmolLM2-135M").facts
TINY = BaseFacts(
    family="decoder",
    architecture="llama",
    parameters=1000 + 4 * 100,
    layers=4,
    hidden=10,
    intermediate=20,
    heads=2,
    key_value_heads=1,
    vocabulary=100,
    max_tokens=64,
)


def test_kept_parameters():
    assert kept_parameters(TINY) == 1400
    assert kept_parameters(TINY, 4) == 1400
    assert kept_parameters(TINY, 1) == 1100
    for depth in (0, 5, -1):
        with pytest.raises(ValueError, match="not between"):
            kept_parameters(TINY, depth)


def test_activations_by_hand():
    # 8·10 + 2·5 + 4·20 + 2·2·3 values of 4 bytes
    assert activation_bytes_per_token(TINY, 3) == (80 + 10 + 80 + 12) * 4
    assert activation_bytes_per_token(TINY, 3, value_bytes=2) == (80 + 10 + 80 + 12) * 2


def test_training_memory_by_hand():
    estimate = training_memory(TINY, "full", batch_tokens=6, sequence=3)
    assert estimate.parts_mb["weights"] == 4 * 1400 / 1e6
    assert estimate.parts_mb["optimiser"] == 8 * 1400 / 1e6
    assert estimate.parts_mb["activations"] == 4 * 182 * 4 * 6 / 1e6
    assert estimate.total_mb == sum(estimate.parts_mb.values())
    assert training_memory(TINY, "linear", batch_tokens=6, sequence=3).total_mb == TRAINING_LIBRARIES_MB
    head = training_memory(TINY, "head", batch_tokens=6, sequence=3)
    assert set(head.parts_mb) == {"libraries", "weights", "activations"}


def test_serving_memory_by_hand():
    estimate = serving_memory(TINY, "int8", tokens=8)
    assert estimate.parts_mb["weights"] == 1400 / 1e6
    assert "key-value cache" not in estimate.parts_mb
    generating = serving_memory(TINY, "f16", tokens=8, cache_tokens=8)
    assert generating.parts_mb["key-value cache"] == 2 * 4 * 5 * 8 * 2 / 1e6
    assert generating.parts_mb["libraries"] == SERVING_LIBRARIES_MB


def test_sizes_fit_what_is_known():
    assert size_mb(MINILM, "fp32") == pytest.approx(90.9, rel=0.01)
    assert size_mb(SMOLLM, "bf16") == pytest.approx(269, rel=0.01)
    # the published Q4_1 file keeps part of its weights in larger formats
    assert size_mb(SMOLLM, "q4_1") == pytest.approx(98.4, rel=0.2)


def test_the_explanation_has_total_parts_and_inputs():
    text = training_memory(SMOLLM, "full", batch_tokens=1024, sequence=64).explain()
    for word in ("MB", "weights", "gradients", "optimiser", "activations", "parameters 134,515,008", "layers 30"):
        assert word in text


@given(
    depth=st.integers(1, 29),
    batch=st.integers(1, 4096),
    sequence=st.integers(1, 512),
    method=st.sampled_from(["head", "full"]),
)
def test_more_of_anything_never_needs_less(depth, batch, sequence, method):
    here = training_memory(SMOLLM, method, batch_tokens=batch, sequence=sequence, depth=depth).total_mb
    assert math.isfinite(here)
    assert training_memory(SMOLLM, method, batch_tokens=batch + 1, sequence=sequence, depth=depth).total_mb >= here
    assert training_memory(SMOLLM, method, batch_tokens=batch, sequence=sequence + 1, depth=depth).total_mb >= here
    assert training_memory(SMOLLM, method, batch_tokens=batch, sequence=sequence, depth=depth + 1).total_mb > here
    full = training_memory(SMOLLM, "full", batch_tokens=batch, sequence=sequence, depth=depth).total_mb
    assert training_memory(SMOLLM, "head", batch_tokens=batch, sequence=sequence, depth=depth).total_mb <= full + 20


def test_the_largest_depth_that_fits():
    limit = 2000.0
    depth = largest_depth(SMOLLM, "full", limit, batch_tokens=1024, sequence=64)
    assert depth is not None
    assert training_memory(SMOLLM, "full", batch_tokens=1024, sequence=64, depth=depth).total_mb <= limit
    assert training_memory(SMOLLM, "full", batch_tokens=1024, sequence=64, depth=depth + 1).total_mb > limit
    assert largest_depth(SMOLLM, "full", 100.0, batch_tokens=1024, sequence=64) is None
    assert largest_depth(SMOLLM, "full", 1e9, batch_tokens=1024, sequence=64) == SMOLLM.layers


def test_free_memory_keeps_a_reserve():
    pi = find_device("raspberry-pi-5")
    assert free_mb(pi) == 0.9 * 6000
    assert free_mb(pi.model_copy(update={"available_mb": None})) == 0.9 * 8000
    assert free_mb(pi.model_copy(update={"available_mb": None, "memory_mb": None})) is None


def test_fault_35_too_little_memory_is_refused_with_estimate_and_fix():
    estimate = training_memory(SMOLLM, "full", batch_tokens=4096, sequence=128)
    with pytest.raises(DeviceError) as caught:
        require_memory(estimate, free_mb(find_device("phone-6gb")), fix="keep fewer layers: depth: 8")
    assert caught.value.code == "fit-memory"
    for word in ("1,800 MB", "training:", "optimiser", "batch tokens 4,096", "depth: 8"):
        assert word in str(caught.value)


def test_fault_35_what_fits_or_is_unknown_passes():
    estimate = serving_memory(MINILM, "int8", tokens=256)
    assert require_memory(estimate, estimate.total_mb, fix="") is None
    assert require_memory(estimate, None, fix="") is None
