"""``locum export``: what it refuses before anything is read, an encoder as an embedding model, decoders that write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from locum.compress.pico import pico_generator
from locum.pipeline.build import build
from locum.runtime.open import open_embedder
from locum.testing.pico import pico_embedder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/x", "--dev", "d.jsonl"), "--dev is not for --as student"),
        (("minilm", "--as", "embedder", "--format", "onnx-int8"), "--format is not for --as embedder"),
        (("runs/x", "--as", "gguf", "--candidate", "a"), "--candidate is not for --as gguf"),
        (("runs/x", "--as", "ollama", "--base", "b.gguf"), "--base is not for --as ollama"),
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


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx-int8", "gguf-q8_0", None])
def test_a_tfidf_student_has_its_own_form_and_no_other(
    run: Any, tmp_path: Path, linear_build: Path, format: str | None
) -> None:
    words = ["export", linear_build, "--out", tmp_path / "out"]
    done = run(*words, *(() if format is None else ("--format", format)))
    if format is not None:
        assert done.status == 2 and "leave out --format" in done.stderr and not (tmp_path / "out").exists()
        return
    assert done.status == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.json", "vectorizer.json", "weights.npz"}


@pytest.fixture(scope="module")
def linear_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    words = {"refund": ("money", "charge", "payment"), "delivery": ("parcel", "courier", "late")}
    rows = [(f"{a} {b} {n}", label) for label, some in words.items() for a in some for b in some for n in range(12)]
    lines = "".join(f"{text},{label}\n" for text, label in rows)
    (folder / "rows.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    (folder / "task.yaml").write_text(
        "version: 1\nname: small\nkind: classify\ninstruction: What is it about?\n"
        "data: {train: rows.csv, input: text, output: label}\n"
        "students: [{method: linear}]\n",
        encoding="utf-8",
    )
    build(folder / "task.yaml", out=folder / "out")
    return folder / "out"
