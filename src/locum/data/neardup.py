"""Near-duplicates: texts that differ only in case, punctuation, or a few characters of many.

Two texts are near-duplicates when they have the same label and the same numbers in the same order, and

1. are equal once folded (case, punctuation and white space), or
2. the Jaccard similarity of their folded character 5-gram sets is at least 0.9.

The numbers rule keeps ``transfer 5`` and ``transfer 6`` apart; the label rule keeps ``ends 1 % higher`` and
``ends 1 % lower`` apart, a difference that is the task itself. Short texts need no further care: one changed
character replaces up to five 5-grams, so under about 100 characters a changed word already falls below 0.9.

Candidates come from MinHash (Broder, "On the resemblance and containment of documents", 1997) with banding
(Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3): 96 hashes in 12 bands of 8 find a pair
of similarity s with probability 1 − (1 − s⁸)¹²: 0.999 at 0.9, 1.000 at 0.95, 0.10 at 0.5. Label and numbers
are part of each band's key, so templated texts do not crowd one bucket. Every candidate is verified on its
true similarity: there are no false positives by hashing.

Notable: band keys live in a file, and each band is sorted in parts of two million texts; memory does not
depend on how many texts there are, but for the caller's few bytes a text.
Not here: which of two near-duplicates goes (``dedupe``).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.9
SHINGLE_CHARS = 5
BANDS = 12
BAND_ROWS = 8
_KEYS = BANDS + 1
"""One more key than bands: equal folded texts meet in it whatever their shingles."""
_PART_TEXTS = 2_000_000
_BATCH_CHARS = 1 << 16
_MAX_COMPARED = 64
_MAX_TOGETHER = 256

Words = NDArray[np.uint32]
Keys = NDArray[np.uint64]

_generator = np.random.default_rng(1997)
_FACTORS: Words = _generator.integers(0, 2**31, BANDS * BAND_ROWS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
_OFFSETS: Words = _generator.integers(0, 2**32, BANDS * BAND_ROWS, dtype=np.uint32)
_BAND_FACTORS: Keys = _generator.integers(0, 2**63, BAND_ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

_NUMBERS = re.compile(r"\d+")
_SPACE = re.compile(r"\s+")
_ASCII_PUNCTUATION = re.compile(r"[!\"#%&'()*,\-./:;?@\[\\\]_{}]+")


def fold(text: str) -> str:
    """A text without case, punctuation (Unicode category P) and runs of white space; never empty for a text.

    Symbols (``+``, ``<``, ``$``, emoji) stay: ``C++`` is not ``C``.
    """
    lowered = text.casefold()
    if lowered.isascii():
        spaced = _ASCII_PUNCTUATION.sub(" ", lowered)
    else:
        spaced = "".join(" " if unicodedata.category(char)[0] == "P" else char for char in lowered)
    return " ".join(spaced.split()) or _SPACE.sub(" ", lowered)


def numbers(folded: str) -> str:
    """The numbers in a folded text, in order, joined."""
    return " ".join(_NUMBERS.findall(folded))


def shingles(folded: str) -> Words:
    """Hashes of the character 5-grams of a folded text, with repeats; shape (max(1, chars − 4),), uint32.

    A text shorter than five characters is one shingle. Each code point is mixed before a polynomial over the
    window, and the sum is mixed again (the finaliser of MurmurHash3), because MinHash needs well-spread hashes.
    """
    codes = np.frombuffer(folded.encode("utf-32-le"), dtype=np.uint32)
    if len(codes) < SHINGLE_CHARS:
        codes = np.concatenate([codes, np.zeros(SHINGLE_CHARS - len(codes), dtype=np.uint32)])
    spread = mixed(codes)
    count = len(spread) - SHINGLE_CHARS + 1
    hashes = np.zeros(count, dtype=np.uint32)
    for offset in range(SHINGLE_CHARS):
        hashes = hashes * np.uint32(0x01000193) + spread[offset : offset + count]
    return mixed(hashes)


def mixed(values: Words) -> Words:
    """Each value with its bits spread over all others: the finaliser of MurmurHash3."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two folded texts' 5-gram sets, 0 to 1; 1 when the texts are equal."""
    if first == second:
        return 1.0
    a, b = np.unique(shingles(first)), np.unique(shingles(second))
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def is_near(first: str, second: str) -> bool:
    """Whether two texts of the same label are near-duplicates, by the definition above."""
    a, b = fold(first), fold(second)
    if a == b:
        return True
    return numbers(a) == numbers(b) and similarity(a, b) >= THRESHOLD


def band_keys(texts: Sequence[str], labels: Sequence[str]) -> Keys:
    """Keys under which near-duplicates meet.

    Args:
        texts: normalised inputs.
        labels: the label of each.

    Returns:
        shape (texts, 13), uint64: twelve bands of MinHash, then the folded text itself.
    """
    folded = [fold(text) for text in texts]
    keys = np.empty((len(texts), _KEYS), dtype=np.uint64)
    start = chars = 0
    for stop, text in enumerate(folded, start=1):
        chars += len(text)
        if chars >= _BATCH_CHARS or stop == len(folded):
            keys[start:stop, :BANDS] = _bands(_minhash([shingles(text) for text in folded[start:stop]]))
            start, chars = stop, 0
    salts = np.array(
        [_hash64(f"{label}\0{numbers(text)}") for label, text in zip(labels, folded, strict=True)], dtype=np.uint64
    )
    keys[:, :BANDS] ^= salts[:, None]
    keys[:, BANDS] = [_hash64(f"{label}\0{text}") for label, text in zip(labels, folded, strict=True)]
    return keys


def _minhash(sets: list[Words]) -> Words:
    """Signatures, shape (texts, 96): the least of each of 96 permutations x → a·x + b mod 2³² over each set."""
    starts = np.cumsum([0] + [len(hashes) for hashes in sets[:-1]])
    together = np.concatenate(sets)
    signatures = np.empty((len(sets), BANDS * BAND_ROWS), dtype=np.uint32)
    for column, (factor, offset) in enumerate(zip(_FACTORS, _OFFSETS, strict=True)):
        signatures[:, column] = np.minimum.reduceat(together * factor + offset, starts)
    return signatures


def _bands(signatures: Words) -> Keys:
    """One 64-bit key a band, shape (texts, 12); bands are told apart by where they are kept."""
    rows = signatures.reshape(len(signatures), BANDS, BAND_ROWS).astype(np.uint64)
    keys = (rows * _BAND_FACTORS).sum(axis=2, dtype=np.uint64)
    return keys ^ (keys >> np.uint64(29))


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class NearIndex:
    """Band keys of many texts, in a file: band after band, 8 bytes a text.

    Args:
        path: the file to keep them in; it is overwritten.
        count: how many texts there will be.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.count = count
        self._path = path
        self._filled = 0
        path.write_bytes(b"")

    def add(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Append texts; they are numbered from 0 in the order they come."""
        keys = band_keys(texts, labels)
        with self._path.open("r+b") as file:
            for band in range(_KEYS):
                file.seek(8 * (band * self.count + self._filled))
                file.write(keys[:, band].tobytes())
        self._filled += len(texts)

    def buckets(self, active: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
        """Groups of at least two active texts that share a key, each ascending.

        Args:
            active: shape (count,); texts that are False are left out. It is read again for each band.
        """
        parts = -(-self.count // _PART_TEXTS)
        for band in range(_KEYS - 1, -1, -1):  # equal folded texts first: they need no shingles
            for part in range(parts):
                yield from self._buckets_of(band, part, parts, active)

    def _buckets_of(self, band: int, part: int, parts: int, active: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
        found_places: list[NDArray[np.int64]] = []
        found_keys: list[Keys] = []
        for start in range(0, self.count, _PART_TEXTS):
            chunk = self._read(band, start, min(_PART_TEXTS, self.count - start))
            chosen = np.flatnonzero(active[start : start + _PART_TEXTS] & (chunk % np.uint64(parts) == part))
            found_places.append(chosen + start)
            found_keys.append(chunk[chosen])
        places, keys = np.concatenate(found_places), np.concatenate(found_keys)
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        bounds = np.concatenate([[0], edges, [len(order)]])
        for index in np.flatnonzero(np.diff(bounds) > 1):
            yield places[order[bounds[index] : bounds[index + 1]]]

    def _read(self, band: int, start: int, count: int) -> Keys:
        return np.fromfile(self._path, dtype=np.uint64, count=count, offset=8 * (band * self.count + start))


def near_pairs(
    buckets: Iterator[NDArray[np.int64]],
    texts_of: Callable[[list[int]], dict[int, str]],
    settled: Callable[[int, int], bool],
) -> Iterator[tuple[int, int]]:
    """Verified pairs (earlier, later) of near-duplicates.

    Each text of a bucket is compared with the leaders before it (texts of the bucket that were near none),
    64 at most, and joined to the first it is near. A large bucket is taken 256 texts at a time, to bound
    memory. Texts of one bucket that hang on the same leader are not compared with each other; ``dedupe`` asks
    again once the leader's own fate is known.

    Args:
        buckets: from ``NearIndex.buckets``.
        texts_of: fetches texts by number.
        settled: whether a pair need not be compared, because the caller knows enough.
    """
    for bucket in buckets:
        members = [int(number) for number in bucket]
        for start in range(0, len(members), _MAX_TOGETHER):
            yield from _pairs_of(members[start : start + _MAX_TOGETHER], texts_of, settled)


def _pairs_of(
    members: list[int],
    texts_of: Callable[[list[int]], dict[int, str]],
    settled: Callable[[int, int], bool],
) -> Iterator[tuple[int, int]]:
    if all(settled(members[0], later) for later in members[1:]):
        return
    texts = texts_of(members)
    leaders: list[int] = []
    for member in members:
        for leader in leaders[:_MAX_COMPARED]:
            if settled(leader, member):
                break
            if is_near(texts[leader], texts[member]):
                yield leader, member
                break
        else:
            leaders.append(member)
