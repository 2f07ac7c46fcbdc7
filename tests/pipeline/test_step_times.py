"""How long steps take: epochs that fit, what earlier builds teach, and how a build tells what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.core.progress import Event, listening
from locum.fit.devices import find_device
from locum.fit.ladder import Machines, epochs_of, make_ladder
from locum.pipeline.forecast import Expected, expect
from locum.pipeline.history import History, StepTime, read_history, remember
from locum.pipeline.overall import Overall
from locum.pipeline.step_times import StepTimes
from locum.schema.candidate import Candidate
from locum.schema.plan import PlannedStep
from locum.schema.task import Task
from locum.schema.taskfile import parse_task
from locum.train.recipe import RANK_RECIPE, RECIPES, TAG_RECIPE, TUNE_RECIPES

TASK = "{version: 1, name: t, kind: classify, instruction: Sort., data: {train: t.csv, input: text, output: label}}"
LAPTOP = find_device("laptop")


def known() -> tuple[Task, Expected, dict[str, Candidate]]:
    task = parse_task(TASK)
    expected = expect(task, None)
    ladder = make_ladder(task, expected.size, Machines(LAPTOP, LAPTOP))
    return task, expected, {each.name: each for each in ladder}


def step(
    name: str, seconds: float, *, done: bool = False, sort: str = "x", plain_s: float | None = None
) -> PlannedStep:
    return PlannedStep(name=name, what=name, seconds=seconds, done=done, sort=sort, plain_s=plain_s or seconds)


def test_epochs_are_those_of_the_recipes() -> None:
    def tuned(family: str, method: str = "full") -> Candidate:
        return Candidate.model_validate({"name": "x", "family": family, "base": "b", "method": method})

    for family, recipe in RECIPES.items():
        assert epochs_of("classify", tuned(family)) == recipe.epochs
    assert epochs_of("tag", tuned("encoder", "lora")) == TAG_RECIPE.epochs
    assert epochs_of("rank", tuned("encoder")) == RANK_RECIPE.epochs
    assert epochs_of("generate", tuned("decoder", "dora")) == TUNE_RECIPES["dora"].epochs
    assert epochs_of("classify", tuned("encoder", "head")) == 0


def test_a_tuning_takes_whole_epochs_within_its_share_of_the_budget() -> None:
    task, expected, ladder = known()
    times = StepTimes(task, expected, LAPTOP, History())
    full = ladder["all-MiniLM-L6-v2/full"]
    all_s = times.training(full, 1e6, expected.training)
    assert all_s.seconds == pytest.approx(all_s.plain_s)
    assert all_s.seconds is not None
    some = times.training(full, 0.5 * all_s.seconds, expected.training)
    assert some.seconds is not None and some.plain_s == all_s.plain_s
    assert 0.25 * all_s.seconds < some.seconds <= 0.5 * all_s.seconds
    slow = StepTimes(task, expected, LAPTOP, History(((StepTime(sort=some.sort, planned_s=10, took_s=30),),)))
    assert (guess := slow.training(full, 1e6, expected.training).seconds) == pytest.approx(3 * all_s.seconds), guess
    limited = slow.training(full, 0.5 * all_s.seconds, expected.training).seconds
    assert limited is not None and limited <= 0.5 * all_s.seconds


def test_earlier_builds_are_remembered_by_sort_and_the_latest_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCUM_HISTORY")
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path))
    assert read_history() == History()
    remember([step("a", 5, sort="train")], {"a": 15})
    remember(
        [step("a", 5, sort="train"), step("b", 4, sort="short"), step("c", 4, done=True)], {"a": 10, "b": 1, "c": 9}
    )
    remember([step("a", 10, sort="train")], {"a": 5000})  # an accident
    found = read_history()
    assert len(found.builds) == 2
    assert (found.factor("train"), found.factor("short"), found.factor("x")) == (2.5, 1, 1)
    for _ in range(40):
        remember([step("a", 5, sort="train")], {"a": 5})
    assert len(read_history().builds) == 30
    assert read_history().factor("train") == 1
    kept = tmp_path / "step-times.json"
    kept.write_text(kept.read_text().replace('"arithmetic": 2', '"arithmetic": 1'))
    assert read_history() == History(), "ratios to other sums say nothing of these"
    (tmp_path / "step-times.json").write_text('{"builds": [[{"sort": 3}]]}')
    assert read_history() == History()
    monkeypatch.setenv("LOCUM_HISTORY", "0")
    remember([step("a", 5)], {"a": 5})
    assert (tmp_path / "step-times.json").read_text() == '{"builds": [[{"sort": 3}]]}'


def test_time_left_goes_by_what_was_learned_and_never_beyond_the_budget() -> None:
    now = 0.0
    steps = [step("data", 1, done=True), step("train-a", 100), step("export-a", 100), step("train-b", 100)]
    overall = Overall([*steps, step("refit", 50), step("certify", 2)], 1000, lambda: now)
    heard: list[Event] = []
    with listening(heard.append):
        assert (overall.total, overall.left_s) == (6, 352)
        overall.begin("train-a", "train a")
        now = 60
        assert overall.left_s == pytest.approx(292)
        now = 200
        overall.end("train-a", 200)
        learned = (20 + 200) / (20 + 100)
        assert overall.left_s == pytest.approx(learned * 252)
        overall.drop("b")
        assert overall.left_s == pytest.approx(learned * 152)
        overall.begin("export-a", "export a")
        now = 900
        assert 5 <= overall.left_s <= 100  # overrun, and the build's time is nearly over
        overall.end("export-a", 700)
        overall.begin("refit-a", "train a again")
        overall.end("refit-a", 10)
        overall.last("certify and report")
    assert [(event.kind, event.done, event.total) for event in heard] == [
        ("overall", 2, 6),
        ("overall", 3, 5),
        ("overall", 4, 5),
        ("overall", 5, 5),
    ]
    assert heard[-1].facts == {"elapsed_s": 900, "left_s": 7, "budget_s": 1000}
