"""Leakage between tasks that are learned together: no training row may stand in what another of them holds out.

Notable: inputs are compared whole, in their normal form, by hash; 8 bytes a held-out row in memory. Near-duplicates,
and a passage that is one column of several in another task, are not looked for. Not here: leakage within a task
(``dedupe``, ``verify``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from locum.data.load import iterate
from locum.data.verify import input_hash
from locum.schema.data import SplitName

HELD_OUT: tuple[SplitName, ...] = ("dev", "calibration", "test")


def held_out_by_others(folders: Mapping[str, Path]) -> dict[str, frozenset[int]]:
    """For each task, hashes (``input_hash``) of the inputs that the other tasks hold out.

    Args:
        folders: prepared data by task.

    Raises:
        DataError: a folder lacks a split, or a line is not a row.
    """
    own = {
        task: frozenset(input_hash(row.input) for split in HELD_OUT for row in iterate(folder, split))
        for task, folder in folders.items()
    }
    return {
        task: frozenset[int]().union(*(hashes for other, hashes in own.items() if other != task)) for task in folders
    }
