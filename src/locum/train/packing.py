"""Rows laid end to end, with the beginning that they share only once: what one forward pass reads.

Notable: rows of a task open with the same system prompt and instruction; its states are the same in every row, so they
are computed once for all rows of a pass. An answer's last token predicts nothing and is left out. Not here: attention
over the layout (``attention``), which rows make a step (``mixing``).

N tokens laid out, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from locum.train.attention import Span

_KEY_TOKENS = 8  # rows that differ in the first few tokens share too little to be worth a group


@dataclass(frozen=True)
class Example:
    """One row as token ids.

    Attributes:
        prompt: at least one token.
        answer: with the token that ends it.
        task: which of several tasks it is from.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    task: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """What is read: everything but the answer's last token."""
        return self.prompt + self.answer[:-1]

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Pack:
    """Rows laid out for one forward pass.

    Attributes:
        pieces: for each piece of the layout: number of the row, and which of its ids.
        ids, positions: ``[N]``.
        spans: for the attention.
        reads: places of the layout whose states predict an answer's token, ``[A]``.
        targets: the tokens to predict, ``[A]``.
    """

    pieces: tuple[tuple[int, slice], ...]
    ids: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    reads: Tensor
    targets: Tensor


def pack(rows: Sequence[Example], *, share: bool = True) -> Pack:
    """Lay rows out.

    Args:
        rows: of one forward pass.
        share: lay what rows of a group have in common out once.
    """
    pieces: list[tuple[int, slice]] = []
    spans: list[Span] = []
    reads: list[Tensor] = []
    targets: list[int] = []
    end = 0
    for group in _groups(rows) if share else [[number] for number in range(len(rows))]:
        shared, shared_start = _shared(rows, group), end
        if shared:
            pieces.append((group[0], slice(0, shared)))
            spans.append(Span(end, shared))
            end += shared
        for number in group:
            row = rows[number]
            own = len(row.ids) - shared
            pieces.append((number, slice(shared, len(row.ids))))
            spans.append(Span(end, own, shared_start, shared))
            end += own
            reads.append(torch.arange(end - len(row.answer), end))
            targets += row.answer
    return Pack(
        pieces=tuple(pieces),
        ids=torch.tensor([token for number, part in pieces for token in rows[number].ids[part]]),
        positions=torch.cat([torch.arange(part.start, part.stop) for _, part in pieces]),
        spans=tuple(spans),
        reads=torch.cat(reads),
        targets=torch.tensor(targets),
    )


def packs_of(
    rows: Sequence[int], examples: Sequence[Example], max_rows: int | None, max_tokens: int, *, share: bool = True
) -> list[list[int]]:
    """Split the rows of a step into those of each forward pass; gradients are accumulated over the passes.

    Rows that begin alike come together. A row longer than ``max_tokens`` stands alone. The largest pass comes first, so
    that the others fit into the memory it leaves.

    Args:
        rows: numbers of examples.
        examples: all.
        max_rows: of one pass; None sets no limit.
        max_tokens: of one pass, as they are laid out.
        share: as ``pack`` will be told.
    """
    parts: list[list[int]] = []
    sizes: list[int] = []
    for row in sorted(rows, key=lambda row: _key(examples[row])):
        grown = [*parts[-1], row] if parts else [row]
        size = _laid_out([examples[each] for each in grown], share)
        if parts and len(parts[-1]) != max_rows and size <= max_tokens:
            parts[-1], sizes[-1] = grown, size
        else:
            parts.append([row])
            sizes.append(len(examples[row].ids))
    largest_first = sorted(range(len(parts)), key=lambda place: -sizes[place])
    return [parts[place] for place in largest_first]


def _laid_out(rows: Sequence[Example], share: bool) -> int:
    """Tokens of a pack of these rows."""
    repeated = sum(_shared(rows, group) * (len(group) - 1) for group in _groups(rows)) if share else 0
    return sum(len(row.ids) for row in rows) - repeated


def _key(row: Example) -> tuple[str, tuple[int, ...]]:
    return row.task or "", row.prompt[:_KEY_TOKENS]


def _groups(rows: Sequence[Example]) -> list[list[int]]:
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_key(row), []).append(number)
    return list(groups.values())


def _shared(rows: Sequence[Example], group: list[int]) -> int:
    """Tokens that all prompts of a group begin with; every row keeps its last prompt token to itself."""
    if len(group) == 1:
        return 0
    prompts = [rows[number].prompt for number in group]
    least, most = min(prompts), max(prompts)  # in lexical order: what these two share, all share
    same = next((place for place, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    return min(same, min(map(len, prompts)) - 1)
