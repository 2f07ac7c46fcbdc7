"""How long each step takes, before it is done: arithmetic, corrected by what such steps took in earlier builds.

Notable: starting PyTorch, writing checkpoints and comparing an export take their time whatever the size of the data,
and on small data they take most of it. A tuning takes as many epochs as its share of the budget allows, as
``train.schedule`` plans them. Not here: rows and answers (``forecast``), what is remembered (``history``).
"""

from __future__ import annotations

from dataclasses import dataclass

from locum.fit.ladder import ASSUMED_EPOCHS, DataSize, epochs_of
from locum.pipeline.forecast import Expected, answer_s
from locum.pipeline.history import TRAINING_START_S, History
from locum.pipeline.rung import maker
from locum.schema.candidate import Candidate
from locum.schema.device import DeviceProfile
from locum.schema.kinds import PROMPTED
from locum.schema.task import Task

_SMALL_START_S = 2.0  # of one that needs none of it
_OPEN_S = 3.0  # a student in every engine that can serve it
_USABLE = 0.85  # of its share of the budget that a tuning plans with
_LEAST_SHARE = 0.25  # of an epoch
_CHECKPOINT_S_PER_M = 0.2  # per million weights, after each epoch: the best, the average and the optimiser's state
_WRITE_S_PER_M = {"encoder": 0.25, "decoder": 0.3}  # an export, per million weights
_PARITY_ANSWERS = 60  # that a decoder's export is compared on: both sides, the reference being the slower
_TIMED_ANSWERS, _TIMED_S = 20, 20.0
_FLOPS_USED = 0.75  # measured, against the roofline's efficiency
_LABELLED_ROWS_PER_S = 150_000  # rows times labels that the linear fits of a head get through


@dataclass(frozen=True)
class Guess:
    """One step's time.

    Attributes:
        seconds: what is expected; None: unknown.
        sort: of step, for the history.
        plain_s: by arithmetic alone, without the budget and without what was learned.
    """

    seconds: float | None
    sort: str = ""
    plain_s: float | None = None


@dataclass(frozen=True)
class StepTimes:
    """The times of a plan's steps.

    Attributes:
        task: what is asked.
        expected: rows and answers.
        device: that trains and measures.
        history: what earlier builds took.
    """

    task: Task
    expected: Expected
    device: DeviceProfile
    history: History

    def guess(self, sort: str, plain_s: float | None) -> Guess:
        """A step whose time depends on no budget."""
        return Guess(None if plain_s is None else plain_s * self.history.factor(sort), sort, plain_s)

    def data(self, rows: int) -> Guess:
        """Fetched files cleaned and split."""
        chars = rows * self.expected.size.mean_chars
        return self.guess("data", 0.5 + rows / 10_000 + chars / 800_000)

    def training(self, candidate: Candidate, budget_s: float, learned: DataSize) -> Guess:
        """A candidate trained within its share of the budget."""
        sort = self._sort("train", candidate)
        fixed_s, epoch_s = self._training(candidate, learned)
        if fixed_s is None or epoch_s is None:
            return Guess(None, sort)
        epochs, factor = epochs_of(self.task.kind, candidate), self.history.factor(sort)
        if epochs == 0:
            return Guess(fixed_s * factor, sort, fixed_s)
        left_s, each_s = _USABLE * (budget_s - fixed_s * factor), epoch_s * factor
        fit = min(epochs, int(left_s / each_s))
        share = max(0.0, left_s / each_s) if fit < 1 else fit  # of a part of one, if that is enough
        share = share if share >= _LEAST_SHARE else 0.0
        return Guess(min(fixed_s * factor + share * each_s, budget_s), sort, fixed_s + epochs * epoch_s)

    def _training(self, candidate: Candidate, learned: DataSize) -> tuple[float | None, float | None]:
        """Seconds before the first epoch, and of an epoch; None where nothing is known of the base."""
        rows, labels = learned.train_rows, max(1, self.expected.size.labels)
        if candidate.base is None:
            fit_s = rows * labels / (2 * _LABELLED_ROWS_PER_S) if self.task.kind == "classify" else 0.0
            return _SMALL_START_S + rows / 5_000 + fit_s, 0.0
        whole_s = candidate.estimate.train_s
        if whole_s is None:
            return None, None
        epochs = epochs_of(self.task.kind, candidate)
        head_s = rows * labels / _LABELLED_ROWS_PER_S if self.task.kind == "classify" else 0.0
        if epochs == 0:
            return TRAINING_START_S + _FLOPS_USED * whole_s + head_s, 0.0
        once_s = _FLOPS_USED * whole_s / ASSUMED_EPOCHS[candidate.family]
        checkpoint_s = _CHECKPOINT_S_PER_M * (candidate.parameters or 0) / 1e6
        return TRAINING_START_S + once_s / 3 + head_s, once_s + checkpoint_s

    def exporting(self, candidate: Candidate) -> Guess:
        """What was trained written for serving, and compared."""
        sort, weights_m = self._sort("export", candidate), (candidate.parameters or 25e6) / 1e6
        if candidate.base is None:
            return self.guess(sort, 0.5)
        plain_s = TRAINING_START_S / 2 + weights_m * _WRITE_S_PER_M[candidate.family]
        if maker(self.task.kind, candidate) == "tuned":
            plain_s += _PARITY_ANSWERS * (answer_s(self.task, candidate, self.expected, self.device) or 0.5)
        return self.guess(sort, plain_s)

    def searching(self, candidate: Candidate, budget_s: float) -> Guess:
        """A prompt searched, within its share of the budget."""
        sort = f"prompt {candidate.method}"
        each_s = answer_s(self.task, candidate, self.expected, self.device)
        if each_s is None:
            return Guess(None, sort)
        plain_s = _OPEN_S + self.task.generation.search_calls * each_s
        return Guess(min(plain_s * self.history.factor(sort), budget_s + _OPEN_S), sort, plain_s)

    def measuring(self, candidate: Candidate, rows: int) -> Guess:
        """A student opened in its engines, timed, and asked on held-out rows."""
        sort = self._sort("measure", candidate)
        each_s = answer_s(self.task, candidate, self.expected, self.device)
        if each_s is None:
            return Guess(None, sort)
        opening_s = _SMALL_START_S if candidate.base is None else _OPEN_S
        return self.guess(sort, opening_s + min(_TIMED_S, _TIMED_ANSWERS * each_s) + rows * each_s)

    def answering(self, candidate: Candidate, rows: int) -> Guess:
        """Further rows answered by a student that was measured."""
        sort = self._sort("answer", candidate)
        each_s = answer_s(self.task, candidate, self.expected, self.device)
        return Guess(None, sort) if each_s is None else self.guess(sort, _OPEN_S + rows * each_s)

    def _sort(self, what: str, candidate: Candidate) -> str:
        method = f" {candidate.method}" if what == "train" or candidate.method in PROMPTED else ""
        return f"{what} {maker(self.task.kind, candidate)} {candidate.family}{method}"
