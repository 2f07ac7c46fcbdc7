"""Searching a prompt on dev: which instruction, which worked examples, within a number of answers and a time.

Notable: every prompt is an arm of successive halving (Jamieson & Talwalkar 2016): all answer a few dev rows, the worse
half is dropped, the rest answer twice as many, so most answers are spent on prompts that may win. Instructions are the
task's own and what a model proposes from examples (Zhou et al. 2022, APE); examples are nearest neighbours of each
input (Liu et al. 2021), labelled sets drawn at random, and bootstrapped sets (random search, as in DSPy's
BootstrapFewShotWithRandomSearch, Khattab et al. 2023). All arms of a round answer the same rows, and every call counts:
those that propose and bootstrap, too. Not here: bootstrapping itself (``demonstrations``), training.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from locum.core.progress import Tracker, note, track
from locum.evaluate.demonstrations import bootstrap
from locum.runtime.completion import CompletionRequest
from locum.runtime.protocol import Generator
from locum.schema.data import Row
from locum.schema.message import Message
from locum.schema.model import ModelSpec
from locum.schema.prompt import Arm, Demonstration, Prompt, SearchReport
from locum.schema.task import Task
from locum.schema.training import Budgets
from locum.stats.rowwise import value
from locum.students.writing import WritingStudent
from locum.tasks import open_kind

_FIRST_ROWS = 4
_SETS = 3
_PROPOSALS = 3
_TRIES = 2  # training rows asked for each demonstration that is wanted, at most
_PREPARING = 0.3  # share of the calls and of the time that may go into proposing or bootstrapping, before any arm plays
_SHOWN_CHARS = 600
_POOL_ROWS = 2000
_OWN = "the task's instruction"


@dataclass(frozen=True)
class Found:
    """The prompt that won, the rows its neighbours come from (none without neighbours), and what was tried."""

    prompt: Prompt
    pool: tuple[Row, ...]
    report: SearchReport


@dataclass(eq=False)
class _Player:
    """An arm with its answers so far."""

    name: str
    prompt: Prompt
    outputs: list[str | None] = field(default_factory=list[str | None])


def search_prompt(
    generator: Generator,
    spec: ModelSpec,
    task: Task,
    train: Sequence[Row],
    dev: Sequence[Row],
    *,
    few_shot: bool,
    calls: int,
    budget_s: float,
    proposer: Generator | None = None,
) -> Found:
    """Find a prompt for a model.

    Args:
        generator: the model.
        spec: of its folder; labels are those of the task.
        task: what is asked.
        train: rows that examples may be taken from.
        dev: rows that prompts are judged on.
        few_shot: whether worked examples may be shown.
        calls: answers that may be asked for, proposals and bootstrapping included; with too few for two arms nothing
            is tried, and the task's instruction goes unchanged (with the nearest examples, when they may be shown).
        budget_s: seconds that may be spent.
        proposer: who proposes instructions; None: the model itself.

    Raises:
        LocumError: the engine failed.
    """
    start_s = time.perf_counter()
    kind = open_kind(task, spec.labels)
    fitting = _fitting(train, task)
    pool = tuple([row for row in fitting if kind.target(row) is not None][:_POOL_ROWS])
    ready_s = start_s + budget_s * _PREPARING
    made = (
        _with_examples(generator, spec, task, fitting, pool, calls, ready_s)
        if few_shot
        else _with_instructions(proposer or generator, spec, task, pool, calls, ready_s)
    )
    prepared_s = time.perf_counter() - start_s
    race = _Race(generator, spec, task, pool, tuple(_shuffled(dev, task.seed)), start_s + budget_s, calls - made.calls)
    players = made.players[: max(1, (calls - made.calls) // _FIRST_ROWS)]
    winner = race.run(players)
    spent_s = time.perf_counter() - start_s
    in_time = prepared_s <= budget_s * _PREPARING and not race.out_of_time
    report = SearchReport(
        metric=task.metric,
        arms=tuple(race.arm(player) for player in players),
        chosen=winner.name,
        calls=made.calls + race.spent,
        proposing=made.proposing,
        bootstrapping=made.bootstrapping,
        allowed=calls,
        seconds=round(spent_s, 1),
        stopped_by="budget" if race.out_of_time else "rounds",
        same_for=Budgets(least_s=max(spent_s, prepared_s / _PREPARING)) if in_time else None,
    )
    note(f"prompt: {winner.name}", calls=report.calls)
    return Found(winner.prompt, pool if winner.prompt.neighbours else (), report)


@dataclass(frozen=True)
class _Made:
    """Arms, the most promising first, and the calls that it took to make them."""

    players: list[_Player]
    proposing: int = 0
    bootstrapping: int = 0

    @property
    def calls(self) -> int:
        return self.proposing + self.bootstrapping


def _with_examples(
    generator: Generator,
    spec: ModelSpec,
    task: Task,
    fitting: Sequence[Row],
    pool: Sequence[Row],
    calls: int,
    until_s: float,
) -> _Made:
    """Arms that show examples: nearest neighbours, bootstrapped sets, labelled sets.

    A bootstrapped set is bootstrapped by a labelled one, as in DSPy: its rows are shown while others are answered, and
    fill up the places that no right answer takes.
    """
    plain, size = task.instruction, task.generation.examples
    most = min(size, len(pool))
    counts = sorted({1, max(1, most // 2), most}, reverse=True) if most else []
    nearest = [_Player(f"{count} nearest", Prompt(instruction=plain, neighbours=count)) for count in counts]
    labelled = [
        Prompt(instruction=plain, examples=tuple(_shuffled(pool, task.seed + 1 + number)[:most]))
        for number in range(_SETS)
    ]
    bootstrapped: list[_Player] = []
    asked, affordable = 0, int(calls * _PREPARING)
    for number, teacher in enumerate(labelled, 1):
        if asked + _TRIES * size > affordable or time.perf_counter() > until_s:
            break
        shown = {row.id for row in teacher.examples}
        drawn = [row for row in _shuffled(fitting, task.seed + 200 + number) if row.id not in shown][: _TRIES * size]
        got = bootstrap(generator, spec, task, teacher, drawn, size)
        asked += got.asked
        own = tuple(row for row in got.demonstrations if len(row.input) + len(row.answer) <= _longest(task))
        if own:
            examples = (*own, *teacher.examples[: size - len(own)])
            name = f"{len(examples)} fixed, {len(own)} of them bootstrapped, set {number}"
            bootstrapped.append(_Player(name, Prompt(instruction=plain, examples=examples)))
    fixed = [
        _Player(f"{most} fixed, set {number}", prompt) for number, prompt in enumerate(labelled, 1) if prompt.examples
    ]
    first = nearest or [_Player(_OWN, Prompt(instruction=plain))]
    return _Made([*first, *bootstrapped, *fixed], bootstrapping=asked)


def _with_instructions(
    proposer: Generator, spec: ModelSpec, task: Task, pool: Sequence[Row], calls: int, until_s: float
) -> _Made:
    """Arms without examples: the task's instruction, and as many proposed ones as calls let be proposed and tried."""
    own = _Player(_OWN, Prompt(instruction=task.instruction))
    affordable = min(int(calls * _PREPARING), (calls - _FIRST_ROWS) // (1 + _FIRST_ROWS))
    asked, found = _proposed(proposer, spec, task, pool, min(_PROPOSALS, affordable), until_s)
    return _Made([own, *found], proposing=asked)


class _Race:
    """Successive halving over arms, all on the same dev rows."""

    def __init__(
        self,
        generator: Generator,
        spec: ModelSpec,
        task: Task,
        pool: Sequence[Row],
        rows: Sequence[Row],
        until_s: float,
        calls: int,
    ) -> None:
        self._generator, self._spec, self._task = generator, spec, task
        self._pool, self._rows = pool, rows
        self._until_s, self._calls = until_s, calls
        self.spent = 0
        self.out_of_time = False

    def run(self, players: Sequence[_Player]) -> _Player:
        """The arm that is best when one is left, or when answers, rows or time run out."""
        alive, answered = list(players), 0
        with track("try prompts", total=self._calls, unit="answer") as tracker:
            while len(alive) > 1 and not self.out_of_time:
                rows = min(max(_FIRST_ROWS, 2 * answered), len(self._rows))
                if rows == answered or self.spent + (rows - answered) * len(alive) > self._calls:
                    break
                for player in alive:
                    self._answer(player, self._rows[answered:rows], tracker)
                    if time.perf_counter() > self._until_s:
                        self.out_of_time = True
                        break
                alive = [player for player in alive if len(player.outputs) == rows] or alive
                answered = min(len(player.outputs) for player in alive)
                alive.sort(key=self._score, reverse=True)
                alive = alive[: max(1, (len(alive) + 1) // 2)]
        return alive[0]

    def arm(self, player: _Player) -> Arm:
        """What the report says about an arm."""
        prompt = player.prompt
        return Arm(
            name=player.name,
            instruction=prompt.instruction,
            examples=len(prompt.examples),
            bootstrapped=sum(isinstance(row, Demonstration) for row in prompt.examples),
            neighbours=prompt.neighbours,
            rows=len(player.outputs),
            score=self._score(player),
        )

    def _answer(self, player: _Player, rows: Sequence[Row], tracker: Tracker) -> None:
        kind = open_kind(self._task, self._spec.labels, player.prompt)
        student = WritingStudent(self._spec, self._generator, kind, player.prompt, pool=self._pool)
        player.outputs += [draft.output for draft in student.draft([row.input for row in rows])]
        self.spent += len(rows)
        tracker.advance(len(rows))

    def _score(self, player: _Player) -> float:
        if not player.outputs:
            return 0.0
        kind = open_kind(self._task, self._spec.labels, player.prompt)
        return value(kind.score(player.outputs, self._rows[: len(player.outputs)])[self._task.metric])


def _proposed(
    generator: Generator, spec: ModelSpec, task: Task, pool: Sequence[Row], most: int, until_s: float
) -> tuple[int, list[_Player]]:
    """Calls made, and instructions that a model inferred from examples, until a time; what is none is dropped."""
    kind = open_kind(task, spec.labels)
    found: dict[str, _Player] = {}
    asked = 0
    while asked < most and time.perf_counter() <= until_s:
        shown = "\n\n".join(
            f"Input: {row.input[:_SHOWN_CHARS]}\nOutput: {(kind.target(row) or '')[:_SHOWN_CHARS]}"
            for row in _shuffled(pool, task.seed + 100 + asked)[:3]
        )
        question = (
            f"A worker was told: {task.instruction}\nHere is what came of it.\n\n{shown}\n\n"
            "Write a better instruction for the worker, in at most three sentences. Write the instruction only."
        )
        request = CompletionRequest((Message("user", question),), max_tokens=120, temperature=0.7, seed=asked)
        text = " ".join(generator.complete(request).text.split())
        asked += 1
        if 20 <= len(text) <= 800 and text not in found:
            found[text] = _Player(f"proposed instruction {asked}", Prompt(instruction=text))
    return asked, list(found.values())


def _fitting(rows: Sequence[Row], task: Task) -> list[Row]:
    """Rows that are short enough to be shown, in an order drawn by the task's seed."""
    return [row for row in _shuffled(rows, task.seed) if len(row.input) + len(row.output) <= _longest(task)]


def _longest(task: Task) -> float:
    """Most characters of an example, so that as many as may be shown leave half of the context free.

    Four characters are taken for a token.
    """
    return 2 * task.generation.context / task.generation.examples


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    mixed = sorted(rows, key=lambda row: row.id)
    random.Random(seed).shuffle(mixed)
    return mixed
