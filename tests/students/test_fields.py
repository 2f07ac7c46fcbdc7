"""How sure a model was of each field, from scripted tokens."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.runtime.completion import Completion, TokenLogprob
from locum.students.fields import features_by_field, field_features, field_tokens, value_places

PIECES = [("{", 0.0), ('"city', -0.1), ('": "', -0.2), ("Ro", -1.0), ("me", -2.0), ('", ', -0.5), ('"days', -0.1)]
PIECES += [('": ', -0.1), ("3", -0.7), ("}", 0.0)]


def tokens(pieces: list[tuple[str, float]]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(text, logprob) for text, logprob in pieces)


def completion(text: str, pieces: list[tuple[str, float]]) -> Completion:
    return Completion(text, "stop", 1, len(pieces), "model", logprobs=tokens(pieces))


def field_logprobs(text: str, written: tuple[TokenLogprob, ...]) -> dict[str, float]:
    return {path: float(values.sum()) for path, values in field_tokens(text, written).items()}


def test_a_field_is_as_likely_as_the_tokens_that_touch_its_value() -> None:
    found = field_logprobs('{"city": "Rome", "days": 3}', tokens(PIECES))
    assert found == pytest.approx({"city": -0.2 - 1.0 - 2.0 - 0.5, "days": -0.7})


def test_features_are_the_least_sure_field_and_the_mean() -> None:
    found = field_features(completion('{"city": "Rome", "days": 3}', PIECES))
    assert found == pytest.approx({"field_logprob_min": -3.7, "field_logprob_mean": -2.2})


def test_text_around_the_object_does_not_move_the_places() -> None:
    pieces = [("Sure: ", -9.0), ('{"a"', -0.1), (": 7", -0.4), ("}", 0.0), (" bye", -9.0)]
    assert field_logprobs('Sure: {"a": 7} bye', tokens(pieces)) == pytest.approx({"a": -0.4})
    assert field_logprobs('{"a": 7}', tokens([("\n", -9.0), *pieces[1:4]])) == pytest.approx({"a": -0.4})


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("no object", [("no object", -1.0)]),
        ('{"a": "é"}', [('{"a": "', -1.0), ("\ufffd", -1.0), ("\ufffd", -1.0), ('"}', -1.0)]),
        ('{"a": 1}', []),
    ],
)
def test_where_tokens_do_not_fit_nothing_is_known(text: str, pieces: list[tuple[str, float]]) -> None:
    assert field_logprobs(text, tokens(pieces)) == {}
    assert all(math.isnan(value) for value in field_features(completion(text, pieces)).values())


def test_each_field_has_features_of_its_own_tokens_and_of_its_answer() -> None:
    made = completion('{"city": "Rome", "days": 3}', PIECES)
    found = features_by_field(made, '{"city":"Rome","days":3}', {"logprob_mean": -0.5, "agreement": 0.25, "cut": 0.0})
    shared = {"answer_logprob_mean": -0.5, "answer_agreement": 0.25}
    city = {"logprob_mean": -3.7 / 4, "logprob_min": -2.0, "logprob_sum": -3.7, "tokens_log": math.log(5)}
    days = {"logprob_mean": -0.7, "logprob_min": -0.7, "logprob_sum": -0.7, "tokens_log": math.log(2)}
    assert list(found) == ["city", "days"]
    assert found["city"] == pytest.approx(city | shared)
    assert found["days"] == pytest.approx(days | shared)


def test_the_object_that_was_read_is_the_one_that_is_looked_at() -> None:
    pieces = [('{"a": 1}', -3.0), (" or ", -1.0), ('{"a": 2}', -0.25)]
    made = completion('{"a": 1} or {"a": 2}', pieces)
    assert features_by_field(made, '{"a":2}', {})["a"]["logprob_sum"] == -0.25
    assert features_by_field(made, '{"a":3}', {}) == {}
    assert features_by_field(completion("{}", [("{}", -1.0)]), "{}", {}) == {}  # no fields in it


def test_an_impossible_token_is_bounded() -> None:
    assert field_logprobs('{"a":1}', tokens([('{"a":1}', -math.inf)])) == {"a": -20.0}


def test_paths_lead_into_objects_and_lists() -> None:
    text = '{"a": [1, {"b" : "x,]"}], "c": {}, "d": [ ], "e": null}'
    places = [(path, text[start:end]) for path, start, end in value_places(text)]
    assert places == [("a[0]", "1"), ("a[1].b", '"x,]"'), ("c", "{}"), ("d", "[ ]"), ("e", "null")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from([None, 2]))
def test_every_place_holds_a_value_of_its_own(document: object, indent: int | None) -> None:
    text = json.dumps(document, indent=indent)
    places = list(value_places(text))
    assert places
    assert all(first[2] <= second[1] for first, second in itertools.pairwise(places))
    for _path, start, end in places:
        json.loads(text[start:end])
