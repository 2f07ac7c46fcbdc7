"""Pieces of text from tokens: whole characters, nothing of a stop string, all of the rest."""

from __future__ import annotations

import random

import pytest

from locum.runtime.openvino_text import AnswerText


def decode(ids: list[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", "replace")


def pieces(text: str, stops: tuple[str, ...] = (), *, size: int = 1) -> tuple[list[str], AnswerText]:
    """What is shown of a text that comes a few bytes at a time."""
    answer = AnswerText(stops)
    ids = list(text.encode())
    shown: list[str] = []
    for start in range(0, len(ids), size):
        known, whole = answer.add(ids[start : start + size])
        shown.append(answer.take(decode(known), decode(whole), last=start + size >= len(ids)))
        if answer.stopped:
            break
    return shown, answer


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_are_never_cut(size: int) -> None:
    shown, _ = pieces("Grüße 🙂 你好", size=size)
    assert "".join(shown) == "Grüße 🙂 你好"
    assert all("\ufffd" not in piece for piece in shown)


def test_what_never_becomes_a_character_is_shown_as_such() -> None:
    answer = AnswerText()
    shown = []
    for _ in range(10):
        known, whole = answer.add([0xFF])
        shown.append(answer.take(decode(known), decode(whole)))
    assert "".join(shown)
    assert set("".join(shown)) == {"\ufffd"}


def test_an_unfinished_character_at_the_end_is_shown_at_the_end() -> None:
    answer = AnswerText()
    assert answer.take("", decode(answer.add([0x61, 0xC3])[1])) == "a"
    known, whole = answer.add([])
    assert answer.take(decode(known), decode(whole), last=True) == "\ufffd"


def test_a_stop_string_ends_the_text_before_it_and_none_of_it_is_shown() -> None:
    shown, answer = pieces("one two STOP three", ("STOP",))
    assert "".join(shown) == "one two " and answer.stopped
    assert answer.take("", "more") == ""


def test_the_earliest_of_several_stop_strings_counts() -> None:
    shown, _ = pieces("abcdef", ("ef", "cd", ""), size=6)
    assert "".join(shown) == "ab"


def test_what_only_begins_like_a_stop_string_is_shown_after_all() -> None:
    shown, answer = pieces("a ST. b STO", ("STOP",))
    assert "".join(shown) == "a ST. b STO" and not answer.stopped
    assert shown[2:4] == ["", ""]  # held back until it was something else


def test_pieces_are_the_text_up_to_the_first_stop_whatever_comes_how() -> None:
    dice = random.Random(5)
    for _ in range(300):
        text = "".join(dice.choice("abé🙂") for _ in range(dice.randrange(1, 20)))
        stops = tuple("".join(dice.choice("abé") for _ in range(dice.randrange(1, 4))) for _ in range(2))
        shown, _ = pieces(text, stops, size=dice.randrange(1, 5))
        cut = min([text.find(stop) for stop in stops if stop in text], default=len(text))
        assert "".join(shown) == text[:cut]


def test_a_tokenizer_that_writes_a_beginning_differently() -> None:
    words = ["▁Hello", "▁there", "!"]

    def decode_words(ids: list[int]) -> str:
        return "".join(words[token] for token in ids).replace("▁", " ").removeprefix(" ")

    answer = AnswerText()
    shown = [answer.take(*map(decode_words, answer.add([token]))) for token in range(3)]
    assert "".join(shown) == "Hello there!"
