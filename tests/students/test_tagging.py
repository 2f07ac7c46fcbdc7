"""A token classifier as a student: spans of its text as JSON, and numbers that say where it doubts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.core.errors import ModelFileError
from locum.runtime.protocol import TaggedText
from locum.schema.model import ModelSpec
from locum.schema.task import Task
from locum.students.open import open_drafter
from locum.students.protocol import Drafter
from locum.students.tagging import TaggingStudent, reading_features
from locum.tasks import open_kind
from locum.tasks.bio import BioTags
from locum.testing import pico_tagger

TAGS = BioTags.of_types(["PERSON", "CITY"])
WORDS = {"B-PERSON": ("anna", "bo"), "I-PERSON": ("berg",), "B-CITY": ("new", "rome"), "I-CITY": ("york",)}


def task(**fields: Any) -> Task:
    base: dict[str, Any] = {
        "version": 1,
        "name": "people",
        "kind": "tag",
        "instruction": "Find people and cities.",
        "data": {"train": "a.jsonl", "input": "text", "output": "spans"},
    }
    return Task.model_validate({**base, **fields})


@pytest.fixture
def student(tmp_path: Path) -> Drafter:
    pico_tagger(tmp_path / "model", WORDS, scale=6.0)
    return open_drafter(tmp_path / "model", task(), threads=1)


def test_the_answer_is_the_spans_in_the_text_as_given(student: Drafter) -> None:
    texts = ["Anna  BERG met bo in\tNew York.", "nobody here", "", "🙂 rome"]
    drafts = student.draft(texts)
    assert isinstance(student, Drafter) and student.spec.labels == TAGS.names
    assert [draft.output for draft in drafts] == [
        '[[0,10,"PERSON"],[15,17,"PERSON"],[21,29,"CITY"]]',
        "[]",
        "[]",
        '[[2,6,"CITY"]]',
    ]
    assert drafts[0].input_tokens == 8 and drafts[2].input_tokens == 0 and drafts[0].seconds > 0


def test_every_answer_has_the_same_features(student: Drafter) -> None:
    drafts = student.draft(["anna berg", "", "nobody", "berg"])
    assert len({frozenset(draft.features) for draft in drafts}) == 1
    assert {"span_min", "span_mean", "margin_min", "spans", "doubt_max", "truncated"} <= set(drafts[0].features)
    assert all(np.isfinite(list(draft.features.values())).all() for draft in drafts)
    assert [draft.features["spans"] for draft in drafts[:3]] == [1.0, 0.0, 0.0]
    assert drafts[3].features["margin_min"] < drafts[0].features["margin_min"]  # an I- that continues nothing


def test_a_text_longer_than_the_model_is_answered_whole(student: Drafter) -> None:
    text = "nobody met anna berg in rome and then " * 9
    (draft,) = student.draft([text])
    spans = json.loads(draft.output or "")
    assert len(spans) == 18 and draft.features["truncated"] == 0 and draft.truncated_tokens == 0
    assert {text[start:end] for start, end, _ in spans} == {"anna berg", "rome"}


def test_a_text_over_the_last_window_says_how_much_was_not_read(student: Drafter) -> None:
    (draft,) = student.draft(["nobody met anna berg in rome and then " * 200])
    assert draft.output and draft.features["truncated"] == 1 and draft.truncated_tokens > 100


class Told:
    """A tagger with given scores for one token a word."""

    def __init__(self, scores: Sequence[Sequence[float]]) -> None:
        self.scores = np.array(scores, dtype=np.float32)
        self.spec = ModelSpec(
            name="told",
            engine="onnx",
            family="encoder",
            precision="fp32",
            labels=TAGS.names,
            weights="model.onnx",
            max_tokens=16,
            parameters=1,
            purpose="tag",
            files={},
        )
        self.closed = False

    def tag(self, texts: Sequence[str]) -> list[TaggedText]:
        offsets = np.array([[2 * place, 2 * place + 1] for place in range(len(self.scores))])
        return [TaggedText(offsets, self.scores) for _ in texts]

    def close(self) -> None:
        self.closed = True


def test_scores_that_are_no_numbers_are_no_answer() -> None:
    told = Told([[0, 1, 2, 3, np.nan]])
    student = TaggingStudent(told, TAGS, open_kind(task(), TAGS.names))
    (draft,) = student.draft(["x"])
    assert (draft.output, draft.features) == (None, {})
    student.close()
    assert told.closed


def test_features_are_what_they_say() -> None:
    chances = np.array([[0.7, 0.2, 0.05, 0.03, 0.02], [0.1, 0.8, 0.04, 0.03, 0.03], [0.3, 0.1, 0.5, 0.05, 0.05]])
    reading = TAGS.read("x y z", np.array([[0, 1], [2, 3], [4, 5]]), np.log(chances).astype(np.float32))
    found = reading_features(reading, TAGS)
    assert [each.span for each in reading.spans] == [(2, 5, "PERSON")]
    assert found["span_min"] == found["span_mean"] == pytest.approx(0.8 * 0.5, rel=1e-5)
    assert found["margin_min"] == pytest.approx(0.2, rel=1e-5)
    assert found["doubt_max"] == found["doubt_sum"] == pytest.approx(0.3, rel=1e-5)
    assert found["logprob"] == pytest.approx(np.log(0.7 * 0.8 * 0.5), rel=1e-5)
    entropies = -(chances * np.log(chances)).sum(axis=1)
    assert found["entropy_max"] == pytest.approx(entropies.max(), rel=1e-5)


def test_a_model_with_other_tags_is_refused(tmp_path: Path) -> None:
    pico_tagger(tmp_path / "model")  # tags without B- and I-
    with pytest.raises(ModelFileError, match="B-TYPE") as caught:
        open_drafter(tmp_path / "model", task())
    assert caught.value.code == "runtime-mismatch"
