"""The wide part: what training fits is what the model computes, and it is kept only where it helps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from locum.core.errors import ModelFileError  # noqa: E402
from locum.models.wide import BUCKETS, Wide, ngram_buckets  # noqa: E402
from locum.train.wide import fit_wide, inverse_document_frequency, row_buckets  # noqa: E402


def planted(n: int, seed: int, n_labels: int = 3) -> tuple[list[list[int]], np.ndarray]:
    """Rows of random tokens, one of which tells the label."""
    lots = np.random.default_rng(seed)
    gold = lots.integers(0, n_labels, n)
    rows = [[*lots.integers(1000, 30_000, lots.integers(1, 9)).tolist(), 100 + int(label)] for label in gold]
    return rows, gold


def deep_logits(gold: np.ndarray, right: float, seed: int, n_labels: int = 3) -> np.ndarray:
    """Logits that are right on a share of the rows."""
    lots = np.random.default_rng(seed)
    shown = np.where(lots.random(len(gold)) < right, gold, lots.integers(0, n_labels, len(gold)))
    return (np.eye(n_labels)[shown] * 2).astype(np.float32)


def test_the_part_mends_what_the_deep_part_does_not_see() -> None:
    rows, gold = planted(400, 0)
    dev_rows, dev_gold = planted(200, 1)
    logits = deep_logits(dev_gold, 0.6, 2)
    wide, _ = fit_wide(rows, gold, dev_rows, dev_gold, logits)
    assert wide is not None
    added = torch.cat([wide(torch.tensor([row]), torch.ones(1, len(row))) for row in dev_rows]).numpy()
    before, after = (np.mean(z.argmax(1) == dev_gold) for z in (logits, logits + added))
    assert after > 0.95 > before


def test_a_part_that_knows_nothing_is_not_kept() -> None:
    lots = np.random.default_rng(0)
    rows, _ = planted(200, 0)
    dev_rows, dev_gold = planted(200, 1)
    noise = lots.integers(0, 3, 200)
    assert fit_wide(rows, noise, dev_rows, dev_gold, deep_logits(dev_gold, 1.0, 2) * 5) == (None, 0.0)


def test_training_features_are_the_models_own() -> None:
    rows, _ = planted(50, 3)
    buckets = [row_buckets(row) for row in rows]
    idf = inverse_document_frequency(buckets)
    wide = Wide(3)
    lots = np.random.default_rng(4)
    wide.idf.copy_(torch.from_numpy(idf))
    wide.table.copy_(torch.from_numpy(lots.integers(-127, 128, (BUCKETS, 3)).astype(np.int8)))
    for row, found in zip(rows, buckets, strict=True):
        weights = idf[found]
        by_hand = (weights / np.linalg.norm(weights)) @ wide.table.numpy()[found].astype(np.float32)
        computed = wide(torch.tensor([row]), torch.ones(1, len(row)))[0].numpy()
        np.testing.assert_allclose(computed, by_hand, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing() -> None:
    rows, gold = planted(60, 5)
    wide, _ = fit_wide(rows, gold, rows, gold, np.zeros((60, 3), dtype=np.float32))
    assert wide is not None
    longest = max(map(len, rows))
    ids = torch.tensor([row + [7] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    alone = torch.cat([wide(torch.tensor([row]), torch.ones(1, len(row))) for row in rows])
    torch.testing.assert_close(wide(ids, mask), alone, rtol=1e-4, atol=1e-5)


def test_the_same_rows_give_the_same_part() -> None:
    rows, gold = planted(100, 6)
    first, second = (fit_wide(rows, gold, rows, gold, np.zeros((100, 3), dtype=np.float32))[0] for _ in range(2))
    assert first is not None
    assert second is not None
    assert all(torch.equal(first.state_dict()[name], second.state_dict()[name]) for name in first.state_dict())


def test_two_labels_and_a_label_without_training_rows() -> None:
    rows, gold = planted(200, 7, n_labels=2)
    wide, _ = fit_wide(rows, gold, rows, gold, np.zeros((200, 2), dtype=np.float32))
    assert wide is not None
    wide, _ = fit_wide(rows, gold, rows, gold, np.zeros((200, 4), dtype=np.float32))
    assert wide is not None
    found = torch.cat([wide(torch.tensor([row]), torch.ones(1, len(row))) for row in rows])
    assert set(found.argmax(1).tolist()) == {0, 1}


def test_buckets_stay_in_range_for_large_vocabularies() -> None:
    ids = torch.tensor([[0, 1, 999_999, 262_143]])
    for buckets in ngram_buckets(ids):
        assert int(buckets.min()) >= 0
        assert int(buckets.max()) < BUCKETS


def test_buckets_are_those_of_the_whole_hash_though_integers_stay_in_32_bits() -> None:
    ids = torch.tensor([[7, 30_521, 999_999, 262_143, 101]])
    following = torch.tensor([[30_521, 999_999, 262_143, 101, 0]])
    unigrams, bigrams = ngram_buckets(ids)
    assert torch.equal(unigrams, ids * 2_654_435_761 % BUCKETS)
    assert torch.equal(bigrams, (ids * 2_654_435_761 + following * 2_246_822_519 + 97) % BUCKETS)
    small = ngram_buckets(ids.to(torch.int32))
    assert torch.equal(small[0].long(), unigrams) and torch.equal(small[1].long(), bigrams)


def test_fault_27_a_damaged_wide_part_is_refused(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    from locum.models.base_files import inspect_base
    from locum.models.body import load_body
    from locum.models.classifier import SequenceClassifier, load_student, save_student
    from locum.models.pico import pico_base

    base = inspect_base(pico_base(tmp_path / "base", ["one", "two", "three"]))
    model = SequenceClassifier(load_body(base), base.architecture, 3)
    model.wide = Wide(3)
    model.wide.idf.fill_(0.5)
    save_student(model, tmp_path / "student")
    for name in ("tokenizer.json",):
        (tmp_path / "student" / name).write_bytes((tmp_path / "base" / name).read_bytes())
    again = load_student(tmp_path / "student")
    assert again.wide is not None
    assert float(again.wide.idf[0]) == 0.5
    path = tmp_path / "student" / "head.safetensors"
    tensors = load_file(path)
    tensors["wide.idf"][5] = float("nan")
    save_file(tensors, path, metadata={"pooling": model.pooling})
    with pytest.raises(ModelFileError, match="NaN"):
        load_student(tmp_path / "student")
