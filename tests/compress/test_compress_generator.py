"""Decoders that write, as GGUF through llama.cpp against PyTorch: kept when they answer alike, and else refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import locum.compress.gguf_export as gguf_export
from locum.compress import generator, job
from locum.compress.generator import export_generator
from locum.compress.generator_parity import Exported, compare, describe_failure
from locum.compress.generator_reference import Reference, TunedDecoder, Written, read_conversations
from locum.compress.pico import PicoGenerator, pico_generator
from locum.core.errors import CheckFailed, DataError, LocumError, ModelFileError, UserError
from locum.core.files import write_json, write_text
from locum.models.pico import pico_base
from locum.runtime.completion import CompletionRequest
from locum.runtime.gguf_check import check_gguf
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.model_files import verify_folder
from locum.runtime.open import open_model
from locum.schema.message import Message
from locum.schema.training import GeneratorExportRequest, GeneratorParity


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> PicoGenerator:
    return pico_generator(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> PicoGenerator:
    return pico_generator(tmp_path_factory.mktemp("qwen2"), "qwen2", tied=False)


def asked(tuned: PicoGenerator, **changed: Any) -> GeneratorExportRequest:
    fields: dict[str, Any] = {"name": "pico", "folder": str(tuned.folder), "dev": str(tuned.dev), "threads": 1}
    return GeneratorExportRequest(**fields | {"formats": ("f16",), "answer_tokens": 8, "rows": 3} | changed)


@pytest.mark.engines
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_is_kept_reads_weighs_and_writes_as_pytorch(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tuned: PicoGenerator = request.getfixturevalue(family)
    out = tmp_path / "model"
    parity = export_generator(asked(tuned, rows=6), out)
    assert parity.passed and parity.prompts_equal == 1 and parity.n == len(tuned.rows)
    assert parity.mean_gap < 0.01 and abs(parity.perplexity_ratio - 1) < 0.01
    assert parity.equal_answers >= 0.8  # a near tie may fall the other way
    assert {path.name for path in out.iterdir()} == {"model.gguf", "model.json", "parity.json"}
    spec = verify_folder(out)
    assert (spec.purpose, spec.engine, spec.precision, spec.labels) == ("generate", "llamacpp", "f16", ())
    assert set(spec.files) == {"model.gguf", "parity.json"}
    assert GeneratorParity.from_json((out / "parity.json").read_bytes(), "parity.json") == parity
    names = {name for name, _, _ in check_gguf(out / "model.gguf").tensors}
    assert ("output.weight" in names) == (family == "qwen2")  # tied embeddings need none


@pytest.mark.engines
def test_the_file_alone_is_a_model_that_answers_and_stops(llama: PicoGenerator, tmp_path: Path) -> None:
    export_generator(asked(llama), tmp_path / "m")
    header = check_gguf(tmp_path / "m" / "model.gguf").metadata
    assert header["tokenizer.ggml.eos_token_id"] == 2 and "assistant" in header["tokenizer.chat_template"]
    model = open_model(tmp_path / "m" / "model.gguf", EngineSettings(n_ctx=128, slots=1, threads=1))
    try:
        answer = model.complete(CompletionRequest((Message("user", "where is my card"),), max_tokens=4))
        prompt = model.render(CompletionRequest((Message("user", "where is my card"),)))
    finally:
        model.close()
    assert answer.output_tokens >= 1
    assert prompt == "<|im_start|>user\nwhere is my card<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.engines
def test_a_rough_format_falls_back_to_the_next_and_says_why(qwen2: PicoGenerator, tmp_path: Path) -> None:
    parity = export_generator(asked(qwen2, formats=("q4_0", "f16")), tmp_path / "m")
    assert parity.precision == "f16"
    assert [line.partition(" mean gap")[0] for line in parity.tried] == ["q4_0:"]


@pytest.mark.engines
@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", "q4_k"])
def test_size_against_quality_is_the_users_choice(kind: str, llama: PicoGenerator, tmp_path: Path) -> None:
    wide = {"max_mean_gap": 2.0, "max_perplexity_ratio": 2.0, "min_equal_answers": 0.0}
    parity = export_generator(asked(llama, formats=(kind,), **wide), tmp_path / "m")
    assert parity.precision == kind and parity.size_mb < 0.14  # f16: 0.23
    assert 0.01 < parity.mean_gap < (0.1 if kind == "q8_0" else 1.5)


@pytest.mark.engines
def test_fault_34_no_format_that_holds_leaves_nothing(llama: PicoGenerator, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="q4_1: mean gap") as caught:
        export_generator(asked(llama, formats=("q4_1",)), tmp_path / "m")
    assert caught.value.code == "compress-parity"
    assert not list(tmp_path.iterdir())


@pytest.mark.engines
def test_a_wrong_order_of_rows_is_found(llama: PicoGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_export, "interleave", lambda rows, heads: rows)
    with pytest.raises(CheckFailed, match="f16: mean gap"):
        export_generator(asked(llama), tmp_path / "m")


@pytest.mark.engines
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda chat: replace(chat, template=chat.template.replace("'\\n' +", "' ' +")),
            "reads a prompt as other tokens",
        ),
        (
            lambda chat: replace(chat, template=chat.template.replace("assistant", "user")),
            "reads a prompt as other tokens",
        ),
    ],
)
def test_another_chat_template_is_found(
    change: Callable[[Any], Any], said: str, llama: PicoGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(decoder: TunedDecoder, path: Path, **options: Any) -> None:
        chat, decoder.chat = decoder.chat, change(decoder.chat)
        plain(decoder, path, **options)
        decoder.chat = chat

    plain = generator.write_decoder
    monkeypatch.setattr(generator, "write_decoder", write)
    with pytest.raises(CheckFailed, match=said) as caught:
        export_generator(asked(llama), tmp_path / "m")
    assert caught.value.code == "compress-parity"


def copied(tuned: PicoGenerator, folder: Path) -> PicoGenerator:
    folder.mkdir()
    for path in tuned.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return PicoGenerator(folder, tuned.dev, tuned.rows)


def test_every_token_that_ends_an_answer_stands_in_the_file(llama: PicoGenerator, tmp_path: Path) -> None:
    tuned = copied(llama, tmp_path / "tuned")
    write_json(tuned.folder / "generation_config.json", {"eos_token_id": [2, 0], "temperature": 0.7, "do_sample": True})
    decoder = TunedDecoder(tuned.folder)
    assert decoder.chat.stop == (2, 0)
    generator.write_decoder(decoder, tmp_path / "m.gguf", kind="f16", name="m")
    metadata = check_gguf(tmp_path / "m.gguf").metadata
    assert (metadata["tokenizer.ggml.eos_token_id"], metadata["tokenizer.ggml.eot_token_id"]) == (2, 0)


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    folder = pico_base(tmp_path / "bert", ["card"], "bert")
    with pytest.raises(LocumError, match="architecture 'bert'; written are: llama, qwen2") as caught:
        TunedDecoder(folder)
    assert caught.value.code == "compress-export"


def test_text_that_the_tokenizer_changes_first_is_refused(llama: PicoGenerator, tmp_path: Path) -> None:
    tuned = copied(llama, tmp_path / "tuned")
    file = tuned.folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for section, passes in (({"type": "NFC"}, True), ({"type": "Lowercase"}, False)):
        file.write_text(json.dumps(content | {"normalizer": section}), encoding="utf-8")
        if passes:
            generator.write_decoder(TunedDecoder(tuned.folder), tmp_path / "m.gguf", kind="f16", name="m")
            continue
        with pytest.raises(LocumError, match="Lowercase") as caught:
            generator.write_decoder(TunedDecoder(tuned.folder), tmp_path / "n.gguf", kind="f16", name="m")
        assert caught.value.code == "compress-export"


def test_a_template_that_never_ends_is_refused(llama: PicoGenerator, tmp_path: Path) -> None:
    tuned = copied(llama, tmp_path / "tuned")
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"
    write_text(tuned.folder / "chat_template.jinja", endless)
    with pytest.raises(ModelFileError, match="template") as caught:
        TunedDecoder(tuned.folder)
    assert caught.value.code == "runtime-chat-template"


def test_no_format_is_a_mistake(llama: PicoGenerator, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no format"):
        export_generator(asked(llama, formats=()), tmp_path / "m")


@pytest.mark.parametrize("line", ["", '{"id": "1", "messages": [], "completion": "x"}', '{"id": "1"}'])
def test_dev_rows_that_cannot_be_compared_are_refused(line: str, tmp_path: Path) -> None:
    write_text(tmp_path / "dev.jsonl", line + "\n" if line else "")
    with pytest.raises(DataError) as caught:
        read_conversations(tmp_path / "dev.jsonl", 10)
    assert caught.value.code in ("compress-dev", "schema-invalid")


@pytest.mark.engines
def test_conversations_beyond_the_context_are_counted(llama: PicoGenerator, tmp_path: Path) -> None:
    long = llama.rows[0].model_copy(update={"id": "long", "completion": "card " * 200})
    dev = tmp_path / "dev.jsonl"
    write_text(dev, "".join(row.model_dump_json() + "\n" for row in (long, *llama.rows[:2])))
    parity = export_generator(asked(llama, dev=str(dev), max_tokens=100), tmp_path / "m")
    assert (parity.n, parity.too_long) == (2, 1)
    assert verify_folder(tmp_path / "m").max_tokens == 100
    write_text(dev, long.model_dump_json() + "\n")
    with pytest.raises(DataError, match="no conversation fits") as caught:
        export_generator(asked(llama, dev=str(dev), max_tokens=100), tmp_path / "n")
    assert caught.value.code == "compress-dev"


@pytest.mark.engines
def test_the_job_writes_the_folder_and_its_parity(llama: PicoGenerator, tmp_path: Path) -> None:
    write_json(tmp_path / "request.json", asked(llama, rows=2).to_json())
    job.generator(tmp_path / "request.json", tmp_path)
    parity = GeneratorParity.from_json((tmp_path / "parity.json").read_bytes(), "")
    assert parity.n == 2 and verify_folder(tmp_path / "model").purpose == "generate"


def test_a_draft_saves_passes_and_changes_no_answer(llama: PicoGenerator) -> None:
    decoder = TunedDecoder(llama.folder)
    passes: list[int] = []
    decoder.network.register_forward_hook(lambda *_: passes.append(1))
    prompts = [decoder.reference(row, scored_tokens=4).prompt for row in llama.rows]
    for prompt in prompts:
        plain = decoder.write(prompt, 12)
        taken = len(passes)
        half = plain.answer[: len(plain.answer) // 2]
        for draft in (plain.answer, half, half + " card where", "no such thing", plain.answer + " and more", ""):
            passes.clear()
            assert decoder.write(prompt, 12, draft) == plain
            assert len(passes) <= taken
            assert draft != plain.answer or len(passes) <= taken / 2
        passes.clear()
    assert decoder.write(prompts[0], 3, "one two three four five") == decoder.write(prompts[0], 3)


WEIGHED = Reference((Message("user", "x"),), [1], ("p",) * 3, (1, 2, 4), np.array([-1.0, -2.0, -4.0]))
FACTS: dict[str, Any] = {"precision": "f16", "too_long": 0, "size_mb": 1.0, "tried": ()}


def judged(said: Exported, tolerance: tuple[float, float, float] = (0.5, 1.5, 0.0)) -> GeneratorParity:
    return compare([WEIGHED], [Written("a b", True)], [said], str.split, tolerance, **FACTS)


def test_gaps_are_per_token_and_the_ratio_is_of_perplexities() -> None:
    parity = judged(Exported(np.array([-1.1, -2.0, -4.4]), "a b", True))
    # tokens: one is 0.1 worse, one 0.1 better, two together 0.5 worse
    assert parity.tokens == 4 and parity.mean_gap == pytest.approx((0.1 + 0.1 + 0.4) / 4)
    assert parity.max_gap == pytest.approx(0.2)
    assert parity.perplexity_trained == pytest.approx(np.exp(1.0))
    assert parity.perplexity_ratio == pytest.approx(np.exp(0.4 / 4))
    assert parity.passed and parity.equal_answers == 1 and parity.first_difference is None


@pytest.mark.parametrize(
    ("said", "tolerance", "why"),
    [
        (Exported(np.array([-2.0, -2.0, -4.0]), "a b", True), (0.4, 9.0, 0.0), "mean gap 0.500"),
        (Exported(np.array([np.nan, -2.0, -4.0]), "a b", True), (0.4, 9.0, 0.0), "mean gap nan"),
        (Exported(np.array([-1.0, -2.0, -6.0]), "a b", True), (9.0, 1.5, 0.0), "perplexity 1.649"),
        (Exported(np.array([-1.0, -2.0, -4.0]), "a c", True), (9.0, 9.0, 0.5), "same answer on 0 %"),
    ],
)
def test_each_tolerance_is_a_reason_of_its_own(said: Exported, tolerance: tuple[float, float, float], why: str) -> None:
    parity = judged(said, tolerance)
    assert not parity.passed and why in describe_failure(parity)


@pytest.mark.parametrize(
    ("answer", "ended", "place"),
    [
        ("a b", False, 2),
        ("a c", True, 1),
        ("a", True, 1),
        ("a b c", True, 2),
        (" a b\n", True, None),
        ("a b\ufffd", True, None),
    ],
)
def test_where_two_answers_part(answer: str, ended: bool, place: int | None) -> None:
    parity = judged(Exported(np.array([-1.0, -2.0, -4.0]), answer, ended))
    assert parity.first_difference == place
    assert parity.equal_answers == float(place is None)
