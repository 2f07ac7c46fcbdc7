"""How many rows of each task stand in an epoch of a mixture of tasks.

Notable: one task's share goes by rows^(1/T), as in multilingual pre-training (Arivazhagan et al. 2019,
arXiv:1907.05019, §4.2). Not here: which rows these are (``train.mixing``).
"""

from __future__ import annotations

from collections.abc import Mapping


def task_counts(sizes: Mapping[str, int], temperature: float) -> dict[str, int]:
    """Rows of each task in an epoch that has as many rows as there are, by size^(1/T), largest remainders first.

    Args:
        sizes: rows by task, each at least one.
        temperature: T, at least 1: 1 takes every row once, a large T as many rows from every task.

    Returns:
        Rows by task; they add up to all rows. Without tasks, none.
    """
    total = sum(sizes.values())
    shares = {task: size ** (1 / temperature) for task, size in sizes.items()}
    exact = {task: total * share / sum(shares.values()) for task, share in shares.items()}
    counts = {task: int(value) for task, value in exact.items()}
    by_rest = sorted(exact, key=lambda task: (counts[task] - exact[task], task))
    for task in by_rest[: total - sum(counts.values())]:
        counts[task] += 1
    return counts
