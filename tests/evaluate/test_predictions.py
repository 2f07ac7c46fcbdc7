"""Predictions and their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import CheckFailed, ModelFileError
from locum.evaluate.predictions import Predictions, gold_index, ids_hash
from locum.evaluate.scored import require_same_rows
from locum.schema.data import Row

ROWS = [Row(id=f"t:{i}", input=f"text {i}", output="ab"[i % 2]) for i in range(4)]


def made(model: str = "m", rows: list[Row] = ROWS) -> Predictions:
    logits = np.array([[2, 0], [2, 0], [0, 3], [np.nan, 1]], np.float32)[: len(rows)]
    return Predictions(model, "dev", ("a", "b"), ids_hash(rows), logits, gold_index(rows, ("a", "b")))


def test_round_trip_is_exact_and_repeatable(tmp_path: Path) -> None:
    first = made()
    first.save(tmp_path / "p.npz")
    again = Predictions.load(tmp_path / "p.npz")
    assert (again.model, again.split, again.labels, again.ids_hash) == ("m", "dev", ("a", "b"), first.ids_hash)
    np.testing.assert_array_equal(again.logits, first.logits)
    np.testing.assert_array_equal(again.gold, first.gold)
    again.save(tmp_path / "q.npz")
    assert (tmp_path / "q.npz").read_bytes() == (tmp_path / "p.npz").read_bytes()


def test_correct_and_confidence() -> None:
    predictions = made()
    assert predictions.predicted.tolist() == [0, 0, 1, -1]
    assert predictions.correct.tolist() == [True, False, False, False]
    confidence = predictions.confidence(2.0)
    assert confidence[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert np.isnan(confidence[3])


def test_a_gold_label_that_the_model_does_not_know_is_never_right() -> None:
    rows = [Row(id="1", input="x", output="unknown")]
    predictions = Predictions(
        "m", "test", ("a",), ids_hash(rows), np.array([[np.nan]], np.float32), gold_index(rows, ("a",))
    )
    assert predictions.gold.tolist() == [-1]
    assert not predictions.correct.any()


def test_pickled_content_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", labels=np.array([{"a": 1}], dtype=object), logits=np.zeros((1, 1)), gold=np.zeros(1))
    with pytest.raises(ModelFileError, match="evaluate-predictions"):
        Predictions.load(tmp_path / "p.npz")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(ModelFileError, match="evaluate-predictions"):
        Predictions.load(tmp_path / "p.npz")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="absent.npz"):
        Predictions.load(tmp_path / "absent.npz")


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    wrong = made()
    object.__setattr__(wrong, "gold", np.zeros(3, np.int64))
    wrong.save(tmp_path / "p.npz")
    with pytest.raises(ModelFileError, match="3 rows"):
        Predictions.load(tmp_path / "p.npz")


def test_only_answers_to_the_same_rows_are_compared() -> None:
    require_same_rows(made("a").scored(1.0), made("b").scored(1.0))
    with pytest.raises(CheckFailed, match="did not answer the same rows"):
        require_same_rows(made("a").scored(1.0), made("b", ROWS[::-1]).scored(1.0))
