"""Whole tunings: folders that load elsewhere, merged adapters, resuming bit by bit, several processes, NaN, budgets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_toys import tune_request, write_conversations

from locum.core.errors import DeviceError, LocumError, UserError
from locum.core.files import sha256_file
from locum.core.progress import Event, listening
from locum.models.base_files import inspect_base
from locum.models.body import quiet_transformers
from locum.models.causal import load_causal, load_chat_tokenizer
from locum.schema.training import Trained, TuneRequest
from locum.train import loop, tune
from locum.train.conversations import ChatEncoder
from locum.train.forward import Machine
from locum.train.generating import GeneratorTrainer
from locum.train.loop import Trainer

FILES = {"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(tune, "this_machine", lambda: Machine(torch.device("cpu"), bfloat16=False))


def run(request: TuneRequest, folder: Path, name: str = "out") -> tuple[Path, Trained]:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(request.to_json()), encoding="utf-8")
    tune.main(path, folder / name)
    text = (folder / name / "trained.json").read_text(encoding="utf-8")
    return folder / name, Trained.from_json(text, "trained.json")


def plain_dev_loss(folder: Path, request: TuneRequest) -> float:
    """The saved student through transformers' own forward pass."""
    base = inspect_base(folder)
    model = load_causal(base)
    encoder = ChatEncoder(load_chat_tokenizer(base), request.max_tokens, str(folder))
    total, tokens = 0.0, 0
    for row in encoder.read(Path(request.dev)).examples:
        ids = torch.tensor([row.prompt + row.answer])
        labels = ids.clone()
        labels[0, : len(row.prompt)] = -100
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * len(row.answer)
        tokens += len(row.answer)
    return total / tokens


@pytest.mark.parametrize("method", ["full", "lora", "dora"])
def test_student_is_saved_whole_and_answers_as_it_was_measured(tmp_path: Path, method: str) -> None:
    request = tune_request(tmp_path, method)
    folder, trained = run(request, tmp_path)
    assert trained.files.keys() >= FILES
    assert all(sha256_file(folder / name) == digest for name, digest in trained.files.items())
    assert ("adapter/adapter_model.safetensors" in trained.files) == (method != "full")
    assert not (folder / "work").exists()
    assert trained.dev_loss is not None
    assert trained.dev_loss < trained.curve[0].dev_loss
    assert trained.dev_loss == pytest.approx(plain_dev_loss(folder, request), abs=1e-5)
    assert trained.parameters == sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert trained.candidate.method == method
    assert trained.dev_accuracy is None


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_weights_are_base_and_adapter(tmp_path: Path, method: str) -> None:
    from peft import PeftModel

    request = tune_request(tmp_path, method, targets=("q_proj", "down_proj"))
    folder, trained = run(request, tmp_path)
    base = load_causal(inspect_base(Path(request.base)))
    with quiet_transformers():  # PEFT calls what transformers means to rename
        apart = PeftModel.from_pretrained(base, str(folder / "adapter"))
    merged = load_causal(inspect_base(folder))
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, apart(ids).logits, atol=1e-5, rtol=1e-5)
    assert sorted(json.loads((folder / "adapter" / "adapter_config.json").read_text())["target_modules"]) == [
        *("down_proj", "q_proj"),
    ]
    assert trained.settings["rank"] == 4


@pytest.mark.parametrize("method", ["full", "lora"])
def test_only_the_last_layers_are_tuned(tmp_path: Path, method: str) -> None:
    request = tune_request(tmp_path, method, layers=1)
    folder, trained = run(request, tmp_path)
    before = load_causal(inspect_base(Path(request.base))).state_dict()
    after = load_causal(inspect_base(folder)).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all("layers.1." in name or name == "model.norm.weight" for name in changed)
    assert trained.settings["frozen_layers"] == 1
    assert trained.dev_loss == pytest.approx(plain_dev_loss(folder, request), abs=1e-5)


class Crash(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("steps", [0, 5])
def test_fault_44_resumed_job_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, steps: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(loop, "_CHECKPOINT_SHARE", math.inf)  # a checkpoint after every step
    request = tune_request(tmp_path, method)
    whole, _ = run(request, tmp_path, "whole")
    plain = Trainer.step

    def step(self: Trainer, batch: list[int]) -> float:
        if self.progress.step == steps:
            raise Crash
        return plain(self, batch)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Trainer, "step", step)
        run(request, tmp_path, "killed")
    again, trained = run(request, tmp_path, "killed")
    assert trained.resumed == 1
    assert sha256_file(again / "model.safetensors") == sha256_file(whole / "model.safetensors")


def test_tasks_are_reported_with_what_they_gained(tmp_path: Path) -> None:
    write_conversations(tmp_path / "train.jsonl", 40, 1, tasks=("a", "a", "a", "b"))
    write_conversations(tmp_path / "dev.jsonl", 8, 2, tasks=("a", "b"))
    _, trained = run(tune_request(tmp_path, mixing=2.0), tmp_path)
    assert trained.rows is not None
    assert trained.rows.tasks == {"a": 30, "b": 10}
    assert trained.dev_losses.keys() == trained.curve[0].dev_losses.keys() == {"a", "b"}
    assert trained.dev_losses["a"] < trained.curve[0].dev_losses["a"]


def test_the_task_that_a_student_is_for_decides_which_weights_are_kept(tmp_path: Path) -> None:
    write_conversations(tmp_path / "train.jsonl", 60, 1, tasks=("a", "b"))
    write_conversations(tmp_path / "dev.jsonl", 16, 2, tasks=("a", "b", "b", "b"))
    request = tune_request(tmp_path, epochs=6, learning_rate=5e-2, for_task="a", name="pico/full-multitask")
    _, trained = run(request, tmp_path)
    own = [point.dev_losses["a"] for point in trained.curve]
    assert [point.dev_loss for point in trained.curve] == own
    assert trained.dev_loss == min(own) == trained.dev_losses["a"]
    assert (trained.candidate.name, trained.candidate.multitask) == ("pico/full-multitask", True)
    _, pooled = run(request.model_copy(update={"for_task": None}), tmp_path, "pooled")
    assert pooled.curve[0].dev_loss == pytest.approx(0.25 * own[0] + 0.75 * pooled.curve[0].dev_losses["b"])
    assert not pooled.candidate.multitask


def test_a_task_without_dev_rows_is_refused_with_those_there_are(tmp_path: Path) -> None:
    write_conversations(tmp_path / "train.jsonl", 20, 1, tasks=("a", "b"))
    write_conversations(tmp_path / "dev.jsonl", 8, 2, tasks=("b",))
    with pytest.raises(
        UserError, match=r"no dev row is of the task 'a' that the student is for \(there: b\)"
    ) as caught:
        run(tune_request(tmp_path, for_task="a"), tmp_path)
    assert caught.value.code == "train-request"


def test_finished_job_is_not_done_again(tmp_path: Path) -> None:
    request = tune_request(tmp_path)
    folder, _ = run(request, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(request, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_fault_43_nan_loss_stops_and_keeps_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = GeneratorTrainer._loss

    def loss(self: GeneratorTrainer, *rows: object) -> torch.Tensor:
        return plain(self, *rows) * (math.nan if self.progress.step >= 6 else 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(GeneratorTrainer, "_loss", loss)
    events: list[Event] = []
    with listening(events.append):
        folder, trained = run(tune_request(tmp_path), tmp_path)
    assert trained.stopped_by == "nan"
    assert any(event.kind == "warning" and "NaN" in event.label for event in events)
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(folder / "model.safetensors").values())
    assert trained.best_epoch == 1


def test_fault_43_a_base_that_answers_nan_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GeneratorTrainer, "_loss", lambda *_: torch.tensor(math.nan, requires_grad=True))
    with pytest.raises(LocumError) as caught:
        run(tune_request(tmp_path), tmp_path)
    assert caught.value.code == "train-nan"
    assert not (tmp_path / "out" / "trained.json").exists()


def test_fault_36_memory_error_has_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(DeviceError) as caught:
        run(tune_request(tmp_path, micro_batch=4), tmp_path)
    assert caught.value.code == "train-memory"


def test_without_time_for_a_step_nothing_is_made(tmp_path: Path) -> None:
    request = tune_request(tmp_path, budget_s=0.001)
    for _ in range(2):  # the second time by the schedule of the first
        with pytest.raises(UserError) as caught:
            run(request, tmp_path)
        assert caught.value.code == "train-no-time"
        assert "an epoch takes about" in str(caught.value)
    assert not list(tmp_path.rglob("trained.json"))


def test_early_stopping_goes_by_dev(tmp_path: Path) -> None:
    _, trained = run(tune_request(tmp_path, learning_rate=1e-12, epochs=6), tmp_path)
    # six epochs planned; without a gain, the fourth is the first after the middle
    assert (trained.stopped_by, trained.curve[-1].epoch) == ("patience", 4)


def test_damaged_request_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text('{"base": 1}')
    with pytest.raises(UserError) as caught:
        tune.main(path, tmp_path / "out")
    assert caught.value.code == "schema-invalid"
