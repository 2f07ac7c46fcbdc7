"""Word problems: the number an answer arrives at, and what its working tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from task_toys import make_kind, make_row, make_rows

from locum.stats.rowwise import value

GOLD = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (GOLD, True),
        ("So it is 72.", True),
        ("#### 72.00", True),
        ("$72", True),
        ("#### 24", False),
        ("72, or perhaps 24", False),
        ("#### 72\nLet me know if you need anything else...", True),
        ("So it is 72...", True),
        ("#### 24\nNo.\n#### 72\nThat took 3 steps.", True),
        ("#### $72 in all, 5 of them new", True),
        ("It is 72.\n####", True),
        ("...", False),
        ("I cannot say.", False),
        (None, False),
    ],
)
def test_the_last_number_decides_by_its_value(said: str | None, right: bool) -> None:
    kind = make_kind("maths")
    assert value(kind.score([said], make_rows(GOLD))["accuracy"]) == right
    assert value(kind.score([said], make_rows("72"))["accuracy"]) == right


def test_a_student_learns_the_working_as_it_stands_and_is_asked_for_the_ending() -> None:
    kind = make_kind("maths")
    assert kind.target(make_row(GOLD)) == GOLD
    assert "#### 72" in kind.messages("How many?")[0].content
    assert kind.parse(f"<think>hm</think>\n{GOLD}\n", "How many?") == GOLD
    assert kind.parse(" <think>never ends", "How many?") is None


@pytest.mark.parametrize("gold", ["", "a lot", "#### many", "work\n####", "1.2.3"])
def test_a_gold_answer_without_a_number_is_refused(gold: str) -> None:
    fault = make_kind("maths").fault(make_row(gold))
    assert fault is not None
    assert "#### 72" in fault


def test_two_solutions_agree_though_one_goes_on() -> None:
    assert make_kind("maths").same("So it is 72.", "#### 72\nAnything else?...")


@pytest.mark.parametrize("gold", [GOLD, "72", "-3.5", "1,000", "$20", "#### 1,234.50"])
def test_a_gold_answer_with_a_number_is_taken(gold: str) -> None:
    assert make_kind("maths").fault(make_row(gold)) is None


@pytest.mark.parametrize(
    ("said", "sums", "right"),
    [
        (GOLD, 2, 1.0),
        ("seven in all (3 + 4 = 7)", 1, 1.0),
        ("48/2 = 24 and 48 + 24 = 73", 2, 0.5),
        ("(3 + 4) * 2 = 14", 1, 1.0),
        ("3 × 4 = 12, 10 ÷ 4 = 2.5, $1,000 x 2 = $2,000", 3, 1.0),
        ("100 / 3 = 33.33", 1, 1.0),
        ("1/0 = 5", 0, 1.0),
        ("x = 5 and 7 = 7", 0, 1.0),
        ("9**9**9**9 = 1", 0, 1.0),
        ("(((((((((( = 1", 0, 1.0),
        ("no sums", 0, 1.0),
    ],
)
def test_features_check_the_sums(said: str, sums: int, right: float) -> None:
    found = make_kind("maths").features("", said)
    assert (found["sums"], found["sums_right"]) == (sums, right)
    assert set(found) == {"steps", "ended", "sums", "sums_right"}


def test_features_count_steps_and_see_the_ending() -> None:
    found = make_kind("maths").features("", GOLD)
    assert (found["steps"], found["ended"]) == (3.0, 1.0)
    assert make_kind("maths").features("", "It is 72")["ended"] == 0.0


def test_sampled_solutions_agree_by_their_number() -> None:
    kind = make_kind("maths")
    assert kind.same(GOLD, "Other words: 72")
    assert not kind.same(GOLD, "73")
    assert not kind.same(GOLD, "none")
    assert not kind.same("none", "none")
    assert not kind.same(GOLD, None)


def test_the_gold_answers_of_gsm8k_are_taken_and_right(data_folder: Path) -> None:
    kind = make_kind("maths")
    lines = (data_folder / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    rows = make_rows(*(json.loads(line)["answer"] for line in lines))
    assert [kind.fault(row) for row in rows] == [None] * len(rows)
    assert value(kind.score([row.output for row in rows], rows)["accuracy"]) == 1.0
    sums = [kind.features("", row.output) for row in rows]
    assert sum(each["sums_right"] for each in sums) / len(sums) > 0.97
    assert sum(each["sums"] > 0 for each in sums) / len(sums) > 0.9
