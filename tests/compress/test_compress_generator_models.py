"""SmolLM2 that writes, exported as GGUF and held against PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.compress.generator import export_generator
from locum.core.files import write_text
from locum.models.base_files import inspect_base
from locum.models.causal import load_causal, load_chat_tokenizer, save_causal
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import open_model
from locum.schema.message import Message
from locum.schema.training import Conversation, GeneratorExportRequest, Turn
from locum.sources.bases import ensure_base

pytestmark = [pytest.mark.models, pytest.mark.engines, pytest.mark.slow]

ROWS = {
    "What is the capital of France? Give one word.": "Paris",
    "Translate to German: Good morning! 😀": "Guten Morgen! 😀",
}


def test_smollm2_in_gguf_reads_weighs_and_writes_as_pytorch(tmp_path: Path) -> None:
    base = inspect_base(ensure_base("SmolLM2-135M-Instruct", format="gguf"))
    save_causal(load_causal(base), load_chat_tokenizer(base), base, tmp_path / "tuned", [2, 0])
    rows = [
        Conversation(id=question, messages=(Turn(role="user", content=question),), completion=answer)
        for question, answer in ROWS.items()
    ]
    write_text(tmp_path / "dev.jsonl", "".join(row.model_dump_json() + "\n" for row in rows))
    request = GeneratorExportRequest(
        name="smollm2",
        folder=str(tmp_path / "tuned"),
        dev=str(tmp_path / "dev.jsonl"),
        threads=1,
        formats=("q8_0",),
        answer_tokens=6,
        max_mean_gap=0.2,  # int8 products move this model more than larger ones
        max_perplexity_ratio=1.2,  # of a dozen tokens
        min_equal_answers=0.0,
    )
    parity = export_generator(request, tmp_path / "model")
    assert parity.prompts_equal == 1 and parity.n == 2 and parity.tokens >= 6
    assert parity.size_mb < 150
    model = open_model(tmp_path / "model" / "model.gguf", EngineSettings(n_ctx=256, slots=1, threads=1, timeout_s=240))
    try:
        question = next(iter(ROWS))
        assert "Paris" in model.complete(CompletionRequest((Message("user", question),), max_tokens=8)).text
    finally:
        model.close()
