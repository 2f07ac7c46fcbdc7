"""``Answers``: what a student drafted on one split, in a JSON Lines file.

Notable: for students that do not score labels. A draft stands there with its features, so scores, confidence,
certificate and comparison can be computed again without the model; labels have ``evaluate.predictions`` instead. Not
here: the metrics (``tasks``), the fit of the confidence (``students.confidence``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from locum.core.errors import ModelFileError
from locum.core.files import atomic_file
from locum.core.progress import track
from locum.evaluate.predictions import group_codes, ids_hash
from locum.evaluate.scored import Scored
from locum.schema.confidence import ConfidenceModel
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import WrongExample
from locum.stats.rowwise import Mean, Metric
from locum.students.confidence import confidence_of, fields_and_truth, fit_confidence, fit_fields
from locum.students.protocol import Draft, Drafter
from locum.tasks.protocol import Fielded, Sampled, TaskKind

_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Answers:
    """One student's drafts on one split.

    Attributes:
        model: the candidate's name.
        ids_hash: SHA-256 of the rows' ids, in order.
        drafts: in the rows' order.
        groups: codes of ``group_codes``, ``[n]``; None where no rows belong together.
    """

    model: str
    split: SplitName
    ids_hash: str
    drafts: tuple[Draft, ...]
    groups: NDArray[np.int64] | None = None

    @property
    def outputs(self) -> list[str | None]:
        """The answers."""
        return [draft.output for draft in self.drafts]

    def scored(self, kind: TaskKind, rows: Sequence[Row], confidence: ConfidenceModel) -> Scored:
        """The answers as choice, certificate and comparison see them.

        Args:
            kind: scores them.
            rows: of the split.
            confidence: fitted on dev.

        Raises:
            ValueError: they are the rows of another split.
        """
        self._require(rows)
        metrics = kind.score(self.outputs, rows)
        if isinstance(kind, Sampled) and any(draft.samples for draft in self.drafts):
            metrics |= kind.score_samples([draft.samples for draft in self.drafts], rows)
        return Scored(
            model=self.model,
            split=self.split,
            ids_hash=self.ids_hash,
            correct=right(metrics),
            confidence=confidence_of(confidence, self.drafts),
            metrics=metrics,
            fields=fields_and_truth(confidence, self.drafts, self._right_fields(kind, rows)),
            groups=self.groups,
        )

    def fit_confidence(self, kind: TaskKind, rows: Sequence[Row]) -> ConfidenceModel:
        """How features become a confidence, of answers and of their fields, from these answers.

        Raises:
            ValueError: the answers are not on dev, or the rows are another split's.
        """
        if self.split != "dev":
            raise ValueError(f"the confidence is fitted on dev, not on {self.split}")
        self._require(rows)
        fitted = fit_confidence(self.drafts, right(kind.score(self.outputs, rows)))
        return fitted.model_copy(update={"fields": fit_fields(self.drafts, self._right_fields(kind, rows))})

    def wrong(self, scored: Scored, rows: Sequence[Row], limit: int = 20) -> tuple[WrongExample, ...]:
        """Wrong answers for the report, the surest first; what has no confidence, or is no answer, is left out."""
        wrong = np.flatnonzero(~scored.correct & np.isfinite(scored.confidence)).tolist()
        surest = sorted(wrong, key=lambda i: -scored.confidence[i])[:limit]
        return tuple(
            WrongExample(
                id=rows[i].id,
                input=rows[i].input,
                gold=rows[i].output,
                predicted=self.drafts[i].output or "",
                confidence=float(scored.confidence[i]),
            )
            for i in surest
        )

    def save(self, path: Path) -> None:
        """Write the file atomically: a line with model, split, hash and groups, then one a draft.

        Raises:
            DeviceError: the disk is full, read-only or forbidden.
        """
        with atomic_file(path) as file:
            head: dict[str, Any] = {"model": self.model, "split": self.split, "ids_hash": self.ids_hash}
            if self.groups is not None:
                head["groups"] = self.groups.tolist()
            file.write(orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE))
            for draft in self.drafts:
                file.write(orjson.dumps(vars(draft), option=orjson.OPT_APPEND_NEWLINE))

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Read the file. One without groups is one of rows that have none.

        Raises:
            ModelFileError: it is absent, damaged, or no file of answers.
        """
        try:
            head, *lines = path.read_bytes().splitlines()
            found = orjson.loads(head)
            drafts = tuple(_draft(orjson.loads(line)) for line in lines)
            groups = None if found.get("groups") is None else _codes(found["groups"], len(drafts))
            return cls(str(found["model"]), found["split"], str(found["ids_hash"]), drafts, groups)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ModelFileError(
                "evaluate-predictions",
                f"not a file of answers: {problem}",
                where=str(path),
                fix="run the evaluation again",
            ) from problem

    def _right_fields(self, kind: TaskKind, rows: Sequence[Row]) -> list[dict[str, bool]]:
        """Whether each field of each answer is right; none where the kind's answers have no fields."""
        if not isinstance(kind, Fielded):
            return [{} for _ in rows]
        return [
            {} if output is None else kind.right_fields(output, row)
            for output, row in zip(self.outputs, rows, strict=True)
        ]

    def _require(self, rows: Sequence[Row]) -> None:
        if ids_hash(rows) != self.ids_hash:
            raise ValueError(f"rows of another split than the answers of {self.model!r}")


def _codes(stored: list[Any], n: int) -> NDArray[np.int64]:
    if len(stored) != n or not all(type(code) is int for code in stored):
        raise ValueError(f"{len(stored)} groups for {n} drafts, or groups that are no whole numbers")
    return np.array(stored, dtype=np.int64)


def _draft(stored: dict[str, Any]) -> Draft:
    draft = Draft(**stored)
    return replace(draft, samples=tuple(draft.samples))


def right(metrics: Mapping[str, Metric]) -> NDArray[np.bool_]:
    """Which rows count as right, from the metrics of a kind, ``[n]``.

    Raises:
        TypeError: the kind breaks its contract.
    """
    accuracy = metrics["accuracy"]
    if not isinstance(accuracy, Mean):
        raise TypeError("a kind scores accuracy as the mean of 0 and 1")
    return accuracy.values > 0


def answer_rows(drafter: Drafter, rows: Sequence[Row], split: SplitName) -> Answers:
    """A student's drafts on a split, shortest inputs first.

    Raises:
        LocumError: the engine failed.
    """
    drafts: list[Draft | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input))
    with track(f"answer {split} with {drafter.spec.name}", total=len(rows), unit="row") as tracker:
        for start in range(0, len(order), _AT_ONCE):
            chosen = order[start : start + _AT_ONCE]
            for index, draft in zip(chosen, drafter.draft([rows[i].input for i in chosen]), strict=True):
                drafts[index] = draft
            tracker.advance(len(chosen))
    made = tuple(draft for draft in drafts if draft is not None)
    return Answers(drafter.spec.name, split, ids_hash(rows), made, group_codes(rows))


def answer_timed(drafter: Drafter, rows: Sequence[Row], split: SplitName) -> tuple[Answers, float]:
    """``answer_rows``, with the answers a second that came of it.

    Raises:
        LocumError: the engine failed.
    """
    start_s = time.perf_counter()
    answers = answer_rows(drafter, rows, split)
    return answers, len(rows) / (time.perf_counter() - start_s)
