"""The last check before a certificate: no calibration or test row stands in what students learn from.

Notable: it trusts nothing that ``prepare`` concluded. It reads the written files again, compares their hashes
with the data card, and compares rows by hash (8 bytes a held-out row in memory; train streams past).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import DataError
from locum.core.files import sha256_file
from locum.data.load import iterate, read_card, split_path
from locum.data.normalise import normalise
from locum.schema.data import Row, SplitName

_BATCH_ROWS = 4096


def verify_splits(folder: Path) -> None:
    """Check a prepared folder: files as the card says, and held-out splits disjoint from the others.

    Splits that were drawn from one file share no row, and no group where the task names groups; the same message may
    have come twice. Splits of different files share no input, unless ``duplicates: keep`` says that inputs repeat.

    Args:
        folder: what ``prepare`` wrote.

    Raises:
        DataError: ``data-split`` (a file differs from the card), ``data-calibration-leak`` (a calibration row
            stands in train or dev), ``data-leakage`` (a test row stands in another split).
    """
    card = read_card(folder)
    for name, split in card.splits.items():
        path = split_path(folder, name)
        if not path.is_file() or sha256_file(path) != split.sha256:
            cause = f"{path.name} is not the file that card.json describes"
            raise DataError("data-split", cause, where=str(folder), fix="prepare the data again (locum build)")
    grouped = card.splits["train"].groups is not None
    given: set[SplitName] = {file.split for file in card.files}
    pairs: tuple[tuple[SplitName, tuple[SplitName, ...], str], ...] = (
        ("calibration", ("train", "dev"), "data-calibration-leak"),
        ("test", ("train", "dev", "calibration"), "data-leakage"),
    )
    for held_out, others, code in pairs:
        drawn: tuple[SplitName, ...] = tuple(
            other for other in others if _source(held_out, given) == _source(other, given)
        )
        _disjoint(folder, held_out, drawn, code, lambda row: row.id)
        if grouped:
            _disjoint(folder, held_out, others, code, lambda row: row.group or "")
        if not card.copies_across:
            apart: tuple[SplitName, ...] = tuple(other for other in others if other not in drawn)
            _disjoint(folder, held_out, apart, code, lambda row: normalise(row.input))


def _source(split: SplitName, given: set[SplitName]) -> SplitName:
    """The file that a split's rows come from."""
    return split if split in given else "train"


def input_hash(text: str) -> int:
    """What tells one input from another: 64 bits of BLAKE2b of its normal form."""
    return _hash(normalise(text))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _disjoint(
    folder: Path, held_out: SplitName, others: Sequence[SplitName], code: str, of: Callable[[Row], str]
) -> None:
    """Refuse a held-out split that shares something of a row with another."""
    parts = [hashes for _ids, hashes in _hashed(folder, held_out, of)] if others else []
    known = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.uint64)
    for other in others:
        for ids, hashes in _hashed(folder, other, of):
            shared = np.flatnonzero(np.isin(hashes, known))
            if len(shared):
                places = ", ".join(ids[int(position)] for position in shared[:5])
                raise DataError(
                    code,
                    f"{held_out} rows also stand in {other}, for example {places}",
                    where=str(folder),
                    fix="prepare the data again (locum build); a student trained on these rows proves nothing",
                )


def _hashed(folder: Path, split: SplitName, of: Callable[[Row], str]) -> Iterator[tuple[list[str], NDArray[np.uint64]]]:
    """Ids and hashes of a split, a batch at a time."""
    ids: list[str] = []
    hashes: list[int] = []
    for row in iterate(folder, split):
        ids.append(row.id)
        hashes.append(_hash(of(row)))
        if len(ids) == _BATCH_ROWS:
            yield ids, np.array(hashes, dtype=np.uint64)
            ids, hashes = [], []
    if ids:
        yield ids, np.array(hashes, dtype=np.uint64)
