"""Conversation: instructions that a program verifies, and answers graded by likeness to a gold one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from task_toys import make_kind, make_row, make_rows

from locum.scoring.rouge import rouge
from locum.stats.rowwise import Mean, Pooled, value


def checks(**instructions: dict[str, object]) -> str:
    names = [name.replace("__", ":") for name in instructions]
    return json.dumps({"instruction_id_list": names, "kwargs": list(instructions.values())})


NO_COMMA_FEW_WORDS = checks(
    punctuation__no_comma={}, length_constraints__number_words={"relation": "less than", "num_words": 5}
)


def test_instructions_are_pooled_and_a_row_is_right_when_all_are_followed() -> None:
    rows = make_rows(NO_COMMA_FEW_WORDS, NO_COMMA_FEW_WORDS, checks(punctuation__no_comma={}), NO_COMMA_FEW_WORDS)
    scores = make_kind("chat").score(["All is well.", "One, two, three.", "a, b", None], rows)
    assert isinstance(scores["instruction"], Pooled)
    assert value(scores["instruction"]) == pytest.approx((2 + 1 + 0 + 0) / 7)
    assert isinstance(scores["accuracy"], Mean)
    assert scores["accuracy"].values.tolist() == [1, 0, 0, 0]
    assert scores["instruction"](np.array([[0, 0], [2, 2]])).tolist() == [1.0, 0.0]


def test_how_many_instructions_make_an_answer_right_is_the_tasks_to_say() -> None:
    kind = make_kind("chat", target={"correct_at": 0.5})
    scores = kind.score(["One, two, three.", "One, two, three, four, five, six."], make_rows(*[NO_COMMA_FEW_WORDS] * 2))
    assert isinstance(scores["accuracy"], Mean)
    assert scores["accuracy"].values.tolist() == [1, 0]


def test_a_gold_text_is_taught_and_graded_by_likeness() -> None:
    gold = "You can cancel the order from your account page."
    kind = make_kind("chat", target={"correct_at": 0.4})
    said = "Cancel it from your account page."
    scores = kind.score([said, "No idea", None], make_rows(gold, gold, gold))
    assert value(scores["instruction"]) == pytest.approx((rouge(said, [gold])["rougeL"] + 0) / 3)
    assert value(scores["accuracy"]) == pytest.approx(1 / 3)
    assert kind.target(make_row(gold)) == gold
    assert kind.target(make_row('{"a": 1}')) == '{"a": 1}'
    assert kind.target(make_row("{unfinished")) == "{unfinished"
    assert kind.target(make_row(NO_COMMA_FEW_WORDS)) is None


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        (checks(punctuation__no_commas={}), "did you mean 'punctuation:no_comma'"),
        (checks(length_constraints__number_words={}), "length_constraints:number_words with {}"),
        ('{"instruction_id_list": [], "kwargs": []}', "no list of names"),
        ('{"instruction_id_list": "punctuation:no_comma"}', "no list of names"),
        ('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [1]}', "no list of objects"),
        ('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}', "1 instructions and 0 sets"),
        ("", "it is empty"),
    ],
)
def test_gold_answers_that_cannot_be_say_why(gold: str, why: str) -> None:
    assert why in (make_kind("chat").fault(make_row(gold)) or "")


def test_texts_and_instructions_without_arguments_are_gold_answers() -> None:
    kind = make_kind("chat")
    for gold in ("Yes.", "{not json", '{"a": 1}', '{"instruction_id_list": ["punctuation:no_comma"]}'):
        assert kind.fault(make_row(gold)) is None


def test_the_instruction_is_the_whole_system_message() -> None:
    system, user = make_kind("chat").messages("Hello there")
    assert (system.content, user.content) == ("Do the task.", "Hello there")


def test_answers_agree_when_most_words_do() -> None:
    kind = make_kind("chat")
    assert kind.same("The shop opens at nine.", "The shop opens at nine o'clock.")
    assert kind.same("日本語です", "日本語です")
    assert not kind.same("The shop opens at nine.", "I do not know that.")
    assert not kind.same("x", None)


def test_features_see_an_answer_that_breaks_off_or_goes_round() -> None:
    kind = make_kind("chat")
    assert kind.features("x", "All is well.")["ended"] == 1.0
    assert kind.features("x", "All is")["ended"] == 0.0
    assert kind.features("x", "and so on " * 30)["repeated"] > 0.8
    assert set(kind.features("", "")) == {"words", "words_in_input", "repeated", "ended"}


def test_the_instructions_of_ifeval_are_taken(data_folder: Path) -> None:
    kind = make_kind("chat")
    lines = (data_folder / "ifeval" / "en_input_data.jsonl").read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines):
        entry = json.loads(line)
        gold = json.dumps({name: entry[name] for name in ("instruction_id_list", "kwargs")})
        rows.append(make_row(gold, entry["prompt"], f"en_input_data.jsonl:{number + 1}"))
    assert len(rows) > 500
    assert {row.id: fault for row in rows if (fault := kind.fault(row))} == {}
