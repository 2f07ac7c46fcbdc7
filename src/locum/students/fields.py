"""How sure a model was of each field of the JSON it wrote, from the log-probabilities of the tokens that wrote it.

Notable: every token that touches a field's value counts; the sum of their log-probabilities says how likely the model
was to write just this value after what stands before it. A token shared by two values counts for both. Where tokens
cannot be laid over the text, nothing is known. Not here: the fitted confidences (``students.confidence``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from locum.runtime.completion import Completion, TokenLogprob
from locum.tasks.json_answer import found_json, read_json

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_LOWEST = -20.0
_SHARED = ("logprob_mean", "logprob_min", "agreement")
"""Features of an answer that its fields have, too."""

Logprobs = NDArray[np.float64]


def field_tokens(text: str, tokens: Sequence[TokenLogprob], start: int | None = None) -> dict[str, Logprobs]:
    """The log-probabilities (natural) of the tokens that wrote each value of a JSON object in a text.

    Args:
        text: what was written.
        tokens: that wrote it, in order.
        start: where the object begins; None takes the first one.

    Returns:
        By path (``arguments.city``, ``items[2].price``); empty where there is no object, or the tokens' own text does
        not hold ``text``.
    """
    if start is None:
        start = next((found.start for found in found_json(text)), None)
    written = "".join(token.token for token in tokens)
    shift = written.find(text)
    if start is None or shift < 0:
        return {}
    ends = np.cumsum([len(token.token) for token in tokens]) - shift  # in characters of ``text``
    starts = ends - [len(token.token) for token in tokens]
    values = np.maximum([token.logprob for token in tokens], _LOWEST)
    return {path: values[(starts < last) & (ends > first)] for path, first, last in value_places(text, start)}


def field_features(completion: Completion) -> dict[str, float]:
    """The least sure field and the mean over fields, as log-probabilities; NaN when nothing is known."""
    found = field_tokens(completion.text, completion.logprobs)
    known = [float(values.sum()) for values in found.values()] or [np.nan]
    return {"field_logprob_min": float(min(known)), "field_logprob_mean": float(np.mean(known))}


def features_by_field(completion: Completion, output: str, whole: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What is known of each field of an answer, for a confidence of its own, by path.

    Args:
        completion: what was written.
        output: the JSON object that was read out of it.
        whole: features of the answer; some of them bear on its fields, too.

    Returns:
        Mean, least and sum of the log-probabilities of the field's tokens, how many tokens there are, and some
        features of the answer; empty where tokens do not fit the text.
    """
    value = read_json(output)
    start = next((found.start for found in found_json(completion.text) if found.value == value), None)
    if start is None:
        return {}
    shared = {f"answer_{name}": whole[name] for name in _SHARED if name in whole}
    return {
        path: {
            "logprob_mean": float(values.mean()),
            "logprob_min": float(values.min()),
            "logprob_sum": float(values.sum()),
            "tokens_log": float(np.log1p(len(values))),
            **shared,
        }
        for path, values in field_tokens(completion.text, completion.logprobs, start).items()
        if path and len(values)
    }


def value_places(text: str, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Path, start and end of every leaf of the valid JSON value that begins at ``start``, in order."""
    places: list[tuple[str, int, int]] = []
    _walk(text, start, "", places)
    yield from places


def _walk(text: str, at: int, path: str, places: list[tuple[str, int, int]]) -> int:
    """Note the leaves of the value at ``at``; where it ends."""
    start = at = _after_space(text, at)
    if text[at] not in "{[":
        _, end = _DECODER.raw_decode(text, at)
        places.append((path, at, end))
        return end
    is_object, at = text[at] == "{", _after_space(text, at + 1)
    if text[at] in "}]":
        places.append((path, start, at + 1))
        return at + 1
    number = 0
    while True:
        inner = f"{path}[{number}]"
        if is_object:
            key, at = _DECODER.raw_decode(text, at)
            inner = f"{path}.{key}" if path else str(key)
            at = _after_space(text, at) + 1  # the colon
        at = _after_space(text, _walk(text, at, inner, places))
        if text[at] != ",":
            return at + 1
        at, number = _after_space(text, at + 1), number + 1


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
