"""``locum export``: what it refuses before anything is read, and an encoder as an embedding model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from locum.runtime.open import open_embedder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/x",), "--format"),
        (("runs/x", "--format", "onnx-int4"), "did you mean onnx-int8"),
        (("runs/x", "--as", "poem"), "student, embedder"),
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
