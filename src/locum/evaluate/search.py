"""Searching a prompt on dev: which instruction, which worked examples, within a number of answers and a time.

Notable: every prompt is an arm of successive halving (Jamieson & Talwalkar 2016): all answer a few dev rows, the worse
half is dropped, the rest answer twice as many, so most answers are spent on prompts that may win. Instructions are the
task's own and what a model proposes from examples (Zhou et al. 2022, APE); examples are bootstrapped sets (random
search, as in DSPy's BootstrapFewShotWithRandomSearch, Khattab et al. 2023) and nearest neighbours of each input (Liu et
al. 2021). All arms of a round answer the same rows. Not here: training.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from locum.core.progress import Tracker, note, track
from locum.runtime.completion import CompletionRequest
from locum.runtime.protocol import Generator
from locum.schema.data import Row
from locum.schema.message import Message
from locum.schema.model import ModelSpec
from locum.schema.prompt import Arm, Prompt, SearchReport
from locum.schema.task import Task
from locum.stats.rowwise import value
from locum.students.writing import WritingStudent
from locum.tasks import open_kind

_FIRST_ROWS = 4
_SETS = 3
_PROPOSALS = 3
_PROPOSING = 0.3  # share of the time after which no further instruction is proposed
_SHOWN_CHARS = 600
_POOL_ROWS = 2000


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
        calls: answers that may be spent; with 0 nothing is tried, and the task's instruction goes unchanged (with the
            nearest examples, when they may be shown).
        budget_s: seconds that may be spent.
        proposer: who proposes instructions; None: the model itself.

    Raises:
        LocumError: the engine failed.
    """
    start_s = time.perf_counter()
    usable = [row for row in train if open_kind(task, spec.labels).target(row) is not None]
    pool = tuple(_fitting(usable, task)[:_POOL_ROWS])
    players = _players(task, pool, few_shot) or [
        _Player("the task's instruction", Prompt(instruction=task.instruction))
    ]
    if calls >= 2 * _FIRST_ROWS * len(players) and not few_shot:
        players += _proposed(proposer or generator, task, spec, pool, start_s + budget_s * _PROPOSING)
    race = _Race(generator, spec, task, pool, tuple(_shuffled(dev, task.seed)), start_s + budget_s, calls)
    winner = race.run(players)
    report = SearchReport(
        metric=task.metric,
        arms=tuple(race.arm(player) for player in players),
        chosen=winner.name,
        calls=race.spent,
        allowed=calls,
        seconds=round(time.perf_counter() - start_s, 1),
        stopped_by="budget" if race.out_of_time else "rounds",
    )
    note(f"prompt: {winner.name}", calls=race.spent)
    return Found(winner.prompt, pool if winner.prompt.neighbours else (), report)


def _players(task: Task, pool: Sequence[Row], few_shot: bool) -> list[_Player]:
    """The arms that need nobody's proposal."""
    if not few_shot:
        return [_Player("the task's instruction", Prompt(instruction=task.instruction))]
    most = min(task.generation.examples, len(pool))
    counts = sorted({1, max(1, most // 2), most}) if most else []
    found = [
        _Player(f"{count} nearest", Prompt(instruction=task.instruction, neighbours=count))
        for count in reversed(counts)
    ]
    for number in range(_SETS if most else 0):
        rows = tuple(_shuffled(pool, task.seed + 1 + number)[:most])
        found.append(_Player(f"{most} fixed, set {number + 1}", Prompt(instruction=task.instruction, examples=rows)))
    return found


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


def _proposed(generator: Generator, task: Task, spec: ModelSpec, pool: Sequence[Row], until_s: float) -> list[_Player]:
    """Instructions that a model infers from examples, until a time; what is no instruction is dropped."""
    kind = open_kind(task, spec.labels)
    found: dict[str, _Player] = {}
    for number in range(_PROPOSALS):
        if time.perf_counter() > until_s:
            break
        shown = "\n\n".join(
            f"Input: {row.input[:_SHOWN_CHARS]}\nOutput: {(kind.target(row) or '')[:_SHOWN_CHARS]}"
            for row in _shuffled(pool, task.seed + 100 + number)[:3]
        )
        question = (
            f"A worker was told: {task.instruction}\nHere is what came of it.\n\n{shown}\n\n"
            "Write a better instruction for the worker, in at most three sentences. Write the instruction only."
        )
        request = CompletionRequest((Message("user", question),), max_tokens=120, temperature=0.7, seed=number)
        text = " ".join(generator.complete(request).text.split())
        if 20 <= len(text) <= 800 and text not in found:
            found[text] = _Player(f"proposed instruction {number + 1}", Prompt(instruction=text))
    return list(found.values())


def _fitting(rows: Sequence[Row], task: Task) -> list[Row]:
    """Rows short enough that as many as may be shown leave half of the context free, by four characters a token."""
    most = 2 * task.generation.context / task.generation.examples
    return [row for row in _shuffled(rows, task.seed) if len(row.input) + len(row.output) <= most]


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    mixed = sorted(rows, key=lambda row: row.id)
    random.Random(seed).shuffle(mixed)
    return mixed
