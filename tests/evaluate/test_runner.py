"""Running a student over rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import LocumError
from locum.core.progress import Event, listening
from locum.evaluate.predictions import Predictions
from locum.evaluate.runner import evaluate, evaluate_classifier, predict, wrong_examples
from locum.runtime.fake import FakeClassifier
from locum.schema.data import Row

LABELS = ("neg", "pos")
ROWS = [Row(id=str(i), input="x" * (50 - i) + str(i % 3), output=LABELS[i % 2]) for i in range(50)]


def by_text(text: str) -> list[float]:
    return [float(len(text)), float(text[-1])]


def test_logits_come_back_in_the_order_of_the_inputs() -> None:
    texts = [row.input for row in ROWS]
    events: list[Event] = []
    with listening(events.append):
        logits = predict(FakeClassifier(LABELS, by_text), texts, batch_size=7)
    assert logits.tolist() == [by_text(text) for text in texts]
    assert events[-1].kind == "done" and events[-1].done == 50


def test_no_inputs_give_no_logits() -> None:
    assert predict(FakeClassifier(LABELS), []).shape == (0, 2)


def test_every_figure_comes_from_the_file(tmp_path: Path) -> None:
    answers = {row.input: row.output if i % 5 else "pos" for i, row in enumerate(ROWS)}
    student = FakeClassifier(LABELS, answers, temperature=2.0)
    made, predictions = evaluate_classifier(student, ROWS, "test", path=tmp_path / "test.npz")
    assert made.metrics["accuracy"].value == 0.9
    assert made.calibration is not None and made.calibration.temperature == 2.0
    assert evaluate(Predictions.load(tmp_path / "test.npz"), 2.0) == made
    assert predictions.model == made.model == "fake"
    assert evaluate(predictions, 1.0) != made


def test_an_engine_that_fails_is_not_hidden(tmp_path: Path) -> None:
    student = FakeClassifier(LABELS, fault=LocumError("core-internal", "broken"))
    with pytest.raises(LocumError, match="broken"):
        evaluate_classifier(student, ROWS, "test", path=tmp_path / "test.npz")
    assert not (tmp_path / "test.npz").exists()


def test_wrong_examples_are_the_surest_first() -> None:
    margins = {row.input: [i / 10, 0.0] for i, row in enumerate(ROWS)}
    _, predictions = evaluate_classifier(FakeClassifier(LABELS, margins), ROWS, "test")
    worst = wrong_examples(predictions, ROWS, 1.0, limit=3)
    assert [example.id for example in worst] == ["49", "47", "45"]
    assert (worst[0].gold, worst[0].predicted) == ("pos", "neg")
    assert worst[0].confidence == pytest.approx(1 / (1 + np.exp(-4.9)), abs=1e-6)
    with pytest.raises(ValueError, match="another split"):
        wrong_examples(predictions, ROWS[::-1], 1.0)


def test_wrong_examples_leave_out_rows_without_scores() -> None:
    student = FakeClassifier(LABELS, lambda _: [np.nan, 0.0])
    _, predictions = evaluate_classifier(student, ROWS, "test")
    assert wrong_examples(predictions, ROWS, 1.0) == ()
