"""Reading a label in what a prompted model wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.tasks.labels import LabelReader

LABELS = ("card_arrival", "cash_withdrawal", "card_arrival_delayed", "Refund not showing up", "spam", "a", "1")
READER = LabelReader(LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "card_arrival",
        "  card_arrival\n",
        "Card_Arrival",
        "card arrival",
        "Card-Arrival.",
        '"card_arrival"',
        "“card_arrival”",
        "`card_arrival`",
        "**card_arrival**",
        "```\ncard_arrival\n```",
        '```json\n{"label": "card_arrival"}\n```',
        '{"label": "card_arrival"}',
        '{"label": "card_arrival", "why": "spam is not meant"}',
        '{"x": "card arrival"}',
        '["card_arrival"]',
        '"card_arrival"',
        "Label: card_arrival",
        "label : `card_arrival`",
        "The label is card_arrival.",
        "The correct category is **card_arrival**, because it has not come.",
        "card_arrival\n\nThe customer asks where the card is, spam is excluded.",
        "This message expresses card_arrival.",
        "<think>spam? no, card_arrival_delayed? no</think>card_arrival",
        "ＣＡＲＤ＿ＡＲＲＩＶＡＬ",  # full-width forms
    ],
)
def test_ways_of_writing_one_label(text: str) -> None:
    assert READER.read(text) == "card_arrival"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "...",
        "unknown",
        "card_arrival or cash_withdrawal",
        "It is not spam.",
        "This isn't spam",
        "Rather than spam",
        "<think>card_arrival",
        '{"label": null}',
        '{"label": true}',
        '{"label": "card_arrival", "answer": "spam"}',
        '{"first": "card_arrival", "second": "spam"}',
        "[]",
        '["card_arrival", "spam"]',
        '{"label": "something else", "text": "spam"}',
        "Label: card_arrival\nLabel: spam",
        "there is a reason",  # the one-letter label is not meant
        " ".join(["word"] * 60 + ["spam"]),
        "[" * 10_000,
    ],
)
def test_no_clear_label_is_none(text: str) -> None:
    assert READER.read(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with spam.",
        "I’m sorry, I cannot classify this as spam",
        "I cannot assist with that. spam",
        "Sorry, spam requests are not allowed",
        "As an AI language model I have no view on spam.",
        "This cannot be determined, perhaps spam",
        "",
    ],
)
def test_fault_61_refusal_or_empty_completion_is_not_a_label(text: str) -> None:
    assert READER.read(text) is None


def test_a_label_that_sounds_like_a_refusal_is_a_label() -> None:
    reader = LabelReader(("unable_to_verify_identity", "why_verify_identity"))
    assert reader.read("unable_to_verify_identity") == "unable_to_verify_identity"
    assert reader.read("Unable to verify identity") == "unable_to_verify_identity"


def test_the_longest_label_wins_where_one_lies_inside_the_other() -> None:
    assert READER.read("I would say card_arrival_delayed here") == "card_arrival_delayed"
    assert READER.read("card_arrival_delayed") == "card_arrival_delayed"


def test_a_label_may_itself_hold_a_negation() -> None:
    assert READER.read("The topic: Refund not showing up") == "Refund not showing up"


def test_labels_that_differ_by_case_only_need_exact_text() -> None:
    reader = LabelReader(("US", "us"))
    assert reader.read("US") == "US"
    assert reader.read(" us ") == "us"
    assert reader.read("Us") is None
    assert reader.read("the answer is us") == "us"


def test_one_character_labels() -> None:
    reader = LabelReader(("0", "1", "2"))
    assert reader.read("1") == "1"
    assert reader.read("Label: 1") == "1"
    assert reader.read('{"label": 1}') == "1"
    assert reader.read("There are 2 reasons") is None


@given(st.text(max_size=300))
def test_any_text_gives_a_label_of_the_task_or_none(text: str) -> None:
    assert READER.read(text) in (None, *LABELS)


@given(st.lists(st.text(min_size=1, max_size=12).filter(lambda s: s == s.strip()), min_size=1, max_size=6, unique=True))
def test_every_label_reads_as_itself(labels: list[str]) -> None:
    reader = LabelReader(labels)
    for label in labels:
        if not label.startswith(("```", "<think")):
            assert reader.read(label) == label
