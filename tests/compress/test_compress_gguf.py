"""GGUF files: read back by the gguf package, tokenized and embedded by llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer

import locum.compress.gguf_export as gguf_export
from locum.compress.gguf_export import HEAD_NAME, export_gguf, gguf_tensors, interleave
from locum.compress.gguf_tokenizer import pre_tokenizer_name
from locum.compress.pico import PicoStudent, pico_student
from locum.core.errors import LocumError
from locum.core.files import sha256_file
from locum.runtime.gguf_check import check_gguf
from locum.runtime.llama_embed import TextVectors
from locum.runtime.llama_settings import EngineSettings


def write(student: PicoStudent, folder: Path, kind: Any = "f16") -> Path:
    path = folder / "model.gguf"
    export_gguf(student.load(), student.folder / "tokenizer.json", path, kind=kind, name="pico")
    return path


@pytest.fixture(scope="module")
def f16(decoder: PicoStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(decoder, tmp_path_factory.mktemp("f16"))


@pytest.fixture(scope="module")
def q8_0(decoder: PicoStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(decoder, tmp_path_factory.mktemp("q8_0"), "q8_0")


def test_the_header_passes_our_own_check(f16: Path, decoder: PicoStudent) -> None:
    header = check_gguf(f16)
    assert header.architecture == "llama" and header.embedding_length == 64
    assert header.metadata["llama.block_count"] == 2  # cut from three
    assert header.metadata["llama.attention.head_count_kv"] == 2
    assert header.parameters == sum(tensor.numel() for tensor in decoder.load().body.parameters())


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("q8_0", 1.1 / 254)])
def test_weights_come_back(kind: str, tolerance: float, decoder: PicoStudent, request: pytest.FixtureRequest) -> None:
    read = {tensor.name: tensor for tensor in GGUFReader(request.getfixturevalue(kind)).tensors}
    body = decoder.load().body
    expected = dict(gguf_tensors(body.config, body.state_dict()))
    assert set(read) == set(expected)
    for name, values in expected.items():
        found = dequantize(read[name].data, read[name].tensor_type).reshape(values.shape)
        assert np.abs(found - values).max() <= tolerance * np.abs(values).max() + 1e-7, name
        assert values.ndim == 2 or read[name].tensor_type.name == "F32"


def test_interleaving_is_what_transformers_undoes() -> None:
    """transformers reads GGUF files of llama.cpp; its inverse is the reference."""
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    rows = np.arange(4 * 6 * 3, dtype=np.float32).reshape(24, 3)
    undone = LlamaTensorProcessor()._reverse_permute_weights(interleave(rows, 4), 4, 4)
    np.testing.assert_array_equal(undone, rows)


def test_the_same_student_has_one_hash(q8_0: Path, decoder: PicoStudent, tmp_path: Path) -> None:
    again = write(decoder, tmp_path, "q8_0")
    assert sha256_file(again) == sha256_file(q8_0)
    assert sha256_file(again.with_name(HEAD_NAME)) == sha256_file(q8_0.with_name(HEAD_NAME))


def embed(path: Path, texts: list[str]) -> np.ndarray:
    settings = EngineSettings(threads=1)
    vectors = TextVectors(path, check_gguf(path), max_tokens=32, pooling="last", normalise=False, settings=settings)
    try:
        return np.stack([vectors.vector(text)[0] for text in texts])
    finally:
        vectors.close()


def reference(student: PicoStudent, texts: list[str]) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(student.folder / "tokenizer.json"))
    model = student.load()
    rows = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            rows.append(model.embed(ids, torch.ones_like(ids)))
    return torch.cat(rows).numpy()


TEXTS = ["card", "where is my card", "PIN 4711 lost!", "é ü — 😀", "  two  spaces\nand a line"]


@pytest.mark.engines
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_llama_cpp_embeds_as_pytorch(model_type: str, tmp_path: Path) -> None:
    student = pico_student(tmp_path / "student", model_type, depth=2, rows=4)
    path = write(student, tmp_path)
    ours, expected = embed(path, TEXTS), reference(student, TEXTS)
    assert np.abs(ours - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.engines
def test_rows_that_are_not_interleaved_would_show(
    decoder: PicoStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_export, "interleave", lambda rows, heads: rows)
    path = write(decoder, tmp_path)
    ours, expected = embed(path, TEXTS), reference(decoder, TEXTS)
    assert np.abs(ours - expected).max() > 0.2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                ],
            },
            "smollm",
        ),
    ],
)
def test_known_splits_have_names(section: dict[str, Any], name: str) -> None:
    assert pre_tokenizer_name(section, Path("tokenizer.json")) == name


@pytest.mark.parametrize(
    "section",
    [
        None,
        {"type": "Whitespace"},
        {"type": "ByteLevel", "add_prefix_space": True},
        {"type": "Sequence", "pretokenizers": []},
        {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x"}}, {"type": "ByteLevel"}]},
    ],
)
def test_unknown_splits_are_refused(section: Any) -> None:
    with pytest.raises(LocumError, match="pre_tokenizer") as caught:
        pre_tokenizer_name(section, Path("tokenizer.json"))
    assert caught.value.code == "compress-export"


def refused(student: PicoStudent, tmp_path: Path, **changes: Any) -> str:
    content = json.loads((student.folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps(content | changes), encoding="utf-8")
    with pytest.raises(LocumError) as caught:
        export_gguf(student.load(), tokenizer, tmp_path / "model.gguf", kind="f16", name="pico")
    assert caught.value.code == "compress-export"
    assert not (tmp_path / "model.gguf").exists()
    return caught.value.cause


def test_other_tokenizers_are_refused(decoder: PicoStudent, tmp_path: Path) -> None:
    assert "'WordLevel'" in refused(decoder, tmp_path, model={"type": "WordLevel", "vocab": {"a": 0}})


def test_token_ids_beyond_the_embeddings_are_refused(decoder: PicoStudent, tmp_path: Path) -> None:
    added = [{"id": 300, "content": "<|more|>", "special": True}]
    assert "token id 300" in refused(decoder, tmp_path, added_tokens=added)


def test_two_tokens_before_a_text_are_refused(decoder: PicoStudent, tmp_path: Path) -> None:
    pieces = [{"SpecialToken": {"id": "<|im_start|>"}}] * 2 + [{"Sequence": {"id": "A"}}]
    section = {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": {}}
    assert "adds" in refused(decoder, tmp_path, post_processor=section)


def test_encoders_have_no_gguf_form(encoder: PicoStudent, tmp_path: Path) -> None:
    with pytest.raises(LocumError, match="architecture 'bert'"):
        write(encoder, tmp_path)


def test_scaled_positions_are_refused(decoder: PicoStudent, tmp_path: Path) -> None:
    model = decoder.load()
    model.body.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    with pytest.raises(LocumError, match="positions of type 'yarn'"):
        export_gguf(model, decoder.folder / "tokenizer.json", tmp_path / "m.gguf", kind="f16", name="pico")


def test_weights_too_large_for_f16_are_refused(decoder: PicoStudent, tmp_path: Path) -> None:
    model = decoder.load()
    with torch.no_grad():
        model.body.embed_tokens.weight[0, 0] = 1e5
    with pytest.raises(LocumError, match="token_embd.weight: a weight over 65504"):
        export_gguf(model, decoder.folder / "tokenizer.json", tmp_path / "m.gguf", kind="f16", name="pico")
    assert not list(tmp_path.iterdir())
