"""Spans as tags of tokens, and scores of tags as spans."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from locum.scoring.spans import bio_spans
from locum.tasks.bio import BioTags
from locum.tasks.tag import types_of

TAGS = BioTags.of_types(["PERSON", "CITY"])
TEXT = "Anna Berg met Bo in New York."


def words_of(text: str) -> NDArray[np.int64]:
    return np.array([found.span() for found in re.finditer(r"\w+|[^\w\s]", text)], dtype=np.int64).reshape(-1, 2)


def scores_for(names: list[str], sure: float = 8.0) -> NDArray[np.float32]:
    return np.array([[sure * (name == said) for name in TAGS.names] for said in names], dtype=np.float32)


def test_tags_are_named_by_type_and_types_by_tags() -> None:
    assert TAGS.names == ("O", "B-PERSON", "I-PERSON", "B-CITY", "I-CITY")
    assert TAGS.types == types_of(TAGS.names) == ("PERSON", "CITY")
    moved = BioTags(("I-CITY", "B-PERSON", "O", "B-CITY", "I-PERSON"))
    assert (moved.outside, moved.types) == (2, ("CITY", "PERSON"))


@pytest.mark.parametrize("names", [("O", "B-X"), ("B-X", "I-X"), ("O", "PERSON"), ("O", "B-X", "I-X", "B-X"), ()])
def test_other_tags_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="B-TYPE"):
        BioTags(names)


def test_spans_come_back_from_their_tags() -> None:
    spans = [(0, 9, "PERSON"), (14, 16, "PERSON"), (20, 28, "CITY")]
    offsets = words_of(TEXT)
    tags = TAGS.write(spans, offsets)
    names = [TAGS.names[tag] for tag in tags]
    assert names == ["B-PERSON", "I-PERSON", "O", "B-PERSON", "O", "B-CITY", "I-CITY", "O"]
    reading = TAGS.read(TEXT, offsets, scores_for(names))
    assert [found.span for found in reading.spans] == spans
    assert reading.tags.tolist() == tags.tolist()


def test_neighbours_of_one_type_stay_two_spans() -> None:
    text, offsets = "Rome Paris", words_of("Rome Paris")
    reading = TAGS.read(text, offsets, scores_for(["B-CITY", "B-CITY"]))
    assert [found.span for found in reading.spans] == [(0, 4, "CITY"), (5, 10, "CITY")]


def test_a_token_that_shares_a_character_with_a_span_belongs_to_it() -> None:
    offsets = np.array([[0, 2], [2, 7], [7, 9]])  # pieces that do not end where the span does
    assert [TAGS.names[tag] for tag in TAGS.write([(1, 4, "CITY")], offsets)] == ["B-CITY", "I-CITY", "O"]


def well_formed(tags: tuple[int, ...]) -> bool:
    before = ("O", *(TAGS.names[tag] for tag in tags))
    pairs = itertools.pairwise(before)
    return all(not now.startswith("I-") or last[1:] == now[1:] for last, now in pairs)


def test_the_best_sequence_is_that_of_trying_them_all() -> None:
    draw = np.random.default_rng(0)
    every = [tags for tags in itertools.product(range(5), repeat=4) if well_formed(tags)]
    for _ in range(50):
        scores = draw.normal(size=(4, 5))
        wanted = max(every, key=lambda tags: sum(scores[place, tag] for place, tag in enumerate(tags)))
        assert tuple(TAGS.best(scores)) == wanted
    assert TAGS.best(np.empty((0, 5))).shape == (0,)


def test_a_lost_beginning_is_found_where_the_rest_is_sure() -> None:
    scores = scores_for(["O", "I-CITY"], 6.0)
    scores[0, TAGS.names.index("B-CITY")] = 5.0
    reading = TAGS.read("New York", words_of("New York"), scores)
    assert [found.span for found in reading.spans] == [(0, 8, "CITY")]
    greedy = [TAGS.names[column] for column in scores.argmax(axis=1)]
    assert bio_spans(greedy, [(0, 3), (4, 8)]) == [(4, 8, "CITY")]  # what repairing makes of it


def test_a_span_grows_to_whole_words_and_loses_white_space() -> None:
    text = "to Annabel, 3 km"
    for offsets, wanted in [
        ([[0, 3], [3, 7], [7, 10]], (3, 10)),  # a piece of the name
        ([[0, 2], [2, 11], [11, 16]], (3, 11)),  # a token that begins with a space
        ([[0, 2], [12, 13], [13, 16]], (12, 13)),  # a digit and a letter are two words
    ]:
        reading = TAGS.read(text, np.array(offsets), scores_for(["O", "B-PERSON", "O"]))
        assert [found.span for found in reading.spans] == [(*wanted, "PERSON")]


def test_scripts_without_cases_are_cut_where_the_tokens_are() -> None:
    reading = TAGS.read("我住在北京市", np.array([[0, 3], [3, 5], [5, 6]]), scores_for(["O", "B-CITY", "O"]))
    assert [found.span for found in reading.spans] == [(3, 5, "CITY")]


def test_spans_that_grow_into_each_other_do_not_overlap() -> None:
    reading = TAGS.read("annaberg", np.array([[0, 4], [4, 8]]), scores_for(["B-PERSON", "B-CITY"]))
    assert [found.span for found in reading.spans] == [(0, 8, "PERSON")]


def test_a_spans_probability_is_that_of_its_tags_and_of_its_end() -> None:
    scores = np.log(
        np.array([[0.1, 0.6, 0.1, 0.1, 0.1], [0.2, 0.1, 0.5, 0.1, 0.1], [0.6, 0.1, 0.2, 0.05, 0.05]])
    ).astype(np.float32)
    (found,) = TAGS.read("Anna Berg met", words_of("Anna Berg met"), scores).spans
    assert found.span == (0, 9, "PERSON")
    assert found.probability == pytest.approx(0.6 * 0.5 * (1 - 0.2), rel=1e-5)
    (last,) = TAGS.read("Anna Berg", words_of("Anna Berg"), scores[:2]).spans
    assert last.probability == pytest.approx(0.6 * 0.5, rel=1e-5)


def test_a_text_without_tokens_has_no_spans() -> None:
    reading = TAGS.read("", np.empty((0, 2), dtype=np.int64), np.empty((0, 5), dtype=np.float32))
    assert reading.spans == () and reading.probabilities.shape == (0, 5)
