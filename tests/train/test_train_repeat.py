"""A training repeated: the same choices, the same weights on the same rows, and nothing read off dev."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from locum.core.errors import LocumError
from locum.schema.training import Trained, TrainRequest
from locum.train import softmax
from locum.train.job import main
from locum.train.repeat import choices

MakeRequest = Callable[..., TrainRequest]
METHODS = [("linear", None), ("head", "bert"), ("full", "bert"), ("full", "llama"), ("lora", "bert"), ("dora", "llama")]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(request: TrainRequest, out: Path) -> Trained:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(request.to_json()), encoding="utf-8")
    main(path, out)
    return Trained.from_json((out / "trained.json").read_text(encoding="utf-8"), "trained.json")


def joined(request: TrainRequest, folder: Path) -> TrainRequest:
    """The request over train and dev together."""
    rows = Path(request.train).read_text(encoding="utf-8") + Path(request.dev).read_text(encoding="utf-8")
    both = folder / "both.jsonl"
    both.write_text(rows, encoding="utf-8")
    return request.model_copy(update={"train": str(both)})


@pytest.mark.parametrize(("method", "model_type"), METHODS)
def test_the_same_rows_give_the_same_student(
    make_request: MakeRequest, tmp_path: Path, method: str, model_type: str | None
) -> None:
    request = make_request(method, model_type)
    first = run(request, tmp_path / "first")
    again = run(request.model_copy(update={"repeat": str(tmp_path / "first")}), tmp_path / "again")
    assert again.files == first.files
    assert again.best_epoch == first.best_epoch or method in ("linear", "head")
    assert {**again.settings, "C": 0} == {**first.settings, "C": 0}


@pytest.mark.parametrize(("method", "model_type"), METHODS)
def test_dev_rows_are_learned_from_and_decide_nothing(
    make_request: MakeRequest, tmp_path: Path, method: str, model_type: str | None
) -> None:
    request = make_request(method, model_type)
    first = run(request, tmp_path / "first")
    repeated = joined(request, tmp_path).model_copy(update={"repeat": str(tmp_path / "first")})
    more = run(repeated, tmp_path / "more")
    for name in ("C", "penalty", "wide_scale", "planned_epochs"):
        assert more.settings.get(name) == pytest.approx(first.settings.get(name), abs=0.2)
    assert more.files != first.files
    assert more.dev_accuracy is None  # its dev rows are training rows
    assert more.curve == ()
    gold = [json.loads(line)["output"] for line in Path(request.dev).read_text(encoding="utf-8").splitlines()]
    logits = np.load(tmp_path / "more" / "dev_logits.npy")
    right = np.mean(logits.argmax(axis=1) == [request.labels.index(label) for label in gold])
    assert right >= (first.dev_accuracy or 0)
    other_dev = tmp_path / "other-dev.jsonl"  # turned labels would change every choice
    turned = [json.loads(line) for line in Path(request.dev).read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({**row, "output": request.labels[0]}) for row in turned]
    other_dev.write_text("\n".join(lines) + "\n", encoding="utf-8")
    blind = run(repeated.model_copy(update={"dev": str(other_dev)}), tmp_path / "blind")
    assert {**blind.files, "dev_logits.npy": ""} == {**more.files, "dev_logits.npy": ""}


def test_a_killed_repeat_goes_on_to_the_same_weights(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from locum.train.loop import Trainer

    request = make_request("full", "bert")
    trained = run(request, tmp_path / "first")
    document = tmp_path / "first" / "trained.json"
    document.write_text(json.dumps(trained.model_copy(update={"best_epoch": 3.0}).to_json()), encoding="utf-8")
    repeated = joined(request, tmp_path).model_copy(update={"repeat": str(tmp_path / "first")})
    whole = run(repeated, tmp_path / "whole")
    plain, taken = Trainer.step, 0

    def step(self: Trainer, batch: list[int]) -> float:
        nonlocal taken
        taken += 1
        if taken == 8:
            raise KeyError("stands for a kill")
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(KeyError):
            run(repeated, tmp_path / "killed")
    resumed = run(repeated, tmp_path / "killed")
    assert (resumed.resumed, resumed.best_epoch) == (1, 3.0)
    assert resumed.files == whole.files


def test_a_training_that_kept_its_start_is_repeated_without_steps(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request("full", "bert")
    trained = run(request, tmp_path / "first")
    document = tmp_path / "first" / "trained.json"
    document.write_text(json.dumps(trained.model_copy(update={"best_epoch": 0.0}).to_json()), encoding="utf-8")
    again = run(request.model_copy(update={"repeat": str(tmp_path / "first")}), tmp_path / "again")
    head = run(make_request("head", "bert"), tmp_path / "head")
    assert (again.best_epoch, again.stopped_by) == (0, "schedule")
    assert again.files["model.safetensors"] == head.files["model.safetensors"]


def test_nothing_to_repeat_is_an_error(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request("linear").model_copy(update={"repeat": str(tmp_path / "nowhere")})
    with pytest.raises(LocumError, match="no finished training to repeat"):
        choices(request)


def test_a_choice_that_was_not_written_down_is_an_error(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request("linear")
    run(request, tmp_path / "first")
    found = choices(request.model_copy(update={"repeat": str(tmp_path / "first")}))
    assert found is not None
    assert found.number("C") in (0.3, 1.0, 3.0)
    with pytest.raises(LocumError, match="has no wide_scale"):
        found.number("wide_scale")
    with pytest.raises(LocumError, match="has no loss"):
        found.number("loss")


def test_the_penalty_that_is_asked_for_is_the_one_that_is_fitted() -> None:
    features, targets = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    fits: list[softmax.SoftmaxFit] = []
    softmax.fit_softmax(features, targets, features, targets, 3, fits.append)
    asked = softmax.fit_softmax(features, targets, features, targets, 3, penalty=1e-2)
    assert asked.penalty == 1e-2
    torch.testing.assert_close(asked.weight, fits[2].weight)
