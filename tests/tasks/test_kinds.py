"""What holds for every kind: its registry, its prompt's hash, its scores, and text that wishes it ill."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_toys import make_kind, make_row, make_rows

from locum.schema.data import Row
from locum.schema.kinds import METRICS
from locum.schema.prompt import Demonstration, Prompt
from locum.stats.rowwise import Mean, value
from locum.tasks import KINDS
from locum.tasks.judging import judging
from locum.tasks.protocol import TaskKind
from locum.tasks.written import several, spoken

TAGGED = make_row('[[0,3,"X"]]', "Ann met Bob.")
CALL = 'def one():\n    """One."""'
CHECK = "def check(candidate):\n    assert candidate() == 1"
RANKED = json.dumps({"query": "q", "candidates": ["a", "b", "c"]})
ROWS: dict[str, Row] = {
    "classify": make_row("ham"),
    "tag": TAGGED,
    "extract": make_row('{"name":"Ann","age":41}'),
    "rank": make_row("[1]", RANKED),
    "qa": make_row('["in Rome", "Rome"]', "Where? Rome."),
    "maths": make_row("2+2=4\n#### 4"),
    "summarise": make_row("Ann met Bob."),
    "translate": make_row("Ann traf Bob."),
    "code": make_row(json.dumps({"canonical_solution": "    return 1", "test": CHECK, "entry_point": "one"}), CALL),
    "chat": make_row("Good morning to you."),
    "custom": make_row("anything"),
}
LABELS = {"classify": ("ham", "spam"), "tag": ("X",)}
KIND_OF = {form: make_kind(form, LABELS.get(form, ())) for form in METRICS}


@pytest.fixture(params=METRICS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_form_has_a_kind_with_its_metrics(form: str) -> None:
    kind, row = KIND_OF[form], ROWS[form]
    assert set(KINDS.names()) == set(METRICS)
    assert isinstance(kind, TaskKind)
    assert kind.name == form
    with judging(lambda messages: "Grade: 5"):
        scores = kind.score([kind.parse(kind.target(row) or "", row.input), None], [row, row])
    assert tuple(scores) == METRICS[form] or set(scores) == set(METRICS[form])
    assert isinstance(scores["accuracy"], Mean)
    assert scores["accuracy"].values.tolist() == [1.0, 0.0]
    for metric in scores.values():
        assert metric.n == 2
        first, both, second = metric(np.array([[0, 0], [0, 1], [1, 1]]))
        assert first == pytest.approx(1.0)
        assert 0.0 < both < 1.0 or form == "translate"
        assert second == 0.0


def test_a_prompt_can_be_shown_without_a_row(form: str) -> None:
    kind = KIND_OF[form]
    first, *_, last = kind.messages(kind.sample)
    assert (first.role, last.role) == ("system", "user")
    assert "Do the task." in first.content
    assert ("query" if form == "rank" else "…") in last.content


def test_what_a_student_learns_to_write_is_read_as_a_right_answer(form: str) -> None:
    kind, row = KIND_OF[form], ROWS[form]
    target = kind.target(row)
    assert target
    assert kind.fault(row) is None
    output = kind.parse(target, row.input)
    assert output is not None
    assert kind.same(output, output)
    assert not kind.same(output, None)


def test_an_answer_as_a_model_writes_it_is_read_back(form: str) -> None:
    kind, row = KIND_OF[form], ROWS[form]
    output = kind.parse(kind.target(row) or "", row.input)
    assert output is not None
    assert kind.parse(kind.written(output, row.input), row.input) == output


def test_a_demonstration_shows_its_own_answer(form: str) -> None:
    row = ROWS[form]
    shown = Demonstration(**vars(row), answer="ham")
    messages = make_kind(form, LABELS.get(form, ()), Prompt(instruction="Do it.", examples=(shown,))).messages(
        row.input
    )
    assert [message.content for message in messages if message.role == "assistant"] == ["ham"]


def test_the_hash_changes_with_the_prompt_and_how_answers_are_read(form: str) -> None:
    labels = LABELS.get(form, ())
    hashes = [
        make_kind(form, labels).prompt_hash,
        make_kind(form, labels, instruction="Other?", prompt=None).prompt_hash,
        make_kind(form, labels, Prompt(instruction="Do the task.", examples=(ROWS[form],))).prompt_hash,
    ]
    assert len(set(hashes)) == 3
    assert make_kind(form, labels).prompt_hash == hashes[0]
    json.dumps(asdict(KIND_OF[form].decoding))


def test_worked_examples_stand_as_turns_before_the_input(form: str) -> None:
    row = ROWS[form]
    kind = make_kind(form, LABELS.get(form, ()), Prompt(instruction="Do it.", examples=(row,)))
    messages = kind.messages(row.input, [row])
    assert [message.role for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[1] == messages[3] == messages[5]
    assert messages[2] == messages[4]
    assert kind.parse(messages[2].content, row.input) == kind.parse(kind.target(row) or "", row.input)


@given(st.text(max_size=80) | st.sampled_from(['{"a":', "[[", "</think>", "```python\n", "#### ", "1e999", "\x00"]))
def test_whatever_a_model_writes_is_read_or_is_none(completion: str) -> None:
    for form, kind in KIND_OF.items():
        text = ROWS[form].input
        output = kind.parse(completion, text)
        assert output is None or output
        if output is not None:
            found = kind.features(text, output)
            assert all(np.isfinite(number) for number in found.values())
            assert set(found) == set(kind.features(text, kind.parse(kind.target(ROWS[form]) or "", text) or ""))


def test_thoughts_are_no_part_of_an_answer() -> None:
    assert spoken("<think>so</think> Yes. ") == "Yes."
    assert spoken("so</think>\nYes.") == "Yes."
    assert spoken("<thinking>a</thinking>Yes<THINK>b</THINK>") == "Yes"
    assert spoken("<think>never ends") == ""
    assert spoken("Yes. <think>but") == "Yes."


def test_a_gold_answer_may_be_several() -> None:
    assert several('["a", "b"]') == ("a", "b")
    assert several("[a] b") == ("[a] b",)
    assert several("[1, 2]") == ("[1, 2]",)
    assert several("[]") == ()


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("Rome", "Rome"),
        ("Answer: Rome.", "Rome"),
        ("**Rome**\nBecause it says so.", "Rome"),
        ("<think>?</think>'Rome'", "Rome"),
        ("", None),
        (" \n", None),
    ],
)
def test_a_short_answer_is_its_first_line(completion: str, answer: str | None) -> None:
    assert KIND_OF["qa"].parse(completion, "Where?") == answer


def test_short_answers_are_graded_by_words_and_right_when_exact() -> None:
    rows = make_rows('["the city of Rome", "Rome"]', "Rome and Milan", "[]", "Rome")
    outputs: list[str | None] = ["ROME", "Rome", "unanswerable", None]
    scores = KIND_OF["qa"].score(outputs, rows)
    assert value(scores["f1"]) == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert value(scores["accuracy"]) == 0.5
    lenient = make_kind("qa", target={"correct_at": 0.5}).score(outputs, rows)
    assert value(lenient["accuracy"]) == 0.75


def test_an_unanswerable_question_is_answered_by_saying_so() -> None:
    kind: Any = KIND_OF["qa"]
    assert kind.target(make_row("[]")) == kind.target(make_row('[""]')) == "unanswerable"
    scores = kind.score(["Unanswerable.", "Rome"], make_rows("[]", "[]"))
    assert scores["accuracy"].values.tolist() == [1, 0]
