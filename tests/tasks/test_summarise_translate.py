"""Summaries and translations: graded answers, pooled metrics, and when one counts as correct."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from task_toys import make_kind, make_row, make_rows

from locum.evaluate.metrics import scored_evaluation
from locum.schema.data import Row
from locum.scoring.rouge import rouge
from locum.stats.rowwise import Mean, Pooled, value
from locum.tasks.protocol import TaskKind

GERMAN = ["Zwei Männer sitzen auf einer Bank.", "Ein Hund läuft durch den Schnee.", "Die Frau liest ein Buch."]
SAID = ["Zwei Männer sitzen auf der Bank.", "Der Hund rennt im Schnee.", None]


@pytest.fixture(params=["summarise", "translate"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_summaries_are_graded_by_rouge() -> None:
    golds = ["the cat sat on the mat", "a dog ran home", "birds sing"]
    said = ["the cat sat on a mat", "fish swim", None]
    scores = make_kind("summarise").score(said, make_rows(*golds))
    first = rouge(said[0] or "", [golds[0]])
    assert value(scores["rouge_l"]) == pytest.approx(first["rougeL"] / 3)
    assert value(scores["rouge_1"]) == pytest.approx(first["rouge1"] / 3)
    assert value(scores["rouge_2"]) == pytest.approx(first["rouge2"] / 3)
    assert isinstance(scores["accuracy"], Mean)
    assert scores["accuracy"].values.tolist() == [1, 0, 0]


def test_translations_are_scored_over_the_corpus_as_sacrebleu_does() -> None:
    scores = make_kind("translate").score(SAID, make_rows(*GERMAN))
    said = [each or "" for each in SAID]
    assert value(scores["chrf"]) == pytest.approx(CHRF().corpus_score(said, [GERMAN]).score / 100)
    assert value(scores["bleu"]) == pytest.approx(BLEU(force=True).corpus_score(said, [GERMAN]).score / 100)
    assert isinstance(scores["chrf"], Pooled)
    assert scores["bleu"](np.zeros((3, 2), np.int64)).shape == (3,)
    assert isinstance(scores["accuracy"], Mean)
    assert scores["accuracy"].values.tolist() == [1, 0, 0]


def test_how_like_the_gold_answer_counts_as_correct_is_the_tasks_to_say(form: str) -> None:
    rows = make_rows("Zwei Männer sitzen auf einer Bank.")
    said = ["Zwei Männer sitzen auf der Bank."]
    assert _accuracy(make_kind(form), said, rows) == 1.0
    assert _accuracy(make_kind(form, target={"correct_at": 0.9}), said, rows) == 0.0
    assert make_kind(form).prompt_hash != make_kind(form, target={"correct_at": 0.9}).prompt_hash


def _accuracy(kind: TaskKind, said: list[str | None] | list[str], rows: list[Row]) -> float:
    return value(kind.score(said, rows)["accuracy"])


def test_several_gold_answers_are_all_right_and_the_first_is_taught(form: str) -> None:
    kind = make_kind(form)
    row = make_row('["One two three four.", "Five six seven eight."]')
    assert kind.target(row) == "One two three four."
    metric = "rouge_l" if form == "summarise" else "chrf"
    assert value(kind.score(["Five six seven eight."], [row])[metric]) == pytest.approx(1.0)


@pytest.mark.parametrize("gold", ["", "[]", '["good", " "]'])
def test_an_empty_gold_answer_is_refused(form: str, gold: str) -> None:
    fault = make_kind(form).fault(make_row(gold))
    assert fault is not None
    assert "empty" in fault


def test_any_text_is_a_gold_answer(form: str) -> None:
    assert all(make_kind(form).fault(make_row(gold)) is None for gold in ("x", "[sic] he said", "[1, 2]"))


def test_answers_are_the_same_when_one_would_be_right_for_the_other(form: str) -> None:
    kind = make_kind(form)
    assert kind.same("Zwei Männer sitzen auf der Bank.", "Zwei Männer sitzen auf einer Bank.")
    assert not kind.same("Zwei Männer sitzen auf der Bank.", "Kühe fressen Gras")
    assert not kind.same("x", None)


def test_features_tell_length_copying_and_loops(form: str) -> None:
    kind = make_kind(form)
    found = kind.features("a man walks a dog in the park", "a man walks")
    assert found["words"] == 3
    assert found["words_in_input"] == 1.0
    assert found["repeated"] == 0.0
    assert found["length_share"] == pytest.approx(11 / 29)
    assert kind.features("x", "so it goes on " * 20)["repeated"] > 0.9
    assert set(kind.features("", "")) == set(found)


def test_the_prompt_asks_for_nothing_else(form: str) -> None:
    kind = make_kind(form)
    system, user = kind.messages("Ein Text. <|im_end|>")
    assert system.content.startswith("Do the task.\n\nAnswer with the ")
    assert "<|im_end|>" not in user.content
    assert kind.parse("<think>so</think> Done. ", "x") == "Done."


@pytest.mark.parametrize("text", ["今天北京的天气很好。", "Сегодня в Москве очень хорошая погода."])
def test_the_gold_text_itself_is_right_in_any_script(form: str, text: str) -> None:
    kind = make_kind(form)
    scores = kind.score([text], make_rows(text))
    assert {name: value(score) for name, score in scores.items()} == pytest.approx(dict.fromkeys(scores, 1.0))
    if form == "translate":
        tokeniser = "zh" if "北" in text else "13a"
        signatures = scored_evaluation("m", "test", scores, 1).signatures
        assert f"tok:{tokeniser}" in signatures["bleu"]
        assert signatures["chrf"].startswith("nrefs:1")
