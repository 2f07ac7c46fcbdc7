"""Which script a text is written in, as far as scores need it: what a word is hangs on it.

Notable: more than half of the letters decide, so a foreign name or a year changes nothing. Not here: languages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_HAN_OR_KANA = re.compile(
    r"[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_NOT_A_TO_Z = re.compile(r"[^a-zA-Z]")


def is_han_or_kana(texts: Iterable[str]) -> bool:
    """Whether most letters of some texts are Chinese characters or Japanese kana, which are written without spaces."""
    return _most(texts, _HAN_OR_KANA)


def is_a_to_z(texts: Iterable[str]) -> bool:
    """Whether at least half of the letters of some texts are a to z, in either case; true of texts without letters."""
    return not _most(texts, _NOT_A_TO_Z)


def _most(texts: Iterable[str], kind: re.Pattern[str]) -> bool:
    letters = [char for text in texts for char in text if char.isalpha()]
    return 2 * sum(kind.match(char) is not None for char in letters) > len(letters)


def words(text: str) -> list[str]:
    """A text's words in any script: runs of letters, their marks and digits; each Chinese character and kana alone.

    Lower case, in Unicode's form NFKC. Other scripts without spaces (Thai, Khmer) are left in runs.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(_apart(char) for char in folded).split()


def _apart(char: str) -> str:
    if _HAN_OR_KANA.match(char):
        return f" {char} "
    return char if char.isalnum() or unicodedata.category(char).startswith("M") else " "
