"""Students that rank: what is computed once, how signals are weighed, what an answer says of itself, refused inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.core.errors import ModelFileError, UserError
from locum.core.files import write_json
from locum.runtime.bm25 import Bm25, count_words
from locum.runtime.model_files import seal
from locum.runtime.protocol import Embedded
from locum.schema.ranking import RankerModel
from locum.schema.task import Task
from locum.students.open import open_drafter
from locum.students.ranking import BM25, RANKER, RankingStudent, ranking_features
from locum.students.signals import USUAL, Kept, Signals, fit_ranker, log_softmax
from locum.tasks.rank import Candidates
from locum.testing.pico import pico_embedder

TASK = Task.model_validate(
    {
        "version": 1,
        "name": "toy",
        "kind": "rank",
        "instruction": "Which note answers?",
        "data": {"train": "rows.jsonl", "input": ["query", "candidates"], "output": "relevant"},
    }
)
NOTES = ["my plastic card will arrive", "withdraw cash at the atm", "i forgot my pin code"]


def asked(query: Any, candidates: Any) -> str:
    return json.dumps({"query": query, "candidates": candidates})


class Counting:
    """An embedder that remembers what it was asked."""

    model, dimensions = "counting", 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        rows = np.array([[1.0, len(text)] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def read(self, texts: Sequence[str]) -> Embedded:
        zeros = np.zeros(len(texts), dtype=np.int64)
        return Embedded(self.embed(texts), zeros, zeros)

    def close(self) -> None:
        pass


def linear_folder(folder: Path, **spec: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / BM25, count_words(NOTES).to_json())
    if not (folder / RANKER).exists():
        write_json(folder / RANKER, RankerModel(weights={"bm25": 1.0}, rows=0).to_json())
    fields = {
        **{"name": "bm25", "engine": "linear", "family": "linear", "precision": "fp32", "labels": ()},
        **{"weights": BM25, "max_tokens": 256, "parameters": 1, "purpose": "rank"},
    }
    seal(folder, **{**fields, **spec})
    return folder


def encoder_folder(folder: Path, weights: dict[str, float]) -> Path:
    spec = pico_embedder(folder, name="pico-ranker")
    write_json(folder / RANKER, {"schema_version": 1, "weights": weights, "rows": 0})
    fields = spec.model_dump(exclude={"files", "purpose"})
    (folder / "model.json").unlink()
    write_json(folder / BM25, count_words(NOTES).to_json())
    seal(folder, **fields, purpose="rank")
    return folder


def test_words_put_the_right_note_first_and_the_answer_says_how_sure_it_is(tmp_path: Path) -> None:
    student = open_drafter(linear_folder(tmp_path / "model"), TASK)
    sure, unsure = student.draft([asked("forgot my pin", NOTES), asked("hello", NOTES)])
    assert json.loads(sure.output or "")[0] == 2
    assert sorted(json.loads(unsure.output or "")) == [0, 1, 2]
    assert sure.features["first_share"] > unsure.features["first_share"] == pytest.approx(1 / 3)
    assert sure.features["margin"] > unsure.features["margin"] == pytest.approx(0)
    assert sure.features["entropy"] < unsure.features["entropy"] == pytest.approx(np.log(3))
    assert set(sure.features) == set(unsure.features) >= {"candidates_log", "query_words", "first_score"}
    student.close()


def test_vectors_and_words_together_answer_what_neither_does_alone(tmp_path: Path) -> None:
    """ "money" is near the note about cash by its vector, and no note has the word."""
    student = open_drafter(encoder_folder(tmp_path / "model", {"cosine": 20.0, "bm25": 1.0}), TASK, threads=1)
    first = [json.loads(draft.output or "")[0] for draft in student.draft([asked("money", NOTES)])]
    assert first == [1]
    student.close()
    linear = open_drafter(linear_folder(tmp_path / "linear"), TASK)
    assert linear.draft([asked("money", NOTES)])[0].features["first_score"] == 0.0


def test_what_the_encoder_does_not_read_is_told_each_time(tmp_path: Path) -> None:
    student = open_drafter(encoder_folder(tmp_path / "model", {"cosine": 20.0, "bm25": 1.0}), TASK, threads=1)
    long = [*NOTES, "card " * 20]
    for _ in range(2):  # the second time the candidates' vectors are kept
        drafts = student.draft([asked("money " * 15, long), asked("money", long), asked("money", NOTES)])
        assert [draft.truncated_tokens for draft in drafts] == [1 + 6, 6, 0]  # 14 words are read
    student.close()


def test_each_candidate_is_read_once_however_often_it_comes() -> None:
    embedder = Counting()
    signals = Signals(("cosine", "bm25"), Bm25(count_words(NOTES)), embedder)
    queries = [Candidates("first", tuple(NOTES), ("0", "1", "2")), Candidates("second", tuple(NOTES[:2]), ("0", "1"))]
    found = signals.of(queries)
    assert [each.shape for each in found] == [(3, 2), (2, 2)]
    again = signals.of(queries)
    np.testing.assert_array_equal(again[1], found[1])
    assert sorted(embedder.asked) == sorted([*NOTES, "first", "second", "first", "second"])


def test_only_the_latest_used_are_kept() -> None:
    computed: list[str] = []

    def lengths(texts: Sequence[str]) -> list[int]:
        computed.extend(texts)
        return [len(text) for text in texts]

    kept = Kept(lengths, most=2)
    assert kept.of(["a", "bb", "a"]) == {"a": 1, "bb": 2}
    assert kept.of(["a"]) == {"a": 1}
    kept.of(["ccc"])  # "bb" was used longest ago
    kept.of(["a", "bb"])
    assert computed == ["a", "bb", "ccc", "bb"]
    assert kept.of(["1", "22", "333"]) == {"1": 1, "22": 2, "333": 3}  # more at once than are kept


def made_rows(weights: Sequence[float], rows: int = 400) -> list[tuple[np.ndarray, list[float]]]:
    """Rows whose relevant candidate is drawn from the softmax of weighed signals."""
    rng = np.random.default_rng(0)
    found: list[tuple[np.ndarray, list[float]]] = []
    for _ in range(rows):
        signals = rng.normal(size=(6, len(weights))) * [1.0, 5.0]
        chosen = rng.choice(6, p=np.exp(log_softmax(signals @ np.asarray(weights))))
        found.append((signals, [float(number == chosen) for number in range(6)]))
    return found


def test_weights_are_those_that_the_rows_were_drawn_with() -> None:
    model = fit_ranker(("cosine", "bm25"), made_rows((2.0, 0.3)))
    assert model.weights["cosine"] == pytest.approx(2.0, abs=0.3)
    assert model.weights["bm25"] == pytest.approx(0.3, abs=0.06)
    assert model.rows == 400


def test_a_signal_that_says_nothing_or_lies_weighs_nothing() -> None:
    model = fit_ranker(("cosine", "bm25"), made_rows((2.0, -0.3)))
    assert model.weights["bm25"] == 0.0
    assert model.weights["cosine"] > 1.0


@pytest.mark.parametrize("grades", [[0.0] * 6, [1.0] * 6], ids=["none relevant", "all relevant"])
def test_rows_that_tell_nothing_leave_the_usual_weights(grades: list[float]) -> None:
    model = fit_ranker(("cosine", "bm25"), [(signals, grades) for signals, _ in made_rows((2.0, 0.3), 50)])
    assert (model.weights, model.rows) == (USUAL, 0)
    few = fit_ranker(("bm25",), [(signals[:, 1:], gold) for signals, gold in made_rows((2.0, 0.3), 9)])
    assert (few.weights, few.rows) == ({"bm25": 1.0}, 0)


def test_features_do_not_hang_on_the_order_of_candidates() -> None:
    scores = np.array([0.3, 2.0, -1.0])
    assert ranking_features(scores) == ranking_features(scores[::-1])
    assert ranking_features(scores)["margin_log"] == pytest.approx(1.7)


@pytest.mark.parametrize(
    "text",
    ["no json", '{"query": "q"}', asked("q", []), asked("q", ["lone"]), asked("", NOTES), asked("q", "text")],
    ids=["prose", "no candidates member", "no candidates", "one candidate", "empty query", "no list"],
)
def test_an_input_without_a_query_and_candidates_is_refused_and_says_what_to_give(tmp_path: Path, text: str) -> None:
    student = open_drafter(linear_folder(tmp_path / "model"), TASK)
    with pytest.raises(UserError) as caught:
        student.draft([asked("q", NOTES), text])
    assert caught.value.code == "tasks-input"
    assert '"candidates"' in caught.value.fix
    student.close()


def test_a_folder_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    needs_vectors = tmp_path / "needs"
    needs_vectors.mkdir()
    write_json(needs_vectors / RANKER, RankerModel(weights={"cosine": 1.0}, rows=0).to_json())
    with pytest.raises(ModelFileError) as caught:
        open_drafter(linear_folder(needs_vectors), TASK)
    assert caught.value.code == "runtime-mismatch"

    missing = linear_folder(tmp_path / "missing")
    (missing / RANKER).unlink()
    (missing / "model.json").unlink()
    seal(
        missing,
        **{"name": "bm25", "engine": "linear", "family": "linear", "precision": "fp32", "labels": ()},
        **{"weights": BM25, "max_tokens": 256, "parameters": 1, "purpose": "rank"},
    )
    with pytest.raises(ModelFileError) as caught:
        open_drafter(missing, TASK)
    assert caught.value.code == "runtime-file-missing"


@pytest.mark.parametrize("weights", [{}, {"bm25": -1.0}, {"bm25": 1.0, "charm": 1.0}])
def test_weights_that_cannot_be_are_refused(tmp_path: Path, weights: dict[str, float]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_json(folder / RANKER, {"schema_version": 1, "weights": weights, "rows": 0})
    with pytest.raises(ModelFileError) as caught:
        open_drafter(linear_folder(folder), TASK)
    assert caught.value.code == "schema-invalid"


def test_a_closed_encoder_is_closed_with_its_student() -> None:
    from locum.testing.embedder import FakeEmbedder

    embedder = FakeEmbedder()
    ranker = RankerModel(weights={"cosine": 1.0}, rows=0)
    kind: Any = object()
    spec: Any = object()
    RankingStudent(spec, kind, ranker, Bm25(count_words(NOTES)), embedder).close()
    assert embedder.closed
