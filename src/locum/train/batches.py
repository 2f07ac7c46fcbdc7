"""Batches of texts of like length, so that little padding is computed.

Notable: rows are shuffled, sorted by length inside pools of a few batches, and the batches shuffled again:
padding falls below 5 % and the order stays random enough. The order depends on seed and epoch alone, so a
resumed job sees the same batches. Not here: tokenizing (``runtime.tokenize``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

_POOL_BATCHES = 16


def shuffled_batches(lengths: Sequence[int], rows: int, seed: int, epoch: int) -> list[list[int]]:
    """Every row once, in batches of ``rows`` with like lengths, in random order.

    Args:
        lengths: tokens of each row.
        rows: rows in a batch; the last of a pool may have fewer.
        seed: with ``epoch``, fixes the order.
        epoch: from 0.
    """
    generator = random.Random(f"{seed}-{epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), rows * _POOL_BATCHES):
        pool = sorted(order[start : start + rows * _POOL_BATCHES], key=lambda row: (lengths[row], row))
        batches += [pool[place : place + rows] for place in range(0, len(pool), rows)]
    generator.shuffle(batches)
    return batches


def sorted_batches(lengths: Sequence[int], max_rows: int, max_cells: int) -> list[list[int]]:
    """Every row once, shortest first, for evaluation; a batch has at most ``max_cells`` rows x tokens."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    batches: list[list[int]] = []
    current: list[int] = []
    for row in order:
        if current and (len(current) >= max_rows or (len(current) + 1) * lengths[row] > max_cells):
            batches.append(current)
            current = []
        current.append(row)
    return [*batches, current] if current else batches


def micro_batches(batch: list[int], lengths: Sequence[int], max_rows: int | None, max_cells: int) -> list[list[int]]:
    """Split a batch where rows x tokens would not fit in memory; gradients are accumulated over the parts."""
    widest = max(lengths[row] for row in batch)
    rows = max(1, min(max_rows or len(batch), max_cells // widest))
    return [batch[start : start + rows] for start in range(0, len(batch), rows)]


def padded(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right ``[B, T]``, and the mask ``[B, T]`` (1 for a token)."""
    width = max(len(row) for row in ids)
    tokens = torch.full((len(ids), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(ids), width), dtype=torch.long)
    for place, row in enumerate(ids):
        tokens[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[place, : len(row)] = 1
    return tokens, mask
