"""Climbing the ladder with students that cost nothing: what a failure costs, the time, and where it stops."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.core import child as children
from locum.core.errors import (
    CheckFailed,
    DataError,
    DeviceError,
    Interrupted,
    LocumError,
    ModelFileError,
    SourceError,
    UserError,
)
from locum.core.progress import Event, listening
from locum.evaluate.predictions import Predictions
from locum.fit.ladder import training_budgets
from locum.pipeline import climb as climbing
from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.climb import climb
from locum.pipeline.made import read_trained
from locum.pipeline.make_classifier import make_classifier
from locum.pipeline.rung import start_of
from locum.pipeline.steps import StepCache
from locum.pipeline.workspace import Workspace
from locum.schema.candidate import Candidate
from locum.schema.data import SplitName
from locum.schema.evaluation import Measured
from locum.schema.model import ModelSpec
from locum.schema.taskfile import parse_task
from locum.schema.training import Trained, TrainRequest

LADDER = (
    Candidate(name="tfidf", family="linear", method="linear"),
    Candidate(name="mini/head", family="encoder", base="mini", method="head"),
    Candidate(name="mini/full", family="encoder", base="mini", method="full"),
    Candidate(name="smol/full", family="decoder", base="smol", method="full"),
)
TASK = """\
version: 1
name: t
kind: classify
instruction: Which?
data: {train: t.csv, input: text, output: label}
budget: {build_minutes: 10}
"""
TRAINED = Trained(
    candidate=LADDER[0],
    parameters=1,
    best_epoch=1,
    stopped_by="schedule",
    curve=(),
    settings={},
    max_tokens=256,
    train_s=1,
    tokens_per_s=None,
    files={},
)
DATA = Prepared(Path("unused"), "key", ("a", "b"), ("dev",))
ROWS = 400


def workspace(folder: Path, extra: str = "") -> Workspace:
    text = TASK + extra
    return Workspace(parse_task(text), text, folder, folder, StepCache(folder / "work"), threads=1)


def student(folder: Path, candidate: Candidate, errors: int) -> BuiltStudent:
    gold = np.zeros(ROWS, dtype=np.int64)
    logits = np.tile(np.array([1.0, 0.0], dtype=np.float32), (ROWS, 1))
    logits[:errors] = [0.0, 1.0]
    answers = folder / candidate.name.replace("/", "-")
    answers.mkdir(parents=True)
    Predictions(candidate.name, "dev", ("a", "b"), "ids", logits, gold).save(answers / "dev.npz")
    measured = Measured.model_construct(size_mb=1.0)
    spec = ModelSpec.model_construct(purpose="classify", temperature=1.0, files={})
    files: dict[SplitName, Path] = {"dev": answers / "dev.npz"}
    return BuiltStudent(candidate, None, None, spec, measured, answers, "key", files, parse_task(TASK), DATA)


@pytest.fixture
def rungs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Make every candidate end as given: a number of dev errors, or an exception; returns the budgets asked for."""

    def plan(**ends: int | LocumError) -> dict[str, float]:
        asked: dict[str, float] = {}

        def fake(
            _work: Workspace, _data: Prepared, candidate: Candidate, budget_s: float, _built: Sequence[BuiltStudent]
        ) -> BuiltStudent:
            asked[candidate.name] = budget_s
            end = ends.get(candidate.name.replace("/", "_"), 40)
            if isinstance(end, LocumError):
                raise end
            return student(tmp_path / "students", candidate, end)

        monkeypatch.setattr(climbing, "build_rung", fake)
        return asked

    return plan


def statuses(climbed: climbing.Climb) -> dict[str, str]:
    return {outcome.candidate.name: outcome.status for outcome in climbed.outcomes}


@pytest.mark.parametrize(
    "failure",
    [
        SourceError("source-unavailable", "no source answered"),
        ModelFileError("models-damaged", "not a model"),
        LocumError("core-child-killed", "killed"),
        DeviceError("train-memory", "memory ran out"),
        DataError("data-nothing-to-learn", "0 train rows say what to write"),
        DataError("train-no-rows", "no train row is left"),
        CheckFailed("compress-parity", "agreement 0.3"),
        LocumError("compress-export", "PyTorch cannot export it to ONNX"),
        DataError("compress-dev", "no conversation fits a context of 64 tokens"),
        LocumError("runtime-child-start", "llama.cpp did not become ready"),
    ],
    ids=lambda error: error.code,
)
def test_a_failure_of_its_own_costs_a_candidate_and_not_the_build(
    rungs: Any, tmp_path: Path, failure: LocumError
) -> None:
    rungs(mini_head=failure)
    heard: list[Event] = []
    with listening(heard.append):
        climbed = climb(workspace(tmp_path), DATA, LADDER, 1.0)
    assert statuses(climbed) == {
        "tfidf": "built",
        "mini/head": "failed",
        "mini/full": "built",
        "smol/full": "built",
    }
    assert climbed.outcomes[1].reason == f"failed: {failure.cause}"
    assert [event.kind for event in heard if "mini/head" in event.label] == ["warning"]


@pytest.mark.parametrize(("code", "status"), [("train-nan", "failed"), ("train-no-time", "skipped")])
def test_fault_43_a_loss_that_is_no_number_or_no_time_costs_only_its_candidate(
    rungs: Any, tmp_path: Path, code: str, status: str
) -> None:
    rungs(mini_full=UserError(code, "the loss became NaN, or an epoch takes too long"))
    climbed = climb(workspace(tmp_path), DATA, LADDER, 1.0)
    assert statuses(climbed)["mini/full"] == status
    reason = next(each.reason for each in climbed.outcomes if each.candidate.name == "mini/full")
    assert reason.endswith("the loss became NaN, or an epoch takes too long")


@pytest.mark.parametrize(
    "failure",
    [
        CheckFailed("evaluate-different-rows", "two students answered different rows"),
        Interrupted("core-interrupted", "stopped"),
        DeviceError("core-disk-full", "no space left"),
        UserError("train-request", "one label"),
    ],
    ids=lambda error: error.code,
)
def test_fault_34_what_would_hit_every_candidate_or_breaks_a_promise_ends_the_build(
    rungs: Any, tmp_path: Path, failure: LocumError
) -> None:
    asked = rungs(mini_head=failure)
    with pytest.raises(type(failure)) as caught:
        climb(workspace(tmp_path), DATA, LADDER, 1.0)
    assert caught.value is failure
    assert list(asked) == ["tfidf", "mini/head"]


def test_when_all_fall_each_reason_is_told(rungs: Any, tmp_path: Path) -> None:
    last = DataError("data-nothing-to-learn", "0 train rows say what to write")
    other = LocumError("core-child-killed", "killed")
    asked = rungs(tfidf=other, mini_head=SourceError("source-unavailable", "no source answered"), smol_full=last)
    ladder = (*LADDER[:2], LADDER[2].model_copy(update={"skipped": "too slow"}), LADDER[3])
    with pytest.raises(UserError) as caught:
        climb(workspace(tmp_path), DATA, ladder, 1.0)
    assert (caught.value.code, caught.value.__cause__) == ("pipeline-nothing-built", last)
    assert caught.value.cause == (
        "no candidate can be built: tfidf: failed: killed; mini/head: failed: no source answered; mini/full: too slow; "
        "smol/full: failed: 0 train rows say what to write"
    )
    assert list(asked) == ["tfidf", "mini/head", "smol/full"]


def test_fault_34_when_all_fall_and_one_by_its_parity_that_is_a_failed_check(rungs: Any, tmp_path: Path) -> None:
    unlike = CheckFailed("compress-parity", "labels agree on 58.3 % of 12 rows")
    rungs(tfidf=unlike, mini_head=SourceError("source-unavailable", "no source answered"))
    with pytest.raises(CheckFailed) as caught:
        climb(workspace(tmp_path), DATA, LADDER[:2], 1.0)
    assert caught.value.code == "pipeline-nothing-built"
    assert "tfidf: failed: labels agree on 58.3 % of 12 rows; mini/head: failed: no source" in caught.value.cause


def test_the_failure_of_an_only_candidate_is_raised_as_it_is(rungs: Any, tmp_path: Path) -> None:
    failure = SourceError("source-unavailable", "no source answered", fix="connect")
    rungs(mini_head=failure)
    with pytest.raises(SourceError) as caught:
        climb(workspace(tmp_path), DATA, LADDER[1:2], 1.0)
    assert caught.value is failure


def test_fault_35_when_all_are_ruled_out_every_reason_is_said(rungs: Any, tmp_path: Path) -> None:
    asked = rungs()
    ladder = [candidate.model_copy(update={"skipped": f"{candidate.name} is too big"}) for candidate in LADDER]
    with pytest.raises(UserError, match=r"tfidf is too big; mini/head: .*smol/full is too big") as caught:
        climb(workspace(tmp_path), DATA, ladder, 1.0)
    assert (caught.value.code, asked) == ("pipeline-nothing-built", {})


def test_the_time_is_shared_out_and_what_is_ruled_out_is_not_built(rungs: Any, tmp_path: Path) -> None:
    asked = rungs()
    ladder = (LADDER[0], LADDER[1].model_copy(update={"skipped": "too slow"}), *LADDER[2:])
    climbed = climb(workspace(tmp_path), DATA, ladder, 1.0)
    expected = training_budgets("classify", [candidate.method for candidate in LADDER], 600)
    assert asked == {c.name: s for c, s in zip(LADDER, expected, strict=True) if c.name != "mini/head"}
    assert (climbed.outcomes[1].status, climbed.outcomes[1].reason) == ("skipped", "too slow")
    assert climbed.stopped_early is None


def test_a_candidate_without_half_its_time_is_skipped_with_the_reason(rungs: Any, tmp_path: Path) -> None:
    asked = rungs()
    work = workspace(tmp_path)
    work.steps.seconds["train-before"] = 550.0
    climbed = climb(work, DATA, LADDER, 1.0)
    assert list(asked) == ["tfidf", "mini/head"]
    assert climbed.outcomes[-1].reason.startswith("50 s of 600 s are left, and its training was to get ")
    assert climbed.outcomes[-1].status == "skipped"


@pytest.mark.parametrize(("took_s", "tried"), [(120.0, True), (250.0, False)])
def test_a_prompt_does_not_take_the_time_of_what_is_still_to_be_trained(
    rungs: Any, tmp_path: Path, took_s: float, tried: bool
) -> None:
    asked = rungs()
    work = workspace(tmp_path)
    work.steps.seconds = {"search-smol/prompt": 50.0, "measure-smol/prompt": took_s}
    prompts = (LADDER[3].model_copy(update={"name": f"smol/{way}", "method": way}) for way in ("prompt", "few_shot"))
    climbed = climb(work, DATA, (*prompts, LADDER[2]), 1.0)
    assert list(asked) == ["smol/prompt", *(["smol/few_shot"] if tried else []), "mini/full"]
    reason = climbed.outcomes[1].reason
    assert tried or reason.startswith("300 s are left, smol/prompt took 300 s to try, and ")
    assert tried or reason.endswith(" s are for training mini/full")


def test_time_that_was_overdrawn_is_told_as_none(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    work.steps.seconds["measure-before"] = 630.0
    with pytest.raises(UserError, match="mini/head: 0 s of 600 s are left"):
        climb(work, DATA, LADDER, 1.0)


def test_auto_stops_once_the_target_is_surely_met(rungs: Any, tmp_path: Path) -> None:
    asked = rungs(tfidf=100, mini_head=2)
    climbed = climb(workspace(tmp_path, "target: {at_least: 0.9}\n"), DATA, LADDER, 1.0)
    assert list(asked) == ["tfidf", "mini/head"]
    assert climbed.stopped_early is not None
    assert climbed.stopped_early.startswith("mini/head meets the target of 90.0 %")
    assert [outcome.status for outcome in climbed.outcomes] == ["built", "built", "skipped", "skipped"]


def test_students_that_were_named_are_all_built(rungs: Any, tmp_path: Path) -> None:
    asked = rungs(tfidf=0)
    named = "target: {at_least: 0.5}\nstudents: [{method: linear}]\n"
    climbed = climb(workspace(tmp_path, named), DATA, LADDER, 1.0)
    assert len(asked) == 4
    assert climbed.stopped_early is None


def killed(times: int, code: str, seen: list[int | None]) -> Callable[..., None]:
    def run(target: str, request: Path, out: Path, **_options: Any) -> None:
        if target != "locum.train.job:main":
            raise CheckFailed("compress-parity", "far enough")
        seen.append(TrainRequest.from_json(request.read_bytes(), "request").micro_batch)
        if len(seen) <= times:
            raise LocumError(code, "memory")
        (out / "trained.json").write_text(json.dumps(TRAINED.to_json()))

    return run


@pytest.mark.parametrize("code", ["core-child-killed", "train-memory"])
def test_fault_36_memory_that_runs_out_is_answered_with_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    seen: list[int | None] = []
    monkeypatch.setattr(children, "run_job", killed(2, code, seen))
    work = workspace(tmp_path)
    with pytest.raises(CheckFailed, match="far enough"):
        make_classifier(work, DATA, LADDER[0], 10.0)
    assert seen == [None, 16, 8]
    assert list(work.steps.seconds) == ["train-tfidf"]


def test_fault_36_when_one_row_is_too_much_the_kill_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []
    monkeypatch.setattr(children, "run_job", killed(99, "core-child-killed", seen))
    with pytest.raises(LocumError, match="memory"):
        make_classifier(workspace(tmp_path), DATA, LADDER[0], 10.0)
    assert seen == [None, 16, 8, 4, 2, 1]


def test_another_failure_of_a_job_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []
    monkeypatch.setattr(children, "run_job", killed(99, "core-child-failed", seen))
    with pytest.raises(LocumError) as caught:
        make_classifier(workspace(tmp_path), DATA, LADDER[0], 10.0)
    assert (caught.value.code, seen) == ("core-child-failed", [None])


def test_a_tuning_that_gained_nothing_is_the_student_that_it_started_from(rungs: Any, tmp_path: Path) -> None:
    (tmp_path / "trained.json").write_text(json.dumps(TRAINED.model_copy(update={"best_epoch": 0}).to_json()))
    assert read_trained(tmp_path).best_epoch == 0  # it is all there is
    with pytest.raises(UserError, match="which is mini/head") as caught:
        read_trained(tmp_path, "mini/head")
    rungs(mini_full=caught.value)
    climbed = climb(workspace(tmp_path), DATA, LADDER, 1.0)
    assert statuses(climbed)["mini/full"] == "skipped"


@pytest.mark.parametrize("code", ["train-no-time", "train-no-gain"])
def test_where_tuning_the_small_base_came_to_nothing_a_larger_one_is_not_tuned(
    rungs: Any, tmp_path: Path, code: str
) -> None:
    larger = LADDER[-1].model_copy(update={"name": "large/full", "base": "large"})
    asked = rungs(mini_full=UserError(code, "nothing was gained"))
    climbed = climb(workspace(tmp_path), DATA, (*LADDER, larger), 1.0)
    assert "mini/head" in asked
    assert "large/full" not in asked
    assert "larger models were not tried" in next(each.reason for each in climbed.outcomes if each.candidate == larger)


def test_what_a_tuning_starts_from_is_the_same_base_untuned(tmp_path: Path) -> None:
    def candidate(method: str, base: str = "mini", depth: int | None = None) -> Candidate:
        name = f"{base}/{method}"
        return Candidate.model_validate(
            {"name": name, "family": "encoder", "base": base, "method": method, "depth": depth}
        )

    built = [student(tmp_path, candidate(*each), 1) for each in (("head", "other"), ("prompt",), ("head",))]
    assert start_of("classify", candidate("full"), built) == "mini/head"
    assert start_of("generate", candidate("lora"), built) == "mini/prompt"
    assert start_of("classify", candidate("full", depth=3), built) is None
    assert start_of("classify", candidate("head"), built) is None
