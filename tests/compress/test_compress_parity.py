"""The verdict: planted agreement, lost accuracy, and logits that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from locum.compress.parity import check, describe_failure
from locum.schema.model import Parity


def table(labels: np.ndarray, classes: int = 3, margin: float = 2.0) -> np.ndarray:
    """Logits whose largest column is ``labels``."""
    return (np.eye(classes, dtype=np.float32)[labels] * margin).astype(np.float32)


def verdict(trained: np.ndarray, exported: np.ndarray, gold: np.ndarray, **options: float) -> Parity:
    return check(table(trained), table(exported), gold, engine="onnx", precision="int8", **options)


def changed(labels: np.ndarray, rows: int) -> np.ndarray:
    """The same labels with the first rows moved to the next label."""
    result = labels.copy()
    result[:rows] = (result[:rows] + 1) % 3
    return result


LABELS = np.random.default_rng(0).integers(0, 3, size=400)


def test_equal_logits_pass_without_a_gap() -> None:
    parity = verdict(LABELS, LABELS, LABELS)
    assert parity.passed and parity.label_agreement == 1.0 and parity.mean_gap == parity.max_gap == 0.0
    assert (parity.n, parity.accuracy_trained, parity.accuracy_exported) == (400, 1.0, 1.0)


@pytest.mark.parametrize(("rows", "passed"), [(4, True), (12, True), (13, False), (200, False)])
def test_agreement_below_the_tolerance_fails(rows: int, passed: bool) -> None:
    gold = changed(LABELS, 400)  # both are wrong everywhere: no accuracy is lost, labels still differ
    parity = verdict(LABELS, changed(LABELS, rows), changed(gold, 400))
    assert parity.label_agreement == 1 - rows / 400
    assert parity.passed is passed


@pytest.mark.parametrize(("lost", "passed"), [(2, True), (4, True), (5, False), (12, False)])
def test_accuracy_lost_beyond_chance_fails(lost: int, passed: bool) -> None:
    parity = verdict(LABELS, changed(LABELS, lost), LABELS, min_agreement=0.9)
    assert parity.accuracy_exported == 1 - lost / 400
    assert parity.passed is passed  # 4 of 400: 4 ≤ 2√4; 5 of 400: 5 > 2√5 and above 0.5 %


def test_losses_that_gains_make_up_for_pass() -> None:
    gold = LABELS.copy()
    trained, exported = LABELS.copy(), LABELS.copy()
    exported[:6] = (gold[:6] + 1) % 3
    trained[6:12] = (gold[6:12] + 1) % 3
    parity = verdict(trained, exported, gold)
    assert parity.accuracy_trained == parity.accuracy_exported and parity.passed


def test_a_tolerance_that_was_asked_is_in_force() -> None:
    worse = changed(LABELS, 8)
    assert not verdict(LABELS, worse, LABELS).passed
    assert verdict(LABELS, worse, LABELS, max_accuracy_drop=0.02).passed
    assert not verdict(LABELS, worse, LABELS, max_accuracy_drop=0.02, min_agreement=0.99).passed


def test_gaps_are_differences_of_probabilities() -> None:
    draw = np.random.default_rng(4)
    one = draw.normal(size=(50, 5)).astype(np.float32)
    two = one + draw.normal(scale=0.1, size=(50, 5)).astype(np.float32)
    parity = check(one, two, one.argmax(1), engine="onnx", precision="int8")
    gaps = np.abs(softmax(one.astype(float), axis=1) - softmax(two.astype(float), axis=1))
    assert parity.mean_gap == pytest.approx(gaps.mean())
    assert parity.max_gap == pytest.approx(gaps[np.arange(50), one.argmax(1)].max())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fault_34_logits_that_are_no_numbers_fail(value: float) -> None:
    exported = table(LABELS)
    exported[:] = value
    parity = check(table(LABELS), exported, LABELS, engine="onnx", precision="int8", min_agreement=0.0)
    assert parity.label_agreement == 0.0 and parity.accuracy_exported == 0.0 and not parity.passed
    assert parity.mean_gap == 1.0


def test_fault_34_a_constant_answer_fails() -> None:
    parity = verdict(LABELS, np.zeros_like(LABELS), LABELS)
    assert not parity.passed and "labels agree on" in describe_failure(parity)


def test_the_reason_names_what_failed() -> None:
    disagreeing = verdict(LABELS, changed(LABELS, 40), LABELS)
    assert describe_failure(disagreeing) == "onnx int8: labels agree on 90.0 % of 400 rows, needed 97.0 %"
    worse = verdict(LABELS, changed(LABELS, 8), LABELS)
    assert describe_failure(worse).startswith("onnx int8: accuracy 0.980 on 400 rows, trained 1.000")


@pytest.mark.parametrize("rows", [0, 399])
def test_tables_that_do_not_fit_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        check(table(LABELS), table(LABELS[:rows]), LABELS, engine="onnx", precision="int8")
    with pytest.raises(ValueError, match="do not fit"):
        check(table(LABELS[:0]), table(LABELS[:0]), LABELS[:0], engine="onnx", precision="int8")
