"""``Guard``: hands over inputs that are unlike everything a student learned from, whatever its confidence says.

Notable: it looks at the text and the label given, so it serves every engine alike and costs microseconds: how many
words are known from training, and which share of words and pairs of neighbours. Limits are set on training rows, each
without itself, and on dev, before any calibration row is seen; calibration counts what is handed over as handed over.
Not here: limits of single labels (``evidence``), the confidence (``confidence``), the route (``cascade.policy``).
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import ModelFileError
from locum.schema.confidence import GuardModel
from locum.schema.model import ModelSpec
from locum.students.evidence import LEAST_ROWS, Evidence, ReadRow, fit_limits

GUARD = "guard.json"
GUARD_VERSION = 3
"""Another one, and students of earlier builds are measured again."""
SHARE = 0.01
"""Most of the training rows, each without itself, and dev rows together that is handed over; of dev alone twice that,
since a few rows more or less are chance."""

_KNOWN_MAX = 1 << 18  # what comes most often; a megabyte
_CHARACTERS = 8_192  # looked at; a longer text is judged by its beginning
_ALONE = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that put no space between words: each of their letters counts as a word."""
_TOKEN = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")
_START, _END = "\x02", "\x03"


class Guard:
    """A guard, ready to use; safe to call from several threads.

    Args:
        model: its limits and what is known.

    Raises:
        ValueError: what is known cannot be read.
    """

    def __init__(self, model: GuardModel) -> None:
        self.model = model
        packed = np.frombuffer(base64.b64decode(model.known, validate=True), dtype="<u4")
        self._known: frozenset[int] = frozenset(packed.tolist())
        self._evidence = Evidence(model.labels)

    def unlike(self, text: str, label: str | None = None) -> str | None:
        """Why an input is to be handed over, in words; None where it is not.

        Args:
            text: normalised, as training rows were.
            label: that the student gives it; None where it gives none, or no labels at all.
        """
        model = self.model
        words, all_of_it = _read(text if model.reads == "text" else _query(text))
        if not words and model.empty:
            return "the input has no word in it"
        known = len(set(words) & self._known)
        if words and known < model.least_words:
            return (
                f"the input has next to nothing in it: {known} known word{'s' if known != 1 else ''}, "
                f"where 99 in 100 training rows have at least {model.least_words}"
            )
        share = sum(part in self._known for part in all_of_it) / len(all_of_it)
        if words and share < model.least_share:
            return (
                f"the input is unlike the training rows: {share:.0%} of its words and pairs of words are known, "
                f"where 99 in 100 have at least {model.least_share:.0%}"
            )
        return None if label is None else self._evidence.lacking(words, known, label)


def unlikeness(guard: Guard | None, texts: Sequence[str], labels: Sequence[str | None] = ()) -> list[str | None]:
    """``Guard.unlike`` of several inputs; None for each where there is no guard.

    Args:
        guard: None hands nothing over.
        texts: the inputs.
        labels: that the student gives them, same rows; empty for a kind of task without labels.
    """
    if guard is None:
        return [None] * len(texts)
    return [guard.unlike(text, label) for text, label in zip(texts, labels or [None] * len(texts), strict=True)]


def without_unlike(
    guard: Guard | None, confidence: NDArray[np.float64], texts: Sequence[str], labels: Sequence[str | None] = ()
) -> NDArray[np.float64]:
    """A confidence, ``[n]``, with NaN (never answered locally) for what the guard hands over.

    Args:
        guard: None hands nothing over.
        confidence: of the student, ``[n]``.
        texts: the inputs, same rows.
        labels: that the student gives them, same rows; empty for a kind of task without labels.
    """
    return np.where([each is not None for each in unlikeness(guard, texts, labels)], np.nan, confidence)


def fit_guard(
    train: Sequence[str],
    dev: Sequence[str],
    *,
    ranks: bool = False,
    labels: tuple[Sequence[str], Sequence[str]] | None = None,
) -> GuardModel:
    """A guard that hands over at most one in a hundred of the training and dev rows, and of each label's as many again.

    The limits are the highest that keep within that, first of known words, then of the known share; so rows with next
    to nothing in them come before those that are unlike in what they say. A training row is measured by what is known
    from the others, or all of it would be known.

    Args:
        train: normalised inputs that students learn from.
        dev: normalised inputs of the dev split.
        ranks: inputs are queries with candidates.
        labels: right ones of the training and the dev rows, where students give labels.

    Returns:
        The guard. Degenerate: with fewer than 100 rows no limit is set, and only inputs without any word are handed
        over, if the rows have some.
    """
    parts = [[_read(_query(text) if ranks else text) for text in part] for part in (train, dev)]
    counts: Counter[int] = Counter()
    for _, all_of_it in parts[0]:
        counts.update(set(all_of_it))
    kept = sorted(counts, key=lambda part: (-counts[part], part))[:_KNOWN_MAX]
    counts = Counter({part: counts[part] for part in kept})
    figures = [_figures(part, counts, least) for part, least in zip(parts, (2, 1), strict=True)]
    words = [found[:, 0] for found in figures]
    shares = [found[:, 1] for found in figures]
    every = [np.concatenate(words), words[1]]
    limits = [int(SHARE * len(every[0])), int(2 * SHARE * len(every[1]))]
    wordless = [np.concatenate([found[:, 2] for found in figures]), figures[1][:, 2]]
    enough = len(every[0]) >= LEAST_ROWS
    least_words = min(_at_most(part, limit) for part, limit in zip(every, limits, strict=True)) if enough else 0.0
    # A row that has too few words already is handed over: its share counts as the lowest, and takes of the same limit.
    left = [np.where(part < least_words, -1.0, share) for part, share in zip(words, shares, strict=True)]
    over = [np.concatenate(left), left[1]]
    least_share = min(_at_most(part, limit) for part, limit in zip(over, limits, strict=True)) if enough else 0.0
    empty = all(part.sum() <= limit for part, limit in zip(wordless, limits, strict=True))
    handed = (words[1] < least_words) | (shares[1] < least_share) | (empty & (figures[1][:, 2] > 0))
    rows = [
        ReadRow(frozenset(found), int(known), label, fresh)
        for part, counts, right, fresh in zip(parts, words, labels or ((), ()), (False, True), strict=True)
        for (found, _), known, label in zip(part, counts, right, strict=labels is not None)
    ]
    by_label = fit_limits(rows, SHARE)
    evidence = Evidence(by_label)
    for place, row in enumerate(row for row in rows if row.fresh):
        handed[place] |= evidence.lacking(row.words, row.known, row.label) is not None
    return GuardModel(
        reads="query" if ranks else "text",
        empty=bool(empty),
        least_words=int(least_words),
        least_share=max(0.0, float(least_share)),
        rows=len(every[0]),
        dev_share=float(handed.mean()) if len(handed) else 0.0,
        known=base64.b64encode(np.array(sorted(counts), dtype="<u4").tobytes()).decode(),
        labels=by_label,
    )


def read_guard(folder: Path, spec: ModelSpec) -> Guard | None:
    """The guard of a model folder that was verified; None where it has none, as those of earlier versions.

    Raises:
        ModelFileError: it is damaged.
    """
    if GUARD not in spec.files:
        return None
    path = folder / GUARD
    try:
        return Guard(GuardModel.from_json(path.read_bytes(), str(path)))
    except ValueError as problem:
        raise ModelFileError(
            "runtime-damaged", f"{GUARD}: {problem}", where=str(path), fix="build it again"
        ) from problem


def _query(text: str) -> str:
    from locum.tasks.rank import read_candidates  # nothing that classifies needs it

    return read_candidates(text).query


def _at_most(values: NDArray[np.float64], limit: int) -> float:
    """The highest value that at most ``limit`` of the values are below; infinity for no values."""
    return float(np.sort(values)[limit]) if len(values) else np.inf


def _figures(parts: Sequence[tuple[list[int], list[int]]], counts: Counter[int], least: int) -> NDArray[np.float64]:
    """Of each row, ``[n, 3]``: different known words, known share, and 1 where it has no word.

    What is known came in at least ``least`` training rows: 2 for a training row, which is one of them itself.
    """
    found = [
        (
            len({word for word in words if counts[word] >= least}),
            sum(counts[part] >= least for part in all_of_it) / len(all_of_it),
            float(not words),
        )
        for words, all_of_it in parts
    ]
    return np.array(found, dtype=np.float64).reshape(len(found), 3)


def _read(text: str) -> tuple[list[int], list[int]]:
    """Hashes of the words of a text; and of words, marks, and pairs of neighbours, with the text's edges as one.

    Numbers count as one word, whatever they are.
    """
    tokens = ["0" if token.isdigit() else token for token in _TOKEN.findall(text[:_CHARACTERS].lower())]
    edged = [_START, *tokens, _END]
    hashes = [crc32(token.encode(errors="replace")) for token in tokens]
    words = [found for token, found in zip(tokens, hashes, strict=True) if token[0].isalnum()]
    pairs = [crc32(f"{one} {other}".encode(errors="replace")) for one, other in pairwise(edged)]
    return words, hashes + pairs
