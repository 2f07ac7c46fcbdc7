"""The confidence of drafted answers: what it learns, what it does with little, and what it refuses to say."""

from __future__ import annotations

import numpy as np
import pytest

from locum.schema.confidence import ConfidenceModel
from locum.stats.calibration import ece
from locum.stats.ranking import auroc
from locum.students.confidence import confidence_of, fit_confidence
from locum.students.confident import ConfidentStudent
from locum.students.protocol import Draft


def drafts(n: int, seed: int = 0, noise: float = 0.0) -> tuple[list[Draft], np.ndarray]:
    """Answers whose log-odds of being right are twice the feature ``sure``."""
    draw = np.random.default_rng(seed)
    sure = draw.normal(size=n)
    right = draw.random(n) < 1 / (1 + np.exp(-2 * sure))
    made = [Draft("x", {"sure": s, "noise": noise * draw.normal(), "same": 1.0}) for s in sure]
    return made, right


def test_a_feature_that_tells_is_weighed_and_one_that_never_varies_is_left_out() -> None:
    made, right = drafts(2000, noise=1.0)
    model = fit_confidence(made, right)
    assert model.features == ("noise", "sure")
    assert model.rows == 2000
    weights = dict(zip(model.features, model.weights, strict=True))
    assert weights["sure"] == pytest.approx(2.0, abs=0.35)  # its scale is one
    assert abs(weights["noise"]) < 0.2


def test_it_is_calibrated_on_rows_it_never_saw() -> None:
    model = fit_confidence(*drafts(600, seed=1, noise=1.0))
    made, right = drafts(4000, seed=2, noise=1.0)
    sure = confidence_of(model, made)
    assert ece(sure, right) < 0.05
    best = auroc(np.array([draft.features["sure"] for draft in made]), right)
    found = auroc(sure, right)
    assert best is not None and found is not None
    assert found > best - 0.01


def test_few_answers_give_the_smoothed_share_of_right_ones() -> None:
    made, _ = drafts(20)
    model = fit_confidence(made, np.array([True] * 17 + [False] * 3))
    assert model.features == ()
    assert confidence_of(model, made) == pytest.approx(np.full(20, 18 / 22))


def test_few_wrong_answers_still_leave_an_order_by_log_probability() -> None:
    made = [Draft("x", {"logprob": -float(place), "other": float(place % 3)}) for place in range(40)]
    model = fit_confidence(made, np.array([True] * 38 + [False] * 2))
    assert (model.features, model.weights) == (("logprob",), (1.0,))
    sure = confidence_of(model, made)
    assert (np.diff(sure) < 0).all()
    middling = Draft("x", {"logprob": model.mean[0]})
    assert confidence_of(model, [middling])[0] == pytest.approx(39 / 42)


def test_what_is_no_answer_has_no_confidence_and_teaches_nothing() -> None:
    made, right = drafts(400)
    silent = [*made, *[Draft(None, {"sure": 9.0, "noise": 0.0, "same": 1.0})] * 200]
    model = fit_confidence(silent, np.concatenate([right, np.zeros(200, bool)]))
    assert model == fit_confidence(made, right)
    assert np.isnan(confidence_of(model, silent)[400:]).all()
    assert np.isfinite(confidence_of(model, silent)[:400]).all()


def test_missing_and_infinite_features_count_as_the_mean() -> None:
    model = fit_confidence(*drafts(400))
    middle = dict(zip(model.features, model.mean, strict=True))
    whole, missing, infinite = (
        confidence_of(model, [Draft("x", features)])[0] for features in (middle, {}, {**middle, "sure": np.inf})
    )
    assert whole == pytest.approx(missing) == pytest.approx(infinite)


def test_nothing_drafted_nothing_said() -> None:
    assert confidence_of(fit_confidence(*drafts(100)), []).shape == (0,)


class _Drafter:
    def __init__(self) -> None:
        self.closed = False

    @property
    def spec(self):
        raise AssertionError("nobody asks")

    def draft(self, texts):
        return [
            Draft(None if "?" in text else text.upper(), {"length": float(len(text))}, truncated_tokens=len(text) - 1)
            for text in texts
        ]

    def close(self) -> None:
        self.closed = True


def test_a_confident_student_answers_with_its_drafts_and_closes_the_drafter() -> None:
    drafter = _Drafter()
    model = ConfidenceModel(features=("length",), mean=(4.0,), scale=(2.0,), weights=(1.0,), intercept=0.0, rows=9)
    student = ConfidentStudent(drafter, model)
    long, short, none = student.answer(["abcdefgh", "ab", "?"])
    assert (long.output, short.output, none.output) == ("ABCDEFGH", "AB", None)
    assert long.confidence == pytest.approx(1 / (1 + np.exp(-2)))
    assert short.confidence == pytest.approx(1 / (1 + np.exp(1)))
    assert np.isnan(none.confidence)
    assert [answer.truncated_tokens for answer in (long, short, none)] == [7, 1, 0]
    student.close()
    assert drafter.closed
