"""The letter case of tokens, for taggers whose tokenizer folds it: names begin with a capital, codes are written in it.

Notable: a tagger that reads case gets it where BERT takes the number of a sentence (``token_type_ids``), so graph and
engine stay as they are. Not here: how a base learns to read it (``models.tagger``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CASES = 5
"""How many there are: no letters that have a case, lower, Capitalised, UPPER, miXed."""
_NONE, _LOWER, _CAPITALISED, _UPPER, _MIXED = range(CASES)


def letter_cases(text: str, spans: NDArray[np.int64]) -> list[int]:
    """The case of each token, as it stands in the text.

    Args:
        text: as it was given.
        spans: start and end of each token in it, in characters, ``[n, 2]``; special tokens have no width.
    """
    return [_case(text[start:end]) for start, end in spans.tolist()]


def padded_cases(cases: Sequence[list[int]], width: int) -> NDArray[np.int64]:
    """Cases of several texts as an array ``[B, width]``, padded at the right."""
    found = np.full((len(cases), width), _NONE, dtype=np.int64)
    for row, each in enumerate(cases):
        found[row, : len(each)] = each
    return found


def _case(piece: str) -> int:
    lower, upper = piece.lower(), piece.upper()
    if lower == upper:
        return _NONE
    if piece == lower:
        return _LOWER
    if piece[1:] == lower[1:]:
        return _CAPITALISED
    return _UPPER if piece == upper else _MIXED
