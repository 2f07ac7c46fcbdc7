"""Conversations become ids: templates, endings, what is cut and dropped and said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from train_toys import CHAT, chat_base, write_conversations

from locum.core.errors import DataError, ModelFileError
from locum.core.progress import Event, listening
from locum.models.base_files import inspect_base
from locum.models.causal import PLAIN_TEMPLATE, load_causal, load_chat_tokenizer
from locum.models.pico import pico_base
from locum.train.conversations import ChatEncoder, Encoded, count_rows


def encoder_of(folder: Path, max_tokens: int = 48, template: str | None = CHAT) -> tuple[ChatEncoder, Any]:
    tokenizer = load_chat_tokenizer(inspect_base(chat_base(folder / "base", template=template)))
    return ChatEncoder(tokenizer, max_tokens, str(folder)), tokenizer


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(name: str = "a", user: str = "red green", completion: str = "blue", **more: Any) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": user}], "completion": completion, **more}


def test_prompt_and_answer_are_what_the_template_renders(tmp_path: Path) -> None:
    encoder, tokenizer = encoder_of(tmp_path)
    example = encoder.read(write(tmp_path / "x.jsonl", row(task="t"))).examples[0]
    assert tokenizer.decode(example.prompt) == "<s> user red green </s> <s> assistant"
    assert tokenizer.decode(example.answer) == "blue </s>"
    assert example.task == "t"


def test_a_base_without_a_template_gets_the_plain_one_and_its_own_end_of_text(tmp_path: Path) -> None:
    encoder, tokenizer = encoder_of(tmp_path, template=None)
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    example = encoder.read(write(tmp_path / "x.jsonl", row())).examples[0]
    assert tokenizer.decode(example.prompt) == "### user : red green ### assistant :"
    assert example.answer[-1] == tokenizer.eos_token_id


def test_an_ending_that_is_no_special_token_is_the_end_of_text(tmp_path: Path) -> None:
    bare = "{% for message in messages %}{{ message['content'] + ' please ' }}{% endfor %}"
    encoder, tokenizer = encoder_of(tmp_path, template=bare)
    assert encoder.ending == [tokenizer.eos_token_id]


def test_a_row_that_no_served_student_would_answer_is_not_learned_from(tmp_path: Path) -> None:
    encoder, tokenizer = encoder_of(tmp_path, max_tokens=8)
    whole, over = row("whole", user="red"), row("over", user="red red")  # 8 and 9 tokens with the answer
    found = encoder.read(write(tmp_path / "x.jsonl", whole, over, row("far-over", user="red " * 20)))
    (example,) = found.examples
    assert (example.length, found.long) == (8, ["over", "far-over"])
    assert tokenizer.decode(example.prompt) == "<s> user red </s> <s> assistant"  # with its beginning


def test_what_was_left_out_is_counted_and_said(tmp_path: Path) -> None:
    encoder, _ = encoder_of(tmp_path, max_tokens=8)
    train = encoder.read(
        write(
            tmp_path / "x.jsonl",
            row("fits", user="sun", task="t"),
            row("long-prompt", user="red " * 20, task="u"),
            row("long-answer", completion="red " * 20),
            row("empty", completion="  \n"),
        )
    )
    dev = encoder.read(write(tmp_path / "y.jsonl", row(user="sun"), row("none", completion="")))
    events: list[Event] = []
    with listening(events.append):
        counts = count_rows(train, dev)
    assert counts.to_json() == {
        **{"train": 1, "dev": 1, "cut": 0, "dropped_long": 2, "dropped_empty": 2},
        "tasks": {"t": 1},
    }
    said = [event.facts["places"] for event in events if event.kind == "warning"]
    assert said == ["long-prompt, long-answer", "empty, none"]


def test_nothing_to_say_about_rows_that_fit() -> None:
    events: list[Event] = []
    with listening(events.append):
        count_rows(Encoded(), Encoded())
    assert events == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"id": "a", "messages": []}\n', "completion"),
        ('{"id": "a", "messages": [{"role": "user"}], "completion": "x"}\n', "content"),
        ("not json\n", "Invalid JSON"),
    ],
)
def test_missing_columns_name_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    encoder, _ = encoder_of(tmp_path)
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        encoder.read(path)
    assert caught.value.code == "schema-invalid"
    assert caught.value.where.endswith("x.jsonl:1")


def test_no_rows_left_is_refused_with_the_reasons(tmp_path: Path) -> None:
    encoder, _ = encoder_of(tmp_path, max_tokens=8)
    path = write(tmp_path / "x.jsonl", row(completion="red " * 20), row(completion=""))
    with pytest.raises(DataError, match="of 1 prompt and answer are longer than .* tokens, 1 have no") as caught:
        encoder.read(path)
    assert caught.value.code == "train-no-rows"


def test_absent_file_is_refused(tmp_path: Path) -> None:
    encoder, _ = encoder_of(tmp_path)
    with pytest.raises(DataError) as caught:
        encoder.read(tmp_path / "none.jsonl")
    assert caught.value.code == "train-request"


def test_a_role_that_the_template_refuses_names_the_row(tmp_path: Path) -> None:
    strict = CHAT + "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    encoder, _ = encoder_of(tmp_path, template=strict)
    with pytest.raises(DataError, match="no system role") as caught:
        encoder.read(write_conversations(tmp_path / "x.jsonl", 1, 1))
    assert caught.value.where.endswith("x.jsonl: c:0")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}", "rendering took"),
        ("{{ messages.__class__.__mro__ }}", "reaches for"),
        ("{{ raise_exception('never') }}", "fails on a plain conversation"),
    ],
)
def test_hostile_and_broken_templates_are_refused(tmp_path: Path, template: str, told: str) -> None:
    with pytest.raises(ModelFileError, match=told) as caught:
        encoder_of(tmp_path, template=template)
    assert caught.value.code == "runtime-chat-template"


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    base = inspect_base(pico_base(tmp_path / "base", ["red"], "llama"))
    with pytest.raises(ModelFileError, match="eos_token") as caught:
        load_chat_tokenizer(base)
    assert caught.value.code == "models-tokenizer-mismatch"


def test_an_encoder_cannot_be_tuned_to_write(tmp_path: Path) -> None:
    base = inspect_base(pico_base(tmp_path / "base", ["red"], "bert"))
    with pytest.raises(ModelFileError, match="writes no text") as caught:
        load_causal(base)
    assert caught.value.code == "models-unsupported"
