"""The fingerprint of what a student learned from: 28 bytes a text, by which a bundle knows these rows again.

A row of it holds hashes of the text and of its folded form (case, punctuation, digits, white space), a MinHash sketch
and how often the text came, as read; 0 for a row of another task that was learned from as well. A file of it is plain
numpy, without pickle. Not here: which rows those are (``prepare``), whether given rows can be fresh (``stats.reuse``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import ModelFileError
from locum.core.files import atomic_file
from locum.data.neardup import fold, mixed, shingles
from locum.data.verify import input_hash
from locum.stats.reuse import Reuse, find_reuse

NEAR_TOLERANCE = 0.05
"""Share of rows that may be copies but for case, punctuation and digits, before they are taken for learned ones."""

_SLOTS = 8
_SLOTS_EQUAL = 7
"""Of eight 8-bit MinHash values (Broder 1997; b-bit minwise hashing, Li & König 2010), at least so many are those of
a near copy. Measured on Banking77, news headlines, TREC and SST-2, a third of the rows against the rest: together with
the folded form it finds 89 to 100 % of the pairs that ``neardup`` verifies (5-grams in common for 90 %), half to four
fifths of texts in which one word was added, dropped or misspelt, and takes 3 %, 7 %, 0.6 % and 0.02 % of all rows for
copies, where 0.3 %, 4 %, 0.1 % and 0.01 % are. So the count is told and refuses nothing: short questions are alike."""
_DIGITS = re.compile(r"\d+")
_BATCH_CHARS = 1 << 16
_ROW = np.dtype([("text", "<u8"), ("folded", "<u8"), ("sketch", "<u8"), ("count", "<u4")])
_MOST = np.iinfo(np.uint32).max
_random = np.random.default_rng(2010)
_FACTORS = _random.integers(0, 2**31, _SLOTS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
_OFFSETS = _random.integers(0, 2**32, _SLOTS, dtype=np.uint32)

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Seen:
    """What a fingerprint says of rows.

    Attributes:
        n: rows that were looked at.
        exact: positions of those whose text was learned from.
        near: positions of those that are near copies of one, and not exact.
        reuse: why the rows cannot be fresh; None when nothing speaks against it.
    """

    n: int
    exact: tuple[int, ...]
    near: tuple[int, ...]
    reuse: Reuse | None


def write_fingerprint(path: Path, texts: Iterable[tuple[str, int]]) -> None:
    """Write the fingerprint of texts.

    Args:
        path: the file.
        texts: each with how often it came; one that comes again is counted on.

    Raises:
        DeviceError: the disk is full or cannot be written.
    """
    parts: list[NDArray[np.void]] = []
    batch: list[tuple[str, int]] = []
    chars = 0
    for text, count in texts:
        batch.append((text, count))
        chars += len(text)
        if chars >= _BATCH_CHARS:
            parts.append(_rows(batch))
            batch, chars = [], 0
    parts.append(_rows(batch))
    with atomic_file(path) as file:
        np.save(file, _merged(parts), allow_pickle=False)


def join_fingerprints(own: Path, others: Sequence[Path], out: Path) -> None:
    """Write one fingerprint of a task's own rows and of those of others, which count as seen and not as its traffic.

    Raises:
        ModelFileError: a file is no fingerprint.
        DeviceError: the disk is full or cannot be written.
    """
    parts = [read_fingerprint(own)]
    for other in others:
        rows = read_fingerprint(other).copy()
        rows["count"] = 0
        parts.append(rows)
    with atomic_file(out) as file:
        np.save(file, _merged(parts), allow_pickle=False)


def read_fingerprint(path: Path) -> NDArray[np.void]:
    """The rows of a fingerprint, sorted by text.

    Raises:
        ModelFileError: the file is no fingerprint.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _refused(path) from error
    if rows.dtype != _ROW or rows.ndim != 1:
        raise _refused(path)
    return rows


def compare(rows: NDArray[np.void], texts: Sequence[str]) -> Seen:
    """Which texts a fingerprint knows, and whether they can be fresh rows.

    Args:
        rows: from ``read_fingerprint``.
        texts: normalised inputs as they came, copies too.
    """
    given = _rows([(text, 1) for text in texts])
    hits = _positions(np.asarray(rows["text"]), np.asarray(given["text"]))
    folded, first = np.unique(rows["folded"], return_inverse=True)
    alike = _positions(folded, np.asarray(given["folded"]))
    near = (alike >= 0) | _sketched(np.asarray(rows["sketch"]), np.asarray(given["sketch"]))
    counts = rows["count"].astype(np.int64)
    reuse = find_reuse(counts, hits)
    if reuse is None:
        of_folded = np.zeros(len(folded), dtype=np.int64)
        np.add.at(of_folded, first, counts)
        reuse = find_reuse(of_folded, alike, tolerated=NEAR_TOLERANCE)
    exact = tuple(int(place) for place in np.flatnonzero(hits >= 0))
    return Seen(len(texts), exact, tuple(int(place) for place in np.flatnonzero(near & (hits < 0))), reuse)


def _rows(texts: Sequence[tuple[str, int]]) -> NDArray[np.void]:
    """Rows of texts, in their order."""
    rows = np.zeros(len(texts), dtype=_ROW)
    if not texts:
        return rows
    folded = [_DIGITS.sub("0", fold(text)) for text, _ in texts]
    rows["text"] = [input_hash(text) for text, _ in texts]
    rows["folded"] = [_hash64(text) for text in folded]
    rows["sketch"] = _sketches(folded)
    rows["count"] = [min(count, _MOST) for _, count in texts]
    return rows


def _merged(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """All rows, each text once with its counts added, sorted by text."""
    rows = np.concatenate(parts)
    _, first, inverse = np.unique(rows["text"], return_index=True, return_inverse=True)
    counts = np.zeros(len(first), dtype=np.int64)
    np.add.at(counts, inverse, rows["count"].astype(np.int64))
    merged = rows[first]
    merged["count"] = np.minimum(counts, _MOST)
    return merged


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _sketches(folded: Sequence[str]) -> Hashes:
    """Eight 8-bit MinHash values of each text's 5-grams, packed, ``[texts]``."""
    packed = np.empty((len(folded), _SLOTS), dtype=np.uint8)
    start = chars = 0
    for stop, text in enumerate(folded, start=1):
        chars += len(text)
        if chars < _BATCH_CHARS and stop < len(folded):
            continue
        sets = [shingles(each) for each in folded[start:stop]]
        starts = np.cumsum([0] + [len(hashes) for hashes in sets[:-1]])
        together = np.concatenate(sets)
        for slot, (factor, offset) in enumerate(zip(_FACTORS, _OFFSETS, strict=True)):
            least = np.minimum.reduceat(together * factor + offset, starts)
            packed[start:stop, slot] = (mixed(least) >> np.uint32(24)).astype(np.uint8)  # the best mixed bits
        start, chars = stop, 0
    return packed.view("<u8")[:, 0]


def _positions(known: Hashes, asked: Hashes) -> NDArray[np.int64]:
    """Where each asked hash stands among sorted known ones; −1 where it does not."""
    if len(known) == 0:
        return np.full(len(asked), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.where(known[places] == asked, places, -1).astype(np.int64)


def _sketched(known: Hashes, asked: Hashes) -> NDArray[np.bool_]:
    """Which asked sketches agree with a known one in enough slots: then one half of the slots agrees throughout."""
    found = np.zeros(len(asked), dtype=np.bool_)
    halves = [(np.uint64(0), np.uint64(0xFFFFFFFF)), (np.uint64(32), np.uint64(0xFFFFFFFF))]
    for shift, mask in halves:
        keys = (known >> shift) & mask
        order = np.argsort(keys, kind="stable")
        ordered, wanted = keys[order], (asked >> shift) & mask
        lows, highs = np.searchsorted(ordered, wanted), np.searchsorted(ordered, wanted, side="right")
        for place in np.flatnonzero((highs > lows) & ~found):
            near = known[order[lows[place] : highs[place]]]
            differing = (near ^ asked[place])[:, None].view(np.uint8) != 0
            found[place] = bool((differing.sum(axis=1) <= _SLOTS - _SLOTS_EQUAL).any())
    return found


def _refused(path: Path) -> ModelFileError:
    fix = "copy the bundle again, or rebuild it"
    return ModelFileError("bundle-fingerprint", "not the fingerprint of learned rows", where=str(path), fix=fix)
