"""Texts with spans as training reads them: windows of token ids, a tag for each token, and scores as spans again.

Notable: windows are those of serving (``runtime.windows``), and a token that stands in two of them is learned in the
one from which it is served. Special tokens and padding have no tag. Not here: the methods (``tagging``).

n texts, w windows, T tokens of a window, N tokens that have a tag, C tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locum.core.errors import DataError
from locum.core.progress import warn
from locum.runtime.surface import surface_forms
from locum.runtime.tokenize import TextTokenizer
from locum.runtime.windows import MAX_WINDOWS, read_windows
from locum.scoring.spans import Span, span_rows
from locum.stats.rowwise import value
from locum.tasks.bio import BioTags
from locum.tasks.tag import load_spans
from locum.train.rows import read_rows

UNTAGGED = -100
"""The target of a token without a tag; what PyTorch's cross-entropy leaves out."""


@dataclass
class TaggedSplit:
    """A split.

    Attributes:
        texts: whole, ``[n]``.
        spans: of each text.
        ids: token ids of each window, ``[w]``.
        forms: surface form of each of a window's tokens, ``[w]`` of ``[T]``.
        targets: tag of each of a window's tokens, or ``UNTAGGED``, ``[w]`` of ``[T]``.
        owners: the text of each window, ``[w]``, in order.
        offsets: places of the tagged tokens in the text, ``[N, 2]``.
        cut: texts that were longer than ``MAX_WINDOWS`` windows.
    """

    texts: list[str]
    spans: list[list[Span]]
    ids: list[list[int]]
    forms: list[list[int]]
    targets: list[Tensor]
    owners: list[int]
    offsets: NDArray[np.int64]
    cut: int = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens of each window."""
        return [len(row) for row in self.ids]

    @property
    def tags(self) -> Tensor:
        """Of the tagged tokens in order, ``[N]``."""
        return torch.cat([target[target != UNTAGGED] for target in self.targets])

    @property
    def bounds(self) -> NDArray[np.intp]:
        """Where each text's tagged tokens begin, and in the end N, ``[n + 1]``."""
        counts = np.zeros(len(self.texts) + 1, dtype=np.intp)
        for owner, target in zip(self.owners, self.targets, strict=True):
            counts[owner + 1] += int((target != UNTAGGED).sum())
        return counts.cumsum()


def read_tagged(path: Path, tags: BioTags, tokenizer: TextTokenizer) -> TaggedSplit:
    """Read and encode a prepared split.

    Raises:
        DataError: no rows, a damaged line, or a span of a type that is not among the tags.
    """
    texts: list[str] = []
    spans: list[list[Span]] = []
    for where, row in read_rows(path):
        found = load_spans(row.output)
        unknown = sorted({label for _, _, label in found} - set(tags.types))
        if unknown:
            what = f"span type {unknown[0]!r} is not one of the {len(tags.types)} types"
            raise DataError("train-request", what, where=where, fix="prepare the data again")
        texts.append(row.input)
        spans.append(found)
    split = TaggedSplit(texts, spans, [], [], [], [], np.empty((0, 2), dtype=np.int64))
    offsets: list[NDArray[np.int64]] = []
    for row, windows in enumerate(read_windows(tokenizer.read, texts)):
        places = np.concatenate([window.offsets for window in windows])
        row_tags = tags.write(spans[row], places)
        done = 0
        for window in windows:
            target = torch.full((max(1, len(window.read.ids)),), UNTAGGED, dtype=torch.long)
            target[torch.from_numpy(window.kept)] = torch.from_numpy(row_tags[done : done + len(window.kept)])
            done += len(window.kept)
            split.ids.append(window.read.ids or [tokenizer.pad_id])  # as serving does for a text without any token
            split.forms.append(surface_forms(texts[row][window.start :], window.read.spans) or [0])
            split.targets.append(target)
            split.owners.append(row)
        offsets.append(places)
        split.cut += windows[-1].read.truncated
    split.offsets = np.concatenate(offsets)
    if split.cut:
        warn(f"{split.cut} texts of {path.name} are longer than {MAX_WINDOWS} windows and were cut there")
    return split


def found_spans(split: TaggedSplit, scores: NDArray[np.float32], tags: BioTags) -> list[list[Span]]:
    """The spans that scores of the tagged tokens, ``[N, C]``, say stand in each text."""
    bounds = split.bounds
    found: list[list[Span]] = []
    for row, text in enumerate(split.texts):
        part = slice(bounds[row], bounds[row + 1])
        reading = tags.read(text, split.offsets[part], scores[part])
        found.append([each.span for each in reading.spans])
    return found


def span_f1_of(split: TaggedSplit, scores: NDArray[np.float32], tags: BioTags) -> float:
    """Micro F1 of the spans that scores ``[N, C]`` stand for."""
    return value(span_rows(found_spans(split, scores, tags), split.spans))
