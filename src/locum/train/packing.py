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
    parts: list[_Filling] = []
    for row in sorted(rows, key=lambda row: _key(examples[row])):
        last = parts[-1] if parts else None
        if last is None or len(last.rows) == max_rows or last.size_with(examples[row]) > max_tokens:
            parts.append(last := _Filling(share))
        last.add(row, examples[row])
    return [part.rows for part in sorted(parts, key=lambda part: -part.size)]


class _Filling:
    """A pass that is being filled, rows that begin alike one after the other; what it counts is what ``pack`` makes.

    Args:
        share: as ``pack`` will be told.
    """

    def __init__(self, share: bool) -> None:
        self.rows: list[int] = []
        self.size = 0
        self._share = share
        self._first: Example | None = None  # of the last group
        self._count = self._shared = 0  # of its rows; tokens that they begin with

    def size_with(self, row: Example) -> int:
        """Tokens laid out with one more row."""
        return self._grown(row)[0]

    def add(self, number: int, row: Example) -> None:
        """Add a row, not before any with the same key."""
        self.size, self._shared = self._grown(row)
        if self._first is None or _key(self._first) != _key(row):
            self._first, self._count = row, 0
        self._count += 1
        self.rows.append(number)

    def _grown(self, row: Example) -> tuple[int, int]:
        """Tokens laid out, and those shared by the last group, with one more row."""
        own = len(row.prompt) - 1 if self._share else 0
        if self._first is None or _key(self._first) != _key(row):
            return self.size + len(row.ids), own
        shared = min(self._shared, own, _common(self._first.prompt, row.prompt))
        once = self.size + self._shared * (self._count - 1)  # as if nothing were shared
        return once + len(row.ids) - shared * self._count, shared


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
    same = _common(min(prompts), max(prompts))  # in lexical order: what these two share, all share
    return min(same, min(map(len, prompts)) - 1)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that two prompts begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
