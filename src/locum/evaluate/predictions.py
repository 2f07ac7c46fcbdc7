"""``Predictions``: a student's logits on one split, in an npz file without pickle.

Notable: every later figure (metrics, calibration, certificate, comparison) comes from this file, so it can
be recomputed without the model. Rows are known by a hash of their ids in order; only predictions on the same
rows may be compared. Not here: making them (``evaluate.runner``).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import ModelFileError
from locum.core.files import content_hash, write_bytes
from locum.evaluate.scored import Scored
from locum.schema.data import Row, SplitName
from locum.schema.task import SPLITS
from locum.stats.confusion import macro_f1_of_rows
from locum.stats.rowwise import Coded, Mean
from locum.tasks.classify import confidence, predicted, probabilities


@dataclass(frozen=True, eq=False)
class Predictions:
    """One student's answers to one split.

    Attributes:
        model: the candidate's name.
        labels: class names in the order of the logits' columns.
        ids_hash: SHA-256 of the rows' ids, in order.
        logits: ``[n, labels]``, before temperature.
        gold: column of the right label, ``[n]``; -1 where the gold label is none of ``labels``.
        groups: codes of ``group_codes``, ``[n]``; None where no rows belong together.
    """

    model: str
    split: SplitName
    labels: tuple[str, ...]
    ids_hash: str
    logits: NDArray[np.float32]
    gold: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.gold)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Column of the answer, ``[n]``; -1 where the logits are no scores."""
        return predicted(self.logits)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each answer is right, ``[n]``."""
        return (self.predicted == self.gold) & (self.gold >= 0)

    def confidence(self, temperature: float) -> NDArray[np.float64]:
        """The largest probability of each row at a temperature, ``[n]``."""
        return confidence(self.logits, temperature)

    def scored(self, temperature: float) -> Scored:
        """The answers as choice, certificate and comparison see them, at a temperature fitted on dev."""
        return Scored(
            model=self.model,
            split=self.split,
            ids_hash=self.ids_hash,
            correct=self.correct,
            confidence=self.confidence(temperature),
            metrics={
                "accuracy": Mean(self.correct.astype(np.float64)),
                "macro_f1": Coded(macro_f1_of_rows(self.gold, self.predicted, len(self.labels)), self.n),
            },
            log_likelihood=self._log_likelihood(temperature),
            groups=self.groups,
        )

    def _log_likelihood(self, temperature: float) -> NDArray[np.float64]:
        """Log-probability of each row's gold label, ``[n]``; NaN where the model has no score for it."""
        found = np.full(self.n, np.nan)
        rows = np.flatnonzero((self.gold >= 0) & np.isfinite(self.logits).all(axis=1))
        chosen = probabilities(self.logits[rows], temperature)[np.arange(len(rows)), self.gold[rows]]
        found[rows] = np.log(np.maximum(chosen, np.finfo(np.float64).tiny))
        return found

    def save(self, path: Path) -> None:
        """Write the npz file atomically; equal predictions give equal bytes.

        Raises:
            DeviceError: the disk is full, read-only or forbidden.
        """
        buffer = io.BytesIO()
        groups: dict[str, Any] = {} if self.groups is None else {"groups": self.groups.astype(np.int64)}
        np.savez_compressed(
            buffer,
            model=np.array(self.model),
            split=np.array(self.split),
            labels=np.array(self.labels),
            ids_hash=np.array(self.ids_hash),
            logits=self.logits.astype(np.float32),
            gold=self.gold.astype(np.int64),
            **groups,
        )
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read the npz file; pickled content is refused. A file without groups is one of rows that have none.

        Raises:
            ModelFileError: the file is absent, damaged, or not predictions.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                logits, gold = arrays["logits"], arrays["gold"]
                groups = arrays.get("groups")
                labels = tuple(str(label) for label in arrays["labels"])
                model, split, ids_hash = (str(arrays[name]) for name in ("model", "split", "ids_hash"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            raise _damaged(path, str(problem)) from problem
        if split not in SPLITS or logits.shape != (len(gold), len(labels)) or logits.dtype != np.float32:
            raise _damaged(path, f"logits {logits.dtype}{list(logits.shape)} for {len(gold)} rows of split {split!r}")
        if groups is not None and (groups.shape != gold.shape or groups.dtype != np.int64):
            raise _damaged(path, f"groups {groups.dtype}{list(groups.shape)} for {len(gold)} rows")
        return cls(model, split, labels, ids_hash, logits, gold.astype(np.int64), groups)


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "evaluate-predictions", f"not a file of predictions: {why}", where=str(path), fix="run the evaluation again"
    )


def ids_hash(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows' ids, in order."""
    return content_hash([row.id for row in rows])


def gold_index(rows: Sequence[Row], labels: Sequence[str]) -> NDArray[np.int64]:
    """Column of each row's label, ``[n]``; -1 where it is none of ``labels``."""
    column = {label: index for index, label in enumerate(labels)}
    return np.array([column.get(row.output, -1) for row in rows], dtype=np.int64)


def group_codes(rows: Sequence[Row]) -> NDArray[np.int64] | None:
    """A number per row, the same for rows of one group, ``[n]``; a row without a group is one of its own.

    Returns:
        The numbers, from 0 on in the order that groups come; None where no row has a group.
    """
    if all(row.group is None for row in rows):
        return None
    codes: dict[tuple[bool, str], int] = {}
    keys = [(row.group is None, row.id if row.group is None else row.group) for row in rows]
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)
