"""Each fast path of tuning against its plain form: packing, attention, chunked loss, frozen layers, micro-batches."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from train_toys import chat_base, tune_request, write_conversations

from locum.core.errors import UserError
from locum.models.base_files import inspect_base
from locum.models.causal import load_causal
from locum.train import attention, tune
from locum.train.adapters import round_frozen
from locum.train.answer_loss import answer_loss
from locum.train.attention import Span, packed_attention, register
from locum.train.checkpoint import CheckpointFolder
from locum.train.forward import Machine
from locum.train.frozen import FrozenPrefix
from locum.train.generating import Decoder, FrozenStates, GeneratorTrainer
from locum.train.lean import gated_silu, rms_norm
from locum.train.mixing import epoch_rows, step_rows
from locum.train.outcome import Clock
from locum.train.packing import Example, pack, packs_of
from locum.train.recipe import TuneRecipe
from locum.train.schedule import Schedule
from locum.train.tune import TuneBench, prepare

EXACT = Machine(torch.device("cpu"), bfloat16=False)
HALF = Machine(torch.device("cpu"), bfloat16=True)
ROWS = [
    Example((5, 6, 7, 8, 9, 10, 11, 12, 13), (14, 15), "a"),
    Example((5, 6, 7, 8, 9, 10, 11, 12, 16, 17), (18,), "a"),
    Example((5, 6, 7, 8, 9, 10, 11, 12, 13, 9), (14, 15, 16, 17), "a"),
    Example((9, 8), (7, 6, 5), "b"),
    Example((10,), (11, 12), "b"),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return chat_base(tmp_path / "base")


def plain_loss(model: Any, rows: list[Example]) -> Tensor:
    """Transformers' own forward pass, one row after the other, all logits, labels of the answers alone."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.prompt + row.answer])
        labels = ids.clone()
        labels[0, : len(row.prompt)] = -100
        total = total + model(input_ids=ids, labels=labels).loss * len(row.answer)
    return total


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("share", [True, False])
def test_packed_rows_give_the_loss_and_gradients_of_each_row_alone(base: Path, share: bool) -> None:
    files = inspect_base(base)
    register()
    plain, packed = load_causal(files), load_causal(files, attention.NAME)
    decoder = Decoder(packed, files.architecture, EXACT)
    wanted, found = plain_loss(plain, ROWS), decoder.loss(pack(ROWS, share=share))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert_same(gradients(packed, found), gradients(plain, wanted))


def test_rows_of_a_pack_do_not_see_each_other(base: Path) -> None:
    files = inspect_base(base)
    register()
    decoder = Decoder(load_causal(files, attention.NAME), files.architecture, EXACT)
    both = decoder.loss(pack([ROWS[0], ROWS[3]]))
    torch.testing.assert_close(both, decoder.loss(pack([ROWS[0]])) + decoder.loss(pack([ROWS[3]])))


def test_a_shared_beginning_is_laid_out_once() -> None:
    laid_out = pack(ROWS)
    assert laid_out.spans[0] == Span(0, 8)
    assert all((span.shared_start, span.shared) == (0, 8) for span in laid_out.spans[1:4])
    assert len(laid_out.ids) == sum(len(row.ids) for row in ROWS) - 2 * 8
    assert laid_out.targets.tolist() == [token for row in ROWS for token in row.answer]
    before = [token for row in ROWS for token in (row.prompt + row.answer)[len(row.prompt) - 1 : -1]]
    assert laid_out.ids[laid_out.reads].tolist() == before


def test_equal_prompts_keep_their_last_token_to_themselves() -> None:
    laid_out = pack([Example(tuple(range(10)), (3,)), Example(tuple(range(10)), (4,))])
    assert [span.length for span in laid_out.spans] == [9, 1, 1]


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...], window: int | None, softcap: float | None
) -> Tensor:
    """The definition: one mask over everything."""
    heads, tokens, width = query.shape
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for span in spans:
        for own in range(span.length):
            place = span.shared + own
            for seen in range(place + 1):
                column = span.shared_start + seen if seen < span.shared else span.start + seen - span.shared
                mask[span.start + own, column] = window is None or place - seen < window
    repeated = [states.repeat_interleave(heads // len(states), dim=0) for states in (key, value)]
    scores = query @ repeated[0].transpose(1, 2) / math.sqrt(width)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ repeated[1]).transpose(0, 1)


@pytest.mark.parametrize("block", [3, 256])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 2.0), (4, 2.0)])
def test_packed_attention_equals_the_masked_matrix(
    monkeypatch: pytest.MonkeyPatch, block: int, window: int | None, softcap: float | None
) -> None:
    monkeypatch.setattr(attention, "_BLOCK", block)
    torch.manual_seed(1)
    spans = (Span(0, 3), Span(3, 5, 0, 3), Span(8, 1, 0, 3), Span(9, 7))
    states = [torch.randn(heads, 16, 8, requires_grad=True) for heads in (4, 2, 2)]
    wanted = dense_attention(*states, spans, window, softcap)
    found = packed_attention(*states, spans, scale=1 / math.sqrt(8), window=window, softcap=softcap)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(wanted)
    for ours, plain in zip(
        torch.autograd.grad(found, states, direction), torch.autograd.grad(wanted, states, direction), strict=True
    ):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunked_loss_equals_cross_entropy(chunk: int, softcap: float | None) -> None:
    torch.manual_seed(1)
    states, weight = torch.randn(11, 6, requires_grad=True), torch.randn(20, 6, requires_grad=True)
    targets = torch.randint(20, (11,))
    logits = states @ weight.T
    wanted = functional.cross_entropy(
        softcap * torch.tanh(logits / softcap) if softcap else logits, targets, reduction="sum"
    )
    found = answer_loss(states, weight, targets, softcap=softcap, chunk=chunk)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for ours, plain in zip(
        torch.autograd.grad(found * 0.5, [states, weight]),
        torch.autograd.grad(wanted * 0.5, [states, weight]),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lean_norm_equals_the_plain_one(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    states, weight = torch.randn(7, 16, dtype=dtype, requires_grad=True), torch.randn(16, requires_grad=True)
    wanted = functional.rms_norm(states.float(), (16,), weight, 1e-5)
    found = rms_norm(states, weight, 1e-5)
    room = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.02}
    torch.testing.assert_close(found.float(), wanted, **room)
    direction = torch.randn_like(wanted)
    slopes = (torch.autograd.grad(result, [states, weight], direction.to(result.dtype)) for result in (found, wanted))
    for ours, plain in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, plain, **room)


def test_lean_gate_equals_the_plain_one() -> None:
    torch.manual_seed(1)
    gate, up = torch.randn(5, 9, requires_grad=True), torch.randn(5, 9, requires_grad=True)
    found, wanted = gated_silu(gate, up), functional.silu(gate) * up
    torch.testing.assert_close(found, wanted)
    direction = torch.randn_like(wanted)
    slopes = (torch.autograd.grad(result, [gate, up], direction) for result in (found, wanted))
    for ours, plain in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [False, True])
def test_packs_hold_every_row_once_within_their_limits(share: bool) -> None:
    rows = [Example(tuple(range(length)), (1,), task) for length in (5, 9, 3, 40, 7) for task in ("a", "b")]
    parts = packs_of(range(len(rows)), rows, 3, 16, share=share)
    assert sorted(row for part in parts for row in part) == list(range(len(rows)))
    assert all(len(part) <= 3 for part in parts)
    sizes = [len(pack([rows[row] for row in part], share=share).ids) for part in parts]
    assert all(len(part) == 1 or size <= 16 for part, size in zip(parts, sizes, strict=True))
    assert sizes == sorted(sizes, reverse=True)


def test_no_pass_of_random_rows_is_larger_than_counted() -> None:
    lots = random.Random(1)
    begins = [tuple(lots.choices(range(3), k=length)) for length in (2, 8, 9, 20)]
    for _ in range(50):
        rows = [
            Example(lots.choice(begins) + tuple(lots.choices(range(3), k=lots.randint(1, 9))), (1, 2))
            for _ in begins * 3
        ]
        for part in packs_of(range(len(rows)), rows, None, 40):
            assert len(pack([rows[row] for row in part]).ids) <= 40


def test_what_rows_share_is_counted_once() -> None:
    rows = [Example((*range(100), number, 7), (1, 2)) for number in range(9)]
    assert len(rows[0].ids) == 103
    (together,) = packs_of(range(9), rows, None, 127)
    assert len(pack([rows[row] for row in together]).ids) == 127
    assert [len(part) for part in packs_of(range(9), rows, None, 126)] == [8, 1]
    assert len(packs_of(range(9), rows, None, 127, share=False)) == 9


def test_an_epoch_without_temperature_is_every_row_once_and_depends_on_seed_and_epoch_alone() -> None:
    tasks = ["a"] * 7 + ["b"] * 3
    first = epoch_rows(tasks, 1.0, seed=1, epoch=0)
    assert sorted(first) == list(range(10))
    assert first == epoch_rows(tasks, 1.0, seed=1, epoch=0)
    assert first != epoch_rows(tasks, 1.0, seed=1, epoch=1)
    assert [len(batch) for batch in step_rows(first, 4)] == [4, 4, 2]


def test_a_large_task_is_seen_whole_over_several_epochs() -> None:
    tasks = ["a"] * 8 + ["b"] * 2
    seen = [row for epoch in range(8) for row in epoch_rows(tasks, 1e9, seed=1, epoch=epoch) if row < 8]
    assert len(seen) == 8 * 5
    assert {seen.count(row) for row in range(8)} == {5}


@pytest.fixture
def bench_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TuneBench]:
    monkeypatch.setattr(tune, "this_machine", lambda: EXACT)
    return lambda method="full", **fields: prepare(tune_request(tmp_path, method, **fields))


def trainer_of(bench: TuneBench, folder: Path, states: Any = None, micro_batch: int | None = None) -> GeneratorTrainer:
    return GeneratorTrainer(
        Decoder(bench.model, bench.base.architecture, bench.machine),
        bench.train.examples,
        bench.dev.examples,
        states=states,
        mixing=1.0,
        recipe=TuneRecipe(epochs=1, batch_rows=8, rate=1e-2),
        schedule=Schedule(8, 8, None, micro_batch),
        checkpoints=CheckpointFolder(folder / "checkpoints"),
        clock=Clock(1e9),
        seed=1,
    )


def test_micro_batches_accumulate_to_the_same_gradients(bench_of: Callable[..., TuneBench], tmp_path: Path) -> None:
    bench = bench_of()
    found = []
    for micro_batch in (None, 3, 1):
        trainer = trainer_of(bench, tmp_path, micro_batch=micro_batch)
        losses = list(trainer.losses(list(range(8))))
        assert len(losses) == {None: 1, 3: 3, 1: 8}[micro_batch]
        found.append(gradients(bench.model, torch.stack(losses).sum()))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_cached_states_of_frozen_layers_change_nothing(
    bench_of: Callable[..., TuneBench], tmp_path: Path, method: str
) -> None:
    bench = bench_of(method, layers=1)
    trainer = trainer_of(bench, tmp_path)
    rows = list(range(8))
    wanted = torch.stack(list(trainer.losses(rows))).sum()
    slopes = gradients(bench.model, wanted)
    assert slopes.keys() == {name for name, weight in bench.model.named_parameters() if weight.requires_grad}
    assert all("layers.1." in name or name == "model.norm.weight" for name in slopes)
    decoder = trainer.decoder
    prefix = FrozenPrefix(decoder.body, bench.base.architecture, 1)
    states = FrozenStates(decoder, prefix).read(bench.train.examples, "read")
    prefix.remove()
    cached = trainer_of(bench, tmp_path, states=(states, []))
    found = torch.stack(list(cached.losses(rows))).sum()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    again = gradients(bench.model, found)
    assert_same({name.replace("layers.0.", "layers.1."): value for name, value in again.items()}, slopes)


def test_frozen_matrices_in_bfloat16_are_what_autocast_reads(bench_of: Callable[..., TuneBench]) -> None:
    bench = bench_of("lora")
    decoder = Decoder(bench.model, bench.base.architecture, HALF)
    laid_out = pack(bench.train.examples[:8])
    wanted = decoder.loss(laid_out)
    slopes = gradients(bench.model, wanted)
    round_frozen(bench.model)
    found = decoder.loss(laid_out)
    assert found.item() == wanted.item()
    for name, value in gradients(bench.model, found).items():
        assert torch.equal(value, slopes[name])


def test_bfloat16_stays_near_float32(bench_of: Callable[..., TuneBench]) -> None:
    bench = bench_of()
    laid_out = pack(bench.train.examples[:8])
    half, exact = (Decoder(bench.model, bench.base.architecture, machine).loss(laid_out) for machine in (HALF, EXACT))
    torch.testing.assert_close(half, exact, atol=0, rtol=1e-2)


def test_dev_is_scored_by_token_and_by_task(base: Path, bench_of: Callable[..., TuneBench], tmp_path: Path) -> None:
    write_conversations(tmp_path / "train.jsonl", 8, 1)
    write_conversations(tmp_path / "dev.jsonl", 9, 2, tasks=("a", "b"))
    bench = bench_of()
    score = trainer_of(bench, tmp_path).score()
    plain = load_causal(inspect_base(base))
    with torch.no_grad():
        for task in ("a", "b"):
            rows = [row for row in bench.dev.examples if row.task == task]
            mean = plain_loss(plain, rows).item() / sum(len(row.answer) for row in rows)
            assert score.losses[task] == pytest.approx(mean, abs=1e-5)
        tokens = sum(len(row.answer) for row in bench.dev.examples)
        assert score.loss == pytest.approx(plain_loss(plain, bench.dev.examples).item() / tokens, abs=1e-5)


def test_unknown_target_names_the_nearest(bench_of: Callable[..., TuneBench]) -> None:
    with pytest.raises(UserError, match="nearest: q_proj") as caught:
        bench_of("lora", targets=("qproj",))
    assert caught.value.code == "train-request"


def test_more_layers_than_there_are_is_refused(bench_of: Callable[..., TuneBench]) -> None:
    with pytest.raises(UserError, match="more than the base's 2") as caught:
        bench_of(layers=3)
    assert caught.value.code == "train-request"
