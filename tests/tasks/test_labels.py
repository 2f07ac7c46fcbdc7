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


SPAM = LabelReader(("spam", "ham"))
STARS = LabelReader(("1", "2", "3", "4", "5", "20"))
LOAN = LabelReader(
    ("loan", "loan transfer", "loan transfer delay", "top up", "top up not working", "profile changed", "profile")
)
MOOD = LabelReader(("happy", "sad", "neutral"))
YES = LabelReader(("yes", "no"))


@pytest.mark.parametrize(
    ("reader", "texts"),
    [
        (
            SPAM,
            [
                "un-spam",
                "anti-spam",
                "!spam",
                "❌ spam",
                "no spam",
                "- [ ] spam",
                "~~spam~~",
                "spam? Hardly.",
                "spam/ham",
            ],
        ),
        (SPAM, ["spam: no", "spam, no", "spam - no", "spam (unlikely)", "spam 20%", "spam=0", "spam if it has a link"]),
        (SPAM, ["neither spam", "far from spam", "free of spam", "instead of spam", "other than spam", "less spam"]),
        (
            SPAM,
            ["It is not, to be honest with you, really spam", "I wouldn't say spam", "If it were spam, it had a link"],
        ),
        (
            SPAM,
            [
                "I love spam",
                "a spam filter",
                "the word spam",
                "spamming",
                "spam-free",
                "ham sandwich",
                "Spam is a food.",
            ],
        ),
        (
            SPAM,
            [
                "spam is not the right label",
                "Spam would be wrong here.",
                "spam is ruled out",
                "Spam. No, that is wrong.",
            ],
        ),
        (SPAM, ["spam\nham", "- spam\n- ham", "spam\nNo, wait: another", "The labels that do not apply:\n- spam"]),
        (SPAM, ['{"spam": 0.1, "ham": 0.9}', '{"not": "spam"}', '{"label": ["spam", "ham"]}', "Label: spam or ham"]),
        (SPAM, ["Das ist kein Spam.", "Ce n'est pas du spam", "No es spam", "Non è spam", "не spam", "spam niet"]),
        (SPAM, ["Label: not spam", "Label: spam?", "Label: spam, ham", "Label: spam filter", "Label: spam/scam"]),
        (
            STARS,
            [
                "4/5",
                "3 out of 5",
                "Rating: 4 of 5",
                "8 out of 20",
                "eight out of 20",
                "between 3 and 20",
                "3-20",
                "20%",
            ],
        ),
        (
            STARS,
            ["4.5", "-4", "4th", "$4", ">4", "4+", "about 20", "over 20", "20,000", "20 people", '{"confidence": 4}'],
        ),
        (
            LOAN,
            [
                "loan transfers",
                "loan transfer delays",
                "top up not work",
                "profile change",
                "a gift loan",
                "student loan",
            ],
        ),
        (
            LOAN,
            ["top up - not here", "loan (transfer)", "Label: loans", "Label: loan transferred", "profile_changes"],
        ),
        (
            MOOD,
            [
                "unhappy",
                "not happy",
                "un-happy",
                "less happy",
                "happy/sad",
                "happy-sad",
                "hardly happy",
                "happy but also sad",
            ],
        ),
        (YES, ["There is no reason", "I have no idea", "No problem", "yes and no", "yes/no", "No label fits", "nope"]),
        (LabelReader(("A", "B", "C")), ["A-", "B+", "A or B", "The answer is a mistake", "C++", "C#", "A, B"]),
        (LabelReader(("0", "1")), ["-1", "1.5", "0.1"]),
        (LabelReader(("toxic", "fine")), ["non-toxic", "nontoxic", "detoxic", "fine-grained"]),
        (LabelReader(("की", "नहीं")), ["का"]),
        (LabelReader(("US", "us", "spam")), ["either us or spam"]),
        (LabelReader(("other", "bug")), ["on the other hand", "other than bug", "bugs"]),
    ],
)
def test_what_names_no_label_clearly_is_none(reader: LabelReader, texts: list[str]) -> None:
    assert {text: reader.read(text) for text in texts} == dict.fromkeys(texts)


@pytest.mark.parametrize(
    ("reader", "label", "texts"),
    [
        (
            SPAM,
            "spam",
            ["SPAM", "> spam", "## spam", "[spam]", "<spam>", "✅ spam", "spam!", "Class: SPAM", "label=spam"],
        ),
        (SPAM, "spam", ["This is a spam message.", "It's clearly spam!", "I'd go with spam.", "It looks like spam"]),
        (SPAM, "spam", ["There is no doubt that this is spam.", "This is spam because it does not name anyone."]),
        (SPAM, "spam", ["spam, as it has a link", "spam - the text offers a prize", "spam: it offers a prize"]),
        (
            SPAM,
            "spam",
            ["Label: spam (confidence 0.9)", 'Based on this, the label is "spam".', "Sure! The label is spam."],
        ),
        (SPAM, "spam", ["It has no name.\nIt has a link.\n\nAnswer: spam", "The sender is not known.\n\nspam"]),
        (
            SPAM,
            "spam",
            ["spam\n\nThe message is not personal.", "**Answer:** spam", "<label>spam</label>", "\\boxed{spam}"],
        ),
        (
            SPAM,
            "spam",
            ['Here it is:\n```json\n{"label": "spam"}\n```\nBye', "{'label': 'spam'}", '{"label": ["spam"]}'],
        ),
        (
            SPAM,
            "spam",
            ["[THINK]ham? no[/THINK]spam", "is it ham?</think>spam", '{"result": {"label": "spam", "p": 1}}'],
        ),
        (SPAM, "spam", ["Das ist Spam.", "Kategorie: Spam", "La respuesta es spam.", "Réponse : spam"]),
        (STARS, "4", ["Rating: 4", "The rating is 4.", '{"rating": 4}', "4."]),
        (STARS, "20", ["I would rate it 20.", "Score: 20"]),
        (
            LOAN,
            "loan transfer delay",
            ["The customer asks about loan transfer delay.", "Loan transfer delay - it is late"],
        ),
        (LOAN, "loan", ["Intent: loan", "This is about a loan."]),
        (MOOD, "happy", ["The sentiment is happy."]),
        (YES, "no", ["No, the text does not say so.", "The answer is no.", "No."]),
        (LabelReader(("C++", "C", "C#")), "C#", ["C#", "Label: C#"]),
        (LabelReader(("toxic", "non-toxic")), "non-toxic", ["This is non-toxic.", "Non toxic"]),
        (LabelReader(("not_spam", "spam")), "not_spam", ["not spam", "This is not spam.", "Label: not spam"]),
        (LabelReader(("垃圾", "正常")), "垃圾", ["答案：垃圾", "垃圾。"]),
        (LabelReader(("lost?", "found")), "lost?", ["lost?", "Label: lost?"]),
    ],
)
def test_a_label_that_stands_by_itself_is_read(reader: LabelReader, label: str, texts: list[str]) -> None:
    assert {text: reader.read(text) for text in texts} == dict.fromkeys(texts, label)
