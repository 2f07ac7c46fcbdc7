"""llama.cpp with a real small model: its template, speculation, log-probabilities against PyTorch, classification."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import LocumError, ModelFileError
from locum.models.gguf_once import gguf_read_once
from locum.runtime import CompletionRequest, Message, open_classifier, open_generator
from locum.runtime.completion import Completion
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.memory import resident_mb
from locum.runtime.model_files import seal
from locum.runtime.open import open_model
from locum.schema.task import LlmSpec
from locum.testing.pico_gguf import pico_gguf

pytestmark = [pytest.mark.models, pytest.mark.engines]


def test_fault_30_a_head_of_another_width_is_refused(tmp_path: Path, smollm2: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(smollm2.read_bytes())
    np.savez(folder / "head.npz", weight=np.ones((2, 100), np.float32), bias=np.zeros(2, np.float32))
    seal(
        folder,
        name="m",
        engine="llamacpp",
        family="decoder",
        precision="q8_0",
        labels=("a", "b"),
        weights="model.gguf",
        max_tokens=16,
        parameters=1,
        pooling="last",
    )
    with pytest.raises(ModelFileError, match=r"head\.npz"):
        open_classifier(folder)


def test_a_draft_with_another_vocabulary_is_refused(tmp_path: Path, smollm2: Path) -> None:
    with pytest.raises(ModelFileError, match="vocabulary") as caught:
        LlamaGenerator(smollm2, EngineSettings(draft=pico_gguf(tmp_path / "pico.gguf").path))
    assert caught.value.code == "runtime-mismatch"


def answer(path: Path, request: CompletionRequest, settings: EngineSettings) -> Completion:
    model = open_model(path, settings)
    try:
        return model.complete(request)
    finally:
        model.close()


def test_a_real_model_writes_through_its_own_template(smollm2: Path) -> None:
    generator = open_generator(LlmSpec(model=str(smollm2), timeout_s=120), threads=1, n_ctx=512)
    assert isinstance(generator, LlamaGenerator)
    try:
        request = CompletionRequest((Message("user", "What is the capital of France? One word."),), max_tokens=8)
        first, second = generator.complete(request), generator.complete(request)
        assert "Paris" in first.text
        assert first.text == second.text
        assert first.input_tokens > 10 and 0 < first.output_tokens <= 8
        assert (resident_mb(generator.process.pid) or 0) > 50
        scores = generator.score(replace(request, messages=request.messages), ["Paris", "Berlin", "Banana"])
        assert scores.argmax() == 0
        with pytest.raises(LocumError) as caught:
            generator.complete(CompletionRequest((Message("user", "word " * 3000),)))
        assert caught.value.code == "runtime-too-long"
    finally:
        generator.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_scores_of_a_real_model_are_pytorchs(smollm2: Path) -> None:
    """Tolerance 0.3: llama.cpp rounds what enters each 4-bit matrix product to 8 bits, PyTorch does not."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    request = CompletionRequest((), prompt=question)
    continuations = ["Paris", "London", "The capital of France is Paris."]
    model = open_model(smollm2, EngineSettings(n_ctx=256, slots=1, threads=1, timeout_s=600, idle_s=120))
    try:
        found = model.score(request, continuations)
    finally:
        model.close()
    folder, name = str(smollm2.parent), smollm2.name
    with gguf_read_once():
        network = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    prompt = tokenizer(request.prompt, add_special_tokens=False).input_ids
    for text, score in zip(continuations, found, strict=True):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        with torch.inference_mode():
            rows = torch.log_softmax(network(torch.tensor([prompt + ids])).logits[0].double(), -1)
        expected = sum(rows[len(prompt) - 1 + place, token].item() for place, token in enumerate(ids))
        assert score == pytest.approx(expected, abs=0.3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_speculation_does_not_change_a_real_models_answer(smollm2: Path) -> None:
    """The model drafts for itself, four tokens a step, so four fifths of the answer are drafts, and all are right."""
    text = "Write the numbers from 1 to 40, separated by commas."
    request = CompletionRequest((Message("user", text),), max_tokens=64)
    settings = EngineSettings(n_ctx=512, slots=1, threads=1, timeout_s=600)
    plain = answer(smollm2, request, settings)
    assert plain.output_tokens == 64
    lookup = open_model(smollm2, replace(settings, lookup_tokens=8, lookup_match=3))
    draft = open_model(smollm2, replace(settings, draft=smollm2))
    try:
        for _ in range(2):  # the second time over a prompt that was kept
            copied, drafted = lookup.complete(request), draft.complete(request)
            assert copied.text == drafted.text == plain.text
            assert accepted(copied) >= 0.6 * 64 and accepted(copied, of_all=True) >= 0.9
            assert accepted(drafted) >= 0.75 * 64 and accepted(drafted, of_all=True) >= 0.95
        assert drafted.cached_tokens > 20
    finally:
        lookup.close()
        draft.close()


def accepted(completion: Completion, *, of_all: bool = False) -> float:
    """How many tokens written ahead were right; or their share."""
    count = int(completion.extra["draft_accepted"])
    return count / int(completion.extra["draft_tokens"]) if of_all else count


@pytest.mark.timeout(600)
def test_a_prompt_that_takes_longer_than_the_silence_allowed_is_read_and_answered(smollm2: Path) -> None:
    """Each step of 32 tokens is told; the whole prompt takes three times as long as the engine may be silent."""
    model = open_model(smollm2, EngineSettings(n_ctx=1024, slots=1, threads=1, batch_tokens=32, timeout_s=300))
    request = CompletionRequest((), prompt=" ".join(f"{number} bottles" for number in range(100)), max_tokens=1)
    try:
        model.start()
        start_s = time.monotonic()
        model.complete(request)
        model.process.idle_s = (time.monotonic() - start_s) / 3
        pid = model.process.pid
        start_s = time.monotonic()
        again = model.complete(replace(request, prompt="Song: " + (request.prompt or "")))  # nothing of it is kept
        assert time.monotonic() - start_s > model.process.idle_s
        assert again.input_tokens > 250 and again.cached_tokens < 32
        assert model.process.pid == pid
        start_s = time.monotonic()
        assert model.score(replace(request, prompt="Verse: " + (request.prompt or "")), ["a"])[0] < 0
        assert time.monotonic() - start_s > model.process.idle_s
    finally:
        model.close()
