"""Encoders that rank: the loss against a plain loop, batches, parts of a batch against the whole, the three methods."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from locum.core.errors import LocumError, UserError
from locum.core.files import write_json
from locum.data.rankings import Rankings, read_rankings
from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.schema.data import Row
from locum.schema.training import Trained
from locum.students.ranking import BM25, read_bm25
from locum.train import ranking, ranking_encoder
from locum.train.checkpoint import CheckpointFolder
from locum.train.contrastive import (
    BiEncoder,
    RankingTrainer,
    cosines,
    draw_batch,
    info_nce,
    rows_by_shared_candidates,
)
from locum.train.dropout import set_dropout
from locum.train.forward import Machine
from locum.train.outcome import Clock
from locum.train.recipe import RANK_RECIPE
from locum.train.schedule import Schedule

from ranking_toys import rank_request, write_rankings  # isort: skip

EXACT = Machine(torch.device("cpu"), bfloat16=False)
RECIPE = dataclasses.replace(RANK_RECIPE, epochs=6, batch_rows=16, batch_texts=8, rate=3e-3, dropout=0.0)


def rankings(*rows: tuple[list[str], list[float]]) -> Rankings:
    """Rows of given candidates and grades, about anything."""
    made = [
        Row(id=str(i), input=json.dumps({"q": f"query {i}", "c": texts}), output=json.dumps(grades))
        for i, (texts, grades) in enumerate(rows)
    ]
    return read_rankings(made)


def units(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 5, generator=generator, dtype=torch.float64), dim=1)


def test_the_loss_is_that_of_a_plain_loop() -> None:
    queries, texts = units(4, 1), units(7, 2)
    positive = [2, 0, 2, 6]
    hidden = torch.zeros(4, 7, dtype=torch.bool)
    hidden[0, [3, 4]] = hidden[3, 0] = True
    total = 0.0
    for q in range(4):
        scores = [math.exp(float(queries[q] @ texts[d]) / 0.1) for d in range(7)]
        total -= math.log(scores[positive[q]] / sum(s for d, s in enumerate(scores) if not hidden[q, d]))
    found = info_nce(queries, texts, torch.tensor(positive), hidden, 0.1)
    assert float(found) == pytest.approx(total / 4, rel=1e-12)


def test_rows_keep_their_grades_when_their_candidates_are_put_in_another_order() -> None:
    given = rankings((["a", "b", "c", "d"], [0, 2, 0, 1]), (["c", "e"], [1, 0]))
    for query, grades, places in zip(given.queries, given.grades, given.places, strict=True):
        assert [given.texts[place] for place in places] == list(query.texts)
        assert {text: grade for text, grade in zip(query.texts, grades, strict=True) if grade} in (
            {"b": 2.0, "d": 1.0},
            {"c": 1.0},
        )
    assert sorted(given.texts) == ["a", "b", "c", "d", "e"]


def test_equal_scores_win_nothing_wherever_the_right_candidate_was_put() -> None:
    texts = [f"note {n}" for n in range(20)]
    rows = [Row(id=str(i), input=json.dumps({"q": f"q{i}", "c": texts}), output=json.dumps([0])) for i in range(300)]
    given = read_rankings(rows)
    ties = given.mean_ndcg(np.zeros(20) for _ in rows)
    chance = float(np.mean([1 / math.log2(place + 2) if place < 10 else 0.0 for place in range(20)]))
    assert ties == pytest.approx(chance, abs=0.06)


def test_a_batch_has_a_relevant_candidate_for_each_query_and_hides_its_others() -> None:
    given = rankings(
        (["a", "b", "c"], [1, 0, 0]), (["a", "d", "e"], [1, 1, 0]), (["f", "g", "b"], [0, 0, 1]), (["h", "i"], [1, 1])
    )
    for seed in range(30):
        batch = draw_batch(given, [0, 1, 2, 3], 6, random.Random(seed))
        names = [given.texts[text] for text in batch.texts]
        assert len(names) == len(set(names)) <= 6
        for row, place in zip(batch.rows, batch.positive.tolist(), strict=True):
            relevant = {
                text for text, grade in zip(given.queries[row].texts, given.grades[row], strict=True) if grade > 0
            }
            assert names[place] in relevant
            assert {names[i] for i in batch.hidden[row].nonzero().flatten()} == (relevant & set(names)) - {names[place]}
        assert not batch.hidden[range(4), batch.positive].any()


def test_every_row_comes_once_and_rows_with_the_same_candidates_together() -> None:
    groups = [[f"{group}{n}" for n in range(5)] for group in "abcdefgh"]
    given = rankings(*((groups[i % 8], [1, 0, 0, 0, 0]) for i in range(64)))
    batches = rows_by_shared_candidates(given, 8, "1-0")
    assert sorted(row for batch in batches for row in batch) == list(range(64))
    assert all(len({row % 8 for row in batch}) == 1 for batch in batches)
    assert batches == rows_by_shared_candidates(given, 8, "1-0") != rows_by_shared_candidates(given, 8, "1-1")


def trainer(folder: Path, *, micro_batch: int | None, dropout: float = 0.0) -> RankingTrainer:
    request = rank_request(folder, "full")
    (folder / "out").mkdir(exist_ok=True)
    bench, _ = ranking_encoder._prepare(request, folder / "out", Clock(1e9))
    set_dropout(bench.model.body, dropout)
    return RankingTrainer(
        bench.model,
        bench.train,
        bench.dev,
        pad_id=bench.vocabulary.pad_id,
        machine=EXACT,
        recipe=RECIPE,
        schedule=Schedule(40, 20, None, micro_batch),
        checkpoints=CheckpointFolder(folder / "checkpoints"),
        clock=Clock(1e9),
        seed=1,
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(tmp_path: Path, dropout: float) -> None:
    found: list[tuple[float, list[torch.Tensor]]] = []
    for micro_batch in (3, 1000):  # 1000: all queries in one part and all candidates in another, carried back alike
        tuned = trainer(tmp_path, micro_batch=micro_batch)
        found.append(_gradients(tuned))
    found.append(_gradients(trainer(tmp_path, micro_batch=None)))
    for loss, gradients in found[:2]:
        assert loss == pytest.approx(found[2][0], rel=1e-5)
        for one, other in zip(gradients, found[2][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    if dropout:  # masks are those of the first pass: carried gradients are those of the loss that was told
        whole = _gradients(trainer(tmp_path, micro_batch=None, dropout=dropout))
        parts = _gradients(trainer(tmp_path, micro_batch=1000, dropout=dropout))
        assert parts[0] == pytest.approx(whole[0], rel=1e-5)
        for one, other in zip(parts[1], whole[1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def _gradients(tuned: RankingTrainer) -> tuple[float, list[torch.Tensor]]:
    tuned.model.train()
    torch.manual_seed(7)
    total = 0.0
    for loss in tuned.losses(list(range(12))):
        loss.backward()
        total += float(loss.detach())
    return total, [weight.grad.clone() for weight in tuned.weights if weight.grad is not None]


def run(folder: Path, method: str, **fields: Any) -> Trained:
    out = folder / f"out-{method}"
    out.mkdir(exist_ok=True)
    write_json(folder / f"{method}.json", rank_request(folder, method, **fields).to_json())
    ranking.main(folder / f"{method}.json", out)
    return Trained.from_json((out / "trained.json").read_bytes(), str(out))


def test_bm25_is_fitted_counted_over_train_and_chosen_on_dev(tmp_path: Path) -> None:
    trained = run(tmp_path, "linear")
    bm25 = read_bm25(tmp_path / "out-linear" / BM25)
    assert len(trained.curve) == 25
    assert trained.dev_accuracy == max(point.dev_accuracy or 0 for point in trained.curve)
    assert (trained.settings["k1"], trained.settings["b"]) == (bm25.statistics.k1, bm25.statistics.b)
    assert bm25.statistics.texts == 6
    assert set(trained.files) == {BM25, "dev_logits.npy"}
    assert trained.parameters == len(bm25.statistics.words) + 2


def test_tuning_learns_what_words_cannot_tell_and_a_frozen_base_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = run(tmp_path, "head")
    body = load_body(inspect_base(tmp_path / "base"))
    kept = load_body(inspect_base(tmp_path / "out-head"))
    for one, other in zip(body.state_dict().values(), kept.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    monkeypatch.setattr(ranking_encoder, "RANK_RECIPE", RECIPE)
    tuned = run(tmp_path, "full")
    assert frozen.dev_accuracy is not None and tuned.dev_accuracy is not None
    assert tuned.dev_accuracy > max(0.95, frozen.dev_accuracy)
    assert tuned.curve[0].dev_accuracy == pytest.approx(frozen.dev_accuracy, abs=0.02)
    assert {"config.json", "model.safetensors", "tokenizer.json", BM25, "dev_logits.npy"} == set(tuned.files)
    scores = np.load(tmp_path / "out-full" / "dev_logits.npy")
    assert scores.shape == (32 * 4, 1) and np.abs(scores).max() <= 1.0001


def test_cosines_are_those_of_texts_read_alone(tmp_path: Path) -> None:
    tuned = trainer(tmp_path, micro_batch=None)
    model, split = tuned.encoder.eval(), tuned.dev_split
    found = cosines(model, split, tuned.pad_id, EXACT, exact=True)
    with torch.no_grad():
        for row in (0, 5):
            ids = [split.queries[row], *(split.texts[place] for place in split.rankings.places[row])]
            alone = torch.cat([model(torch.tensor([each]), torch.ones(1, len(each))) for each in ids])
            np.testing.assert_allclose(found[row], (alone[1:] @ alone[0]).numpy(), atol=1e-5)


def test_a_base_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    from locum.models.pico import pico_base

    decoder = pico_base(tmp_path / "decoder", ["a", "b"], "llama")
    for base, why in ((None, "needs a base"), (str(decoder), "vectors come from an encoder")):
        with pytest.raises(UserError, match=why) as caught:
            run(tmp_path, "head", base=base)
        assert caught.value.code == "train-request"


def test_an_encoder_that_answers_nan_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: BiEncoder, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.full((len(input_ids), self.width), torch.nan)

    monkeypatch.setattr(BiEncoder, "forward", broken)
    with pytest.raises(LocumError) as caught:
        run(tmp_path, "head")
    assert caught.value.code == "train-nan"
    assert not (tmp_path / "out-head" / "model.safetensors").exists()


def test_damaged_rows_are_told_with_their_place(tmp_path: Path) -> None:
    write_rankings(tmp_path / "train.jsonl", 12, 1)
    (tmp_path / "train.jsonl").write_text((tmp_path / "train.jsonl").read_text() + "{\n")
    with pytest.raises(UserError, match=r"train\.jsonl:13"):
        run(tmp_path, "linear")


def test_a_job_that_went_on_from_a_checkpoint_ends_with_the_same_weights(tmp_path: Path) -> None:
    def steps(tuned: RankingTrainer, count: int) -> RankingTrainer:
        for batch in tuned.batches(0)[tuned.progress.step :][:count]:
            tuned.step(batch)
        return tuned

    straight = steps(trainer(tmp_path, micro_batch=None, dropout=0.2), 5)
    stopped = steps(trainer(tmp_path, micro_batch=None, dropout=0.2), 3)
    stopped._evaluate(None)
    stopped._save()
    resumed = trainer(tmp_path, micro_batch=None, dropout=0.2)
    assert resumed._resume() and resumed.progress.step == 3
    steps(resumed, 2)
    for one, other in zip(resumed.weights, straight.weights, strict=True):
        assert torch.equal(one, other)
