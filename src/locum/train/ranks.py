"""The processes of one training: alone, or several that share every step's work, one for each accelerator.

Notable: each process takes its share of a step's rows; gradients are summed, so every process takes the same optimiser
step, and one process alone would have taken it too, to rounding. Gloo on processors, NCCL on accelerators. The first
process alone writes files. Not here: starting them (``core.child``), which rows are whose (``generating``).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

CPU = torch.device("cpu")
_BUCKET_ELEMENTS = 8 << 20


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Attributes:
        rank: from 0; the first writes the files.
        world: how many there are.
        device: where this one computes and communicates.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether some process raised it."""
        return [value > 0 for value in self.sums([float(flag) for flag in flags])]

    def from_first(self, value: Any) -> Any:
        """What the first process has; the others' value is dropped."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    @torch.no_grad()
    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Sum the weights' gradients over the processes, in place; a process without rows adds zeros."""
        if self.world == 1:
            return
        bucket: list[Tensor] = []
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            bucket.append(weight.grad)
            if sum(gradient.numel() for gradient in bucket) >= _BUCKET_ELEMENTS:
                _sum_together(bucket)
                bucket = []
        if bucket:
            _sum_together(bucket)


ALONE = Ranks()


def to_start() -> int:
    """How many processes a training should be: one for each accelerator, where there are several.

    1 in a process that ``torchrun`` started, which is one of them already.
    """
    return 1 if "WORLD_SIZE" in os.environ else max(1, torch.cuda.device_count())


def _sum_together(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    place = 0
    for gradient in gradients:
        gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
        place += gradient.numel()


@contextmanager
def joined() -> Generator[Ranks, None, None]:
    """Join the processes that ``torchrun`` started, for the block; without it, this process is alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    accelerated = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if accelerated else torch.device("cpu")
    if accelerated:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if accelerated else "gloo")
    yield Ranks(torch.distributed.get_rank(), world, device)
    torch.distributed.destroy_process_group()  # not after an error: it could wait for processes that wait for this one
