"""How tokens stand in a text, for taggers whose tokenizer folds it away: letter case, and the white space before.

Notable: names begin with a capital, codes are written in capitals, and in an address every line may be a span of its
own; BERT's tokenizer drops the white space, and that of an uncased one the case, too. A tagger that reads surface forms
gets them where BERT takes the number of a sentence (``token_type_ids``), so graph and engine stay as they are. Not
here: how a base learns to read them (``models.tagger``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CASES = 5
"""No letters that have a case, lower, Capitalised, UPPER, miXed."""
_NONE, _LOWER, _CAPITALISED, _UPPER, _MIXED = range(CASES)
SPACES = 3
"""Nothing before it, white space, white space with a line break or a tab."""
_JOINED, _SPACED, _BROKEN = range(SPACES)
_BREAKS = frozenset("\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029")

SURFACES = CASES * SPACES
"""How many forms there are: case + CASES · white space."""


def surface_forms(text: str, spans: NDArray[np.int64]) -> list[int]:
    """The form of each token, as it stands in the text; below ``SURFACES``.

    Args:
        text: as it was given.
        spans: start and end of each token in it, in characters, ``[n, 2]``; special tokens have no width, and form 0.
    """
    return [_form(text, start, end) for start, end in spans.tolist()]


def padded_forms(forms: Sequence[list[int]], width: int) -> NDArray[np.int64]:
    """Forms of several texts as an array ``[B, width]``, padded with 0 at the right."""
    found = np.zeros((len(forms), width), dtype=np.int64)
    for row, each in enumerate(forms):
        found[row, : len(each)] = each
    return found


def _form(text: str, start: int, end: int) -> int:
    while start < end and text[start].isspace():  # some tokenizers count the white space before a word as the word's
        start += 1
    return _case(text[start:end]) + CASES * _space(text, start) if start < end else 0


def _case(piece: str) -> int:
    if piece.lower() == piece.upper():
        return _NONE
    if piece == piece.lower():
        return _LOWER
    if piece[1:] == piece[1:].lower():
        return _CAPITALISED
    return _UPPER if piece == piece.upper() else _MIXED


def _space(text: str, start: int) -> int:
    if start == 0:
        return _SPACED
    before = start
    while before > 0 and text[before - 1].isspace():
        if text[before - 1] in _BREAKS:
            return _BROKEN
        before -= 1
    return _SPACED if before < start else _JOINED
