"""Which encoding a text file has: byte order mark, UTF-16 by its zeros, UTF-8 by proof, else a guess.

Notable: a guess is taken only when it cannot matter. ``charset-normalizer`` ranks the candidates; when the
plausible ones would read the file differently (``Où`` or ``Oů``), the user is asked, with both readings.
A file that is UTF-8 but for a few damaged bytes is read as UTF-8, and the rows with those bytes are bad rows.
Not here: opening files (``opening``).
"""

from __future__ import annotations

import codecs
import re

from locum.core.errors import DataError
from locum.core.registry import nearest

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CURRENT = frozenset(
    {f"cp125{page}" for page in range(9)}
    | {"cp874", "cp932", "cp949", "cp950", "latin_1", "iso8859_2", "iso8859_15", "koi8_r", "koi8_u", "tis_620"}
    | {"big5", "big5hkscs", "gb18030", "gbk", "gb2312", "euc_jp", "euc_kr", "shift_jis", "iso2022_jp", "johab"}
)
"""Encodings that data files are still written in; DOS and Macintosh ones must be named by the user."""
_COMMON_NAMES = ("utf-8", "utf-16", "latin-1", "cp1250", "cp1251", "cp1252", "shift_jis", "gb18030", "big5", "euc-kr")
_CHAOS_MARGIN = 0.02
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Utf8Check:
    """Counts, over a whole stream, characters beyond ASCII and bytes that are not UTF-8.

    Args:
        sample_bytes: how much of the first part beyond ASCII to keep for the guess.
    """

    def __init__(self, sample_bytes: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._sample_bytes = sample_bytes
        self.characters = 0
        self.bad_bytes = 0
        self.sample = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        if chunk.isascii() and not self._decoder.getstate()[0]:
            return
        text = self._decoder.decode(chunk)
        bad = len(_SURROGATE.findall(text))
        self.bad_bytes += bad
        self.characters += sum(len(run) for run in _NOT_ASCII.findall(text)) - bad
        if bad and len(self.sample) < self._sample_bytes:
            kept = [line for line in chunk.split(b"\n") if not line.isascii()]
            self.sample = (self.sample + b"\n".join(kept))[: self._sample_bytes]


def known_encoding(name: str, where: str) -> str:
    """The codec's own name for an encoding the user named; a byte order mark is dropped when there is one.

    Raises:
        DataError: Python knows no such text encoding.
    """
    try:
        info = codecs.lookup(name)
        "".encode(info.name)
    except (LookupError, ValueError) as error:
        close = nearest(name, _COMMON_NAMES)
        fix = f"did you mean {close!r}?" if close else f"common ones: {', '.join(_COMMON_NAMES)}"
        raise DataError("data-encoding", f"unknown encoding {name!r}", where=where, fix=fix) from error
    return "utf-8-sig" if info.name == "utf-8" else info.name


def with_mark(encoding: str, head: bytes) -> str:
    """UTF-16 or UTF-32 of a named byte order, in a file that has the mark too: the codec that drops the mark."""
    for mark, name in _BOMS:
        if head.startswith(mark) and encoding.startswith(name):
            return name
    return encoding


def guess_encoding(head: bytes, check: Utf8Check, where: str) -> str:
    """The encoding of a file, from its first bytes and the check over all of it.

    Raises:
        DataError: several encodings are plausible and read the text differently.
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if wide := _utf16_without_mark(head):
        return wide
    if check.bad_bytes == 0 or check.characters > 4 * check.bad_bytes:
        return "utf-8"
    return _guess_legacy(check.sample, where)


def _utf16_without_mark(head: bytes) -> str | None:
    """UTF-16 writes ASCII as a letter and a zero: which of the two places holds the zeros?"""
    start = head[: 1 << 16]
    pairs = len(start) // 2
    if pairs < 4:
        return None
    even, odd = start[0::2].count(0) / pairs, start[1::2].count(0) / pairs
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 and odd < 0.05 else None


def _guess_legacy(sample: bytes, where: str) -> str:
    from charset_normalizer import from_bytes

    found = [match for match in from_bytes(sample) if match.encoding in _CURRENT]
    floor = min((match.chaos for match in found), default=0.0) + _CHAOS_MARGIN
    readings: dict[str, list[str]] = {}
    for match in found:
        if match.chaos <= floor:
            names = [match.encoding, *match.could_be_from_charset]
            readings.setdefault(str(match), []).extend(name for name in names if name in _CURRENT)
    if len(readings) == 1:
        names = next(iter(readings.values()))
        return "cp1252" if "cp1252" in names else names[0]
    if not readings:
        cause = "not UTF-8, and no other encoding fits"
    else:
        cause = f"not UTF-8, and the encoding is ambiguous: {_compare(readings)}"
    fix = "name it in the task file, e.g. data.encoding: cp1252 (`locum init --encoding cp1252`), or save it as UTF-8"
    raise DataError("data-encoding", cause, where=where, fix=fix)


def _compare(readings: dict[str, list[str]]) -> str:
    """The first words that the candidate encodings read differently."""
    texts = list(readings)[:3]
    for words in zip(*(text.split() for text in texts), strict=False):
        if len(set(words)) > 1:
            pairs = zip((readings[text][0] for text in texts), words, strict=True)
            return ", ".join(f"{name} reads “{word[:30]}”" for name, word in pairs)
    return ", ".join(readings[text][0] for text in texts)
