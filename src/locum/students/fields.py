"""How sure a model was of each field of the JSON it wrote, from the log-probabilities of the tokens that wrote it.

Notable: a field's log-probability is the sum over every token that touches its value: how likely the model was to write
just this value after what stands before it. A token shared by two values counts for both. Where tokens cannot be laid
over the text, nothing is known, and features are NaN. Not here: the fitted confidence (``students.confidence``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import numpy as np

from locum.runtime.completion import Completion, TokenLogprob
from locum.tasks.json_answer import found_json

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_LOWEST = -20.0


def field_logprobs(text: str, tokens: Sequence[TokenLogprob]) -> dict[str, float]:
    """The log-probability (natural) of each value of the first JSON object of a text.

    Args:
        text: what was written.
        tokens: that wrote it, in order.

    Returns:
        By path (``arguments.city``, ``items[2].price``); empty where there is no object, or the tokens' own text does
        not hold ``text``.
    """
    found = next(found_json(text), None)
    written = "".join(token.token for token in tokens)
    shift = written.find(text)
    if found is None or shift < 0:
        return {}
    ends = np.cumsum([len(token.token) for token in tokens]) - shift  # in characters of ``text``
    starts = ends - [len(token.token) for token in tokens]
    values = np.maximum([token.logprob for token in tokens], _LOWEST)
    places = value_places(text, found.start)
    return {path: float(values[(starts < end) & (ends > start)].sum()) for path, start, end in places}


def field_features(completion: Completion) -> dict[str, float]:
    """The least sure field and the mean over fields, as log-probabilities; NaN when nothing is known."""
    known = list(field_logprobs(completion.text, completion.logprobs).values()) or [np.nan]
    return {"field_logprob_min": float(min(known)), "field_logprob_mean": float(np.mean(known))}


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
