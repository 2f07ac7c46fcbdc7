"""Rows that belong together: one drawn from each group is an independent draw of a new group and a row of it.

Not here: keeping groups in one split (``data.splits``), intervals over whole groups (``stats.bootstrap``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from locum.stats.inputs import Ints, input_error


def one_of_each_group(groups: Sequence[str], rows: Sequence[str], seed: int = 0) -> Ints:
    """One row of each group, drawn at random, each row of a group with the same chance.

    Groups drawn independently, and a row of each: these rows are independent draws of "a row of a new group", so every
    exact test of independent rows holds for them, however alike the rows of a group are. What is measured counts each
    group once, large or small.

    Args:
        groups: the group of each row, ``[n]``.
        rows: what each row says, ``[n]``; the draw is by its hash, so the order of rows has no influence (rows of one
            group that say the same are interchangeable).
        seed: of the draw; fix it before any label is looked at.

    Returns:
        Positions of the rows that were drawn, rising; as many as there are groups.

    Raises:
        UserError: unequal lengths.
    """
    if len(groups) != len(rows):
        raise input_error(f"{len(groups)} groups for {len(rows)} rows")
    key = seed.to_bytes(8, "little")
    copies: dict[tuple[str, str], int] = {}
    least: dict[str, tuple[bytes, int]] = {}
    for position, (group, row) in enumerate(zip(groups, rows, strict=True)):
        copy = copies[group, row] = copies.get((group, row), -1) + 1
        said = b"\0".join((group.encode(), row.encode(), str(copy).encode()))
        rank = (hashlib.blake2b(said, digest_size=16, key=key).digest(), position)
        if group not in least or rank < least[group]:
            least[group] = rank
    return np.sort(np.array([position for _, position in least.values()], dtype=np.int64))
