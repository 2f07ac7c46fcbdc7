"""Texts longer than a model reads at once, in windows that overlap; short ones are one window.

Notable: a window begins where a word does, so that its tokens are those of the whole text; where two windows overlap,
each token is taken from the one in which it stands further from the edge. Training and serving read texts through the
same windows. A text of more than ``MAX_WINDOWS`` is cut there, and says so. Not here: what is done with the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from locum.runtime.protocol import TaggedText, Tagger

MAX_WINDOWS = 64
_OVERLAP = 4
"""A window begins before the last quarter of the one before it."""


class Placed(Protocol):
    """A text, read."""

    @property
    def spans(self) -> NDArray[np.int64]:
        """Start and end of each token, in characters, ``[n, 2]``; special tokens have no width."""
        ...

    @property
    def truncated(self) -> bool:
        """Whether there is more of the text."""
        ...


Read = TypeVar("Read", bound=Placed)


@dataclass(frozen=True, eq=False)
class Window(Generic[Read]):
    """A part of a text.

    Attributes:
        start: characters of the text before it.
        read: its tokens.
        kept: which of them stand for the text, ``[k]``; every token of the text is kept of one window.
    """

    start: int
    read: Read
    kept: NDArray[np.intp]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Start and end of the kept tokens in the whole text, ``[k, 2]``."""
        return self.read.spans[self.kept] + self.start


def read_windows(read: Callable[[Sequence[str]], Sequence[Read]], texts: Sequence[str]) -> list[list[Window[Read]]]:
    """The windows of each text; the last one's ``read.truncated`` says whether the text was cut.

    Args:
        read: reads texts from their beginning, as far as the model does.
        texts: whole.
    """
    parts: list[list[tuple[int, Read]]] = [[] for _ in texts]
    waiting = dict.fromkeys(range(len(texts)), 0)
    for _ in range(MAX_WINDOWS):
        rows, waiting = waiting, {}
        found = read([texts[row][start:] for row, start in rows.items()])
        for (row, start), part in zip(rows.items(), found, strict=True):
            parts[row].append((start, part))
            following = _next_start(texts[row], start, part.spans) if part.truncated else start
            if following > start:
                waiting[row] = following
        if not waiting:
            break
    return [_kept(some) for some in parts]


def tag_whole(tagger: Tagger, texts: Sequence[str]) -> list[TaggedText]:
    """Scores of the tokens of whole texts, whatever their length.

    Raises:
        LocumError: the model is closed, or the engine failed.
    """
    found: list[TaggedText] = []
    for windows in read_windows(tagger.tag, texts):
        offsets = np.concatenate([window.offsets for window in windows])
        scores = np.concatenate([window.read.logits[window.kept] for window in windows])
        found.append(TaggedText(offsets, scores, windows[-1].read.dropped))
    return found


def _next_start(text: str, start: int, spans: NDArray[np.int64]) -> int:
    """Where the window after one begins: at the last word of its first three quarters; ``start`` when nowhere."""
    spans = spans[spans[:, 1] > spans[:, 0]] + start
    if not len(spans):
        return start
    last = min(len(spans) - len(spans) // _OVERLAP, len(spans) - 1)
    for token in range(last, len(spans) // 2, -1):
        begin = int(spans[token, 0])
        if text[begin].isspace():
            return begin
        if text[begin - 1].isspace():
            return begin - 1  # with the space, which some tokenizers make part of the word
    return int(spans[last, 0]) if spans[last, 0] > start else int(spans[-1, 1])


def _kept(parts: Sequence[tuple[int, Read]]) -> list[Window[Read]]:
    """Windows with the tokens that each stands for: up to the middle of an overlap the earlier one's."""
    edges = [0]
    for (start, read), (next_start, next_read) in pairwise(parts):
        reached = start + int(read.spans[:, 1].max())
        begins = next_read.spans[next_read.spans[:, 1] > next_read.spans[:, 0], 0] + next_start
        shared = begins[begins < reached]
        edges.append(int(shared[len(shared) // 2]) if len(shared) else reached)
    windows: list[Window[Read]] = []
    for (start, read), low, high in zip(parts, edges, [*edges[1:], None], strict=True):
        begins = read.spans[:, 0] + start
        own = (read.spans[:, 1] > read.spans[:, 0]) & (begins >= low)
        windows.append(Window(start, read, np.flatnonzero(own if high is None else own & (begins < high))))
    return windows
