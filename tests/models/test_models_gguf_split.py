"""Text is split before BPE as llama.cpp splits it, whatever the GGUF file says; or the file is refused."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from locum.compress.gguf_export import write_gguf
from locum.core.errors import LocumError, ModelFileError, SourceError
from locum.models.base_files import inspect_base
from locum.models.causal import load_causal, load_chat_tokenizer
from locum.models.gguf_split import NAMES
from locum.models.tokenizer import write_tokenizer
from locum.runtime.completion import CompletionRequest
from locum.runtime.gguf_check import check_gguf
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.tokenize import TextTokenizer
from locum.testing.pico_gguf import pico_gguf

MERGES: list[tuple[str, str]] = [
    *[("1", "2"), ("12", "3"), ("123", "4"), ("b", "c"), ("a", "b"), ("ab", "c"), ("\r", "\n")],
    *itertools.product("a1 .'s\n", "a1 .'s\n"),
]
"""Any two of some characters are joined unless a split stands between them; ``abc`` is a token no merge leads to."""
PIECES = [
    *[
        "a",
        "B",
        "é",
        "ß",
        "1",
        "23",
        "12345",
        "٣",
        "½",
        "²",
        "Ⅷ",
        "一",
        "中文",
        "😀",
        "👩‍👧",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
    ],
    *["'s", "'LL", "'", '"', ".", "...", "-", "_", "()", "==", "\u00a0", "\u3000", "\u200b", "क", "ि", "لا", "\u0301"],
    *["abc", " word", "def f(x):", "    return x1", " 12", "3.14", "$", "€", "\x85", "\u2028", "\x0b", "<|im_end|>"],
]
WRITTEN = [
    "On 12/05/2024 I paid $1,234.50.",
    "for i in range(10):\n\n    print(i**2)  # 100 %",
    "٣٤٥ 六十七 ½ cup",
    "a 1 ",
]


def texts(count: int) -> list[str]:
    rng = random.Random(4)
    return WRITTEN + ["".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(count - len(WRITTEN))]


@contextmanager
def llama_cpp(path: Path) -> Generator[LlamaGenerator]:
    model = LlamaGenerator(path, EngineSettings(n_ctx=512, slots=1, threads=1))
    try:
        yield model
    finally:
        model.close()


def read_by(model: LlamaGenerator, text: str) -> list[int]:
    return model.prompt_tokens(CompletionRequest((), prompt=text))


def differing(path: Path, folder: Path, count: int) -> list[str]:
    """Texts that the tokenizer of training reads as other tokens than llama.cpp does."""
    tokenizer = TextTokenizer(write_tokenizer(inspect_base(path), folder), 512)
    with llama_cpp(path) as model:
        return [text for text in texts(count) if tokenizer.encode([text])[0] != read_by(model, text)]


@pytest.mark.engines
@pytest.mark.parametrize("name", NAMES)
def test_every_known_name_splits_as_llama_cpp_does(name: str, tmp_path: Path) -> None:
    path = pico_gguf(tmp_path / "pico.gguf", split=name, merges=MERGES).path
    assert differing(path, tmp_path, 150) == []


def test_the_names_do_not_split_alike(tmp_path: Path) -> None:
    """What makes the test above able to fail."""
    read: dict[str, list[list[int]]] = {}
    for name in NAMES:
        path = pico_gguf(tmp_path / name / "pico.gguf", split=name, merges=MERGES).path
        tokenizer = TextTokenizer(write_tokenizer(inspect_base(path), tmp_path / name), 512)
        read[name] = tokenizer.encode(texts(150))
    assert all(first != second for first, second in itertools.combinations(read.values(), 2))


@pytest.mark.engines
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_student_splits_as_its_base_did(name: str, tmp_path: Path) -> None:
    path = pico_gguf(tmp_path / "pico.gguf", split=name, merges=MERGES).path
    base = inspect_base(path)
    model, saved = load_causal(base), tmp_path / "tuned" / "tokenizer.json"
    load_chat_tokenizer(base).save_pretrained(saved.parent)
    exported = tmp_path / "exported.gguf"
    write_gguf(exported, model.config, model.state_dict(), saved, kind="f16", name="pico")
    assert check_gguf(exported).metadata["tokenizer.ggml.pre"] == name
    with llama_cpp(path) as before, llama_cpp(exported) as after:
        assert [text for text in texts(60) if read_by(before, text) != read_by(after, text)] == []


def test_a_split_that_llama_cpp_ties_to_whole_tokens_is_not_exported_without(tmp_path: Path) -> None:
    base = inspect_base(pico_gguf(tmp_path / "pico.gguf", split="llama-bpe", merges=MERGES).path)
    model, saved = load_causal(base), write_tokenizer(base, tmp_path / "tuned")
    content = json.loads(saved.read_bytes())
    content["model"]["ignore_merges"] = False
    saved.write_text(json.dumps(content))
    with pytest.raises(LocumError, match="ignore_merges False with a split of 'llama-bpe'"):
        write_gguf(tmp_path / "m.gguf", model.config, model.state_dict(), saved, kind="f16", name="pico")


@pytest.mark.parametrize(
    ("name", "said"),
    [("tekken", "as 'tekken'"), ("qwen35", "nearest: qwen2"), (None, "does not say how text is split")],
)
def test_other_names_are_refused(name: str | None, said: str, tmp_path: Path) -> None:
    base = inspect_base(pico_gguf(tmp_path / "pico.gguf", split=name).path)
    for read in (load_chat_tokenizer, partial(write_tokenizer, folder=tmp_path)):
        with pytest.raises(ModelFileError, match=said) as caught:
            read(base)
        assert caught.value.code == "models-tokenizer-split" and "smollm" in str(caught.value.fix)


@pytest.mark.models
@pytest.mark.engines
def test_the_real_base_reads_numbers_one_digit_at_a_time(tmp_path: Path) -> None:
    from locum.sources.bases import ensure_base

    try:
        path = ensure_base("SmolLM2-135M-Instruct", format="gguf")
    except SourceError as error:
        pytest.skip(f"SmolLM2-135M-Instruct cannot be had here: {error}")
    assert differing(path, tmp_path, 150) == []
    tokenizer = load_chat_tokenizer(inspect_base(path))
    assert tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]
