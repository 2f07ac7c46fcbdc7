"""Whole jobs: student folders, resuming bit by bit, NaN, stop requests, budgets, damaged checkpoints."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from locum.core.errors import DeviceError, LocumError, UserError
from locum.core.files import sha256_file
from locum.core.progress import Event, listening
from locum.models.classifier import load_student
from locum.pipeline.made import OUT_OF_MEMORY
from locum.runtime.tokenize import TextTokenizer
from locum.schema.training import Trained, TrainRequest
from locum.train import full, head, loop
from locum.train.classifying import ClassifierTrainer
from locum.train.job import main, memory_errors
from locum.train.loop import Trainer
from locum.train.outcome import Clock
from locum.train.recipe import RECIPES
from locum.train.rows import read_split

MakeRequest = Callable[..., TrainRequest]
ADAPTED = [("lora", "bert"), ("dora", "modernbert"), ("lora", "llama"), ("dora", "llama")]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(request: TrainRequest, folder: Path, name: str = "out") -> tuple[Path, Trained]:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(request.to_json()), encoding="utf-8")
    main(path, folder / name)
    text = (folder / name / "trained.json").read_text(encoding="utf-8")
    return folder / name, Trained.from_json(text, "trained.json")


WholeJob = Callable[..., tuple[TrainRequest, Path, Trained]]


@pytest.fixture(scope="module")
def whole_job(make_request_for_all: MakeRequest, tmp_path_factory: pytest.TempPathFactory) -> WholeJob:
    """A job that ran to its end, once for all tests that only look at it: ``whole_job("full", "bert")``."""

    @functools.cache
    def job(method: str, model_type: str | None = None) -> tuple[TrainRequest, Path, Trained]:
        request = make_request_for_all(method, model_type)
        return request, *run(request, tmp_path_factory.mktemp("job"))

    return job


def weights_of(folder: Path) -> tuple[str, str, str]:
    names = ("model.safetensors", "head.safetensors", "dev_logits.npy")
    return tuple(sha256_file(folder / name) for name in names)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("method", "model_type"), [("linear", None), ("head", "bert"), ("full", "bert"), ("full", "llama"), *ADAPTED]
)
def test_job_writes_a_whole_student(whole_job: WholeJob, method: str, model_type: str | None) -> None:
    request, folder, trained = whole_job(method, model_type)
    present = {path.name for path in folder.iterdir()} - {"trained.json"}
    assert set(trained.files) == present
    assert all(sha256_file(folder / name) == digest for name, digest in trained.files.items())
    logits = np.load(folder / "dev_logits.npy")
    dev = read_split(Path(request.dev), request.labels)
    assert logits.dtype == np.float32
    assert trained.dev_accuracy == pytest.approx((logits.argmax(axis=1) == np.asarray(dev.targets)).mean())
    assert trained.dev_accuracy > 0.8
    if model_type:
        assert {"config.json", "model.safetensors", "head.safetensors", "tokenizer.json"} <= present


@pytest.mark.parametrize(("method", "model_type"), [("head", "bert"), ("full", "bert"), ("full", "llama"), *ADAPTED])
def test_dev_logits_are_those_of_the_saved_student(whole_job: WholeJob, method: str, model_type: str) -> None:
    request, folder, trained = whole_job(method, model_type)
    model = load_student(folder)
    tokenizer = TextTokenizer(folder / "tokenizer.json", trained.max_tokens)
    texts = read_split(Path(request.dev), request.labels).texts
    with torch.no_grad():
        rows = [torch.tensor([ids]) for ids in tokenizer.encode(texts)]
        logits = torch.cat([model(ids, torch.ones_like(ids)) for ids in rows]).numpy()
    np.testing.assert_allclose(logits, np.load(folder / "dev_logits.npy"), atol=1e-4)
    assert trained.parameters == model.parameters_count


def test_finished_job_is_not_done_again(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request("linear")
    folder, _ = run(request, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(request, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_same_request_gives_the_same_weights(whole_job: WholeJob, tmp_path: Path) -> None:
    request, first, _ = whole_job("full", "bert")
    second, _ = run(request, tmp_path, "again")
    assert weights_of(first) == weights_of(second)


def test_tuning_never_ends_below_its_start_on_dev(whole_job: WholeJob) -> None:
    _, _, trained = whole_job("full", "bert")
    assert trained.curve[0].epoch == 0
    best = max(point.dev_accuracy for point in trained.curve)
    kept = next(point for point in trained.curve if point.epoch == trained.best_epoch)
    assert kept.dev_accuracy == best >= trained.curve[0].dev_accuracy


class Crash(Exception):
    """Stands for a kill."""


def crash_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let ``steps`` tuning steps pass (after the probe's six) and then die."""
    plain = Trainer.step
    taken = 0

    def step(self: Trainer, batch: list[int]) -> float:
        nonlocal taken
        probing = self.schedule.total_steps == 1000
        taken += not probing
        if taken > steps:
            raise Crash
        return plain(self, batch)

    monkeypatch.setattr(Trainer, "step", step)


@pytest.mark.parametrize(
    ("method", "model_type"), [("full", "bert"), ("full", "llama"), ("lora", "bert"), ("dora", "llama")]
)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_fault_44_resumed_job_ends_with_the_same_weights(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, model_type: str, steps: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(loop, "_CHECKPOINT_SHARE", math.inf)  # a checkpoint after every step
    for family in ("encoder", "decoder"):
        monkeypatch.setitem(full.RECIPES, family, replace(RECIPES[family], epochs=2, batch_rows=64))
    request = make_request(method, model_type)
    plain, _ = run(request, tmp_path, "plain")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_after(patch, steps)
        run(request, tmp_path, "killed")
    again, trained = run(request, tmp_path, "killed")
    assert trained.resumed == 1
    assert weights_of(again) == weights_of(plain)
    assert not (again / "work").exists()


def test_fault_46_job_resumes_from_the_checkpoint_before_a_damaged_one(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("full", "bert")
    plain, _ = run(request, tmp_path, "plain")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_after(patch, 7)
        run(request, tmp_path, "killed")
    newest = max((tmp_path / "killed" / "work" / "checkpoints").glob("step-*"))
    (newest / "state.json").write_text("{")
    events: list[Event] = []
    with listening(events.append):
        again, _ = run(request, tmp_path, "killed")
    assert any(event.kind == "warning" and newest.name in event.label for event in events)
    assert weights_of(again) == weights_of(plain)


def start(request: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "locum.core.child", "locum.train.job:main", str(request), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_checkpoint(child: subprocess.Popen[bytes], out: Path, at_least: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        steps = [int(path.name[5:]) for path in (out / "work" / "checkpoints").glob("step-*")]
        if steps and max(steps) >= at_least:
            return
        time.sleep(0.005)
    raise AssertionError(f"no checkpoint {at_least}; the child ended with {child.poll()}")


EPOCH_STEPS = 8


@pytest.fixture(scope="module")
def finished(make_request_for_all: MakeRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A request for some seconds of training, and the student of a job that nobody stopped."""
    torch.set_num_threads(1)
    request, folder = make_request_for_all("full", "bert"), tmp_path_factory.mktemp("finished")
    path = folder / "long.jsonl"
    path.write_text(Path(request.train).read_text() * 3)
    student, _ = run(request.model_copy(update={"train": str(path)}), folder, "plain")
    return folder / "plain.json", student


@pytest.mark.slow
@pytest.mark.parametrize("at_least", [0, EPOCH_STEPS])
def test_fault_44_kill_9_and_resume(finished: tuple[Path, Path], tmp_path: Path, at_least: int) -> None:
    (request, plain), out = finished, tmp_path / "killed"
    with start(request, out) as child:
        wait_for_checkpoint(child, out, at_least)
        child.kill()
    assert not (out / "trained.json").exists()
    main(request, out)
    assert weights_of(out) == weights_of(plain)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fault_49_stop_request_saves_a_checkpoint_and_resumes(
    finished: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    (request, plain), out = finished, tmp_path / "stopped"
    with start(request, out) as child:
        wait_for_checkpoint(child, out, EPOCH_STEPS)
        child.send_signal(number)
        assert child.wait(60) == 130
    assert not (out / "trained.json").exists()
    main(request, out)
    assert weights_of(out) == weights_of(plain)


def poison(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    plain = ClassifierTrainer._loss

    def loss(self: ClassifierTrainer, rows: list[int]) -> torch.Tensor:
        value = plain(self, rows)
        probing = self.schedule.total_steps == 1000
        return value * (math.nan if not probing and self.progress.step >= after else 1.0)

    monkeypatch.setattr(ClassifierTrainer, "_loss", loss)


def test_fault_43_nan_loss_stops_and_keeps_the_last_good_weights(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, after=7)
    events: list[Event] = []
    with listening(events.append):
        folder, trained = run(make_request("full", "bert"), tmp_path)
    assert trained.stopped_by == "nan"
    assert any(event.kind == "warning" and "NaN" in event.label for event in events)
    assert np.isfinite(np.load(folder / "dev_logits.npy")).all()
    assert trained.dev_accuracy > 0.5
    load_student(folder)


def test_fault_43_nan_in_the_first_step_keeps_the_start(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, after=0)
    _, trained = run(make_request("full", "bert"), tmp_path)
    assert (trained.stopped_by, trained.best_epoch) == ("nan", 0)


def test_fault_43_nan_before_anything_was_learned_is_an_error(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "all_vectors", lambda *_, **__: torch.full((160, 32), math.nan))
    with pytest.raises(LocumError) as caught:
        run(make_request("full", "bert"), tmp_path)
    assert caught.value.code == "train-nan"
    assert not (tmp_path / "out" / "trained.json").exists()


def test_fault_36_memory_error_has_its_own_code(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(DeviceError) as caught:
        run(make_request("full", "bert"), tmp_path)
    assert caught.value.code == "train-memory"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
    ids=str,
)
def test_fault_36_every_form_of_no_memory_is_tried_again_smaller(error: Exception) -> None:
    with pytest.raises(DeviceError) as caught, memory_errors(8):
        raise error
    assert caught.value.code in OUT_OF_MEMORY


def test_another_error_of_pytorch_is_not_about_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_errors(8):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_without_time_for_a_quarter_of_an_epoch_there_is_no_student(make_request: MakeRequest, tmp_path: Path) -> None:
    for _ in ("at once", "again, by the schedule that was written down"):
        with pytest.raises(UserError, match="too few for a quarter") as caught:
            run(make_request("full", "bert", budget_s=0.001), tmp_path)
        assert caught.value.code == "train-no-time"
    assert not (tmp_path / "trained.json").exists()


def test_budget_spent_in_the_middle_ends_training(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Trainer.step

    def step(self: Trainer, batch: list[int]) -> float:
        if self.schedule.total_steps < 1000 and self.progress.step == 4:
            self.clock.budget_s = 0.0
        return plain(self, batch)

    monkeypatch.setattr(Trainer, "step", step)
    _, trained = run(make_request("full", "bert"), tmp_path)
    assert trained.stopped_by == "budget"
    assert trained.curve[-1].step == 5


def test_patience_ends_training(make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = replace(RECIPES["encoder"], body_rate=0.0, head_rate=0.0, patience=2, epochs=6)
    monkeypatch.setitem(full.RECIPES, "encoder", still)
    _, trained = run(make_request("full", "bert"), tmp_path)
    # six epochs planned; without a gain, the fourth and fifth are the first two after the middle
    assert (trained.stopped_by, [point.epoch for point in trained.curve]) == ("patience", [0, 1, 2, 3, 4, 5])


def test_family_that_is_not_the_bases_is_refused(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request("full", "llama")
    wrong = request.model_copy(update={"candidate": request.candidate.model_copy(update={"family": "encoder"})})
    with pytest.raises(UserError, match="family: decoder"):
        run(wrong, tmp_path)


def test_depth_is_kept_in_the_student(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request("full", "llama")
    cut = request.model_copy(update={"candidate": request.candidate.model_copy(update={"depth": 2})})
    folder, _ = run(cut, tmp_path)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2
    assert len(load_student(folder).body.layers) == 2


def test_damaged_request_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text('{"candidate": 1}')
    with pytest.raises(UserError, match="TrainRequest"):
        main(path, tmp_path / "out")


def test_clock_counts_earlier_tries() -> None:
    clock = Clock(100.0, before_s=30.0)
    assert clock.left_s == pytest.approx(70.0, abs=1.0)
