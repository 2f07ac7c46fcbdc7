"""One form for every text: Unicode NFC, line feeds, and no characters that nobody can see.

Notable: what is served must read inputs through the same ``normalise`` that training did, so this module is
small, pure and needs only the standard library. Joiners (U+200C, U+200D) stay: Persian, Indic scripts and
emoji need them. Text with lone surrogates is not text and is refused, not repaired.
Not here: folding case or punctuation, which only the search for near-duplicates does (``neardup.fold``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

_LINE_END = re.compile("\r\n|\r|\u0085|\u2028|\u2029")
_NUL = re.compile("\x00")
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ZERO_WIDTH = re.compile("[\u00ad\u180e\u200b\u2060-\u2064\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_STEPS: Final = (
    ("line_ends", _LINE_END, "\n"),
    ("nul_removed", _NUL, ""),
    ("control_removed", _CONTROL, ""),
    ("bidi_removed", _BIDI, ""),
    ("zero_width_removed", _ZERO_WIDTH, ""),
)
_ODD = re.compile("[^\t\n\x20-\x7e]")

Count = Callable[[str], None]


class NotText(ValueError):
    """The value holds lone surrogates: bytes that are not text in the file's encoding."""


def _nobody(_name: str) -> None:
    """The default count: nobody keeps it."""


def normalise(text: str, count: Count = _nobody) -> str:
    """A text in its one form: NFC, line feeds, invisible characters removed, ends stripped.

    Args:
        text: any text.
        count: called with the name of each kind of change that was made (``zero_width_removed``, …).

    Returns:
        The normal form; normalising it again changes nothing.

    Raises:
        NotText: the text holds lone surrogates.
    """
    return unstripped(text, count).strip()


def unstripped(text: str, count: Count = _nobody) -> str:
    """``normalise`` but for the white space at the ends, which stays.

    Raises:
        NotText: the text holds lone surrogates.
    """
    if _ODD.search(text):
        if _SURROGATE.search(text):
            raise NotText("bytes that are not text (lone surrogates)")
        for name, pattern, instead in _STEPS:
            text, changes = pattern.subn(instead, text)
            if changes:
                count(name)
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
            count("nfc")
    return text
