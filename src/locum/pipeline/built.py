"""``BuiltStudent``: a candidate that was built, with its answers, whatever kind of task it is for.

Notable: a student that scores labels left logits, any other left drafts; both come out as ``Scored``, which is all that
choice, certificate and report look at. Scores are computed once, because scoring may run programs.
Not here: building it (``pipeline.rung``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from locum.data.load import iterate
from locum.evaluate import metrics, runner
from locum.evaluate.answers import Answers
from locum.evaluate.predictions import Predictions
from locum.evaluate.scored import Scored
from locum.fit.ladder import DataSize
from locum.pipeline.made import Training
from locum.schema.candidate import Candidate
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import Evaluation, Measured, ShownExample, WrongExample
from locum.schema.model import ModelSpec, Parity
from locum.schema.multitask import MixtureCard
from locum.schema.task import Task
from locum.schema.training import GeneratorParity, Trained
from locum.stats.risk import answered_locally
from locum.students.guard import read_guard, without_unlike
from locum.students.open import read_confidence
from locum.tasks import open_kind
from locum.tasks.protocol import TaskKind
from locum.tasks.tag import load_spans, types_of

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Mixture:
    """Rows of several tasks that a student learns together.

    Attributes:
        folder: with ``train.jsonl`` and ``dev.jsonl``, lines of ``Conversation``.
        key: of the step that wrote it.
        card: what is in it.
        sizes: of each task's training rows.
        temperature: T, by which the tasks are mixed.
        others: prepared data of the other tasks.
    """

    folder: Path
    key: str
    card: MixtureCard
    sizes: Mapping[str, DataSize]
    temperature: float
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """The prepared data set.

    Attributes:
        key: hash of what the splits hold; whatever is made from them depends on it.
        labels: class names, or tags; empty for kinds that have none.
        mixture: with the rows of other tasks; None when the task is learned alone.
    """

    folder: Path
    key: str
    labels: tuple[str, ...]
    splits: tuple[SplitName, ...]
    mixture: Mixture | None = None


@dataclass(frozen=True, eq=False)
class BuiltStudent:
    """A candidate that was built.

    Attributes:
        trained: None when nothing was trained.
        parity: None when what is served is the base's own file.
        served: folder the engine opens, with its name and its calibration.
        key: of the step that measured it.
        answers: the file of its answers to each split that it was asked. Where answers take their time that is
            dev at first; the others come when the choice is made.
        task: what it is for.
        data: what it answered.
        training: where it can be repeated.
        before: the student that this is a refit of. What is said of dev is of that one, since a refit has learned from
            dev.
    """

    candidate: Candidate
    trained: Trained | None
    parity: Parity | GeneratorParity | None
    spec: ModelSpec
    measured: Measured
    served: Path
    key: str
    answers: Mapping[SplitName, Path]
    task: Task
    data: Prepared
    training: Training | None = None
    before: BuiltStudent | None = None
    _scored: dict[SplitName, Scored] = field(default_factory=dict[SplitName, Scored])

    @cached_property
    def kind(self) -> TaskKind:
        """The task, as it scores."""
        return open_kind(self.task, self.data.labels)

    def scored(self, split: SplitName) -> Scored:
        """What it answered on a split, scored."""
        if split == "dev" and self.before is not None:
            return self.before.scored(split)
        if split not in self._scored:
            self._scored[split] = self._score(split)
        return self._scored[split]

    def answering_s(self, split: SplitName) -> float:
        """Seconds that answering a split takes, at the rate that was measured; 0 once it is answered."""
        return 0.0 if split in self.answers else len(self.rows(split)) / self.measured.latency.answers_per_s

    def evaluation(self, split: SplitName) -> Evaluation:
        """Everything that is said about it on a split."""
        if split == "dev" and self.before is not None:
            return self.before.evaluation(split)
        if self._labels:
            return runner.evaluate(self._predictions(split), self.spec.temperature)
        scored = self.scored(split)
        found = metrics.scored_evaluation(
            scored.model,
            split,
            scored.metrics,
            scored.n,
            confidence=scored.confidence,
            correct=scored.correct,
            fields=scored.fields,
            invalid=self._drafts(split).outputs.count(None),
            groups=scored.groups,
        )
        outputs, rows = self._drafts(split).outputs, self.rows(split)
        if self.task.kind == "tag":
            types = sorted({label for row in rows for _, _, label in load_spans(row.output)} | {*self._types})
            return found.model_copy(update={"per_label": metrics.per_type(outputs, rows, types, scored.groups)})
        if self.task.kind == "extract":
            return found.model_copy(update={"per_label": metrics.per_field(outputs, rows, scored.groups)})
        return found

    def rows(self, split: SplitName) -> list[Row]:
        """The rows of a split, in the order of the answers."""
        return list(iterate(self.data.folder, split))

    def wrong(self, split: SplitName, limit: int) -> tuple[WrongExample, ...]:
        """Wrong answers for the report, the surest first; not to inputs that are handed over, being unlike training."""
        rows = self.rows(split)
        if not self._labels:
            return self._drafts(split).wrong(self.scored(split), rows, limit)
        sure = dict(zip((row.id for row in rows), self.scored(split).confidence, strict=True))
        found = runner.wrong_examples(self._predictions(split), rows, self.spec.temperature, len(rows))
        return tuple(example for example in found if np.isfinite(sure[example.id]))[:limit]

    def shown(self, split: SplitName, threshold: float | None) -> ShownExample | None:
        """The first row of a moderate length that is answered locally, else the first at all; None for no such row."""
        sure = self.scored(split).confidence
        rows = self.rows(split)
        fit = [place for place, row in enumerate(rows) if len(row.input) <= _SHOWN_CHARACTERS]
        local = answered_locally(sure, threshold)
        place = next((place for place in fit if local[place]), fit[0] if fit else None)
        if place is None:
            return None
        outputs = self.given_labels(split) if self._labels else self._drafts(split).outputs
        return ShownExample(
            input=rows[place].input,
            gold=rows[place].output,
            output=outputs[place],
            confidence=float(sure[place]) if np.isfinite(sure[place]) else None,
            local=bool(local[place]),
        )

    def given_labels(self, split: SplitName) -> list[str | None]:
        """The label of each answer to a split, None for one that is no label; empty where answers are no labels."""
        if not self._labels:
            return []
        labels = self.spec.labels
        return [labels[column] if column >= 0 else None for column in self._predictions(split).predicted]

    @property
    def _labels(self) -> bool:
        return self.spec.purpose == "classify"

    def _score(self, split: SplitName) -> Scored:
        if self._labels:
            scored = self._predictions(split).scored(self.spec.temperature)
        else:
            scored = self._drafts(split).scored(self.kind, self.rows(split), read_confidence(self.served, self.spec))
        guard = read_guard(self.served, self.spec)
        if guard is None:
            return scored
        texts = [row.input for row in self.rows(split)]
        return replace(scored, confidence=without_unlike(guard, scored.confidence, texts, self.given_labels(split)))

    def _predictions(self, split: SplitName) -> Predictions:
        return Predictions.load(self.answers[split])

    def _drafts(self, split: SplitName) -> Answers:
        return Answers.load(self.answers[split])

    @property
    def _types(self) -> tuple[str, ...]:
        return types_of(self.data.labels)
