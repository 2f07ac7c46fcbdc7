"""A built student in another form: found by name, checked, and written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import CheckFailed, LocumError, UserError
from locum.core.files import write_json
from locum.pipeline import export
from locum.schema.candidate import Candidate
from locum.schema.model import Parity
from locum.schema.training import Trained

PARITY = Parity(
    n=10,
    engine="onnx",
    precision="fp32",
    label_agreement=1.0,
    mean_gap=0.0,
    max_gap=0.0,
    accuracy_trained=0.9,
    accuracy_exported=0.9,
    min_agreement=0.97,
    max_accuracy_drop=0.005,
    passed=True,
)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build folder with one trained student."""
    folder = tmp_path / "build" / "work" / "train-mini-123"
    splits = tmp_path / "build" / "work" / "data-1" / "splits"
    splits.mkdir(parents=True)
    write_json(splits / "labels.json", ["a", "b"])
    write_json(folder / "request.json", {"dev": str(splits / "dev.jsonl")})
    trained = Trained(
        candidate=Candidate(name="mini/head", family="encoder", base="mini", method="head"),
        parameters=1,
        best_epoch=1,
        stopped_by="schedule",
        dev_accuracy=0.9,
        curve=(),
        settings={},
        max_tokens=16,
        train_s=1,
        tokens_per_s=None,
        files={},
    )
    write_json(folder / "trained.json", trained.to_json())
    return tmp_path / "build"


def test_the_form_asked_for_is_made_from_the_trained_weights(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def job(_target: str, request: Path, out: Path, *, log: Path, threads: int) -> None:
        asked.append(json.loads(request.read_text()))
        (out / "model").mkdir()
        (out / "model" / "model.onnx").write_text("weights")
        write_json(out / "parity.json", PARITY.to_json())

    monkeypatch.setattr(export, "run_job", job)
    parity = export.export_student(build, tmp_path / "out", "onnx-fp32", "mini/head")
    assert parity.passed
    assert asked[0]["formats"] == ["onnx-fp32"]
    assert asked[0]["labels"] == ["a", "b"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_fault_34_a_form_that_fails_the_check_leaves_nothing(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(*_: object, **__: object) -> None:
        raise CheckFailed("compress-parity", "another model")

    monkeypatch.setattr(export, "run_job", job)
    with pytest.raises(CheckFailed):
        export.export_student(build, tmp_path / "out", "onnx-int8", "mini/head")
    assert not (tmp_path / "out").exists()


def test_an_unknown_candidate_gets_the_nearest(build: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'mini/head'"):
        export.export_student(build, tmp_path / "out", "onnx-int8", "mini/haed")


def test_a_folder_that_is_no_build(tmp_path: Path) -> None:
    with pytest.raises(LocumError):
        export.export_student(tmp_path, tmp_path / "out", "onnx-int8")


@pytest.mark.parametrize(
    ("family", "request_fields", "format", "said"),
    [
        ("linear", {"labels": ["a"]}, "onnx-int8", "TF-IDF"),
        ("linear", {"labels": ["a"]}, "gguf-q8_0", "leave out --format"),
        ("linear", {"labels": []}, "onnx-fp32", "BM25"),
        ("encoder", {"labels": ["a"]}, "gguf-f16", "onnx-int8"),
        ("encoder", {"labels": []}, "gguf-f16", "onnx-int8"),
        ("decoder", {"labels": ["a"], "kind": "tag"}, "gguf-f16", "onnx-int8"),
        ("decoder", {"mixing": 1.0}, None, "--as gguf"),
    ],
)
def test_a_form_that_a_student_cannot_have_is_refused_before_anything_is_done(
    build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: Any,
    request_fields: dict[str, object],
    format: Any,
    said: str,
) -> None:
    folder = build / "work" / "train-mini-123"
    write_json(folder / "request.json", {"dev": "dev.jsonl", **request_fields})
    record = json.loads((folder / "trained.json").read_text())
    record["candidate"] |= {"family": family, "base": None if family == "linear" else "mini"}
    write_json(folder / "trained.json", record)
    monkeypatch.setattr(export, "run_job", lambda *_, **__: pytest.fail("it was begun"))
    with pytest.raises(UserError, match=said):
        export.export_student(build, tmp_path / "out", format, "mini/head")
    assert not (tmp_path / "out").exists()


def test_a_training_that_was_repeated_for_the_bundle_is_what_is_exported(build: Path) -> None:
    first = (build / "work" / "train-mini-123").rename(build / "work" / f"train-mini-{'12' * 6}")
    again, other = build / "work" / "refit-mini-456", build / "work" / "refit-mini-789"
    for folder, of in ((again, "12" * 32), (other, "34" * 32)):
        shutil.copytree(first, folder)
        write_json(folder / "step.json", {"name": "refit-mini", "seconds": 1, "inputs": {"train": of}})
    assert export.trained_students(build) == {"mini/head": again}
