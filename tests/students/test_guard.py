"""The guard: what it hands over, how much that costs, and that the certificate counts it."""

from __future__ import annotations

import itertools
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from locum.cascade.certify import certify
from locum.core.errors import ModelFileError
from locum.runtime.fake import FakeClassifier
from locum.schema.confidence import GuardModel
from locum.schema.task import Guarantee
from locum.students.classifier import ClassifierStudent
from locum.students.guard import GUARD, Guard, fit_guard, read_guard, without_unlike
from locum.testing.pico import WORDS, pico_linear

THINGS = ["card", "parcel", "invoice", "refund", "order", "ticket", "account", "letter"]
DOINGS = ["lost", "arrived", "blocked", "paid", "opened", "late", "broken", "returned"]


def messages(n: int, seed: int) -> list[str]:
    """Short messages of one traffic, of four words or more."""
    draw = random.Random(seed)
    forms = ("my {a} was {b} on day {n}", "please tell me why the {a} is {b}", "is the {a} {b} or {c}?")
    return [
        draw.choice(forms).format(
            a=draw.choice(THINGS), b=draw.choice(DOINGS), c=draw.choice(DOINGS), n=draw.randint(1, 31)
        )
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(fit_guard(messages(800, 1), messages(200, 2)))


@pytest.mark.parametrize("text", ["", " ", "!!", "…", "hello", "Ok", "card", "thanks a lot", "qx zvv wrtp kkl"])
def test_next_to_nothing_is_handed_over(guard: Guard, text: str) -> None:
    assert guard.unlike(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "der brief ist heute nicht bei mir angekommen",
        "a man in a red shirt is climbing up a steep wall",
        "refund late ticket paid account opened letter broken",  # known words, in no order that was ever seen
    ],
)
def test_what_is_unlike_all_training_rows_is_handed_over_with_its_figures(guard: Guard, text: str) -> None:
    said = guard.unlike(text)
    assert said is not None
    assert "unlike the training rows" in said or "next to nothing" in said
    assert any(sign.isdigit() for sign in said)


def test_at_most_one_in_a_hundred_rows_of_the_same_traffic_is_handed_over(guard: Guard) -> None:
    assert guard.model.dev_share <= 0.01
    fresh = messages(2000, 3)
    assert np.mean([guard.unlike(text) is not None for text in fresh]) < 0.03


def test_numbers_that_were_never_seen_are_no_unknown_words(guard: Guard) -> None:
    assert guard.unlike("my card was blocked on day 90210") is None


def test_a_language_without_spaces_is_read_by_its_letters() -> None:
    draw = random.Random(5)
    parts = ["我的卡", "我的信", "你的票"], ["丢了", "到了", "坏了", "付了"], ["请帮忙", "为什么", "怎么办"]
    texts = ["".join(draw.choice(part) for part in parts) for _ in range(400)]
    guard = Guard(fit_guard(texts[:300], texts[300:]))
    assert guard.model.least_words > 2
    assert guard.unlike("你的信坏了怎么办") is None
    assert guard.unlike("好") is not None


def test_few_rows_set_no_limit_but_the_empty_input() -> None:
    guard = Guard(fit_guard(messages(30, 1), messages(8, 2)))
    assert (guard.model.least_words, guard.model.least_share) == (0, 0.0)
    assert guard.unlike("something else altogether") is None
    assert guard.unlike(" ") is not None


def test_traffic_with_empty_inputs_keeps_them() -> None:
    assert Guard(fit_guard(["?", "!", *messages(98, 1)], ["?", *messages(30, 2)])).unlike("?") is None


def test_a_query_is_looked_at_without_its_candidates() -> None:
    def ranked(query: str) -> str:
        return json.dumps({"query": query, "candidates": messages(3, len(query))})

    guard = Guard(fit_guard([ranked(text) for text in messages(400, 1)], [ranked(messages(1, 9)[0])], ranks=True))
    assert guard.model.reads == "query"
    assert guard.unlike(ranked("hello")) is not None
    assert guard.unlike(ranked(messages(1, 4)[0])) is None


def test_the_student_says_why_and_keeps_its_answer_and_confidence(guard: Guard) -> None:
    student = ClassifierStudent(FakeClassifier(("a", "b"), lambda _text: [0.0, 9.0]), guard)
    hello, like = student.answer(["hello", "my card was lost on day 3"])
    assert (hello.output, like.unlike) == ("b", None)
    assert hello.confidence == like.confidence > 0.99
    assert hello.unlike is not None


def test_what_is_handed_over_counts_so_in_calibration(guard: Guard) -> None:
    texts = [*messages(300, 7), *["hello"] * 100]
    right = np.array([True] * 300 + [False] * 100)  # wrong wherever it is unlike
    sure = np.random.default_rng(0).permutation(np.linspace(0.9, 0.999, 400))
    asked = Guarantee(kind="selective", max_error=0.05, confidence=0.95)
    hashes, now = {"model": "m"}, datetime(2026, 1, 1, tzinfo=UTC)
    without = certify(asked, sure, right, hashes=hashes, now=now)
    guarded = certify(asked, without_unlike(guard, sure, texts), right, hashes=hashes, now=now)
    assert without.threshold is None
    assert guarded.threshold is not None
    assert (guarded.n, guarded.accepted) == (400, sum(guard.unlike(text) is None for text in texts))


def faults_and_stories(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Rows of a label of short messages, and of one whose rows are all long."""
    texts = messages(2 * n, seed)
    stories = [f"{text} and after all of that they told us on the phone that {text}" for text in texts[n:]]
    return [*texts[:n], *stories], ["fault"] * n + ["story"] * n


@pytest.fixture(scope="module")
def by_label() -> Guard:
    train, dev = faults_and_stories(400, 1), faults_and_stories(100, 2)
    return Guard(fit_guard(train[0], dev[0], labels=(train[1], dev[1])))


def test_a_short_input_is_handed_over_where_the_rows_of_its_label_are_long(by_label: Guard) -> None:
    texts = ["my parcel was late on day 3", "is the parcel late or broken?"]
    for text, label in itertools.product(texts, ("fault", "story")):
        student = ClassifierStudent(FakeClassifier((label, "other"), lambda _text: [9.0, 0.0]), by_label)
        said = student.answer([text])[0]
        assert (said.output, said.unlike is not None) == (label, label == "story")
        if said.unlike is not None:
            assert f"“{label}”" in said.unlike
    assert [by_label.unlike(text) for text in texts] == [None, None]  # the text alone is as usual


def test_at_most_one_in_a_hundred_rows_of_each_label_is_handed_over_for_its_label(by_label: Guard) -> None:
    texts, labels = faults_and_stories(1000, 3)
    handed = np.array([by_label.unlike(text, label) is not None for text, label in zip(texts, labels, strict=True)])
    assert all(handed[np.array(labels) == label].mean() < 0.03 for label in ("fault", "story"))
    assert by_label.model.dev_share <= 0.02


SMALL_TALK = ["how are you", "thank you so much", "please help me", "see you tomorrow", "is it you?", "why always me"]


def orders_and_questions(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Rows of two labels whose words of grammar are those of small talk; only their things differ."""
    draw = random.Random(seed)
    forms = ("please help me see the {a}", "why is the {a} so {b}", "thank you for the {a} tomorrow", "how are you {a}")
    rows = [(draw.choice(forms), draw.random() < 0.5) for _ in range(n)]
    texts = [
        form.format(a=draw.choice(THINGS[:4] if order else THINGS[4:]), b=draw.choice(DOINGS)) for form, order in rows
    ]
    return texts, ["order" if order else "question" for _, order in rows]


@pytest.mark.parametrize("greets", [0, 60, 300])
def test_small_talk_is_handed_over_unless_rows_of_the_label_are_such(greets: int) -> None:
    train, dev = orders_and_questions(1500, 1), orders_and_questions(300, 2)
    talk = [SMALL_TALK[place % len(SMALL_TALK)] for place in range(greets)]
    texts, labels = [*train[0], *talk], [*train[1], *["greeting"] * greets]
    guard = Guard(fit_guard(texts, dev[0], labels=(labels, dev[1])))
    for text in SMALL_TALK:
        assert guard.unlike(text, "order") is not None
        assert guard.unlike(text, "question") is not None
        if greets:  # whether it has a hundred rows or fewer
            assert guard.unlike(text, "greeting") is None
    assert guard.unlike("how are you card", "order") is None
    assert guard.unlike("how are you card", "question") is not None  # a word that speaks for the other label


def test_small_talk_is_handed_over_where_rows_have_words_that_no_other_row_has() -> None:
    names = ["".join(random.Random(place).choices("bdgklmnprtvz", k=7)) for place in range(1600)]
    texts = [f"who is {name}" if place % 2 else f"what is a {name}" for place, name in enumerate(names)]
    labels = ["person", "thing"] * 800
    guard = Guard(fit_guard(texts[:1300], texts[1300:], labels=(labels[:1300], labels[1300:])))
    for label in ("person", "thing"):
        said = guard.unlike("who is it", label)
        assert said is not None
        assert "small talk" in said
        assert guard.model.dev_share <= 0.02


def test_calibration_counts_what_the_student_hands_over_for_its_label(by_label: Guard) -> None:
    texts, _ = faults_and_stories(200, 5)
    given = ["story" if place % 2 else "fault" for place in range(len(texts))]
    answers = [
        ClassifierStudent(FakeClassifier((label, "other"), lambda _text: [9.0, 0.0]), by_label).answer([text])[0]
        for text, label in zip(texts, given, strict=True)
    ]
    counted = without_unlike(by_label, np.array([answer.confidence for answer in answers]), texts, given)
    assert np.isnan(counted).tolist() == [answer.unlike is not None for answer in answers]
    assert 0.2 < np.isnan(counted).mean() < 0.4  # the short ones that were called stories


def test_a_guard_of_version_1_opens_and_judges_by_the_text_alone(guard: Guard, by_label: Guard) -> None:
    document = {**guard.model.to_json(), "schema_version": 1}
    del document["labels"]
    old = Guard(GuardModel.from_json(json.dumps(document), GUARD))
    texts = [*messages(50, 8), "hello", "how are you", ""]
    assert [old.unlike(text, "story") for text in texts] == [guard.unlike(text) for text in texts]
    assert by_label.unlike(messages(1, 8)[0], "story") is not None


def test_a_model_folder_without_a_guard_opens_and_a_damaged_one_is_refused(tmp_path: Path, guard: Guard) -> None:
    spec = pico_linear(tmp_path / "model", WORDS)
    assert read_guard(tmp_path / "model", spec) is None
    named = spec.model_copy(update={"files": {**spec.files, GUARD: "0" * 64}})
    path = tmp_path / "model" / GUARD
    path.write_text(json.dumps(guard.model.to_json()))
    loaded = read_guard(tmp_path / "model", named)
    assert loaded is not None
    assert loaded.model == guard.model
    for known in ("not base64", "AAA="):
        damaged = [{"known": known}, {"labels": [{"label": "a", "least_words": 0, "speaks": known}]}]
        path.write_text(json.dumps({**guard.model.to_json(), **damaged[known == "AAA="]}))
        with pytest.raises(ModelFileError, match="guard"):
            read_guard(tmp_path / "model", named)


def test_the_document_reads_what_it_wrote(guard: Guard) -> None:
    assert GuardModel.from_json(json.dumps(guard.model.to_json()), GUARD) == guard.model
