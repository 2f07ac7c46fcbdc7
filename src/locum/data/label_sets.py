"""Labels of several files side by side: one number or truth value is one label, however a file writes it.

Notable: a column whose values are all whole numbers is read as whole numbers (``1.0`` is ``1``), one of true and false
as ``true`` and ``false``; in any other column every value stays as written, so ``1.1`` and ``1.10`` stay two labels.
A file none of whose labels can be learned is refused before anything is trained. Not here: single rows (``examples``).
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from locum.core.errors import DataError
from locum.core.text import one_line

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")
"""A whole number as programs write it; ``007`` and ``+1`` are codes, and stay as they are."""
_NUMBER = re.compile(r"[-+]?[0-9]+([.,][0-9]+)?([eE][-+]?[0-9]{1,3})?")
_TRUTH = frozenset(("true", "false"))
_LIST_CHARS, _ITEM_CHARS = 2000, 80
SEVERAL_LABELS = (
    "Locum gives each input one label and does not learn several yet (multi-label): keep the main one, or make a "
    "true/false column of each label and a task of each column"
)
_SHOWN = 8
_CLASSES_SHOWN = 4


def spellings(labels: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """How the labels of a column are to be written, for those that are not written so.

    Args:
        labels: every label of the column, of all files.
        known: labels that a model gives already; they keep their spelling.

    Returns:
        The right spelling by the one that stands in the file; empty unless all labels are whole numbers, or all are
        true and false.
    """
    given, kept = set(labels), list(known)
    for spell in (_as_whole, _as_truth):
        spelled = {label: spell(label) for label in given.union(kept)}
        if all(spelled.values()):
            right = {spelled[label]: label for label in kept}
            return {
                label: target
                for label in given - set(kept)
                if (plain := spelled[label]) and (target := right.get(plain, plain)) != label
            }
    return {}


def label_items(value: Any) -> list[Any] | None:
    """The items of a list of labels, also of one that a text holds as JSON or as Python prints it; None for any other.

    Args:
        value: of a row's label column.
    """
    if isinstance(value, str):
        if not (value.startswith("[") and value.endswith("]") and len(value) <= _LIST_CHARS):
            return None
        value = _literal(value)
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        return None
    return None if any(len(str(item)) > _ITEM_CHARS for item in value) else value


def _literal(text: str) -> Any:
    """A list as JSON or as Python writes it; None for what is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that Python does not know
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def check_known(
    labels: Mapping[str, int], learned: Iterable[str], *, where: str, source: str, classes: Iterable[str] = ()
) -> None:
    """Refuse a file whose labels a student cannot learn from the training file.

    Args:
        labels: rows by label, of the file.
        learned: labels of the training file, or of the bundle.
        where: the file.
        source: where the learned labels come from, for the message.
        classes: names of the class numbers, where one of the files has them, in the numbers' order.

    Raises:
        DataError: ``data-labels-apart``: no label is known, or the labels of most rows are known in another spelling.
    """
    known = set(learned)
    unknown = {label: rows for label, rows in labels.items() if label not in known}
    respelled = same_otherwise(unknown, known)
    most = 2 * sum(labels[label] for label in respelled) > sum(labels.values())
    if not known or not unknown or (len(unknown) < len(labels) and not most):
        return
    none = len(unknown) == len(labels)
    what = f"no label of this file occurs in {source}" if none else f"most rows have a label unknown to {source}"
    raise DataError(
        "data-labels-apart",
        f"{what}: it has {_some(unknown if none else respelled)}; {source} has {_some(known)}"
        + _why(unknown, known, respelled, list(classes)),
        where=where,
        fix="write the labels alike in both files, or name the right file and column under data",
    )


def same_otherwise(unknown: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The unknown labels that are known ones in another spelling, each with that one."""
    by_key: dict[object, str] = {}
    for label in sorted(known):
        for key in _keys(label):
            by_key.setdefault(key, label)
    found = {label: next((by_key[key] for key in _keys(label) if key in by_key), None) for label in sorted(unknown)}
    return {label: twin for label, twin in found.items() if twin is not None}


def _keys(label: str) -> list[object]:
    """What a label is, apart from its spelling: its number, or its letters and digits."""
    if _NUMBER.fullmatch(label):
        return [float(label.replace(",", "."))]
    letters = "".join(character for character in label.casefold() if character.isalnum())
    return [letters] if letters else []


def _why(unknown: Iterable[str], known: Iterable[str], respelled: dict[str, str], classes: list[str]) -> str:
    """What the two sets have to do with each other, as the end of a sentence; "" when nothing is known."""
    if respelled:
        label, twin = next(iter(respelled.items()))
        what = "numbers" if _NUMBER.fullmatch(label) else "names"
        return f"; these are the same {what} written differently ({label!r} and {twin!r})"
    numbers = [all(_as_whole(label) for label in labels) for labels in (unknown, known)]
    if numbers[0] == numbers[1]:
        return ""
    if classes:
        named = ", ".join(f"{number} = {one_line(name, 30)!r}" for number, name in enumerate(classes[:_CLASSES_SHOWN]))
        more = ", …" if len(classes) > _CLASSES_SHOWN else ""
        return f"; one file holds numbers of classes, and the other names its classes: {named}{more}"
    return "; one holds numbers and the other names"


def _as_whole(label: str) -> str:
    """A whole number without a fraction, or "" for anything else."""
    if not _WHOLE.fullmatch(label):
        return ""
    whole = label.partition(".")[0]
    return "0" if whole == "-0" else whole


def _as_truth(label: str) -> str:
    folded = label.casefold()
    return folded if folded in _TRUTH else ""


def _some(labels: Iterable[str]) -> str:
    shown = [repr(one_line(label, 40)) for label in sorted(labels)]
    more = f", … ({len(shown):,} in all)" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
