"""Each piece against its plain form: batches, softmax, compact vocabulary, frozen prefix, micro-batches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from train_toys import EXACT, classifier_trainer

from locum.core.progress import Event, listening
from locum.schema.training import TrainRequest
from locum.train.average import Average
from locum.train.batches import micro_batches, padded, shuffled_batches, sorted_batches
from locum.train.checkpoint import CheckpointFolder
from locum.train.classifying import ClassifierTrainer
from locum.train.dropout import SharedDropout, set_dropout
from locum.train.forward import all_vectors, vectors
from locum.train.frozen import FrozenPrefix
from locum.train.optimiser import rate_factor
from locum.train.recipe import RECIPES, Recipe
from locum.train.schedule import Schedule, plan_schedule
from locum.train.softmax import fit_softmax
from locum.train.workbench import Workbench, prepare

RECIPE = Recipe(epochs=2, batch_rows=8, body_rate=1e-3, head_rate=1e-2, dropout=0.0, average_decay=0.5)


def workbench(request: TrainRequest, out: Path) -> Workbench:
    bench = prepare(request, out)
    bench.machine = EXACT
    return bench


def trainer(
    bench: Workbench, folder: Path, *, micro_batch: int | None = None, recipe: Recipe = RECIPE
) -> ClassifierTrainer:
    return classifier_trainer(bench, folder, recipe, Schedule(40, 20, None, micro_batch))


def test_shuffled_batches_hold_every_row_once_and_like_lengths() -> None:
    lengths = [(7 * row) % 50 + 1 for row in range(1000)]
    batches = shuffled_batches(lengths, 16, seed=1, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    cells = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert cells / sum(lengths) < 1.1
    assert batches == shuffled_batches(lengths, 16, seed=1, epoch=0)
    assert batches != shuffled_batches(lengths, 16, seed=1, epoch=1)
    assert batches != shuffled_batches(lengths, 16, seed=2, epoch=0)


def test_sorted_batches_respect_the_cap() -> None:
    lengths = [5, 1, 9, 3, 200, 4]
    batches = sorted_batches(lengths, max_rows=3, max_cells=20)
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    assert all(len(b) == 1 or len(b) * max(lengths[r] for r in b) <= 20 for b in batches)
    assert [lengths[row] for batch in batches for row in batch] == sorted(lengths)


def test_micro_batches_split_by_rows_and_by_cells() -> None:
    lengths = [10] * 8
    assert micro_batches(list(range(8)), lengths, 3, 10**6) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [len(part) for part in micro_batches(list(range(8)), lengths, None, 45)] == [4, 4]
    assert len(micro_batches([0], [10**6], None, 10)) == 1


def test_bucketed_equals_padded(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    bench = workbench(make_request("full", "bert"), tmp_path / "out")
    bucketed = all_vectors(bench.model, bench.dev, bench.pad_id, EXACT)
    everything = list(range(len(bench.dev.ids)))
    with torch.no_grad():
        at_once = vectors(bench.model.eval(), bench.dev, everything, bench.pad_id, EXACT)
    torch.testing.assert_close(bucketed, at_once, atol=1e-5, rtol=1e-5)


def test_softmax_equals_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 6)).astype(np.float32)
    features = (features - features.mean(axis=0)) / features.std(axis=0, ddof=1)
    targets = (features[:, :3] + generator.normal(size=(300, 3))).argmax(axis=1)
    x, y = torch.tensor(features), torch.tensor(targets)
    fit = fit_softmax(x, y, x[:100], y[:100], 3)
    model = LogisticRegression(C=1 / (300 * fit.penalty), tol=1e-8, max_iter=1000).fit(features, targets)
    ours = (x @ fit.weight.T + fit.bias).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, model.predict_proba(features), atol=2e-3)


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_compact_vocabulary_changes_nothing(
    make_request: Callable[..., TrainRequest], tmp_path: Path, model_type: str
) -> None:
    request = make_request("full", model_type)
    bench = workbench(request, tmp_path / "a")
    whole = workbench(request, tmp_path / "b")
    back = {new: old for old, new in whole.vocabulary._new.items()}
    for split in (whole.train, whole.dev):
        split.ids = [[back[token] for token in row] for row in split.ids]
    whole.vocabulary.restore()
    rows = bench.model.body.get_input_embeddings().weight.shape[0]
    assert rows < whole.model.body.get_input_embeddings().weight.shape[0]
    whole.model.load_state_dict(
        {
            **whole.model.state_dict(),
            **{name: value for name, value in bench.model.state_dict().items() if name.startswith("head")},
        }
    )
    pad = back[bench.pad_id]
    ours, plain = trainer(bench, tmp_path / "a"), trainer(whole, tmp_path / "b")
    plain.pad_id = pad
    for batch in shuffled_batches(bench.train.lengths, 8, 1, 0)[:6]:
        assert ours.step(batch) == pytest.approx(plain.step(batch), abs=1e-5)
    bench.vocabulary.restore()
    for (name, one), other in zip(bench.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3, msg=name)


def test_frozen_prefix_equals_the_whole_body(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    bench = workbench(make_request("full", "llama"), tmp_path / "out")
    plain = all_vectors(bench.model, bench.train, bench.pad_id, EXACT)
    untouched = {name: value.clone() for name, value in bench.model.state_dict().items()}
    prefix = FrozenPrefix(bench.model.body, bench.model.architecture, 2)
    prefix.read(bench.train, bench.pad_id, EXACT, "read")
    prefix.remove()
    assert len(bench.model.body.layers) == 1
    torch.testing.assert_close(all_vectors(bench.model, bench.train, bench.pad_id, EXACT), plain, atol=1e-5, rtol=1e-5)
    trainable = [name for name, weight in bench.model.named_parameters() if weight.requires_grad]
    prefix.restore()
    bench.train.states = None
    torch.testing.assert_close(all_vectors(bench.model, bench.train, bench.pad_id, EXACT), plain)
    assert untouched.keys() == bench.model.state_dict().keys()
    assert not any("embed_tokens" in name for name in trainable)


def test_frozen_prefix_must_leave_a_layer(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    bench = workbench(make_request("full", "llama"), tmp_path / "out")
    with pytest.raises(ValueError, match="cannot freeze 3 of 3"):
        FrozenPrefix(bench.model.body, bench.model.architecture, 3)


def test_micro_batches_give_the_same_step(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    request = make_request("full", "bert")
    weights = []
    for micro in (None, 3):
        bench = workbench(request, tmp_path / str(micro))
        set_dropout(bench.model.body, 0.0)
        runner = trainer(bench, tmp_path / str(micro), micro_batch=micro)
        for batch in shuffled_batches(bench.train.lengths, 8, 1, 0)[:4]:
            runner.step(batch)
        weights.append([weight.detach().clone() for weight in runner.weights])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-2)


def test_training_moves_every_trainable_weight_and_lowers_the_loss(
    make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    bench = workbench(make_request("full", "bert"), tmp_path / "out")
    brisk = Recipe(epochs=2, batch_rows=8, body_rate=3e-3, head_rate=5e-2, dropout=0.0, label_smoothing=0.0)
    runner = trainer(bench, tmp_path / "out", recipe=brisk)
    before = [weight.detach().clone() for weight in runner.weights]
    batches = shuffled_batches(bench.train.lengths, 8, 1, 0)
    losses = [runner.step(batch) for batch in batches * 2]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    still = [
        place for place, (old, new) in enumerate(zip(before, runner.weights, strict=True)) if torch.equal(old, new)
    ]
    assert not still


def test_average_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    average = Average([weight], decay=0.5)
    for step, value in enumerate([1.0, 2.0]):
        with torch.no_grad():
            weight.fill_(value)
        average.update(step)
    assert average.values[0].item() == pytest.approx(0.5 * 0.5 + 0.5 * 2.0)
    with average.in_place():
        assert weight.item() == pytest.approx(1.25)
    assert weight.item() == 2.0


def test_shared_dropout_masks_rows_and_features_alike() -> None:
    torch.manual_seed(0)
    dropout = SharedDropout(0.25)
    out = dropout(torch.ones(64, 5, 32))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert out.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert (out[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(dropout.eval()(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama"])
def test_set_dropout_leaves_no_other(
    make_request: Callable[..., TrainRequest], tmp_path: Path, model_type: str
) -> None:
    bench = workbench(make_request("full", model_type), tmp_path / "out")
    set_dropout(bench.model.body, 0.0)
    assert not any(isinstance(module, torch.nn.Dropout) for module in bench.model.modules())
    bench.model.train()
    once, twice = (vectors(bench.model, bench.dev, [0, 1], bench.pad_id, EXACT) for _ in range(2))
    assert torch.equal(once, twice)


def test_rate_rises_and_falls_to_zero() -> None:
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert max(factors) == pytest.approx(1.0, abs=0.1)
    assert factors.index(max(factors)) in (9, 10)
    assert factors[0] == pytest.approx(0.1, abs=0.02)
    assert 0 < factors[-1] < 0.02
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_schedule_fits_the_budget() -> None:
    def plan(left_s: float) -> Schedule:
        return plan_schedule(
            Recipe(epochs=8, batch_rows=8, body_rate=1, head_rate=1),
            steps_per_epoch=100,
            epoch_s=10.0,
            eval_s=1.0,
            left_s=left_s,
            tokens_per_epoch=5000,
        )

    assert plan(1e6).total_steps == 800
    assert plan(60).total_steps == 400  # (0.85 * 60 - 4) / 11 = 4.27
    assert plan(12.1).total_steps == 52  # part of an epoch: (10.285 - 4 - 1) / 10
    assert plan(5).total_steps == 0
    assert plan(-5).total_steps == 0
    assert plan(60).tokens_per_s == 500


def test_fault_46_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    best = folder.save_best(1, {"w": torch.ones(2)})
    for step in (1, 2):
        folder.save(step, {"w": torch.full((4,), float(step))}, {"step": step, "best": best})
    path = tmp_path / "step-00000002" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    events: list[Event] = []
    with listening(events.append):
        found = folder.newest()
    assert found is not None
    assert (found.facts["step"], found.tensors["w"].tolist()) == (1, [1.0] * 4)
    assert [event.kind for event in events] == ["warning"]
    assert "step-00000002" in events[0].label


def test_fault_46_checkpoint_without_its_best_weights_is_passed_over(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {"w": torch.ones(2)}, {"step": 1, "best": folder.save_best(1, {"w": torch.ones(2)})})
    folder.save(2, {"w": torch.ones(2)}, {"step": 2, "best": folder.save_best(2, {"w": torch.zeros(2)})})
    (tmp_path / "best-00000002.safetensors").write_bytes(b"")
    found = folder.newest()
    assert found is not None
    assert found.facts["step"] == 1


def test_fault_45_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {"w": torch.ones(2)}, {"step": 1, "best": folder.save_best(1, {"w": torch.ones(2)})})
    torn = tmp_path / ".step-00000002.99.partial"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half")
    found = CheckpointFolder(tmp_path).newest()
    assert found is not None
    assert found.facts["step"] == 1
    assert not torn.exists()


KILLED_WHILE_SAVING = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from locum.train.checkpoint import CheckpointFolder

torch.set_num_threads(1)  # a fork has no other threads
root, countdown = Path(sys.argv[1]), -1

def save(folder, step):
    best = folder.save_best(step, {"w": torch.full((3,), float(step))})
    folder.save(step, {"w": torch.full((5000,), float(step))}, {"step": step, "best": best})

def count(event, _arguments):
    global countdown
    if countdown >= 0 and event.split(".")[0] in ("open", "os", "shutil"):
        countdown -= 1  # first: a kill is told here, too
        if countdown < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
first = CheckpointFolder(root / "first")
for step in (1, 2, 3):
    save(first, step)
for place in range(500):
    shutil.copytree(root / "first", root / str(place))
    pid = os.fork()
    if pid == 0:
        countdown = place
        save(CheckpointFolder(root / str(place)), 4)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
def test_fault_45_killed_at_any_step_of_a_save_the_previous_checkpoint_is_used(tmp_path: Path) -> None:
    """The saving process is killed before its first file operation, before its second, … before its last."""
    subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)], check=True, timeout=120)
    places = sorted(int(path.name) for path in tmp_path.iterdir() if path.name != "first")
    assert len(places) > 10
    steps: list[int] = []
    for place in places:
        events: list[Event] = []
        with listening(events.append):
            folder = CheckpointFolder(tmp_path / str(place))
            found = folder.newest()
        assert found is not None and events == [], "nothing half written is taken for a checkpoint"
        step = found.facts["step"]
        assert set(found.tensors["w"].tolist()) == {float(step)}
        assert set(folder.load_best(found.facts["best"])["w"].tolist()) == {float(step)}
        assert not list((tmp_path / str(place)).glob(".*")), "and nothing of it stays"
        best = folder.save_best(5, {"w": torch.ones(3)})
        folder.save(5, {"w": torch.ones(2)}, {"step": 5, "best": best})
        again = CheckpointFolder(tmp_path / str(place)).newest()
        assert again is not None and again.facts["step"] == 5
        steps.append(step)
    assert steps == sorted(steps) and {3, 4} == set(steps) and steps.count(3) > 5


def test_two_checkpoints_and_their_best_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in range(1, 6):
        best = folder.save_best(step, {"w": torch.ones(1) * step})
        folder.save(step, {"w": torch.ones(1)}, {"step": step, "best": best})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-00000004.safetensors",
        "best-00000005.safetensors",
        "step-00000004",
        "step-00000005",
    ]


def test_padding_is_on_the_right() -> None:
    tokens, mask = padded([[5, 6, 7], [8]], pad_id=9)
    assert tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("budget_s", [20.0, 31.7, 45.0, 60.0, 100.0, 141.0, 200.0, 1000.0])
def test_a_schedule_names_the_budgets_that_give_as_many_steps(budget_s: float) -> None:
    def planned(budget_s: float) -> Schedule:
        return plan_schedule(
            RECIPES["encoder"],
            steps_per_epoch=13,
            epoch_s=10.0,
            eval_s=1.5,
            left_s=budget_s - 7.0,
            spent_s=7.0,
            tokens_per_epoch=1000,
        )

    found = planned(budget_s)
    tried = [step / 10 for step in range(70, 5000)]
    same = [each for each in tried if planned(each).total_steps == found.total_steps]
    same_for = found.same_for(0.0)
    if not found.total_steps:
        assert same_for is None
        return
    assert same_for is not None and same_for.hold(budget_s)
    assert [each for each in tried if same_for.hold(each)] == pytest.approx(same, abs=0.11)
    assert (same_for.below_s is None) == (found.epochs == 10)
    longer = found.same_for(same_for.least_s + 1)  # a training that took longer than was planned
    assert longer is not None and not longer.hold(same_for.least_s)
