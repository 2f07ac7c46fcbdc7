"""Short answers: equal to SQuAD's official script and to lm-evaluation-harness's two patterns."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from locum.scoring import answers


def official_normalise(s: str) -> str:
    """``normalize_answer`` of evaluate-v1.1.py and evaluate-v2.0.py, step by step as it stands there."""

    def remove_articles(text):
        return re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text)

    def remove_punc(text):
        return "".join(ch for ch in text if ch not in set(string.punctuation))

    return " ".join(remove_articles(remove_punc(s.lower())).split())


def official_f1(a_gold: str, a_pred: str) -> float:
    """``compute_f1`` of evaluate-v2.0.py."""
    gold_toks = official_normalise(a_gold).split()
    pred_toks = official_normalise(a_pred).split()
    num_same = sum((Counter(gold_toks) & Counter(pred_toks)).values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("an apple, a day", "apple day"),
        ("Theatre of the absurd", "theatre of absurd"),
        ("“curly”", "“curly”"),  # only ASCII punctuation goes, as in the script
        ("the", ""),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert answers.normalise_answer(text) == normal == official_normalise(text)


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("the cat", ["Cat."], 1, 1),
        ("black cat", ["cat", "black dog"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),  # words are a multiset
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("", [], 1, 1),  # unanswerable, and nothing said
        ("cat", [], 0, 0),
        ("", ["", "the"], 1, 1),
        ("cat", ["", "cat"], 1, 1),  # an empty gold answer beside a real one does not count
        ("", ["", "cat"], 0, 0),
    ],
)
def test_exact_match_and_f1(prediction: str, golds: list[str], exact: float, f1: float) -> None:
    assert answers.exact_match(prediction, golds) == exact
    assert answers.f1(prediction, golds) == pytest.approx(f1)


@pytest.mark.data
def test_squad_equals_the_official_script(data_folder: Path) -> None:
    whole = json.loads((data_folder / "squad_v1.1_dev" / "dev-v1.1.json").read_bytes())
    rng = random.Random(0)
    checked = 0
    for article in whole["data"]:
        for paragraph in article["paragraphs"]:
            words = paragraph["context"].split()
            for question in paragraph["qas"]:
                golds = [answer["text"] for answer in question["answers"]]
                assert answers.exact_match(golds[-1], golds) == answers.f1(golds[0], golds) == 1.0
                start = rng.randrange(len(words))
                guess = rng.choice([golds[0] + " " + words[start], " ".join(words[start : start + 5])])
                assert answers.f1(guess, golds) == max(official_f1(gold, guess) for gold in golds)
                assert answers.exact_match(guess, golds) == max(
                    official_normalise(gold) == official_normalise(guess) for gold in golds
                )
                checked += 1
    assert checked == 10565


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("6 + 66 = 72\n#### 72", "72", "72"),
        ("#### 1,234.50 and #### 7", "1,234.50", "7"),
        ("She pays $1,072.", None, "$1,072."),
        ("it is -5 degrees", None, "-5"),
        ("no number", None, None),
        ("####72", None, "72"),
        ("the answer is 3", None, "3"),
    ],
)
def test_numbers_are_taken_out_as_the_harness_does(text: str, strict: str | None, flexible: str | None) -> None:
    assert answers.extract_number(text, "strict") == strict
    assert answers.extract_number(text, "flexible") == flexible


def test_flexible_takes_an_ellipsis_as_the_harness_does_and_value_does_not() -> None:
    text = "#### 72\nLet me know if you need anything else..."
    assert answers.extract_number(text, "flexible") == "..."
    assert answers.extract_number(text, "value") == "72"
    assert answers.number_match(text, "72", "flexible") == 0.0
    assert answers.number_match(text, "72", "value") == 1.0


@pytest.mark.parametrize(
    ("prediction", "gold", "strict", "flexible", "value"),
    [
        ("... so 72.\n#### 72", "48 + 24 = 72\n#### 72", 1, 1, 1),
        ("He earns $1,072.", "#### 1072", 0, 1, 1),
        ("It costs 18.00 dollars", "18", 0, 0, 1),  # the harness compares text
        ("about 5 apples", "5 apples", 0, 0, 0),  # a gold answer must be a number
        ("nothing", "0", 0, 0, 0),
        ("1.2.3", "1.2.3", 0, 1, 0),
        ("#### 5", "6", 0, 0, 0),
        ("That is 40%", "40", 0, 1, 1),
    ],
)
def test_number_match(prediction: str, gold: str, strict: float, flexible: float, value: float) -> None:
    assert answers.number_match(prediction, gold, "strict") == strict
    assert answers.number_match(prediction, gold, "flexible") == flexible
    assert answers.number_match(prediction, gold, "value") == value


@pytest.mark.data
def test_every_gold_solution_of_gsm8k_matches_itself_and_hardly_another(data_folder: Path) -> None:
    lines = (data_folder / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [json.loads(line)["answer"] for line in lines]
    assert len(golds) == 1319
    for mode in ("strict", "flexible", "value"):
        assert all(answers.number_match(gold, gold, mode) == 1.0 for gold in golds)
        shifted = sum(answers.number_match(a, b, mode) for a, b in pairwise(golds))
        assert shifted < 30
