"""Metrics against scikit-learn, with answers that are no label and labels that nobody knows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from locum.core.errors import UserError
from locum.evaluate import metrics
from locum.evaluate.metrics import evaluation
from locum.schema.data import Row
from locum.stats.confusion import confusion, macro_f1, macro_f1_of_rows
from locum.stats.intervals import wilson
from locum.tasks.tag import write_spans

LABELS = ("a", "b", "c", "never")


def sample(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 3, n)
    predicted = np.where(generator.random(n) < 0.7, gold, generator.integers(0, 3, n))
    return gold, predicted


def test_against_scikit_learn() -> None:
    gold, predicted = sample()
    made = evaluation("m", "test", LABELS, gold, predicted)
    assert made.metrics["accuracy"].value == accuracy_score(gold, predicted)
    assert made.metrics["macro_f1"].value == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert made.confusion == tuple(map(tuple, confusion_matrix(gold, predicted, labels=range(4)).tolist()))
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=range(3))
    for k, row in enumerate(made.per_label[:3]):
        assert (row.precision, row.recall, row.f1) == pytest.approx((precision[k], recall[k], f1[k]))
        assert row.support == support[k]
    absent = made.per_label[3]
    assert (absent.support, absent.predicted, absent.precision, absent.recall, absent.f1) == (0, 0, None, None, None)
    assert made.calibration is None
    assert made.invalid == 0


def test_intervals_hold_their_value_and_shrink_with_rows() -> None:
    small, large = (evaluation("m", "test", LABELS, *sample(n)) for n in (100, 3000))
    for name in ("accuracy", "macro_f1"):
        few, many = small.metrics[name], large.metrics[name]
        assert few.low < few.value < few.high
        assert few.high - few.low > 2 * (many.high - many.low)


def test_fault_61_invalid_answers_count_as_wrong_and_are_nobodys_false_positive() -> None:
    gold = np.array([0, 0, 1, 1, 2, 2])
    predicted = np.array([0, -1, 1, -1, 2, 2])
    made = evaluation("llm", "test", LABELS[:3], gold, predicted)
    assert made.invalid == 2
    assert made.metrics["accuracy"].value == pytest.approx(4 / 6)
    assert [row.precision for row in made.per_label] == [1.0, 1.0, 1.0]
    assert [row.recall for row in made.per_label] == [0.5, 0.5, 1.0]
    assert made.metrics["macro_f1"].value == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_an_unknown_gold_label_counts_as_wrong() -> None:
    made = evaluation("m", "test", ("a", "b"), np.array([0, 1, -1, -1]), np.array([0, 1, 0, -1]))
    assert made.metrics["accuracy"].value == 0.5
    assert made.per_label[0].precision == 0.5
    assert made.metrics["macro_f1"].value == pytest.approx((2 / 3 + 1) / 2)


def test_macro_f1_of_rows_is_macro_f1_of_each_resample() -> None:
    gold, predicted = sample(50)
    predicted[:5] = -1
    rows = np.random.default_rng(1).integers(0, 50, (20, 50))
    found = macro_f1_of_rows(gold, predicted, 4)(rows)
    assert found.tolist() == pytest.approx([macro_f1(gold[r], predicted[r], 4) for r in rows])


def test_confusion_has_a_place_for_none_of_them() -> None:
    counts = confusion(np.array([0, 1, -1]), np.array([-1, 1, 0]), 2)
    assert counts.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def logits_of(gold: np.ndarray, right: np.ndarray, margin: np.ndarray, labels: int = 3) -> np.ndarray:
    logits = np.zeros((len(gold), labels), np.float32)
    logits[np.arange(len(gold)), np.where(right, gold, (gold + 1) % labels)] = margin
    return logits


def test_calibration_and_risk_coverage_of_scored_answers() -> None:
    generator = np.random.default_rng(0)
    gold = generator.integers(0, 3, 2000)
    margin = generator.uniform(0.1, 6, 2000)
    chance = np.exp(margin) / (np.exp(margin) + 2)
    logits = logits_of(gold, generator.random(2000) < chance, margin)
    made = evaluation("m", "test", LABELS[:3], gold, logits.argmax(axis=1), confidence_of=(logits, 1.0))
    assert made.calibration is not None
    assert made.calibration.ece < 0.04
    assert made.calibration.auroc is not None and made.calibration.auroc > 0.7
    assert sum(part.n for part in made.calibration.reliability) == 2000
    assert 50 < len(made.risk_coverage) <= 200
    assert made.risk_coverage[-1].coverage == 1.0
    assert made.risk_coverage[-1].risk == pytest.approx(1 - made.metrics["accuracy"].value)
    assert [p.coverage for p in made.risk_coverage] == sorted(p.coverage for p in made.risk_coverage)
    hot = evaluation("m", "test", LABELS[:3], gold, logits.argmax(axis=1), confidence_of=(logits, 0.2))
    assert hot.calibration is not None and hot.calibration.ece > made.calibration.ece


def test_rows_without_scores_are_wrong_and_never_covered() -> None:
    gold = np.array([0, 1, 2, 0])
    logits = logits_of(gold, np.ones(4, bool), np.full(4, 3.0))
    logits[3] = np.nan
    made = evaluation("m", "dev", LABELS[:3], gold, np.array([0, 1, 2, -1]), confidence_of=(logits, 1.0))
    assert made.metrics["accuracy"].value == 0.75
    assert made.risk_coverage[-1].coverage == 0.75
    nothing = evaluation(
        "m", "dev", LABELS[:3], gold, np.full(4, -1), confidence_of=(np.full((4, 3), np.nan, np.float32), 1.0)
    )
    assert nothing.calibration is None
    assert nothing.risk_coverage == ()


def test_no_rows_is_an_error() -> None:
    with pytest.raises(UserError, match="no rows of test"):
        evaluation("m", "test", LABELS, np.array([], np.int64), np.array([], np.int64))


def test_many_labels_stay_quick() -> None:
    generator = np.random.default_rng(0)
    gold = generator.integers(0, 151, 4500)
    made = evaluation("m", "test", tuple(map(str, range(151))), gold, gold)
    assert made.metrics["macro_f1"].value == 1.0


def _row(place: int, output: object) -> Row:
    return Row(id=str(place), input="x", output=json.dumps(output))


def test_each_field_has_precision_recall_and_f1_with_intervals() -> None:
    gold = [{"name": "a", "items": [{"price": 1}, {"price": 2}]}] * 5
    said = [{"name": "a", "items": [{"price": 2}, {"price": 9}], "note": "?"}] * 4
    found = {
        each.label: each
        for each in metrics.per_field([*map(json.dumps, said), None], [_row(i, each) for i, each in enumerate(gold)])
    }
    assert set(found) == {"name", "items[].price", "note"}
    price = found["items[].price"]
    assert (price.right, price.predicted, price.support) == (4, 8, 10)
    assert (price.precision, price.recall, price.f1) == (0.5, 0.4, pytest.approx(2 * 4 / (8 + 10)))
    exact = wilson(4, 8)
    assert (price.within["precision"].low, price.within["precision"].high) == (exact.low, exact.high)
    union = wilson(4, 14)  # F1 is 2J / (1 + J) of the Jaccard index
    assert price.within["f1"].low == pytest.approx(2 * union.low / (1 + union.low))
    assert price.within["f1"].low < price.f1 < price.within["f1"].high
    assert (found["note"].precision, found["note"].recall, found["note"].support) == (0.0, None, 0)
    assert "recall" not in found["note"].within


def test_spans_of_one_type_are_counted_once_and_groups_widen_the_interval() -> None:
    spans = write_spans([(0, 1, "iban"), (2, 3, "name")])
    rows = [Row(id=str(i), input="abcd", output=spans) for i in range(40)]
    outputs = [spans if i < 20 else write_spans([(2, 3, "name"), (2, 3, "iban")]) for i in range(40)]
    iban, name = metrics.per_type(outputs, rows, ["iban", "name"])
    assert (iban.right, iban.predicted, iban.support, name.f1) == (20, 40, 40, 1.0)
    grouped, _ = metrics.per_type(outputs, rows, ["iban", "name"], np.repeat(np.arange(4), 10))
    assert grouped.f1 == iban.f1
    alone, together = iban.within["f1"], grouped.within["f1"]
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
