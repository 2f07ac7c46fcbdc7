"""Trained rankers as model folders: scores as trained, what is not near enough, weights fitted on what is served."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from locum.compress import ranker  # noqa: E402
from locum.compress.ranker import check_scores, export_ranker  # noqa: E402
from locum.core.errors import CheckFailed, DataError, LocumError, ModelFileError  # noqa: E402
from locum.core.files import write_json  # noqa: E402
from locum.data.rankings import read_rankings  # noqa: E402
from locum.runtime.model_files import verify_folder  # noqa: E402
from locum.schema.data import Row  # noqa: E402
from locum.schema.ranking import RankerModel  # noqa: E402
from locum.schema.training import ExportRequest  # noqa: E402
from locum.students.ranking import RANKER  # noqa: E402
from locum.train import ranking  # noqa: E402

sys.path.append(str(Path(__file__).parent.parent / "train"))

from ranking_toys import rank_request  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BM25 and a frozen pico encoder, trained."""
    folder = tmp_path_factory.mktemp("trained")
    for method in ("linear", "head"):
        write_json(folder / f"{method}.json", rank_request(folder, method).to_json())
        ranking.main(folder / f"{method}.json", folder / method)
    return folder


def request(folder: Path, method: str, **fields: Any) -> ExportRequest:
    plain = {"name": "pico", "trained": str(folder / method), "dev": str(folder / "dev.jsonl"), "labels": ()}
    return ExportRequest.model_validate({**plain, "threads": 1, "min_agreement": 0.8, **fields})


def test_bm25_is_served_as_it_was_trained(trained: Path, tmp_path: Path) -> None:
    spec, parity = export_ranker(request(trained, "linear"), tmp_path / "model")
    assert (spec.engine, spec.purpose, spec.family, spec.weights) == ("linear", "rank", "linear", "bm25.json")
    assert parity.passed and parity.label_agreement == 1.0 and parity.max_gap < 1e-6
    assert parity.accuracy_exported == pytest.approx(parity.accuracy_trained)
    assert verify_folder(tmp_path / "model") == spec
    assert set(spec.files) == {"bm25.json", RANKER}


def test_an_encoder_is_served_in_int8_with_scores_as_pytorchs(trained: Path, tmp_path: Path) -> None:
    spec, parity = export_ranker(request(trained, "head"), tmp_path / "model")
    assert (spec.engine, spec.purpose, spec.precision, spec.weights) == ("onnx", "rank", "int8", "model.onnx")
    assert parity.passed and parity.mean_gap < 0.1 and parity.n == 32
    assert set(spec.files) == {"bm25.json", RANKER, "model.onnx", "tokenizer.json"}
    weights = RankerModel.from_json((tmp_path / "model" / RANKER).read_bytes(), "ranker")
    assert set(weights.weights) == {"cosine", "bm25"} and weights.rows == 32
    assert verify_folder(tmp_path / "model") == spec


def test_a_format_that_ranks_otherwise_gives_way_to_the_next_and_then_to_an_error(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ranker.check_scores
    lost = ["int8"]

    def strict(dev: Any, old: Any, new: Any, signal: Any, asked: Any, precision: Any) -> Any:
        if precision in lost:
            new = [-row for row in new]
        return plain(dev, old, new, signal, asked, precision)

    monkeypatch.setattr(ranker, "check_scores", strict)
    spec, parity = export_ranker(request(trained, "head"), tmp_path / "model")
    assert spec.precision == "fp32" and parity.label_agreement > 0.99
    assert len(parity.tried) == 1 and "int8: the first candidate agrees on" in parity.tried[0]
    lost.append("fp32")
    with pytest.raises(CheckFailed) as caught:
        export_ranker(request(trained, "head"), tmp_path / "none")
    assert caught.value.code == "compress-parity" and not (tmp_path / "none").exists()


def rows(count: int) -> list[Row]:
    return [
        Row(id=str(i), input=json.dumps({"q": f"q{i}", "c": ["a", "b", "c"]}), output=json.dumps([i % 3]))
        for i in range(count)
    ]


def test_the_check_counts_first_candidates_and_ndcg(tmp_path: Path) -> None:
    dev = read_rankings(rows(90))
    asked = request(tmp_path, "none", min_agreement=0.9)
    right = [grades * 0.5 for grades in dev.grades]
    wrong = [-row for row in right]
    same = check_scores(dev, right, right, "cosine", asked, "int8")
    assert (same.label_agreement, same.mean_gap, same.accuracy_trained, same.passed) == (1.0, 0.0, 1.0, True)
    few = check_scores(dev, right, [*wrong[:6], *right[6:]], "cosine", asked, "int8")
    assert few.label_agreement == pytest.approx(84 / 90) and few.accuracy_exported < 1
    assert not check_scores(dev, right, [*wrong[:45], *right[45:]], "cosine", asked, "int8").passed
    # what was wrong may become right: the labels differ, and nothing is lost
    better = check_scores(dev, [*wrong[:6], *right[6:]], right, "cosine", asked, "int8")
    assert better.passed and better.accuracy_exported > better.accuracy_trained


def test_scores_that_are_no_numbers_agree_with_nothing(tmp_path: Path) -> None:
    dev = read_rankings(rows(10))
    scores = [grades * 0.5 for grades in dev.grades]
    broken = [np.full(3, np.nan), *scores[1:]]
    parity = check_scores(dev, scores, broken, "cosine", request(tmp_path, "none"), "int8")
    assert (parity.label_agreement, parity.max_gap) == (0.9, 1.0)
    assert parity.accuracy_exported == pytest.approx(0.9)


def test_what_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(LocumError) as caught:
        export_ranker(request(trained, "head", formats=["gguf-f16"]), tmp_path / "model")
    assert caught.value.code == "compress-export"
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError) as caught:
        export_ranker(request(trained, "head", dev=str(tmp_path / "empty.jsonl")), tmp_path / "model")
    assert caught.value.code == "compress-dev"
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows(3)))
    with pytest.raises(ModelFileError) as caught:
        export_ranker(request(trained, "linear", dev=str(tmp_path / "other.jsonl")), tmp_path / "model")
    assert caught.value.code == "compress-trained"
    assert not (tmp_path / "model").exists()
