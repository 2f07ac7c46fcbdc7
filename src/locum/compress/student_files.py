"""The folder that a training job wrote, checked before it is exported.

Notable: every file must have the SHA-256 that ``trained.json`` names, so what is exported is what was trained. Not
here: reading weights (``models.classifier``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import DataError, ModelFileError
from locum.core.files import sha256_file
from locum.runtime.model_files import refuse_unsafe, resolve_inside
from locum.schema.data import Row
from locum.schema.training import Trained

DEV_LOGITS_NAME = "dev_logits.npy"
TRAINED_NAME = "trained.json"


@dataclass(frozen=True)
class Dev:
    """The dev split beside what the trained weights said about it.

    Attributes:
        texts: inputs, n of them.
        gold: index of the right label, ``[n]``.
        logits: of the trained weights, ``[n, C]``.
    """

    texts: list[str]
    gold: NDArray[np.intp]
    logits: NDArray[np.float32]


def read_trained(folder: Path) -> Trained:
    """Read ``trained.json`` and check every file it names.

    Raises:
        ModelFileError: the folder is incomplete, changed, or holds what may not be opened.
    """
    path = folder / TRAINED_NAME
    if not path.is_file():
        raise _damaged(folder, f"no {TRAINED_NAME}: the training did not finish")
    trained = Trained.from_json(path.read_bytes(), str(path))
    for name, digest in trained.files.items():
        file = resolve_inside(folder, name)
        if not file.is_file():
            raise _damaged(folder, f"{name} is missing")
        refuse_unsafe(file)
        if sha256_file(file) != digest:
            raise _damaged(folder, f"{name} is not the file that was trained (its SHA-256 differs)")
    return trained


def read_dev(folder: Path, split: Path, labels: Sequence[str]) -> Dev:
    """Read the dev split and the logits that training left for it.

    Args:
        folder: the trained student's.
        split: JSON Lines of ``schema.data.Row``.
        labels: class names in the order of the logits' columns.

    Raises:
        ModelFileError: the logits are missing, damaged, or do not fit split and labels.
        DataError: the split holds a label that the model does not know, or nothing.
    """
    with split.open(encoding="utf-8") as file:
        rows = [Row.from_json(line, f"{split}:{number}", DataError) for number, line in enumerate(file, 1)]
    places = {label: place for place, label in enumerate(labels)}
    unknown = sorted({row.output for row in rows} - set(places))
    if unknown or not rows:
        what = f"labels {unknown[:3]} that the model does not have" if unknown else "no rows"
        raise DataError("compress-dev", f"the dev split holds {what}", where=str(split), fix="train again on this data")
    logits = read_logits(folder)
    if logits.shape != (len(rows), len(labels)):
        raise _damaged(folder, f"{DEV_LOGITS_NAME} is {logits.shape} for {len(rows)} dev rows and {len(labels)} labels")
    gold = np.asarray([places[row.output] for row in rows], dtype=np.intp)
    return Dev([row.input for row in rows], gold, logits)


def read_logits(folder: Path) -> NDArray[np.float32]:
    """What the trained weights said about dev, ``[n, C]``.

    Raises:
        ModelFileError: the logits are missing, damaged, or not finite.
    """
    path = folder / DEV_LOGITS_NAME
    if not path.is_file():
        raise _damaged(folder, f"{DEV_LOGITS_NAME} is missing")
    try:
        logits: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _damaged(folder, f"{DEV_LOGITS_NAME} cannot be read: {error}") from error
    if logits.dtype != np.float32 or logits.ndim != 2 or not np.isfinite(logits).all():
        raise _damaged(folder, f"{DEV_LOGITS_NAME} holds {logits.dtype} {logits.shape}, or values that are not finite")
    return logits


def _damaged(folder: Path, why: str) -> ModelFileError:
    return ModelFileError("compress-trained", why, where=str(folder), fix="train it again")
