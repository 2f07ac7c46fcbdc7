"""The cache of steps: keys, what is found again, what is emptied, what is kept for a checkpoint, and the time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import locum
from locum.core.errors import DeviceError
from locum.core.progress import Event, listening
from locum.pipeline.steps import FinishedSteps, Step, StepCache, Unfinished
from locum.schema.training import Budgets

STEP = Step("train-x/full", "train x", {"seed": 1, "data": "abc"})


def never(_folder: Path) -> None:
    raise AssertionError("a finished step was done again")


def writes(name: str) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath(name).write_text("done") and None


def test_the_key_is_that_of_name_inputs_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert STEP.key == Step("train-x/full", "another label", {"data": "abc", "seed": 1}, resumable=True).key
    assert STEP.key != Step("train-x/full", "train x", {"seed": 2, "data": "abc"}).key
    assert STEP.key != Step("export-x", "train x", STEP.inputs).key
    before = STEP.key
    monkeypatch.setattr(locum, "__version__", "99")
    assert STEP.key != before


def test_names_become_safe_folder_names(tmp_path: Path) -> None:
    folder = StepCache(tmp_path).path(Step("train-../../Sm ol/full", "", {}))
    assert folder.parent == tmp_path
    assert folder.name.startswith("train-..-..-Sm-ol-full-")


def test_a_finished_step_is_found_again_and_its_time_counts(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    assert not cache.done(STEP)
    folder = cache.run(STEP, writes("result"))
    assert cache.done(STEP)
    assert (folder / "result").read_text() == "done"
    record = json.loads((folder / "step.json").read_text())
    assert (record["name"], record["inputs"]) == (STEP.name, dict(STEP.inputs))
    (folder / "step.json").write_text(json.dumps(record | {"seconds": 7.5}))

    again = StepCache(tmp_path)
    heard: list[Event] = []
    with listening(heard.append):
        assert again.run(STEP, never) == folder
    assert again.spent_s == 7.5
    assert [event.label for event in heard] == ["train x: done before"]
    again.run(Step("other", "", {}), writes("x"))
    assert 7.5 <= again.spent_s < 8.5


@pytest.mark.parametrize("record", [None, "", "{}", '{"seconds": "soon"}', "[1]", "\x00\x00"])
def test_without_a_readable_record_a_step_is_unfinished_and_emptied(tmp_path: Path, record: str | None) -> None:
    cache = StepCache(tmp_path)
    folder = cache.path(STEP)
    folder.mkdir()
    (folder / "half").write_text("")
    if record is not None:
        (folder / "step.json").write_text(record)
    assert not cache.done(STEP)
    cache.run(STEP, writes("result"))
    assert sorted(path.name for path in folder.iterdir()) == ["result", "step.json"]


def test_a_resumable_step_keeps_its_checkpoints(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    step = Step("train", "", {}, resumable=True)
    folder = cache.path(step)
    folder.mkdir()
    (folder / "checkpoint").write_text("epoch 3")
    seen: list[str] = []
    cache.run(step, lambda out: seen.append((out / "checkpoint").read_text()))
    assert seen == ["epoch 3"]


def test_a_step_that_fails_is_not_done(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cache.run(STEP, lambda _folder: 1 / 0 and None)
    assert not cache.done(STEP)
    assert cache.spent_s == 0


def test_fault_38_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="file/train-x-full"):
        StepCache(tmp_path / "file").run(STEP, never)


TIMED = replace(STEP, budget_s=100)


@pytest.mark.parametrize(
    ("same_for", "asked_s", "found"),
    [
        (Budgets(least_s=40), 1000, True),
        (Budgets(least_s=40), 40, True),
        (Budgets(least_s=40), 39, False),
        (Budgets(least_s=40, below_s=120), 119, True),
        (Budgets(least_s=40, below_s=120), 120, False),
        (None, 100.0, True),
        (None, 101, False),
    ],
)
def test_a_step_of_another_budget_is_taken_where_it_says_that_its_result_is_the_same(
    tmp_path: Path, same_for: Budgets | None, asked_s: float, found: bool
) -> None:
    first = StepCache(tmp_path)
    folder = first.run(first.settled(TIMED), lambda _folder: same_for)
    again = StepCache(tmp_path)
    settled = again.settled(replace(TIMED, budget_s=asked_s))
    assert again.done(settled) == found
    assert (settled.key == TIMED.key) == found  # what comes after it is the same work only where it is the same result
    if found:
        assert again.run(settled, never) == folder


@pytest.mark.parametrize("inputs", [{"seed": 2, "data": "abc"}, {"seed": 1, "data": "abd"}])
def test_a_step_of_other_inputs_or_another_version_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: dict[str, object]
) -> None:
    cache = StepCache(tmp_path)
    cache.run(TIMED, lambda _folder: Budgets())
    other = replace(TIMED, inputs=inputs, budget_s=200)
    assert cache.settled(other) is other
    assert cache.settled(replace(TIMED, budget_s=200)).key == TIMED.key
    monkeypatch.setattr(locum, "__version__", "99")
    assert cache.settled(wider := replace(TIMED, budget_s=200)) is wider


@pytest.mark.parametrize("damage", ["", "[]", '{"seconds": 1, "budget_s": 100, "same_for": {"least_s": "x"}}'])
def test_a_damaged_record_is_no_result_of_another_budget(tmp_path: Path, damage: str) -> None:
    cache = StepCache(tmp_path)
    folder = cache.run(TIMED, lambda _folder: Budgets())
    (folder / "step.json").write_text(damage)
    assert cache.settled(wider := replace(TIMED, budget_s=200)) is wider


def test_who_only_looks_does_no_work_and_writes_nothing(tmp_path: Path) -> None:
    StepCache(tmp_path).run(STEP, writes("result"))
    before = sorted(tmp_path.rglob("*"))
    looking = FinishedSteps(tmp_path)
    looking.run(STEP, never)
    with pytest.raises(Unfinished):
        looking.run(TIMED, never)
    assert (set(looking.seconds), looking.ran) == ({STEP.name}, set())
    assert sorted(tmp_path.rglob("*")) == before
