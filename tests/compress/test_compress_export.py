"""Whole exports: a trained folder in, a model folder that answers alike out, or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import locum.compress.export as export_module
from locum.compress.export import export
from locum.compress.pico import LABELS, PicoStudent, seal_trained, student_logits
from locum.core.child import run_job
from locum.core.errors import CheckFailed, DataError, LocumError, ModelFileError
from locum.core.files import hash_folder, write_json
from locum.core.progress import Event, listening
from locum.models.classifier import load_student, save_student
from locum.runtime.open import open_classifier
from locum.schema.model import ModelSpec, Parity
from locum.schema.training import ExportRequest
from locum.testing.pico import WORDS as LINEAR_WORDS
from locum.testing.pico import pico_linear


def run(student: PicoStudent, out: Path, **options: object) -> tuple[ModelSpec, Parity]:
    options = {"name": "pico", "labels": LABELS, "threads": 1, **options}
    return export(student.folder, student.dev, out, **options)


@pytest.fixture(scope="module")
def exported(encoder: PicoStudent, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSpec, Parity]:
    out = tmp_path_factory.mktemp("exported") / "model"
    return out, *run(encoder, out)


def test_int8_is_kept_when_it_answers_alike(exported: tuple[Path, ModelSpec, Parity]) -> None:
    out, spec, parity = exported
    assert (spec.engine, spec.precision, parity.passed) == ("onnx", "int8", True)
    assert parity.label_agreement >= 0.97 and parity.n == 96 and parity.tried == ()
    assert set(hash_folder(out)) == {"model.onnx", "tokenizer.json", "model.json"}


def test_the_folder_answers_through_its_engine(exported: tuple[Path, ModelSpec, Parity], encoder: PicoStudent) -> None:
    out, spec, parity = exported
    classifier = open_classifier(out, threads=1)
    try:
        answers = classifier.logits(encoder.texts)
    finally:
        classifier.close()
    agreement = (answers.argmax(axis=1) == encoder.logits.argmax(axis=1)).mean()
    assert agreement == pytest.approx(parity.label_agreement)
    assert spec == classifier.spec and spec.labels == LABELS


def test_the_same_student_gives_the_same_bytes(
    exported: tuple[Path, ModelSpec, Parity], encoder: PicoStudent, tmp_path: Path
) -> None:
    run(encoder, tmp_path / "again")
    assert hash_folder(tmp_path / "again") == hash_folder(exported[0])


def test_fp32_stands_in_when_int8_disagrees(
    encoder: PicoStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import locum.compress.int8 as int8

    def ruined(weights: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
        values, scales = original(weights, block)
        return np.where(values > 128, values, 128).astype(np.uint8), scales  # negative weights are lost

    original = int8.quantize_blocks
    monkeypatch.setattr(int8, "quantize_blocks", ruined)
    events: list[Event] = []
    with listening(events.append):
        spec, parity = run(encoder, tmp_path / "model")
    assert spec.precision == "fp32" and parity.label_agreement == 1.0
    assert len(parity.tried) == 1 and parity.tried[0].startswith("onnx int8: labels agree on")
    assert any(event.kind == "warning" and "int8" in event.label for event in events)


def test_fault_34_a_collapsed_export_fails_the_build(encoder: PicoStudent, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(encoder.folder, folder)
    student = load_student(folder)
    with torch.no_grad():
        student.head.weight.zero_()  # every text gets the same answer; dev_logits.npy still says otherwise
    save_student(student, folder)
    seal_trained(folder, "encoder", 1)
    with pytest.raises(CheckFailed) as caught:
        run(PicoStudent(folder, encoder.dev, encoder.texts), tmp_path / "model")
    assert caught.value.code == "compress-parity" and caught.value.exit_code == 3
    assert "onnx int8" in caught.value.cause and "onnx fp32" in caught.value.cause
    assert not (tmp_path / "model").exists() and [path.name for path in tmp_path.iterdir()] == ["trained"]


def test_an_old_folder_survives_a_failed_export(
    exported: tuple[Path, ModelSpec, Parity], encoder: PicoStudent, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    shutil.copytree(exported[0], out)
    before = hash_folder(out)
    with pytest.raises(CheckFailed):
        run(encoder, out, min_agreement=1.01, formats=["onnx-fp32"])
    assert hash_folder(out) == before


def test_a_changed_file_is_refused(encoder: PicoStudent, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(encoder.folder, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ModelFileError, match="is not the file that was trained") as caught:
        run(PicoStudent(folder, encoder.dev, encoder.texts), tmp_path / "model")
    assert caught.value.code == "compress-trained"


@pytest.mark.parametrize("name", ["trained.json", "dev_logits.npy", "head.safetensors"])
def test_a_missing_file_is_refused(encoder: PicoStudent, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(encoder.folder, folder)
    (folder / name).unlink()
    with pytest.raises(ModelFileError):
        run(PicoStudent(folder, encoder.dev, encoder.texts), tmp_path / "model")


def test_pickled_logits_are_refused(encoder: PicoStudent, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(encoder.folder, folder)
    np.save(folder / "dev_logits.npy", np.asarray([{}], dtype=object), allow_pickle=True)
    seal_trained(folder, "encoder", 1)
    with pytest.raises(ModelFileError, match="cannot be read"):
        run(PicoStudent(folder, encoder.dev, encoder.texts), tmp_path / "model")


def test_a_pickle_among_the_files_is_refused(encoder: PicoStudent, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(encoder.folder, folder)
    (folder / "optimizer.pt").write_bytes(b"\x80\x02}.")
    seal_trained(folder, "encoder", 1)
    with pytest.raises(ModelFileError) as caught:
        run(PicoStudent(folder, encoder.dev, encoder.texts), tmp_path / "model")
    assert caught.value.code == "runtime-pickle"


def test_labels_that_do_not_fit_are_refused(encoder: PicoStudent, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels \\['c'\\]"):
        run(encoder, tmp_path / "model", labels=("a", "b", "d"))
    with pytest.raises(ModelFileError, match="4 labels"):
        run(encoder, tmp_path / "model", labels=(*LABELS, "d"))


def test_gguf_is_for_decoders(encoder: PicoStudent, tmp_path: Path) -> None:
    with pytest.raises(LocumError, match="gguf-f16 is for decoders"):
        run(encoder, tmp_path / "model", formats=["gguf-f16"])


def test_linear_students_are_copied(tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    served = pico_linear(folder)
    (folder / "model.json").unlink()
    texts = [" ".join(words[:2]) for words in LINEAR_WORDS.values()] * 4
    labels = tuple(LINEAR_WORDS)
    logits = np.tile(np.eye(3, dtype=np.float32), (4, 1))
    np.save(folder / "dev_logits.npy", logits)
    seal_trained(folder, "linear", served.parameters)
    rows = [{"id": str(n), "input": text, "output": labels[n % 3]} for n, text in enumerate(texts)]
    dev = tmp_path / "dev.jsonl"
    dev.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec, parity = export(folder, dev, tmp_path / "model", name="pico", labels=labels, threads=1)
    assert (spec.engine, spec.family, parity.label_agreement) == ("linear", "linear", 1.0)
    assert set(hash_folder(tmp_path / "model")) == {"model.json", "vectorizer.json", "weights.npz"}


def test_decoders_answer_alike_in_onnx(decoder: PicoStudent, tmp_path: Path) -> None:
    spec, parity = run(decoder, tmp_path / "model", formats=["onnx-int8"])
    assert (spec.engine, spec.precision, spec.family) == ("onnx", "int8", "decoder")
    assert parity.label_agreement >= 0.97


@pytest.mark.engines
@pytest.mark.parametrize(("choice", "gap"), [("gguf-f16", 0.03), ("gguf-q8_0", 0.4)])
def test_decoders_answer_alike_in_llama_cpp(decoder: PicoStudent, tmp_path: Path, choice: str, gap: float) -> None:
    spec, parity = run(decoder, tmp_path / "model", formats=[choice])
    assert (spec.engine, spec.pooling) == ("llamacpp", "last")
    assert parity.max_gap < gap and parity.label_agreement >= 0.97


def test_the_job_runs_in_a_child(encoder: PicoStudent, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    request = ExportRequest(
        name="pico",
        trained=str(encoder.folder),
        dev=str(encoder.dev),
        labels=LABELS,
        threads=1,
        formats=("onnx-fp32",),
    )
    write_json(out / "request.json", request.to_json())
    events: list[Event] = []
    with listening(events.append):
        run_job("locum.compress.job:main", out / "request.json", out, log=out / "export.log", threads=1)
    parity = Parity.from_json((out / "parity.json").read_bytes(), "parity.json")
    assert parity.passed and parity.precision == "fp32"
    assert (out / "model" / "model.json").is_file()
    assert {"write ONNX", "check onnx fp32 on dev"} <= {event.label for event in events}


def test_the_job_reports_a_failed_check_as_such(encoder: PicoStudent, tmp_path: Path) -> None:
    request = ExportRequest(
        name="pico",
        trained=str(encoder.folder / "nowhere"),
        dev=str(encoder.dev),
        labels=LABELS,
        threads=1,
    )
    write_json(tmp_path / "request.json", request.to_json())
    with pytest.raises(ModelFileError, match="the training did not finish"):
        run_job("locum.compress.job:main", tmp_path / "request.json", tmp_path, log=tmp_path / "log", threads=1)


def test_formats_share_one_trace(encoder: PicoStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import locum.compress.onnx_export as onnx_export

    calls = 0
    original = onnx_export.export_onnx

    def counted(*args: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        original(*args, **options)

    monkeypatch.setattr(onnx_export, "export_onnx", counted)
    monkeypatch.setattr(export_module, "MIN_AGREEMENT", 1.0)
    with pytest.raises(CheckFailed):
        run(encoder, tmp_path / "model", min_agreement=1.01)
    assert calls == 1


def test_logits_of_padded_batches_equal_single_ones(decoder: PicoStudent) -> None:
    student = decoder.load()
    assert np.allclose(
        student_logits(student, decoder.folder / "tokenizer.json", decoder.texts[:5]), decoder.logits[:5], atol=1e-5
    )
