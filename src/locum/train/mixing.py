"""Which rows make an epoch and its steps, for one task or several.

Notable: rows of a small task come again only after all of it has come. Seed and epoch alone decide, so a resumed job
sees the same steps. Rows are packed without padding, so batches need no like lengths and stay plainly random. Not here:
a task's share of an epoch (``stats.mixture``), packing.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from locum.stats.mixture import task_counts


def epoch_rows(tasks: Sequence[str | None], temperature: float, seed: int, epoch: int) -> list[int]:
    """Rows of an epoch in random order.

    Args:
        tasks: the task of each row.
        temperature: T; 1 gives every row once.
        seed: fixes the choice and the order.
        epoch: from 0.
    """
    places: dict[str, list[int]] = {}
    for row, task in enumerate(tasks):
        places.setdefault(task or "", []).append(row)
    chosen: list[int] = []
    for task, count in task_counts({task: len(rows) for task, rows in places.items()}, temperature).items():
        turn, place = divmod(epoch * count, len(places[task]))  # of an endless row of permutations
        turns = (_shuffled(places[task], f"{seed}-{task}-{number}") for number in itertools.count(turn))
        chosen += itertools.islice(itertools.chain.from_iterable(turns), place, place + count)
    return _shuffled(chosen, f"{seed}-{epoch}")


def step_rows(rows: Sequence[int], size: int) -> list[list[int]]:
    """Rows of each optimiser step; the last may have fewer."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _shuffled(rows: Sequence[int], seed: str) -> list[int]:
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order
