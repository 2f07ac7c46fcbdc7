"""The confidence of drafted answers: what it learns, what it does with little, and what it refuses to say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from locum.schema.confidence import ConfidenceModel
from locum.stats.calibration import ece
from locum.stats.ranking import auroc
from locum.students.confidence import confidence_of, fields_and_truth, fields_of, fit_confidence, fit_fields
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


def fielded(n: int, seed: int = 0) -> tuple[list[Draft], list[dict[str, bool]]]:
    """Answers with three fields each, whose log-odds of being right are four plus twice their log-probability."""
    draw = np.random.default_rng(seed)
    made: list[Draft] = []
    correct: list[dict[str, bool]] = []
    for _ in range(n):
        logprobs = {path: -4 * float(draw.random()) for path in ("name", "days", "tags[0]")}
        right = {path: bool(draw.random() < 1 / (1 + np.exp(-4 - 2 * value))) for path, value in logprobs.items()}
        made.append(Draft("{}", {"sure": 0.0}, fields={path: {"logprob_sum": v} for path, v in logprobs.items()}))
        correct.append(right)
    return made, correct


def with_fields(made: list[Draft], correct: list[dict[str, bool]]) -> ConfidenceModel:
    whole = fit_confidence(made, np.array([all(each.values()) for each in correct]))
    return whole.model_copy(update={"fields": fit_fields(made, correct)})


def test_fields_are_calibrated_by_their_own_log_probabilities() -> None:
    model = with_fields(*fielded(400))
    assert model.fields is not None
    assert (model.fields.features, model.fields.rows) == (("logprob_sum",), 1200)
    held_out = fields_and_truth(model, *fielded(2000, seed=1))
    assert held_out is not None
    assert ece(*held_out) < 0.04
    found = fields_of(model, Draft("{}", fields={"sure": {"logprob_sum": -0.1}, "even": {"logprob_sum": -2.0}}))
    assert found is not None
    assert found == pytest.approx({"sure": 1 / (1 + np.exp(-3.8)), "even": 0.5}, abs=0.05)


def test_fields_of_few_answers_say_only_how_many_are_right() -> None:
    made, _ = fielded(40)
    wrong_in_two = [dict.fromkeys(draft.fields, number not in (3, 4)) for number, draft in enumerate(made)]
    model = with_fields(made, wrong_in_two).fields  # six wrong fields, and no more than two wrong answers
    assert model is not None
    assert model.features == ()
    assert model.intercept == pytest.approx(np.log(115 / 7))


def test_without_fields_there_is_no_model_of_them_and_old_documents_load() -> None:
    made, right = drafts(100)
    assert fit_fields(made, [{}] * 100) is None
    model = fit_confidence(made, right)
    old = {name: part for name, part in model.to_json().items() if name != "fields"}
    loaded = ConfidenceModel.from_json(json.dumps(old), "confidence.json")
    assert loaded == model
    assert fields_of(loaded, Draft("{}", {"sure": 0.0}, fields={"a": {"logprob_sum": -1.0}})) is None
    both = with_fields(*fielded(50))
    assert ConfidenceModel.from_json(json.dumps(both.to_json()), "confidence.json") == both
    assert fields_of(both, Draft(None, fields={"a": {"logprob_sum": -1.0}})) is None
