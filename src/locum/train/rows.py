"""Prepared splits as training reads them: texts and the index of each label.

Not here: reading a user's files (``data``); a prepared split is JSON Lines of ``schema.data.Row``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from locum.core.errors import DataError
from locum.core.registry import nearest
from locum.schema.data import Row


@dataclass(frozen=True)
class Split:
    """Texts ``[n]`` and the index of each one's label ``[n]``."""

    texts: list[str]
    targets: list[int]


def read_split(path: Path, labels: tuple[str, ...]) -> Split:
    """Read a prepared split.

    Args:
        path: JSON Lines of ``Row``.
        labels: class names in the order of the logits' columns.

    Raises:
        DataError: no rows, a damaged line, or a label that is not in ``labels``.
    """
    index = {label: place for place, label in enumerate(labels)}
    texts: list[str] = []
    targets: list[int] = []
    for where, row in read_rows(path):
        if row.output not in index:
            close = nearest(row.output, labels)
            raise DataError(
                "train-request",
                f"label {row.output!r} is not one of the {len(labels)} labels{f' (nearest: {close})' if close else ''}",
                where=where,
                fix="prepare the data again",
            )
        texts.append(row.input)
        targets.append(index[row.output])
    return Split(texts, targets)


def read_rows(path: Path) -> list[tuple[str, Row]]:
    """The rows of a prepared split, each with where it stands.

    Raises:
        DataError: no rows, or a damaged line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("train-request", f"cannot read it: {error}", where=str(path)) from error
    places = ((f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line)
    found = [(where, Row.from_json(line, where, DataError)) for where, line in places]
    if not found:
        raise DataError("train-request", "no rows", where=str(path), fix="prepare the data again")
    return found
