"""A decoder that writes in the layouts of Ollama and of the Hub, and its chat template as words around turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from locum.bundle.layouts import find_writer, write_huggingface, write_model_folder, write_ollama
from locum.bundle.turns import Turns, learn_turns
from locum.core.errors import LocumError, ModelFileError, UserError
from locum.core.files import sha256_file, write_json
from locum.core.progress import listening
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.model_files import seal, verify_folder
from locum.runtime.open import open_model
from locum.schema.message import Message
from locum.testing.pico_gguf import CHATML, pico_gguf

DEFAULT_SYSTEM = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe good<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}### {{ m['role'] | capitalize }}:\n{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}\n\n{% endfor %}### Assistant:\n"
)
INTO_USER = (
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + ' ' %}{% set rest = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "[INST] {% if loop.last %}{{ s }}{% endif %}{{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def jinja(template: str) -> Any:
    compiled = Environment(keep_trailing_newline=True, autoescape=False).from_string(template)

    def render(messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return compiled.render(messages=turns, add_generation_prompt=True)

    return render


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, PLAIN])
def test_words_around_turns_say_what_the_template_says(template: str) -> None:
    turns = learn_turns(jinja(template), "m")
    messages = (Message("system", "S"), Message("user", "a\n"), Message("assistant", "b"), Message("user", "{c}"))
    for conversation in (messages, messages[1:], messages[:2]):
        assert turns.render(conversation) == jinja(template)(conversation)


def test_the_template_of_ollama_holds_the_same_words() -> None:
    turns = Turns(("<s>", "</s>"), "<none>", ("<u>", "</u>"), ("<a>", "</a>"), "<ask>")
    assert turns.go_template() == (
        "{{ if .System }}<s>{{ .System }}</s>{{ else }}<none>{{ end }}"
        '{{ range .Messages }}{{ if eq .Role "user" }}<u>{{ .Content }}</u>'
        '{{ else if eq .Role "assistant" }}<a>{{ .Content }}</a>{{ end }}{{ end }}<ask>'
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (INTO_USER, "left out or moved"),
        (CHATML.replace("message['content'] +", "message['content'] | upper +"), "left out or moved|does not stand"),
        (CHATML.replace("message['content'] +", "message['content'] | replace('?', '!') +"), "not written as words"),
        (CHATML.replace("<|im_end|>", '"""'), "its words hold"),
        ("{{ messages[-1]['content'] }}", "left out or moved"),
    ],
)
def test_a_template_that_does_more_is_refused(template: str, said: str) -> None:
    with pytest.raises(LocumError, match=said) as caught:
        learn_turns(jinja(template), "m")
    assert caught.value.code == "bundle-layout"


def model_folder(folder: Path, template: str = CHATML) -> Path:
    folder.mkdir()
    pico_gguf(folder / "model.gguf", template=template)
    write_json(folder / "parity.json", {"n": 3, "mean_gap": 0.01, "equal_answers": 1.0})
    seal(
        folder,
        name="pico/lora",
        engine="llamacpp",
        family="decoder",
        precision="q8_0",
        labels=(),
        weights="model.gguf",
        max_tokens=256,
        parameters=1234,
        purpose="generate",
    )
    return folder


@pytest.mark.engines
def test_ollama_gets_the_file_that_was_checked_and_how_to_ask_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    write_ollama(find_writer(folder), tmp_path / "out")
    assert sha256_file(tmp_path / "out" / "model.gguf") == sha256_file(folder / "model.gguf")
    lines = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert lines.startswith('FROM ./model.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}')
    assert lines.endswith('"""\nPARAMETER temperature 0\nPARAMETER num_ctx 256\nPARAMETER stop "<|im_end|>"\n')


@pytest.mark.engines
def test_the_words_are_those_that_llama_cpp_renders(tmp_path: Path) -> None:
    model = open_model(pico_gguf(tmp_path / "m.gguf").path, EngineSettings(n_ctx=128, slots=1, threads=1))
    messages = (Message("system", "S"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    try:
        turns = learn_turns(lambda asked: model.render(CompletionRequest(tuple(asked))), "m")
        assert turns.render(messages) == model.render(CompletionRequest(messages))
    finally:
        model.close()


@pytest.mark.engines
def test_a_repository_for_the_hub_names_the_format_and_has_a_card(tmp_path: Path) -> None:
    write_huggingface(find_writer(model_folder(tmp_path / "m")), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"pico-lora-Q8_0.gguf", "README.md", "template", "params", "parity.json"}
    assert json.loads((tmp_path / "out" / "params").read_text()) == {
        "temperature": 0,
        "num_ctx": 256,
        "stop": ["<|im_end|>"],
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: gguf\n") and "0.010 nats" in card and "1,234" in card


@pytest.mark.engines
def test_a_template_beyond_ollama_does_not_keep_the_rest_back(tmp_path: Path) -> None:
    odd = model_folder(tmp_path / "m", CHATML.replace("message['content'] +", "message['content'] | upper +"))
    said: list[str] = []
    with listening(lambda event: said.append(event.label)):
        write_huggingface(find_writer(odd), tmp_path / "out")
    assert not (tmp_path / "out" / "template").exists() and (tmp_path / "out" / "README.md").is_file()
    assert any("without the files for Ollama" in line for line in said)
    with pytest.raises(LocumError) as caught:
        write_ollama(find_writer(odd), tmp_path / "ollama")
    assert caught.value.code == "bundle-layout" and not (tmp_path / "ollama").exists()


def test_a_model_folder_is_copied_whole(tmp_path: Path) -> None:
    write_model_folder(find_writer(model_folder(tmp_path / "m")), tmp_path / "out")
    assert verify_folder(tmp_path / "out") == verify_folder(tmp_path / "m")
    alone = find_writer(tmp_path / "m" / "model.gguf")
    assert alone.spec is None and alone.name == "model"
    with pytest.raises(UserError, match="already") as caught:
        write_model_folder(alone, tmp_path / "again")
    assert caught.value.code == "bundle-layout"


def test_what_is_no_model_that_writes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle, model folder or GGUF") as caught:
        find_writer(tmp_path)
    assert caught.value.code == "bundle-layout"
    folder = model_folder(tmp_path / "m")
    (folder / "model.gguf").write_bytes(b"GGUF changed")
    with pytest.raises(ModelFileError) as changed:
        find_writer(folder)
    assert changed.value.code == "runtime-hash"
