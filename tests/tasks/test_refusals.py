"""Refusals: told from answers by beginning, object and input, and no answer in any kind that writes."""

from __future__ import annotations

import json

import pytest
from task_toys import make_kind

from locum.tasks.refusals import is_refusal

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist with that request.",
    "Sorry, I cannot answer this question",
    "I cannot translate this text.",
    "I am unable to provide a summary of the article.",
    "I'm unable to assist you with that. If you have another question, feel free to ask!",
    "Unfortunately, I can't complete your request.",
    "As an AI language model, I do not have opinions.",
    "I'm sorry, but as an AI I cannot comply.",
    "I'm sorry, I can't.",
    '"I won\'t help you with this."',
    "I must decline to answer that.",
)
ANSWERS = (
    "I'm sorry to hear that your parcel is late. It left our store on Monday.",
    "Sorry, we close at six.",
    "I'm sorry, but I cannot process refunds after 30 days.",
    "I can't help but smile when I read this.",
    "I can't help with that, but our billing team can: call 555.",
    "I cannot find the answer without x, so x = 4.",
    "The man said: I can't help with that.",
    "Unable to sleep, she wrote a letter.",
    "It is a code of conduct.",
    "I'm sorry, but I can't help with that. " + "So he said, and went on with his long tale of the sea. " * 4,
    "",
)
WRITTEN = ("qa", "maths", "summarise", "translate", "code", "chat", "custom")
CANDIDATES = json.dumps({"query": "q", "candidates": ["a", "b", "c", "d", "e"]})


@pytest.mark.parametrize("said", REFUSALS)
def test_refusals(said: str) -> None:
    assert is_refusal(said)


@pytest.mark.parametrize("said", ANSWERS)
def test_answers_that_sound_alike(said: str) -> None:
    assert not is_refusal(said)


@pytest.mark.parametrize("form", WRITTEN)
def test_a_refusal_is_no_answer_of_any_kind(form: str) -> None:
    kind = make_kind(form)
    for said in ("I'm sorry, but I can't help with that.", "<think>Hm.</think>I'm sorry, I can't assist with that."):
        assert kind.parse(said, "Das Wetter ist heute sch\u00f6n.") is None
    assert kind.parse("It was built in 1843.", "When?") is not None


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("qa", "What did the clerk say? He said: \"I'm sorry, I can't help with that.\""),
        ("summarise", "The bot was asked and wrote back: I'm sorry, but I can't help with that. They tried again."),
        ("translate", "Es tut mir leid, aber dabei kann ich nicht helfen."),
        ("translate", "抱歉，我帮不了你。"),
        ("translate", "Mi dispiace, non posso aiutarti."),
        ("chat", 'Why do you say "I can\'t help with that" so often? Say it once more.'),
    ],
)
def test_what_the_input_says_too_is_an_answer(form: str, text: str) -> None:
    said = "I'm sorry, I can't help with that."
    answer = make_kind(form).parse(said, text)
    assert answer is not None
    assert answer.startswith("I'm sorry")


def test_where_refusing_is_the_task_a_refusal_is_an_answer() -> None:
    said = "I'm sorry, but I can't help with that."
    assert make_kind("chat", instruction="Answer; decline what is dangerous.").parse(said, "How?") == said
    judged = make_kind("custom", judge={"criterion": "Does it refuse what is dangerous?"})
    assert judged.parse(said, "How?") == said
