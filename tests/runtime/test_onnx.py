"""ONNX files: hostile, damaged and mismatched ones, and the batching of good ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from locum.core.errors import ModelFileError
from locum.runtime import open_classifier
from locum.runtime.onnx import OnnxClassifier
from locum.runtime.onnx_check import check_onnx
from locum.testing import pico_onnx
from locum.testing.pico import LABELS, WORDS, pico_tokenizer, reseal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pico_onnx(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> Any:
    return onnx.load(folder / "model.onnx")


def refusal(folder: Path, model: Any, *words: str) -> str:
    """The code of the error, which must say all ``words``."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    reseal(folder)
    with pytest.raises(ModelFileError) as caught:
        open_classifier(folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    return caught.value.code


def test_scores_are_the_share_of_a_labels_words(folder: Path) -> None:
    with_specials = 4.0 * 2 / 5  # two of five tokens, [CLS] and [SEP] counted
    with_opened = open_classifier(folder)
    scores = with_opened.logits(["my card arrive"])
    np.testing.assert_allclose(scores, [[with_specials, 0, 0]], rtol=1e-6)
    with_opened.close()


def test_what_is_not_read_is_counted_for_each_text(folder: Path) -> None:
    opened = OnnxClassifier(folder, reseal(folder))
    texts = ["card " * 17, "card", "card " * 14, " " * 1600 + "card", "card " * 1000]
    read = opened.read(texts)
    assert read.dropped.tolist() == [3, 0, 0, 1, 306]  # 14 words are read, and of the last text 1,600 characters
    np.testing.assert_array_equal(read.logits, opened.logits(texts))
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda count: (count, opened.read(["card " * count]).dropped[0]), range(1, 40)))
    assert all(dropped == max(0, count - 14) for count, dropped in many)
    opened.close()


def test_many_rows_of_many_lengths(folder: Path) -> None:
    texts = [" ".join(["card"] * (row % 13) + ["pin"] * (row % 3)) for row in range(150)]
    opened = open_classifier(folder)
    alone = np.concatenate([opened.logits([text]) for text in texts])
    np.testing.assert_allclose(opened.logits(texts), alone, atol=1e-5)
    opened.close()


def test_token_type_ids_are_given_when_the_graph_asks(folder: Path) -> None:
    model = load(folder)
    model.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["batch", "tokens"]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    reseal(folder)
    opened = open_classifier(folder)
    assert opened.logits(["card"])[0].argmax() == 0
    opened.close()


def test_int8_rows_run_alone_because_they_depend_on_the_batch(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    assert not check_onnx(folder / "model.onnx", set()).batch_dependent
    quantize_dynamic(folder / "model.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8)
    assert check_onnx(folder / "int8.onnx", set()).batch_dependent
    model = load(folder)
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "MatMulNBits", "com.microsoft"
    (folder / "int8.onnx").write_bytes(model.SerializeToString())
    assert check_onnx(folder / "int8.onnx", set()).batch_dependent


@pytest.mark.parametrize(("block", "alone"), [(128, True), (64, False), (16, False)])
def test_blocks_of_64_and_less_are_a_rows_own(folder: Path, block: int, alone: bool) -> None:
    from onnx import helper

    model = load(folder)
    node = model.graph.node[-1]
    node.op_type, node.domain = "MatMulNBits", "com.microsoft"
    node.attribute.append(helper.make_attribute("block_size", block))
    (folder / "int8.onnx").write_bytes(model.SerializeToString())
    assert check_onnx(folder / "int8.onnx", set()).batch_dependent is alone


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a model at all", b"<html>", b"\x08\x08" * 40, b"\xff" * 64])
def test_what_is_not_onnx_is_refused(folder: Path, content: bytes) -> None:
    assert refusal(folder, content, "model.onnx") == "runtime-damaged"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    content = (folder / "model.onnx").read_bytes()
    assert refusal(folder, content[: int(len(content) * share)]) == "runtime-damaged"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_give_our_error_or_none(tmp_path: Path, data: st.DataObject) -> None:
    pico_onnx(tmp_path / "model")
    content = bytearray((tmp_path / "model" / "model.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.onnx").write_bytes(content)
    try:
        check_onnx(tmp_path / "damaged.onnx", set())
    except ModelFileError as error:
        assert error.code.startswith("runtime-")


def test_fault_33_custom_operators_are_refused_with_the_supported_sets(folder: Path) -> None:
    model = load(folder)
    model.graph.node[0].domain = "evil.plugin"
    model.opset_import.append(helper.make_opsetid("evil.plugin", 1))
    assert refusal(folder, model, "evil.plugin::Gather", "com.microsoft") == "runtime-unsupported"


def test_fault_33_custom_operators_inside_subgraphs_are_found(folder: Path) -> None:
    model = load(folder)
    hidden = helper.make_graph([helper.make_node("Do", [], ["y"], domain="evil")], "then", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=hidden, else_branch=hidden))
    assert refusal(folder, model, "evil::Do") == "runtime-unsupported"


def test_fault_33_an_unknown_operator_is_refused(folder: Path) -> None:
    model = load(folder)
    model.graph.node[0].op_type = "GatherFromTheFuture"
    assert refusal(folder, model, "ONNX Runtime") == "runtime-unsupported"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
def test_external_weights_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    assert refusal(folder, with_external(load(folder), name), name) == "runtime-unsafe-path"


def test_a_name_of_external_weights_that_is_too_long_to_be_looked_at_is_refused(folder: Path) -> None:
    assert refusal(folder, with_external(load(folder), "./" * 3000 + "w"), "a place of weights") == "runtime-damaged"


def test_external_weights_that_nothing_vouches_for_are_refused(folder: Path) -> None:
    (folder / "model.json").unlink()
    model = with_external(load(folder), "model.json")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="does not name"):
        check_onnx(folder / "model.onnx", {"model.onnx"})


def test_external_weights_inside_the_folder_are_served(folder: Path) -> None:
    onnx.save_model(
        load(folder), folder / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=150
    )
    reseal(folder)
    assert check_onnx(folder / "model.onnx", {"model.data"}).external == {"model.data"}
    opened = open_classifier(folder)
    assert opened.logits(["forgot pin"])[0].argmax() == LABELS.index("pin")
    opened.close()


def with_external(model: Any, name: str) -> Any:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return model


def test_fault_30_a_tokenizer_with_more_words_than_the_model_is_refused(folder: Path) -> None:
    pico_tokenizer(folder / "tokenizer.json", {**WORDS, "more": ("tiger", "lion")})
    reseal(folder)
    with pytest.raises(ModelFileError) as caught:
        open_classifier(folder)
    assert caught.value.code == "runtime-mismatch"
    assert "tokenizer" in str(caught.value)


def test_fault_30_labels_that_do_not_fit_are_refused(folder: Path) -> None:
    reseal(folder, labels=("a", "b"))
    with pytest.raises(ModelFileError, match="2 labels"):
        open_classifier(folder)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": "1.0", "model": {"type": "Evil"}}', "\x00\x01"])
def test_a_damaged_tokenizer_is_refused(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    reseal(folder)
    with pytest.raises(ModelFileError) as caught:
        open_classifier(folder)
    assert caught.value.code == "runtime-damaged"


def test_another_output_name_is_refused(folder: Path) -> None:
    model = load(folder)
    model.graph.output[0].name = "scores"
    model.graph.node[-1].output[0] = "scores"
    assert refusal(folder, model, "logits", "scores") == "runtime-mismatch"


def test_another_input_type_is_refused(folder: Path) -> None:
    model = load(folder)
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT32
    assert refusal(folder, model, "attention_mask") == "runtime-mismatch"
