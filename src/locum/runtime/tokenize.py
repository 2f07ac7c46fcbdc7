"""Text to token ids through a ``tokenizer.json``, cut at the model's limit, in batches of like length.

Notable: texts are sorted by length before they are batched, so that hardly a padding token is computed;
``Batch.rows`` says where each row belongs. What is cut is counted for each text. Not here: decoder tokenizers, which
stand inside the GGUF file.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import ModelFileError

_CHARS_PER_TOKEN_MAX = 100
"""Text beyond ``max_tokens`` times this is cut before it is tokenized, so that one request of
many megabytes costs no more than one of a few thousand words."""


@dataclass(frozen=True)
class Batch:
    """Rows to run together.

    Attributes:
        rows: where each row stands in the caller's list, ``[n]``.
        input_ids: padded at the right, ``[n, tokens]``.
        attention_mask: 1 for a token, 0 for padding, ``[n, tokens]``.
    """

    rows: NDArray[np.intp]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as token ids.

    Attributes:
        ids: of each text, special tokens included, cut at ``max_tokens``.
        dropped: how many tokens of each text are not among them, ``[n]``; at least so many where a text is so long
            that its end was not tokenized.
    """

    ids: list[list[int]]
    dropped: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tokens:
    """One text, read.

    Attributes:
        ids: token ids, special tokens included.
        spans: start and end of each token in the text as it was given, in characters, ``[n, 2]``.
        special: which of them the tokenizer put in itself, ``[n]``.
        dropped: how many tokens of the text are not among them, as in ``Encoded``.
    """

    ids: list[int]
    spans: NDArray[np.int64]
    special: NDArray[np.bool_]
    dropped: int

    @property
    def truncated(self) -> bool:
        """Whether the text was cut."""
        return self.dropped > 0


class TextTokenizer:
    """A ``tokenizer.json``, safe to use from several threads.

    Args:
        path: the file.
        max_tokens: longer inputs are cut there; special tokens count.

    Attributes:
        truncated: how many inputs were cut so far.

    Raises:
        ModelFileError: the file is not a tokenizer that the ``tokenizers`` library reads.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.truncated = 0
        self._count_lock = threading.Lock()
        self._tokenizer = _load(path)
        try:
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(max_length=max_tokens)
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(
                "runtime-mismatch", f"max_tokens {max_tokens} does not fit the tokenizer: {error}", where=str(path)
            ) from error
        self.pad_id = self._padding_id()

    @property
    def folds_surface(self) -> bool:
        """Whether it reads capitals as small letters, or a line break as any white space."""
        return self._words("A") == self._words("a") or self._words("a\nb") == self._words("a b")

    @property
    def largest_id(self) -> int:
        """The largest token id it can produce."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut at ``max_tokens``."""
        return self.encode_counted(texts).ids

    def encode_counted(self, texts: Sequence[str]) -> Encoded:
        """As ``encode``, with how many tokens of each text were dropped."""
        encodings = self._tokenizer.encode_batch_fast([self._clean(text) for text in texts])
        dropped = np.array(self._dropped(encodings, texts), dtype=np.int64)
        return Encoded([encoding.ids for encoding in encodings], dropped)

    def read(self, texts: Sequence[str]) -> list[Tokens]:
        """As ``encode``, with each token's place in its text."""
        encodings = self._tokenizer.encode_batch([self._clean(text) for text in texts])
        return [
            Tokens(
                encoding.ids,
                np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2),
                np.asarray(encoding.special_tokens_mask, dtype=np.bool_),
                dropped,
            )
            for encoding, dropped in zip(encodings, self._dropped(encodings, texts), strict=True)
        ]

    def _clean(self, text: str) -> str:
        """Cut where no token of it can be read any more, and without lone surrogates, which cannot become UTF-8."""
        return text[: self.max_tokens * _CHARS_PER_TOKEN_MAX].encode("utf-8", "replace").decode()

    def _dropped(self, encodings: Sequence[Any], texts: Sequence[str]) -> list[int]:
        """How many tokens of each text are not read; cut texts are counted."""
        limit = self.max_tokens * _CHARS_PER_TOKEN_MAX
        dropped = [
            max(_overflow(encoding), int(len(text) > limit)) for encoding, text in zip(encodings, texts, strict=True)
        ]
        if any(dropped):
            with self._count_lock:
                self.truncated += sum(map(bool, dropped))
        return dropped

    def pad(self, ids: Sequence[list[int]], *, max_rows: int, max_cells: int) -> list[Batch]:
        """Sort by length and pad: shortest rows first.

        Args:
            ids: token ids of each text.
            max_rows: most rows in one batch.
            max_cells: most rows x tokens in one batch (one row always goes).
        """
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        batches: list[Batch] = []
        rows: list[int] = []
        for row in order:
            # sorted: the newest row is the longest, and sets the width
            if rows and (len(rows) >= max_rows or (len(rows) + 1) * len(ids[row]) > max_cells):
                batches.append(self._pad(rows, ids))
                rows = []
            rows.append(row)
        if rows:
            batches.append(self._pad(rows, ids))
        return batches

    def _pad(self, rows: list[int], ids: Sequence[list[int]]) -> Batch:
        width = max(1, *(len(ids[row]) for row in rows))
        input_ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for place, row in enumerate(rows):
            length = len(ids[row])
            input_ids[place, :length] = ids[row]
            mask[place, :length] = 1
            if not length:  # a tokenizer without special tokens gives nothing for "": one padding token stands in
                mask[place, 0] = 1
        return Batch(np.asarray(rows, dtype=np.intp), input_ids, mask)

    def _words(self, text: str) -> list[str]:
        """What the vocabulary is asked for: the normalised text, cut into words."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        return [normal] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normal)]

    def _padding_id(self) -> int:
        for token in ("[PAD]", "<pad>", "<|endoftext|>", "<|im_end|>", "</s>"):
            found = self._tokenizer.token_to_id(token)
            if found is not None:
                return int(found)
        return 0


def _overflow(encoding: Any) -> int:
    """Tokens that are left over, which come in windows, each with the special tokens again."""
    if not encoding.overflowing:
        return 0
    special = sum(encoding.special_tokens_mask)
    return sum(len(window.ids) - special for window in encoding.overflowing)


def _load(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a hostile file panics inside Rust, and PanicException is no Exception
        raise ModelFileError(
            "runtime-damaged", f"not a tokenizer.json: {error}", where=str(path), fix="export the model again"
        ) from error
