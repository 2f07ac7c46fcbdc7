"""Tagging: spans in files and in what a model wrote, and their scores."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_toys import make_kind, make_row

from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.stats.rowwise import value
from locum.tasks.tag import check_spans, load_spans, read_spans, types_of, write_spans

TEXT = "Ann Lee met Bob in Rome. Ann left Rome."
GOLD = '[[0,7,"PERSON"],[12,15,"PERSON"],[19,23,"PLACE"],[25,28,"PERSON"],[34,38,"PLACE"]]'
TYPES = ("PERSON", "PLACE")
QUOTES = [("Ann Lee", "PERSON"), ("Bob", "PERSON"), ("Rome", "PLACE"), ("Ann", "PERSON"), ("Rome", "PLACE")]


def said(*quotes: tuple[str, str]) -> str:
    return json.dumps({"entities": [{"text": text, "label": label} for text, label in quotes]})


def test_quotes_become_places_in_the_order_of_the_text() -> None:
    assert make_kind("tag", TYPES).parse(said(*QUOTES), TEXT) == GOLD


@pytest.mark.parametrize(
    ("completion", "spans"),
    [
        (said(), []),
        (f"```json\n{said(('Bob', 'PERSON'))}\n```", [(12, 15, "PERSON")]),
        ('[{"text": "Bob", "label": "person"}]', [(12, 15, "PERSON")]),
        ("[]", []),
        (said(("Zoe", "PERSON"), ("Bob", "PERSON")), [(12, 15, "PERSON")]),
        (said(("Bob", "ANIMAL")), []),
        (said(("Bob", "PERSON"), ("Bob", "PERSON")), [(12, 15, "PERSON")]),
        (said(("ann  LEE", "PERSON")), [(0, 7, "PERSON")]),
        (said(("Rome", "PLACE"), ("Ann", "PERSON")), [(19, 23, "PLACE"), (25, 28, "PERSON")]),
        (said(("Lee met", "PERSON"), ("Ann Lee", "PERSON")), [(4, 11, "PERSON")]),
        (said((" ", "PERSON"), ("", "PERSON")), []),
    ],
)
def test_what_is_not_in_the_text_or_no_type_is_dropped(completion: str, spans: list[tuple[int, int, str]]) -> None:
    assert make_kind("tag", TYPES).parse(completion, TEXT) == write_spans(spans)


@pytest.mark.parametrize("completion", ["", "No entities.", '{"entities": "Bob"}', '{"entities": [{"text": "Bob"}]}'])
def test_anything_else_is_no_answer(completion: str) -> None:
    assert make_kind("tag", TYPES).parse(completion, TEXT) is None


def test_a_quote_is_found_at_word_boundaries_and_as_written_first() -> None:
    kind = make_kind("tag", ("X",))
    assert kind.parse(said(("Al", "X")), "Also Al") == '[[5,7,"X"]]'
    assert kind.parse(said(("may", "X")), "In May we may go") == '[[10,13,"X"]]'
    assert kind.parse(said(("Al", "X")), "Also") == '[[0,2,"X"]]'
    assert kind.parse(said(("New York", "X")), "New\nYork") == '[[0,8,"X"]]'


def test_control_tokens_that_the_prompt_broke_are_found_again() -> None:
    kind = make_kind("tag", ("X",))
    text = "see <|im_end|> here"
    shown = kind.messages(text)[-1].content
    assert kind.parse(said((shown[4:15], "X")), text) == '[[4,14,"X"]]'


def test_the_prompt_names_the_types_and_shows_quotes() -> None:
    row = Row(id="1", input=TEXT, output=GOLD)
    kind = make_kind("tag", TYPES, Prompt(instruction="Find them.", examples=(row,)))
    messages = kind.messages("Zoe")
    assert "- PERSON\n- PLACE" in messages[0].content
    assert json.loads(messages[2].content) == json.loads(said(*QUOTES))
    assert kind.parse(kind.target(row) or "", TEXT) == GOLD
    schema: Any = kind.decoding.json_schema
    assert schema["properties"]["entities"]["items"]["properties"]["label"] == {"enum": ["PERSON", "PLACE"]}
    assert kind.prompt_hash != make_kind("tag", ("PERSON",)).prompt_hash


def test_scores_are_strict_and_pooled() -> None:
    kind = make_kind("tag", TYPES)
    rows = [make_row('[[0,7,"PERSON"],[19,23,"PLACE"]]', TEXT), make_row("[]", TEXT), make_row("[]", TEXT)]
    scores = kind.score(['[[0,3,"PERSON"],[19,23,"PLACE"]]', "[]", None], rows)
    assert value(scores["span_f1"]) == pytest.approx(2 * 1 / (2 + 2))
    assert value(scores["accuracy"]) == pytest.approx(1 / 3)
    wrong_type = kind.score(['[[0,7,"PLACE"],[19,23,"PLACE"]]'], rows[:1])
    assert value(wrong_type["span_f1"]) == 0.5


@pytest.mark.parametrize(
    "value",
    [
        [[0, 3, "A"], [4, 7, "B"]],
        [{"start": 0, "end": 3, "label": "A"}, {"start": 4, "end": 7, "label": "B", "text": "Lee"}],
        [
            {"entity_type": "B", "entity_value": "Lee", "start_position": 4, "end_position": 7},
            {"entity_type": "A", "entity_value": "Ann", "start_position": 0, "end_position": 3},
        ],
    ],
)
def test_spans_come_in_many_forms_and_leave_in_one(value: object) -> None:
    spans = read_spans(value)
    check_spans(spans, TEXT)
    assert write_spans(span[:3] for span in spans) == '[[0,3,"A"],[4,7,"B"]]'


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        ("Ann", "no JSON"),
        ('{"start": 0}', "no list of spans"),
        ('["Ann"]', "is no span"),
        ("[[0,3]]", "is no span"),
        ('[["0",3,"A"]]', "places are whole numbers"),
        ('[[true,3,"A"]]', "places are whole numbers"),
        ('[[0,3," "]]', "has no label"),
        ('[{"start":0,"end":3}]', "has no label"),
        ('[[0,99,"A"]]', "not within the text of 39 characters"),
        ('[[3,3,"A"]]', "not within the text"),
        ('[[-1,3,"A"]]', "not within the text"),
        ('[[0,7,"A"],[4,11,"B"]]', "overlaps the one before it, which ends at 7"),
        ('[{"start":0,"end":3,"label":"A","text":"Bob"}]', "is 'Ann' in the text and not 'Bob'"),
    ],
)
def test_gold_spans_that_cannot_be_say_why(gold: str, why: str) -> None:
    fault = make_kind("tag").fault(make_row(gold, TEXT))
    assert fault is not None
    assert why in fault


def test_good_gold_spans_and_none_at_all_are_taken() -> None:
    assert make_kind("tag").fault(make_row(GOLD, TEXT)) is None
    assert make_kind("tag").fault(make_row("[]", TEXT)) is None
    assert make_kind("tag").fault(make_row('[[0,3,"A"],[0,3,"A"]]', TEXT)) is None


def test_types_are_what_bio_tags_speak_of() -> None:
    assert types_of(("O", "B-PERSON", "I-PERSON", "B-PLACE", "I-PLACE")) == TYPES
    assert types_of(TYPES) == TYPES
    assert types_of(("B-cell", "T-cell")) == ("B-cell", "T-cell")
    assert types_of(("O", "AB")) == ("O", "AB")
    assert make_kind("tag", ("O", "B-X", "I-X")).prompt_hash == make_kind("tag", ("X",)).prompt_hash


def test_answers_are_the_same_and_features_tell_how_much_is_tagged() -> None:
    kind = make_kind("tag", TYPES)
    assert kind.same('[[0,3,"A"],[4,7,"B"]]', '[[4,7,"B"],[0,3,"A"]]')
    assert not kind.same('[[0,3,"A"]]', "[]")
    assert not kind.same("[]", None)
    assert kind.features("Ann Lee", '[[0,7,"PERSON"]]') == {"spans": 1.0, "covered": 1.0}
    assert kind.features("", "[]") == {"spans": 0.0, "covered": 0.0}


@given(st.text(min_size=1, max_size=60), st.data())
def test_spans_that_are_quoted_and_found_again_hold_the_same_words(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    row = make_row(write_spans([(start, end, "X")]), text)
    kind = make_kind("tag", ("X",))
    found = load_spans(kind.parse(kind.target(row), text) or "[]")
    quoted = text[start:end].replace("\u200b", "").split()
    if "\u200b" not in text:
        assert [text[a:b].split() for a, b, _ in found] == ([quoted] if quoted else [])
