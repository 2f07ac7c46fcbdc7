"""Model folders: what is refused before an engine sees it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import pytest

from locum.core.errors import LocumError, ModelFileError
from locum.runtime import open_classifier
from locum.runtime.model_files import read_spec, refuse_unsafe, resolve_inside, seal, verify_folder
from locum.testing import pico_linear, pico_onnx
from locum.testing.pico import reseal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pico_onnx(tmp_path / "model")
    return tmp_path / "model"


def refusal(folder: Path, *words: str) -> str:
    """The code of the error, which must say all ``words``."""
    with pytest.raises(ModelFileError) as caught:
        open_classifier(folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    return caught.value.code


def test_a_whole_folder_verifies(folder: Path) -> None:
    spec = verify_folder(folder)
    assert set(spec.files) == {"model.onnx", "tokenizer.json"}


def test_fault_32_a_changed_file_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert refusal(folder, "tokenizer.json") == "runtime-hash"


def test_fault_32_weights_without_a_hash_are_refused(folder: Path) -> None:
    document = json.loads((folder / "model.json").read_text())
    del document["files"]["model.onnx"]
    (folder / "model.json").write_text(json.dumps(document))
    assert refusal(folder, "model.onnx") == "runtime-hash"


def test_fault_31_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    assert refusal(folder, "model.onnx") == "runtime-file-missing"


def test_fault_31_an_lfs_pointer_is_named(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (folder / "model.onnx").write_bytes(pointer)
    assert refusal(folder, "model.onnx", "git lfs pull") == "runtime-lfs-pointer"


@pytest.mark.parametrize("name", ["weights.pt", "weights.PTH", "x.pkl", "pytorch_model.bin", "a.pt2", "m.joblib"])
def test_fault_26_files_that_can_run_code_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"harmless")
    with pytest.raises(ModelFileError, match="can run code") as caught:
        reseal(folder)
    assert caught.value.code == "runtime-pickle"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_fault_26_a_pickle_under_another_name_is_refused(folder: Path, protocol: int) -> None:
    (folder / "model.onnx").write_bytes(pickle.dumps({"a": PurePosixPath("x")}, protocol=protocol))
    assert refusal(folder, "model.onnx") == "runtime-pickle"


def test_fault_26_a_pytorch_archive_under_another_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.onnx", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(ModelFileError, match="PyTorch"):
        refuse_unsafe(tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz", "zlib", "7z", "tar"])
def test_fault_26_archives_that_hide_a_pickle_are_refused(tmp_path: Path, kind: str) -> None:
    hidden = pickle.dumps({"a": 1})
    packed = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zlib": zlib.compress}
    if kind == "tar":
        (tmp_path / "pickle").write_bytes(hidden)
        with tarfile.open(tmp_path / "model.onnx", "w") as archive:
            archive.add(tmp_path / "pickle", "pickle")
    else:
        content = packed[kind](hidden) if kind in packed else b"7z\xbc\xaf\x27\x1c" + hidden
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match="archive"):
        refuse_unsafe(tmp_path / "model.onnx")


@pytest.mark.parametrize("text", ["cat\ndog\n", "class\nname\n.x", "(a) b\n", "", ".", "cd\n"])
def test_plain_text_is_no_pickle(tmp_path: Path, text: str) -> None:
    (tmp_path / "vocab.txt").write_text(text)
    refuse_unsafe(tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_text() == text


def test_fault_26_numpy_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    import numpy as np

    pico_linear(tmp_path / "model")
    np.savez(tmp_path / "model" / "weights.npz", idf=np.asarray([{}], dtype=object), allow_pickle=True)
    reseal(tmp_path / "model")
    assert refusal(tmp_path / "model", "weights.npz") == "runtime-damaged"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "", "c:\\x", "..", "a\0b"])
def test_names_that_lead_out_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        resolve_inside(folder, name)
    assert caught.value.code == "runtime-unsafe-path"


def test_a_link_that_leads_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(tmp_path / "outside")
    assert refusal(folder, "model.onnx") == "runtime-unsafe-path"


def test_no_model_json(tmp_path: Path) -> None:
    assert refusal(tmp_path, "model.json") == "runtime-not-a-model-folder"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', "\x00"])
def test_a_damaged_model_json(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    assert refusal(folder, "model.json") == "schema-invalid"


def test_labels_must_differ(folder: Path) -> None:
    reseal(folder, labels=("a", "a", "b"))
    assert refusal(folder, "labels") == "runtime-mismatch"


def test_files_that_nobody_names_are_left_alone(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"\x80\x04")
    classifier = open_classifier(folder)
    classifier.close()
    assert ".DS_Store" not in classifier.spec.files


def test_seal_names_every_file_and_reads_back(tmp_path: Path) -> None:
    spec = pico_linear(tmp_path)
    assert read_spec(tmp_path) == spec
    again = seal(tmp_path, **{**spec.model_dump(exclude={"files"}), "temperature": 2.0})
    assert again.files == spec.files and again.temperature == 2.0


def test_an_unknown_engine_is_refused(folder: Path) -> None:
    document = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**document, "engine": "pickle"}))
    with pytest.raises(LocumError) as caught:
        open_classifier(folder)
    assert caught.value.code == "schema-invalid"
