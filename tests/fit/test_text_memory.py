"""Memory of a GGUF file that writes text: worked out by hand, and against what the file says."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DeviceError
from locum.fit.memory import SERVING_LIBRARIES_MB, require_memory
from locum.fit.text_memory import cache_values, text_memory
from locum.runtime.completion import CompletionRequest
from locum.runtime.gguf_check import GgufHeader, check_gguf
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.memory import peak_resident_mb
from locum.testing.pico_gguf import pico_gguf, pico_lora


def header_of(**fields: Any) -> GgufHeader:
    known = {"block_count": 28, "embedding_length": 1536, "attention.head_count": 12, "attention.head_count_kv": 2}
    metadata = {f"m.{name.replace('__', '.')}": value for name, value in (known | fields).items() if value is not None}
    return GgufHeader(3, {"general.architecture": "m", **metadata})


def test_what_is_kept_for_a_token() -> None:
    """Qwen2.5-1.5B: 28 layers, 2 heads of keys and values, each 128 wide."""
    assert cache_values(header_of()) == 28 * 2 * (128 + 128)
    assert cache_values(header_of(**{"attention.head_count_kv": None})) == 28 * 12 * (128 + 128)
    wide = {"attention.key_length": 192, "attention.value_length": 64}
    assert cache_values(header_of(**wide)) == 28 * 2 * (192 + 64)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention.sliding_window": 512},
        {"attention.kv_lora_rank": 512},
        {"ssm.state_size": 16},
        {"block_count": None},
        {"attention.head_count": 0},
        {"embedding_length": None},
        {"attention.key_length": "wide"},
    ],
)
def test_what_a_header_does_not_tell_is_unknown(fields: dict[str, Any]) -> None:
    assert cache_values(header_of(**fields)) is None


def test_heads_that_differ_between_layers_are_unknown() -> None:
    header = header_of()
    header.array_types["m.attention.head_count_kv"] = 4
    assert cache_values(header) is None


def test_the_parts_by_hand(tmp_path: Path) -> None:
    """The pico decoder has 2 layers and 2 heads of 32 for keys and for values: 256 numbers a token."""
    path, adapter = pico_gguf(tmp_path / "m.gguf", n_ctx=300).path, tmp_path / "a.gguf"
    pico_lora(adapter)
    settings = EngineSettings(n_ctx=512, slots=3, kv_type="q8_0", draft=path, adapters={"a": adapter})
    estimate = text_memory(path, check_gguf(path), settings)
    file_mb, cache_mb = path.stat().st_size / 1e6, 3 * 300 * 256 * 34 / 32 / 1e6
    assert estimate.parts_mb == pytest.approx(
        {
            "libraries": SERVING_LIBRARIES_MB,
            "weights": file_mb,
            "key-value cache": cache_mb,
            "draft": file_mb + cache_mb,
            "adapters": adapter.stat().st_size / 1e6,
        }
    )
    assert estimate.inputs["context"] == 300


def test_a_refusal_has_the_figures(tmp_path: Path) -> None:
    path = pico_gguf(tmp_path / "m.gguf", n_ctx=1 << 20).path
    estimate = text_memory(path, check_gguf(path), EngineSettings(n_ctx=1 << 20, slots=256))
    with pytest.raises(DeviceError) as caught:
        require_memory(estimate, 20_000, fix="make it smaller")
    for figure in ("137,4", "context 1,048,576", "slots 256", "20,000 MB"):
        assert figure in caught.value.cause


@pytest.mark.parametrize(
    ("settings", "kept_mb"), [({}, 256), ({"prompt_cache_mb": 40}, 40), ({"prefix_reuse": False}, 0)]
)
def test_fault_18_what_is_kept_of_earlier_prompts_is_in_the_estimate(
    tmp_path: Path, settings: dict[str, Any], kept_mb: float
) -> None:
    path = pico_gguf(tmp_path / "m.gguf").path
    estimate = text_memory(path, check_gguf(path), EngineSettings(**settings))
    assert estimate.parts_mb.get("prompt cache", 0) == kept_mb


@pytest.mark.engines
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory of a child is read from /proc")
def test_fault_18_the_engine_grows_by_as_much_as_the_estimate_says(tmp_path: Path) -> None:
    """New prompts of half as much again as the cache holds: what the process takes with it, and what without."""
    path = pico_gguf(tmp_path / "m.gguf", n_ctx=4096).path
    peaks_mb: list[float] = []
    estimates_mb: list[float] = []
    for cache_mb in (0, 60):
        settings = EngineSettings(n_ctx=4096, slots=2, threads=2, batch_tokens=2048, prompt_cache_mb=cache_mb)
        estimates_mb.append(text_memory(path, check_gguf(path), settings).total_mb)
        model = LlamaGenerator(path, settings)
        letters, tokens = random.Random(0), 0
        while tokens < 180_000:
            text = "".join(letters.choices("abcdefghijklmnop ", k=3800))
            tokens += model.complete(CompletionRequest((), prompt=text, max_tokens=1)).input_tokens
        peaks_mb.append(peak_resident_mb(model.process.pid) or 0)
        model.close()
    assert peaks_mb[1] - peaks_mb[0] == pytest.approx(estimates_mb[1] - estimates_mb[0], rel=0.3)
    assert peaks_mb[1] == pytest.approx(estimates_mb[1], rel=0.35)
