"""Taggers trained on pico bases: student folders, resuming bit by bit, windows, time, and requests that do not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from locum.core.errors import DataError, LocumError, UserError
from locum.core.files import sha256_file
from locum.models.tagger import load_tagger
from locum.runtime.tokenize import TextTokenizer
from locum.schema.candidate import Candidate
from locum.schema.training import Trained, TrainRequest
from locum.tasks.bio import BioTags
from locum.train import job, tagging
from locum.train.loop import Trainer
from locum.train.outcome import Clock
from locum.train.recipe import TAG_RECIPE
from locum.train.tagged import UNTAGGED, read_tagged, span_f1_of

People = Callable[..., list[dict[str, Any]]]
TYPES = ("CITY", "PERSON")
TAGS = BioTags.of_types(TYPES)
FAST = replace(TAG_RECIPE, epochs=6, body_rate=3e-3, head_rate=1e-2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    lines = [
        json.dumps({"id": f"r:{number}", "input": row["text"], "output": json.dumps(row["spans"])})
        for number, row in enumerate(rows)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def make(people: People, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainRequest]:
    """Build a request: ``make("full", "bert", budget_s=…)``."""
    from locum.models.pico import pico_base

    folder = tmp_path_factory.mktemp("tagging")
    splits = write(folder / "train.jsonl", people(150, seed=1)), write(folder / "dev.jsonl", people(40, seed=2))
    words = sorted({word.lower() for row in people(150, seed=1) for word in row["text"].split()[1:]})

    def build(method: str = "full", model_type: str = "bert", **fields: object) -> TrainRequest:
        base = folder / f"base-{model_type}"
        if not base.exists():
            pico_base(base, words, model_type)
        values: dict[str, Any] = {
            "candidate": Candidate(name=f"pico/{method}", family="encoder", base=str(base), method=method),
            "base": str(base),
            "train": splits[0],
            "dev": splits[1],
            "labels": TYPES,
            "budget_s": 1e5,  # so that every schedule is the recipe's, however busy the machine is
            "seed": 3,
            "threads": 1,
            "max_tokens": 32,
        }
        return TrainRequest(**{**values, **fields})

    return build


def run(request: TrainRequest, folder: Path, name: str = "out") -> tuple[Path, Trained]:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(request.to_json()), encoding="utf-8")
    tagging.main(path, folder / name)
    return folder / name, Trained.from_json((folder / name / "trained.json").read_bytes(), "trained.json")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and larger steps, as suits a pico base."""
    plain = tagging.train_tuned
    monkeypatch.setattr(tagging, "train_tuned", lambda *given: plain(*given, FAST))


@pytest.mark.parametrize(
    ("method", "model_type", "least"),
    [
        ("head", "bert", 0.5),
        ("full", "bert", 0.9),
        ("full", "modernbert", 0.9),
        ("lora", "bert", 0.9),
        ("dora", "modernbert", 0.9),
    ],
)
@pytest.mark.usefixtures("fast")
def test_job_writes_a_whole_tagger(
    make: Callable[..., TrainRequest], tmp_path: Path, method: str, model_type: str, least: float
) -> None:
    request = make(method, model_type)
    folder, trained = run(request, tmp_path)
    assert set(trained.files) == {path.name for path in folder.iterdir()} - {"trained.json"}
    assert trained.dev_accuracy is not None and trained.dev_accuracy >= least
    tokenizer = TextTokenizer(folder / "tokenizer.json", trained.max_tokens)
    dev = read_tagged(Path(request.dev), TAGS, tokenizer)
    scores = np.load(folder / "dev_logits.npy")
    assert scores.shape == (len(dev.offsets), len(TAGS.names)) and scores.dtype == np.float32
    assert span_f1_of(dev, scores, TAGS) == pytest.approx(trained.dev_accuracy)
    model = load_tagger(folder)
    with torch.no_grad():
        forms = [torch.tensor([each]) if model.reads_surface else None for each in dev.forms]
        parts = zip(dev.ids, forms, strict=True)
        rows = [model(torch.tensor([ids]), torch.ones(1, len(ids)), form)[0] for ids, form in parts]
    assert model.reads_surface == (model_type == "bert" and method != "head")
    kept = torch.cat([row[target != UNTAGGED] for row, target in zip(rows, dev.targets, strict=True)])
    np.testing.assert_allclose(kept.numpy(), scores, atol=1e-4)
    assert trained.parameters == model.parameters_count


@pytest.mark.usefixtures("fast")
def test_tuning_never_ends_below_the_head_on_dev(make: Callable[..., TrainRequest], tmp_path: Path) -> None:
    _, trained = run(make("full"), tmp_path)
    start, *later = [point.dev_accuracy or 0.0 for point in trained.curve]
    assert later and (trained.dev_accuracy or 0.0) >= max(start, *later) - 1e-9  # the outside bias may add to it


class Crash(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("method", ["full", "lora", "dora"])
@pytest.mark.usefixtures("fast")
def test_a_killed_job_resumes_to_the_same_weights(
    make: Callable[..., TrainRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    request = make(method)
    whole, _ = run(request, tmp_path, "whole")
    plain, taken = Trainer.step, 0

    def step(self: Trainer, batch: list[int]) -> float:
        nonlocal taken
        taken += self.schedule.total_steps != 1000  # the probe's steps do not count
        if taken > 25:
            raise Crash
        return plain(self, batch)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(Crash):
        run(request, tmp_path, "killed")
    monkeypatch.setattr(Trainer, "step", plain)
    resumed, trained = run(request, tmp_path, "killed")
    assert trained.resumed == 1
    names = ("model.safetensors", "head.safetensors", "dev_logits.npy")
    assert [sha256_file(resumed / name) for name in names] == [sha256_file(whole / name) for name in names]


def test_micro_batches_do_not_change_the_gradient(make: Callable[..., TrainRequest], tmp_path: Path) -> None:
    bench = tagging.prepare(make("full"), tmp_path)
    plan, recipe = tagging.Schedule(10, 5, None), replace(TAG_RECIPE, dropout=0.0)
    bench.model.eval()
    gradients = []
    for micro_batch in (None, 3):
        checkpoints = tagging.CheckpointFolder(tmp_path / "none")
        trainer = tagging.TaggerTrainer(
            bench, recipe, replace(plan, micro_batch=micro_batch), checkpoints, Clock(10), seed=0
        )
        bench.model.zero_grad()
        for loss in trainer.losses(list(range(10))):
            loss.backward()
        gradients.append(bench.model.head.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.05, atol=2e-3)  # bfloat16 where it is fast


def test_a_text_longer_than_the_model_is_learned_in_windows(
    make: Callable[..., TrainRequest], people: People, tmp_path: Path
) -> None:
    rows = people(12, seed=5)
    text, spans = "", []
    for row in rows:
        spans += [[start + len(text), end + len(text), label] for start, end, label in row["spans"]]
        text += row["text"] + " . "
    path = write(tmp_path / "long.jsonl", [{"text": text, "spans": spans}, *rows])
    tokenizer = TextTokenizer(Path(make().base or "") / "tokenizer.json", 24)
    split = read_tagged(Path(path), TAGS, tokenizer)
    assert split.owners.count(0) > 2 and split.cut == 0 and max(split.lengths) == 24
    assert all(len(ids) == len(target) for ids, target in zip(split.ids, split.targets, strict=True))
    perfect = np.eye(len(TAGS.names), dtype=np.float32)[split.tags.numpy()] * 9
    assert span_f1_of(split, perfect, TAGS) == 1.0
    assert len(split.offsets) == split.bounds[-1] == len(split.tags)


def test_the_head_is_fitted_on_no_more_tokens_than_it_may(
    make: Callable[..., TrainRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tagging, "HEAD_TOKENS", 300)
    _, trained = run(make("head"), tmp_path)
    assert 20 < int(trained.settings["rows"]) < 100


@pytest.mark.parametrize("method", ["head", "full", "lora"])
@pytest.mark.usefixtures("fast")
def test_a_training_is_repeated_with_its_choices_and_reads_nothing_off_dev(
    make: Callable[..., TrainRequest], tmp_path: Path, method: str
) -> None:
    request = make(method)
    first_folder, first = run(request, tmp_path, "first")
    repeat = request.model_copy(update={"repeat": str(first_folder)})
    _, again = run(repeat, tmp_path, "again")
    assert again.files == first.files
    both = tmp_path / "both.jsonl"
    both.write_text(Path(request.train).read_text() + Path(request.dev).read_text(), encoding="utf-8")
    _, more = run(repeat.model_copy(update={"train": str(both)}), tmp_path, "more")
    assert more.files != first.files
    assert (more.dev_accuracy, more.curve) == (None, ())  # its dev rows are training rows
    assert all(more.settings[name] == first.settings[name] for name in ("penalty", "outside_bias"))
    lines = [json.loads(line) | {"output": "[]"} for line in Path(request.dev).read_text().splitlines()]
    other = tmp_path / "other.jsonl"  # dev without any span would change every choice
    other.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    _, blind = run(repeat.model_copy(update={"train": str(both), "dev": str(other)}), tmp_path, "blind")
    assert {**blind.files, "dev_logits.npy": ""} == {**more.files, "dev_logits.npy": ""}


def test_without_time_for_a_quarter_epoch_nothing_is_kept(make: Callable[..., TrainRequest], tmp_path: Path) -> None:
    """Its head alone is a candidate of its own, which is already built."""
    with pytest.raises(UserError) as caught:
        run(make("full", budget_s=0.01), tmp_path)
    assert caught.value.code == "train-no-time"


@pytest.mark.usefixtures("fast")
def test_a_loss_of_nan_keeps_the_best_weights(
    make: Callable[..., TrainRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tagging.TaggerTrainer._loss

    def sometimes(self: Any, rows: list[int]) -> Any:
        bad = self.schedule.total_steps != 1000 and self.progress.step > 12
        return plain(self, rows) * (math.nan if bad else 1.0)

    monkeypatch.setattr(tagging.TaggerTrainer, "_loss", sometimes)
    folder, trained = run(make("full"), tmp_path)
    assert trained.stopped_by == "nan"
    assert np.isfinite(np.load(folder / "dev_logits.npy")).all()


def test_requests_that_do_not_fit_are_refused(
    make: Callable[..., TrainRequest], people: People, tmp_path: Path
) -> None:
    nothing = write(tmp_path / "none.jsonl", [{"text": "no one", "spans": []}])
    for request, kind, words in (
        (make("full", "llama"), UserError, "decoder"),
        (make("head", train=nothing), UserError, "no training row"),
        (make("head", labels=("CITY",)), DataError, "'PERSON'"),
        (make("head", labels=()), UserError, "types"),
    ):
        with pytest.raises(kind, match=words) as caught:
            run(request, tmp_path, f"refused-{words.split()[0]}")
        assert isinstance(caught.value, LocumError) and caught.value.code == "train-request"


def test_outside_bias_is_nothing_where_nothing_is_better(people: People, make: Callable[..., TrainRequest]) -> None:
    tokenizer = TextTokenizer(Path(make().base or "") / "tokenizer.json", 32)
    dev = read_tagged(Path(make().dev), TAGS, tokenizer)
    perfect = np.eye(len(TAGS.names), dtype=np.float32)[dev.tags.numpy()] * 9
    assert tagging.outside_bias(dev, perfect, TAGS) == (0.0, 1.0)
    shy = perfect.copy()
    shy[:, TAGS.outside] += 10.0  # every token looks outside by 1
    bias, span_f1 = tagging.outside_bias(dev, shy, TAGS)
    assert (bias, span_f1) == (-1.5, 1.0)


def test_classifiers_are_still_judged_by_their_labels() -> None:
    assert set(tagging.METHODS.names()) < set(job.METHODS.names())
