"""The last check before a certificate: no calibration or test row stands in what students learn from.

Notable: it trusts nothing that ``prepare`` concluded. It reads the written files again, compares their hashes
with the data card, and compares inputs by hash (8 bytes a held-out row in memory; train streams past).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import DataError
from locum.core.files import sha256_file
from locum.data.load import iterate, read_card, split_path
from locum.data.normalise import normalise
from locum.schema.data import SplitName

_BATCH_ROWS = 4096


def verify_splits(folder: Path) -> None:
    """Check a prepared folder: files as the card says, and held-out splits disjoint from the others.

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
    _disjoint(folder, "calibration", ("train", "dev"), "data-calibration-leak")
    _disjoint(folder, "test", ("train", "dev", "calibration"), "data-leakage")


def input_hash(text: str) -> int:
    """What tells one input from another: 64 bits of BLAKE2b of its normal form."""
    return int.from_bytes(hashlib.blake2b(normalise(text).encode(), digest_size=8).digest(), "little")


def _disjoint(folder: Path, held_out: SplitName, others: tuple[SplitName, ...], code: str) -> None:
    parts = [hashes for _ids, hashes in _hashed(folder, held_out)]
    known = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.uint64)
    for other in others:
        for ids, hashes in _hashed(folder, other):
            shared = np.flatnonzero(np.isin(hashes, known))
            if len(shared):
                places = ", ".join(ids[int(position)] for position in shared[:5])
                raise DataError(
                    code,
                    f"{held_out} rows also stand in {other}, for example {places}",
                    where=str(folder),
                    fix="prepare the data again (locum build); a student trained on these rows proves nothing",
                )


def _hashed(folder: Path, split: SplitName) -> Iterator[tuple[list[str], NDArray[np.uint64]]]:
    """Ids and input hashes of a split, a batch at a time."""
    ids: list[str] = []
    hashes: list[int] = []
    for row in iterate(folder, split):
        ids.append(row.id)
        hashes.append(input_hash(row.input))
        if len(ids) == _BATCH_ROWS:
            yield ids, np.array(hashes, dtype=np.uint64)
            ids, hashes = [], []
    if ids:
        yield ids, np.array(hashes, dtype=np.uint64)
