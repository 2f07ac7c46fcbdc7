"""BLEU and chrF: sacreBLEU's own figures by row, by corpus, and for any resample of rows."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from locum.core.errors import UserError
from locum.scoring import translation
from locum.stats import rowwise

GOLDS = [["The dog bit the man.", "The dog had bit the man."], ["It was not unexpected."], ["The man bit him first."]]
ANSWERS = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
STREAMS = [[row[0] for row in GOLDS], [row[1] if len(row) > 1 else None for row in GOLDS]]


def test_bleu_of_the_corpus_is_sacrebleus() -> None:
    rows = translation.bleu_rows(ANSWERS, GOLDS)
    assert rowwise.value(rows) == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, STREAMS).score / 100)
    assert rows.counts.shape == (3, 10)
    assert rows.signature.startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_sacrebleus_published_example() -> None:
    """The example of sacreBLEU's README: 48.530…"""
    system = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    first = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
    rows = translation.bleu_rows(system, list(zip(first, second, strict=True)))
    assert rowwise.value(rows) == pytest.approx(0.48530827009929865)


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_of_the_corpus_is_sacrebleus(word_order: int) -> None:
    rows = translation.chrf_rows(ANSWERS, GOLDS, word_order=word_order)
    expected = sacrebleu.corpus_chrf(ANSWERS, STREAMS, word_order=word_order).score / 100
    assert rowwise.value(rows) == pytest.approx(expected)
    assert f"nw:{word_order}" in rows.signature


def test_rows_alone_are_sacrebleus() -> None:
    for answer, golds in zip(ANSWERS, GOLDS, strict=True):
        assert translation.sentence_bleu(answer, golds) == pytest.approx(
            sacrebleu.sentence_bleu(answer, golds).score / 100
        )
        assert translation.sentence_chrf(answer, golds) == pytest.approx(
            sacrebleu.sentence_chrf(answer, golds).score / 100
        )
    assert translation.sentence_bleu(ANSWERS[0], GOLDS[0]) == 1.0


@pytest.mark.parametrize(
    ("golds", "name"),
    [
        ([["今天天气很好。"], ["GPS"]], "zh"),
        ([["今日はいい天気です。"]], "zh"),
        ([["The word 茶 means tea."]], "13a"),
        ([["Сегодня хорошо."], ["茶"]], "13a"),
        ([["..."]], "13a"),
    ],
)
def test_the_tokeniser_goes_by_the_script_of_the_whole_set(golds: list[list[str]], name: str) -> None:
    assert translation.tokeniser(golds) == name


def test_a_chinese_translation_equals_itself() -> None:
    golds = [["今天天气很好。"], ["我喜欢学习中文，你呢？"]]
    rows = translation.bleu_rows([row[0] for row in golds], golds, tokenize=translation.tokeniser(golds))
    assert rowwise.value(rows) == pytest.approx(1.0)
    assert "tok:zh" in rows.signature


def test_an_empty_translation_scores_nothing() -> None:
    assert translation.sentence_bleu("", ["Guten Tag"]) == 0.0
    assert rowwise.value(translation.bleu_rows([""], [["Guten Tag"]])) == 0.0


def test_values_keep_their_leading_dimensions() -> None:
    rows = translation.bleu_rows(ANSWERS, GOLDS)
    assert rows.value(rows.counts).shape == (3,)
    assert rows.value(np.stack([rows.counts, rows.counts])).shape == (2, 3)


@pytest.mark.parametrize(
    ("answers", "golds"), [([], []), (["a"], [["a"], ["b"]]), (["a"], [[]]), (["a", "b"], [["a"], []])]
)
def test_rows_that_do_not_fit_are_refused(answers: list[str], golds: list[list[str]]) -> None:
    for score in (translation.bleu_rows, translation.chrf_rows):
        with pytest.raises(UserError) as caught:
            score(answers, golds)
        assert caught.value.code == "scoring-input"


def test_a_row_without_a_gold_translation_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        translation.sentence_bleu("a", [])
    assert caught.value.code == "scoring-input"


@pytest.mark.data
def test_multi30k_and_a_resample_of_it(data_folder: Path) -> None:
    folder = data_folder / "multi30k"
    golds = gzip.decompress((folder / "val.de.gz").read_bytes()).decode().splitlines()[:300]
    rng = random.Random(1)
    answers = [" ".join(word for word in gold.split() if rng.random() < 0.8) for gold in golds]
    drawn = np.random.default_rng(0).integers(0, len(golds), size=(2, len(golds)))
    for rows, reference in (
        (translation.bleu_rows(answers, [[gold] for gold in golds]), sacrebleu.corpus_bleu),
        (translation.chrf_rows(answers, [[gold] for gold in golds]), sacrebleu.corpus_chrf),
    ):
        assert rowwise.value(rows) == pytest.approx(reference(answers, [golds]).score / 100)
        for numbers, value in zip(drawn, rows(drawn), strict=True):
            again = reference([answers[i] for i in numbers], [[golds[i] for i in numbers]])
            assert value == pytest.approx(again.score / 100)
