"""Adapters on classifiers and taggers: what is trained, what merging changes, what they learn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train_toys import EXACT, classifier_trainer

from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.models.tagger import TokenClassifier, read_surface
from locum.schema.candidate import Method
from locum.schema.training import TrainRequest
from locum.testing.pico import WORDS
from locum.train import full
from locum.train.adapters import adapt
from locum.train.forward import logits_of
from locum.train.outcome import Clock
from locum.train.recipe import RECIPES, TAG_RECIPE, for_adapters
from locum.train.schedule import Schedule
from locum.train.workbench import prepare

MakeRequest = Callable[..., TrainRequest]
KNOWN = [word for group in WORDS.values() for word in group]
LABELS = sorted(WORDS)
BODIES = ["bert", "modernbert", "llama"]
METHODS: list[Method] = ["lora", "dora"]
IN_BLOCKS = {"bert": 6 * 3, "modernbert": 4 * 3, "llama": 7 * 3}  # linear layers of three blocks


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def plain_name(name: str) -> str:
    return name.replace(".base_layer", "")


@pytest.mark.parametrize("model_type", BODIES)
@pytest.mark.parametrize("method", METHODS)
def test_only_adapters_and_head_are_trained_and_merging_changes_no_answer(
    make_request: MakeRequest, tmp_path: Path, method: Method, model_type: str
) -> None:
    bench = prepare(make_request(method, model_type), tmp_path)
    model = bench.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    untouched = logits_of(model, bench.dev, bench.pad_id, EXACT, exact=True)
    adapters = adapt(model, method)
    start = logits_of(model, bench.dev, bench.pad_id, EXACT, exact=True)
    torch.testing.assert_close(start, untouched, atol=1e-5, rtol=1e-5)  # adapters begin as nothing
    recipe = replace(for_adapters(RECIPES["encoder"]), warmup=0.01)
    trainer = classifier_trainer(bench, tmp_path, recipe, Schedule(100, 10, None))
    for batch in trainer.batches(0):
        trainer.step(batch)
    after = model.state_dict()
    changed = {name for name in after if plain_name(name) in before and not after[name].equal(before[plain_name(name)])}
    assert changed == {"head.weight", "head.bias"}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == changed | {name for name in after if is_adapter(name)}
    assert len([name for name in trained if "lora_A" in name]) == IN_BLOCKS[model_type]
    assert {id(weight) for weight in trainer.optimiser.state} == {id(weight) for weight in trainer.weights}
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    assert frozen and all(weight.grad is None for weight in frozen)

    model.eval()
    apart = logits_of(model, bench.dev, bench.pad_id, EXACT, exact=True)
    adapters.merge_and_unload()
    merged = logits_of(model, bench.dev, bench.pad_id, EXACT, exact=True)
    assert not torch.allclose(merged, start, atol=1e-2)
    torch.testing.assert_close(merged, apart, atol=1e-4, rtol=1e-4)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }
    assert all(type(part) is nn.Linear for part in model.modules() if "Linear" in type(part).__name__)


def test_a_tagger_with_adapters_still_learns_what_surface_forms_mean(make_request: MakeRequest) -> None:
    base = inspect_base(Path(make_request("lora", "bert").base or ""))
    body = load_body(base)
    assert read_surface(body)
    model = TokenClassifier(body, base.architecture, 3)
    adapt(model, "lora")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad and not is_adapter(name)}
    table = "body.embeddings.token_type_embeddings"
    assert trained == {"head.weight", "head.bias", f"{table}.case.weight", f"{table}.space.weight"}


def saved(request: TrainRequest, out: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    recipe = RECIPES["decoder" if request.candidate.family == "decoder" else "encoder"]
    chosen = for_adapters(recipe) if request.candidate.method in METHODS else recipe
    return full.train_with(chosen, request, out, Clock(request.budget_s)), load_file(out / "model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_saved_weights_differ_from_the_base_where_adapters_were(
    make_request: MakeRequest, tmp_path: Path, method: Method
) -> None:
    request = make_request(method, "llama")
    outcome, after = saved(request, tmp_path)
    before = load_file(Path(request.base or "") / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in after if not after[name].equal(before[name])}
    layers = [name for name in before if "proj.weight" in name and not name.startswith("layers.0.")]
    assert changed == set(layers)  # the first of three layers is frozen, and run once
    assert outcome.settings["frozen_layers"] == 1
    assert (outcome.settings["rank"], outcome.settings["alpha"]) == (16, 32.0)


def write_pairs(path: Path, rows: int, seed: int) -> str:
    """The answer follows from two words together, not from either: more than a linear head can tell."""
    generator = random.Random(seed)
    lines = []
    for number in range(rows):
        first, second = generator.randrange(8), generator.randrange(7)
        text = f"{KNOWN[first]} {KNOWN[8 + second]}"
        lines.append(json.dumps({"id": f"p:{number}", "input": text, "output": LABELS[(first + second) % 3]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_adapters_learn_what_the_head_alone_cannot(make_request: MakeRequest, tmp_path: Path) -> None:
    splits = {"train": write_pairs(tmp_path / "a.jsonl", 320, 1), "dev": write_pairs(tmp_path / "b.jsonl", 60, 2)}
    recipe = replace(for_adapters(RECIPES["encoder"]), batch_rows=16, epochs=16, patience=16, body_rate=5e-3)
    request = make_request("lora", "bert", **splits)
    outcome = full.train_with(recipe, request, tmp_path / "out", Clock(request.budget_s))
    start, *_ = outcome.curve
    kept = next(point for point in outcome.curve if point.epoch == outcome.best_epoch)
    assert (kept.dev_accuracy or 0) > (start.dev_accuracy or 1) + 0.2


def test_adapters_have_a_rate_of_their_own() -> None:
    for recipe in (*RECIPES.values(), TAG_RECIPE):
        found = for_adapters(recipe)
        assert (found.body_rate, found.weight_decay) == (10 * recipe.body_rate, 0.0)
        assert replace(found, body_rate=recipe.body_rate, weight_decay=recipe.weight_decay) == recipe
