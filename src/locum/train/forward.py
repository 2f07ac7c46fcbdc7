"""Texts through a body: encoded splits, pooled vectors, evaluation, in bfloat16 where the processor has it.

Notable: bfloat16 autocast runs at twice float32's speed on processors with AMX or AVX-512 BF16 and keeps
float32 weights; elsewhere it is emulated and slower, so it is off. What is reported and compared with the
exported model is computed in float32. Not here: the training loop (``loop``).

B rows, T tokens, D width, C labels, n rows of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from locum.core.progress import track
from locum.models.classifier import SequenceClassifier, pool
from locum.train.batches import padded, sorted_batches

MAX_CELLS = 8192
_EVAL_ROWS = 128


@dataclass
class Encoded:
    """A split as token ids.

    Attributes:
        ids: of each row.
        targets: index of each row's label, ``[n]``.
        states: what a frozen prefix of layers made of each row, ``[T, D]`` each (``frozen``), or None.
    """

    ids: list[list[int]]
    targets: Tensor
    states: list[Tensor] | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row) for row in self.ids]


@dataclass(frozen=True)
class Machine:
    """Where and how the arithmetic runs."""

    device: torch.device
    bfloat16: bool

    def autocast(self, enabled: bool = True) -> AbstractContextManager[object]:
        """Autocast to bfloat16 where it is fast, else nothing."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled and self.bfloat16)


def this_machine() -> Machine:
    """The accelerator when there is one, else the processor."""
    if torch.cuda.is_available():
        return Machine(torch.device("cuda"), torch.cuda.is_bf16_supported())
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.13: then float32
    fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return Machine(torch.device("cpu"), fast)


def vectors(model: SequenceClassifier, split: Encoded, rows: Sequence[int], pad_id: int, machine: Machine) -> Tensor:
    """Pooled vectors ``[B, D]`` of some rows of a split, from its ids or from its frozen states."""
    tokens, mask = padded([split.ids[row] for row in rows], pad_id)
    mask = mask.to(machine.device)
    if split.states is None:
        output = model.body(input_ids=tokens.to(machine.device), attention_mask=mask)
    else:
        states = nn.utils.rnn.pad_sequence([split.states[row] for row in rows], batch_first=True)
        output = model.body(inputs_embeds=states.to(machine.device, torch.float32), attention_mask=mask)
    return pool(output.last_hidden_state, mask, model.pooling)


@torch.no_grad()
def all_vectors(
    model: SequenceClassifier, split: Encoded, pad_id: int, machine: Machine, *, exact: bool = False, label: str = ""
) -> Tensor:
    """Pooled vectors ``[n, D]`` of a whole split, without dropout, in float32.

    Args:
        model: body and pooling.
        split: what to read.
        pad_id: in the split's numbering.
        machine: where it runs.
        exact: compute in float32 throughout instead of bfloat16.
        label: when given, progress is shown under it.
    """
    was_training = model.training
    model.eval()
    result = torch.empty(len(split.ids), model.head.in_features)
    batches = sorted_batches(split.lengths, _EVAL_ROWS, MAX_CELLS)
    with track(label or "evaluate", len(split.ids), "row") as tracker, machine.autocast(not exact):
        for rows in batches:
            result[rows] = vectors(model, split, rows, pad_id, machine).cpu()
            tracker.advance(len(rows))
    model.train(was_training)
    return result


@torch.no_grad()
def logits_of(
    model: SequenceClassifier, split: Encoded, pad_id: int, machine: Machine, *, exact: bool = False
) -> Tensor:
    """Logits ``[n, C]`` of a whole split, float32."""
    features = all_vectors(model, split, pad_id, machine, exact=exact)
    return features @ model.head.weight.cpu().T + model.head.bias.cpu()
