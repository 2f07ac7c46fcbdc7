"""The ONNX graph against PyTorch, alone and in padded batches; its bytes; its int8 form."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from locum.compress.int8 import quantize_blocks, quantize_int8
from locum.compress.onnx_export import export_onnx
from locum.compress.pico import MAX_TOKENS, PicoStudent, pico_student
from locum.core.errors import LocumError
from locum.core.files import sha256_file
from locum.models.classifier import SequenceClassifier
from locum.runtime.onnx_check import check_onnx

Exported = tuple[SequenceClassifier, Path]


def export_of(student: PicoStudent, folder: Path) -> Exported:
    model = student.load()
    export_onnx(model, folder / "fp32.onnx", max_tokens=MAX_TOKENS)
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx")
    return model, folder


@pytest.fixture(scope="module")
def encoder_onnx(encoder: PicoStudent, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_of(encoder, tmp_path_factory.mktemp("encoder-onnx"))


@pytest.fixture(scope="module")
def decoder_onnx(decoder: PicoStudent, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_of(decoder, tmp_path_factory.mktemp("decoder-onnx"))


@pytest.fixture(params=["encoder", "decoder"])
def exported(request: pytest.FixtureRequest) -> Exported:
    return request.getfixturevalue(f"{request.param}_onnx")


def ragged(rows: int = 6, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Token ids padded at the right with junk ids, so that a leak through the mask shows."""
    draw = np.random.default_rng(0)
    ids = draw.integers(4, 17, size=(rows, width))
    mask = np.zeros_like(ids)
    for row in range(rows):
        mask[row, : 1 + row * (width - 1) // (rows - 1)] = 1  # 1 to width tokens
    return ids, mask


def answer(path: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def answer_singly(path: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = []
    for row, length in enumerate(mask.sum(axis=1)):
        feeds = {"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
        rows.append(session.run(["logits"], feeds)[0])
    return np.concatenate(rows)


def test_fp32_equals_pytorch_in_padded_batches(exported: Exported) -> None:
    model, folder = exported
    ids, mask = ragged()
    with torch.inference_mode():
        expected = model(torch.tensor(ids), torch.tensor(mask)).numpy()
    np.testing.assert_allclose(answer(folder / "fp32.onnx", ids, mask), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["fp32.onnx", "int8.onnx"])
def test_a_row_does_not_depend_on_its_batch(exported: Exported, name: str) -> None:
    ids, mask = ragged()
    batched, single = (how(exported[1] / name, ids, mask) for how in (answer, answer_singly))
    np.testing.assert_allclose(batched, single, atol=2e-5)


@pytest.mark.parametrize("length", [1, 2, MAX_TOKENS])
def test_every_length_is_answered(exported: Exported, length: int) -> None:
    ids, mask = ragged(rows=2, width=length)
    assert np.isfinite(answer(exported[1] / "fp32.onnx", ids, np.ones_like(mask))).all()


def test_int8_is_near_fp32_and_smaller(exported: Exported) -> None:
    _, folder = exported
    ids, mask = ragged()
    exact, rounded = (answer(folder / name, ids, mask) for name in ("fp32.onnx", "int8.onnx"))
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max() + 0.05
    sizes = [(folder / name).stat().st_size for name in ("fp32.onnx", "int8.onnx")]
    assert sizes[1] < 0.6 * sizes[0]


def test_attention_is_one_operator_and_projections_are_int8(exported: Exported) -> None:
    model, folder = exported
    layers = model.body.config.num_hidden_layers
    counts = Counter(node.op_type for node in onnx.load(folder / "int8.onnx").graph.node)
    assert counts["Attention"] == layers
    assert counts["MatMulNBits"] >= 6 * layers
    assert counts["Softmax"] == 0 and counts["DynamicQuantizeLinear"] == 0


def test_the_serving_room_accepts_both_files(exported: Exported) -> None:
    for name in ("fp32.onnx", "int8.onnx"):
        facts = check_onnx(exported[1] / name, frozenset())
        assert not facts.external and ("", "DynamicQuantizeLinear") not in facts.operators


def test_the_file_says_nothing_of_the_machine_that_wrote_it(exported: Exported) -> None:
    for name in ("fp32.onnx", "int8.onnx"):
        content = (exported[1] / name).read_bytes()
        for word in (b".py", b"site-packages", b"pkg.torch", b"pytorch", str(Path.home()).encode() + b"/"):
            assert word not in content, word


def test_the_same_student_has_one_hash(encoder: PicoStudent, encoder_onnx: Exported, tmp_path: Path) -> None:
    export_of(encoder, tmp_path)
    for name in ("fp32.onnx", "int8.onnx"):
        assert sha256_file(tmp_path / name) == sha256_file(encoder_onnx[1] / name)


def test_the_student_is_left_as_it_was(encoder: PicoStudent, encoder_onnx: Exported) -> None:
    model, _ = encoder_onnx
    assert model.body.config._attn_implementation == "eager"
    ids, mask = ragged()
    with torch.inference_mode():
        expected = encoder.load()(torch.tensor(ids), torch.tensor(mask))
        torch.testing.assert_close(model(torch.tensor(ids), torch.tensor(mask)), expected)


@pytest.mark.slow
def test_modernbert_with_its_windows(tmp_path: Path) -> None:
    model, folder = export_of(pico_student(tmp_path / "student", "modernbert", rows=4), tmp_path)
    ids, mask = ragged()
    with torch.inference_mode():
        expected = model(torch.tensor(ids), torch.tensor(mask)).numpy()
    np.testing.assert_allclose(answer(folder / "fp32.onnx", ids, mask), expected, atol=2e-5)


def test_what_cannot_be_traced_is_our_error(
    encoder: PicoStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("data-dependent branch")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(LocumError, match="data-dependent branch") as caught:
        export_onnx(encoder.load(), tmp_path / "model.onnx", max_tokens=8)
    assert caught.value.code == "compress-export" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("width", "block"), [(64, 32), (33, 16), (5, 128)])
def test_blocks_lose_at_most_half_a_step(width: int, block: int) -> None:
    weights = np.random.default_rng(1).normal(size=(7, width)).astype(np.float32)
    values, scales = quantize_blocks(weights, block)
    back = ((values.astype(np.float32) - 128) * scales[..., None]).reshape(7, -1)
    assert back[:, width:].size == 0 or not back[:, width:].any()
    steps = np.repeat(scales, block, axis=1)[:, :width]
    assert (np.abs(back[:, :width] - weights) <= steps / 2 + 1e-7).all()
    assert values.min() >= 1  # -127 to 127: symmetric


def test_a_block_of_zeros_stays_zero() -> None:
    values, scales = quantize_blocks(np.zeros((2, 32), np.float32), 32)
    assert (values == 128).all() and (scales == 1).all()


def test_int8_kernels_compute_what_their_numbers_mean(tmp_path: Path) -> None:
    """Both operators against NumPy: a table of 64 tokens, then a product, no head to spare."""
    draw = np.random.default_rng(2)
    table = draw.normal(size=(512, 64)).astype(np.float32)
    matrix, head = draw.normal(size=(64, 48)).astype(np.float32), draw.normal(size=(48, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], name="g"),
        helper.make_node("MatMul", ["x", "matrix"], ["y"], name="m"),
        helper.make_node("MatMul", ["y", "head"], ["logits"], name="h"),
    ]
    weights = {"table": table, "matrix": matrix, "head": head}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "a")
    quantize_int8(tmp_path / "a", tmp_path / "b")
    made = onnx.load(tmp_path / "b")
    assert [node.op_type for node in made.graph.node] == ["GatherBlockQuantized", "MatMulNBits", "MatMul"]
    session = onnxruntime.InferenceSession(str(tmp_path / "b"), providers=["CPUExecutionProvider"])
    ids = np.arange(0, 512, 9)
    found = session.run(["logits"], {"ids": ids})[0]
    rounded = {}
    for name, array in (("table", table), ("matrix", matrix.T)):
        values, scales = quantize_blocks(array, 64)
        rounded[name] = ((values.astype(np.float32) - 128) * scales[..., None]).reshape(array.shape)
    expected = rounded["table"][ids] @ rounded["matrix"].T @ head
    # The kernel rounds the activations too: 1 part in 254 of the largest in a row and block.
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("width", [64, 576])
def test_int8_rows_are_equal_to_the_last_bit_however_many_are_asked(width: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(6)
    weights = {"w": draw.normal(size=(width, 48)), "head": np.eye(48)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="m"),
            helper.make_node("MatMul", ["y", "head"], ["logits"], name="h"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 48])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "a")
    quantize_int8(tmp_path / "a", tmp_path / "b")
    session = onnxruntime.InferenceSession(str(tmp_path / "b"), providers=["CPUExecutionProvider"])
    x = draw.normal(size=(130, width)).astype(np.float32)
    x[:, 3] *= 50  # an outlier in each row, as language models have
    together = session.run(None, {"x": x})[0]
    for rows in (1, 7, 65):
        parts = [session.run(None, {"x": x[start : start + rows]})[0] for start in range(0, 130, rows)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
