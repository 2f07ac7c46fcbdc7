"""TF-IDF and a linear layer: the first rung of the ladder, in NumPy alone.

Notable: gives what scikit-learn's ``TfidfVectorizer`` and ``LogisticRegression`` or ``LinearSVC`` give, without
loading scikit-learn and without pickle. Only the weight rows of the n-grams that a text has are touched.
``write_linear`` writes the format; ``part_read`` cuts a long text, in training too. Not here: fitting (``train``), the
n-grams (``ngrams``).

The folder:
    vectorizer.json   {"schema_version": 1, "blocks": [Ngrams, ...]}; the blocks' columns follow one another
    weights.npz       idf [D] float32, bias [C] float32, and either coef [D, C] float32 or float16, or its
                      rows in CSR form: coef_data [nnz], coef_indices [nnz] int32, coef_indptr [D + 1] int64
    model.json        weights = "weights.npz", engine = "linear"
D features, C labels.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError, ModelFileError
from locum.core.files import atomic_file, write_text
from locum.runtime.model_files import resolve_inside
from locum.runtime.ngrams import Ngrams, Tfidf
from locum.runtime.protocol import Scored
from locum.schema.base import Document
from locum.schema.model import ModelSpec

VECTORIZER_NAME = "vectorizer.json"
WEIGHTS_NAME = "weights.npz"
WORDS_MAX = 4096
"""Words of a text that a student of a build reads. Every word costs the same, so the limit is there for hostile lengths
and not for the model: a whole document is read."""
CHARACTERS_MAX = 16 * WORDS_MAX
"""Most characters, whatever the words: a language without spaces, or a hostile text, is one word of any length."""
_UNPACKED_BYTES_MAX = 8 << 30
_VECTORIZER_BYTES_MAX = 1 << 30

Array = NDArray[Any]

_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error),
)
"""What NumPy and zipfile raise on damaged archives and headers."""


class Vectorizer(Document):
    """The content of ``vectorizer.json``."""

    schema_version: Literal[1] = 1
    blocks: tuple[Ngrams, ...]


class LinearClassifier:
    """A linear classifier over TF-IDF features; safe to call from several threads.

    Here ``max_tokens`` counts words between white space.

    Args:
        folder: with ``vectorizer.json`` and the weights; it must have passed ``verify_folder``.
        spec: its ``model.json``.
        threads: not used: one text takes a fraction of a millisecond on one core.

    Raises:
        ModelFileError: a file is damaged, or the parts do not fit together.
    """

    def __init__(self, folder: Path, spec: ModelSpec, *, threads: int | None = None) -> None:
        del threads
        self._spec = spec
        path = resolve_inside(folder, spec.weights)
        arrays = read_arrays(path)
        vectorizer = _read_vectorizer(folder / VECTORIZER_NAME, spec)
        n_features = sum(len(block.vocabulary) for block in vectorizer.blocks)
        self._rows = _weight_rows(arrays, n_features, len(spec.labels), path)
        self._bias = arrays["bias"].astype(np.float32)
        self._tfidf = _blocks(vectorizer, arrays["idf"], path)
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """The folder's ``model.json``."""
        return self._spec

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Decision function, ``[len(texts), n_labels]``: ``x @ coef + bias``.

        Raises:
            LocumError: the model is closed.
        """
        return self.read(texts).logits

    def read(self, texts: Sequence[str]) -> Scored:
        """The decision function, and how many words of each text were over ``max_tokens``.

        Raises:
            LocumError: the model is closed.
        """
        if self._closed:
            raise LocumError("runtime-closed", f"{self._spec.name} was asked after it was closed")
        result = np.tile(self._bias, (len(texts), 1))
        dropped = np.zeros(len(texts), dtype=np.int64)
        for row, text in enumerate(texts):
            cut, dropped[row] = part_read(text, self._spec.max_tokens)
            columns: list[int] = []
            values: list[float] = []
            for block in self._tfidf:
                found, weights = block.features(cut)
                columns += found
                values += weights
            if columns:
                result[row] += self._rows.weighted_sum(columns, values)
        return Scored(result, dropped)

    def close(self) -> None:
        """Refuse further questions; a second call does nothing."""
        self._closed = True


def part_read(text: str, max_words: int) -> tuple[str, int]:
    """What a linear student reads of a text, and how many words it does not.

    Training cuts its texts here too: n-grams that serving never reads would be weighed, and would change the length
    that all others are divided by.

    Args:
        text: whole.
        max_words: between white space.

    Returns:
        The beginning of the text, and the words after it; of a very long rest at least so many.
    """
    part = text[:CHARACTERS_MAX]
    if len(part) > max_words:  # a word takes at least one character
        words = part.split(None, max_words)
        if len(words) > max_words:
            part = part[: len(part) - len(words[-1])]
    if len(part) == len(text):
        return text, 0
    rest = text[len(part) : len(part) + CHARACTERS_MAX]
    return part, len(rest.split())


class _DenseRows:
    """Weights [D, C] held as they are; float16 rows become float32 when they are used."""

    def __init__(self, coef: Array) -> None:
        self._coef = coef

    def weighted_sum(self, columns: list[int], values: list[float]) -> NDArray[np.float32]:
        return np.asarray(values, dtype=np.float32) @ self._coef[columns].astype(np.float32)


class _SparseRows:
    """Weights [D, C] in CSR form, for pruned models."""

    def __init__(self, data: Array, indices: Array, indptr: Array, n_labels: int) -> None:
        self._data, self._indices, self._indptr, self._n_labels = data.astype(np.float32), indices, indptr, n_labels

    def weighted_sum(self, columns: list[int], values: list[float]) -> NDArray[np.float32]:
        start, stop = self._indptr[columns], self._indptr[[column + 1 for column in columns]]
        lengths = stop - start
        # positions of all entries of the chosen rows, one row after the other
        at = np.repeat(start - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
        parts = self._data[at] * np.repeat(np.asarray(values, dtype=np.float32), lengths)
        return np.bincount(self._indices[at], weights=parts, minlength=self._n_labels).astype(np.float32)


def write_linear(folder: Path, blocks: Sequence[Ngrams], idf: Array, coef: Array, bias: Array) -> None:
    """Write ``vectorizer.json`` and ``weights.npz``; ``model_files.seal`` then writes ``model.json``.

    Args:
        folder: an existing folder.
        blocks: how each block of features is read; their vocabularies follow one another as columns.
        idf: ``idf_`` of the vectorizers, one after the other, ``[D]``.
        coef: ``coef_`` of a scikit-learn linear model, ``[C, D]``; for two labels scikit-learn keeps one row,
            the second label's: ``[1, D]``. float16 halves the file.
        bias: ``intercept_``, ``[C]`` (or ``[1]``).

    Raises:
        ValueError: shapes do not fit, or a value is NaN or infinite.
    """
    if coef.shape[0] == 1:  # one decision value for two labels: the first label's is 0
        coef = np.concatenate([np.zeros_like(coef), coef])
        bias = np.concatenate([np.zeros_like(bias), bias])
    n_features = sum(len(block.vocabulary) for block in blocks)
    if coef.shape != (len(bias), n_features) or idf.shape != (n_features,):
        raise ValueError(f"coef {coef.shape}, bias {bias.shape}, idf {idf.shape} do not fit {n_features} features")
    if not all(np.isfinite(array).all() for array in (coef, bias, idf)):
        raise ValueError("coef, bias or idf hold NaN or infinite values")
    arrays: dict[str, Array] = {"idf": idf.astype(np.float32), "bias": bias.astype(np.float32)}
    by_feature = np.ascontiguousarray(coef.T)  # [D, C]
    if np.count_nonzero(by_feature) * 3 < by_feature.size:  # below a third, indices cost less than zeros
        rows, columns = np.nonzero(by_feature)
        arrays["coef_data"] = _storable(by_feature[rows, columns])
        arrays["coef_indices"] = columns.astype(np.int32)
        arrays["coef_indptr"] = np.searchsorted(rows, np.arange(n_features + 1)).astype(np.int64)
    else:
        arrays["coef"] = _storable(by_feature)
    write_text(folder / VECTORIZER_NAME, Vectorizer(blocks=tuple(blocks)).model_dump_json())
    with atomic_file(folder / WEIGHTS_NAME) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of an npz file, never through pickle.

    Raises:
        ModelFileError: not an npz of plain numbers, far larger unpacked than a model is, or NaN within.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _UNPACKED_BYTES_MAX:
            raise ValueError(f"unpacks to {unpacked} bytes")
        with np.load(path, allow_pickle=False) as loaded:
            arrays: dict[str, Array] = {name: loaded[name] for name in loaded.files}
    except _UNREADABLE as error:
        raise _damaged(path, str(error)) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise _damaged(path, f"{name} holds {array.dtype} with NaN, infinity or no numbers")
    return arrays


def _storable(values: Array) -> Array:
    return values if values.dtype == np.float16 else values.astype(np.float32)


def _read_vectorizer(path: Path, spec: ModelSpec) -> Vectorizer:
    if VECTORIZER_NAME not in spec.files:
        raise ModelFileError("runtime-file-missing", f"model.json names no {VECTORIZER_NAME}", where=str(path.parent))
    if path.stat().st_size > _VECTORIZER_BYTES_MAX:
        raise _damaged(path, "larger than a vocabulary is")
    return Vectorizer.from_json(path.read_bytes(), str(path))


def _blocks(vectorizer: Vectorizer, idf: Array, path: Path) -> list[Tfidf]:
    blocks: list[Tfidf] = []
    offset = 0
    for ngrams in vectorizer.blocks:
        stop = offset + len(ngrams.vocabulary)
        try:
            blocks.append(Tfidf(ngrams, idf[offset:stop], offset))
        except ValueError as error:
            raise ModelFileError("runtime-mismatch", str(error), where=str(path.parent / VECTORIZER_NAME)) from error
        offset = stop
    return blocks


def _weight_rows(arrays: Mapping[str, Array], n_features: int, n_labels: int, path: Path) -> _DenseRows | _SparseRows:
    missing = {"idf", "bias"} - set(arrays)
    if missing:
        raise _damaged(path, f"it lacks {sorted(missing)}")
    if arrays["idf"].shape != (n_features,) or arrays["bias"].shape != (n_labels,):
        raise _mismatch(path, f"idf {arrays['idf'].shape}, bias {arrays['bias'].shape}", n_features, n_labels)
    if "coef" in arrays:
        if arrays["coef"].shape != (n_features, n_labels):
            raise _mismatch(path, f"coef {arrays['coef'].shape}", n_features, n_labels)
        return _DenseRows(arrays["coef"])
    try:
        data, indices, indptr = (arrays[f"coef_{part}"] for part in ("data", "indices", "indptr"))
    except KeyError as error:
        raise _damaged(path, f"it lacks {error}") from error
    fits = (
        indptr.shape == (n_features + 1,)
        and data.shape == indices.shape == (int(indptr[-1]),)
        and indptr[0] == 0
        and bool((np.diff(indptr) >= 0).all())
        and indices.dtype.kind == indptr.dtype.kind == "i"
        and (indices.size == 0 or (int(indices.min()) >= 0 and int(indices.max()) < n_labels))
    )
    if not fits:
        raise _mismatch(path, f"sparse coef of {data.shape[0]} values", n_features, n_labels)
    return _SparseRows(data, indices, indptr, n_labels)


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError("runtime-damaged", f"cannot read it: {why}", where=str(path), fix="copy or build it again")


def _mismatch(path: Path, seen: str, n_features: int, n_labels: int) -> ModelFileError:
    return ModelFileError(
        "runtime-mismatch", f"{seen} do not fit {n_features} n-grams and {n_labels} labels", where=str(path)
    )
