"""``locum export``: what it refuses before anything is read, an encoder as an embedding model, decoders that write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from locum.compress.pico import pico_generator
from locum.runtime.open import open_embedder
from locum.testing.pico import pico_embedder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/x",), "--format"),
        (("runs/x", "--format", "onnx-int4"), "did you mean onnx-int8"),
        (("runs/x", "--as", "poem"), "student, embedder"),
        (("runs/x", "--as", "olama"), "did you mean ollama"),
        (("runs/x", "--as", "gguf", "--format", "q8_1"), "did you mean q8_0"),
        (("runs/x", "--as", "adapter"), "--base"),
        (("runs/x", "--as", "ollama"), "--as gguf"),
        (("all-MiniLM-L6-v1", "--as", "embedder"), "did you mean"),
        (("SmolLM2-135M", "--as", "embedder"), "encoder"),
    ],
)
def test_mistakes_are_said_first(run: Any, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run("export", *words, "--out", tmp_path / "out")
    assert done.status == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.models
@pytest.mark.slow
def test_minilm_as_an_embedder(run: Any, tmp_path: Path) -> None:
    done = run("export", "minilm", "--as", "embedder", "--out", tmp_path / "out", "--json")
    if done.status == 2 and "source-" in done.stderr:
        pytest.skip("all-MiniLM-L6-v2 cannot be had here")
    assert done.status == 0, done.stderr
    assert done.document["parity"]["cosine_min"] >= 0.99
    assert not (tmp_path / "out.log").exists()
    opened = open_embedder(tmp_path / "out")
    near, same, far = opened.embed(["How do I change my PIN?", "I want another PIN", "Dinosaurs died out long ago."])
    assert near @ same > near @ far + 0.3
    opened.close()


@pytest.mark.engines
@pytest.mark.slow
def test_a_tuned_decoder_is_checked_served_and_laid_out(run: Any, tmp_path: Path) -> None:
    from locum.cli.serve import open_target

    tuned = pico_generator(tmp_path, "llama", rows=3)
    out = tmp_path / "model"
    done = run("export", tuned.folder, "--as", "gguf", "--out", out, "--json")
    assert done.status == 2 and "dev.jsonl" in done.stderr and not out.exists()
    words = ("export", tuned.folder, "--as", "gguf", "--dev", tuned.dev, "--format", "f16", "--out", out)
    done = run(*words, "--json")
    assert done.status == 0, done.stderr
    assert done.document["parity"]["passed"] and done.document["parity"]["precision"] == "f16"
    target = open_target(str(out), threads=1, engine=None, draft=None, adapters=(), slots=1, n_ctx=128)
    target.close()
    for layout, files in (
        ("ollama", ["Modelfile", "model.gguf"]),
        ("gguf", ["model.gguf", "model.json", "parity.json"]),
    ):
        done = run("export", out, "--as", layout, "--out", tmp_path / layout, "--json")
        assert done.status == 0, done.stderr
        assert done.document["files"] == files


def test_an_encoder_is_no_tuned_decoder(run: Any, tmp_path: Path) -> None:
    pico_embedder(tmp_path / "m")
    done = run("export", tmp_path / "m", "--as", "ollama", "--out", tmp_path / "out")
    assert done.status == 2 and "runtime-purpose" in done.stderr
