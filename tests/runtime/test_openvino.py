"""OpenVINO: the ONNX folders as ONNX Runtime answers them, and what it must refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import ModelFileError, UserError
from locum.runtime.open import open_classifier, open_generator
from locum.runtime.openvino import import_openvino
from locum.schema.task import LlmSpec
from locum.testing import pico_linear, pico_onnx
from locum.testing.pico import reseal

TEXTS = ["my card did not arrive", "I forgot my pin", "", "cash " * 30, "Grüße 🙂 card"]


def test_the_same_folder_gives_the_same_scores(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pico_onnx(tmp_path / "model")
    plain = open_classifier(tmp_path / "model", threads=1)
    other = open_classifier(tmp_path / "model", threads=1, engine="openvino")
    np.testing.assert_allclose(other.logits(TEXTS), plain.logits(TEXTS), atol=1e-5)
    plain.close()
    other.close()


def test_a_student_of_pytorch_with_wide_part_and_int8_answers_alike(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("torch")
    from locum.compress.int8 import quantize_int8
    from locum.compress.onnx_export import export_onnx
    from locum.compress.pico import MAX_TOKENS, pico_student
    from locum.models.wide import Wide

    student = pico_student(tmp_path / "pico", "bert", rows=24)
    model = student.load()
    model.wide = Wide(3)
    model.wide.idf.fill_(0.7)
    rows = np.random.default_rng(0).integers(-9, 9, size=tuple(model.wide.table.shape))
    model.wide.table.copy_(model.wide.table.new_tensor(rows))
    pico_onnx(tmp_path / "model", {"a": ("x",), "b": ("y",), "c": ("z",)}, max_tokens=MAX_TOKENS)
    (tmp_path / "model" / "tokenizer.json").write_bytes((student.folder / "tokenizer.json").read_bytes())
    for precision, tolerance in (("fp32", 1e-4), ("int8", 0.05)):
        export_onnx(model, tmp_path / "fp32.onnx", max_tokens=MAX_TOKENS)
        target = tmp_path / "model" / "model.onnx"
        if precision == "fp32":
            target.write_bytes((tmp_path / "fp32.onnx").read_bytes())
        else:
            quantize_int8(tmp_path / "fp32.onnx", target)
        reseal(tmp_path / "model", precision=precision)
        answers = [
            open_classifier(tmp_path / "model", threads=1, engine=engine).logits(student.texts)
            for engine in ("onnx", "openvino")
        ]
        np.testing.assert_allclose(answers[1], answers[0], atol=tolerance)


def test_integers_of_more_than_32_bits_are_refused_and_not_cut(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    import onnx
    from onnx import helper, numpy_helper

    pico_onnx(tmp_path / "model")
    path = tmp_path / "model" / "model.onnx"
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([2_654_435_761], dtype=np.int64), "big"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([19], dtype=np.int64), "small"))
    gather = model.graph.node[0]
    gather.input[1] = "hashed"
    made = [
        helper.make_node("Mul", ["input_ids", "big"], ["product"]),
        helper.make_node("Mod", ["product", "small"], ["hashed"]),
    ]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    reseal(tmp_path / "model")
    assert open_classifier(tmp_path / "model").logits(TEXTS).shape == (len(TEXTS), 3)
    with pytest.raises(ModelFileError) as caught:
        open_classifier(tmp_path / "model", engine="openvino")
    assert caught.value.code == "runtime-unsupported" and "32 bits" in str(caught.value)


def test_engines_that_cannot_run_a_model_are_refused(tmp_path: Path) -> None:
    pico_linear(tmp_path / "linear")
    with pytest.raises(UserError) as caught:
        open_classifier(tmp_path / "linear", engine="openvino")
    assert caught.value.code == "runtime-engine" and "linear" in str(caught.value)
    with pytest.raises(UserError, match="URL"):
        open_generator(LlmSpec(base_url="http://127.0.0.1:9/v1", model="m"), engine="openvino")


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError) as caught:
        import_openvino("openvino")
    assert caught.value.code == "core-missing-extra" and "[openvino]" in caught.value.fix
