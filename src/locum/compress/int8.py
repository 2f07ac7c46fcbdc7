"""ONNX fp32 to int8: weights in blocks, activations quantised row by row inside the kernel.

Notable: not ONNX Runtime's ``quantize_dynamic``. That takes one activation scale from the whole batch, so a
message's logits depend on what it is batched with (by 0.8 on MiniLM), and on Banking77 it changes 1.3 % of a frozen
MiniLM's labels, where this changes 0.2 %. ``MatMulNBits`` with 8 bits and ``accuracy_level`` 4 multiplies int8
by int8 too, with scales per row and block of weights and per token and block of activations: a row's answer is its
own, because a block of at most 64 is summed in one order whatever the number of rows. It takes twice the time of
``quantize_dynamic`` and two thirds of fp32's. Embedding tables become ``GatherBlockQuantized``. Not here: whether
the result is good enough (``parity``).

Quantisation is symmetric by absolute maximum: q = round(w / s) + 128 with s = max|w| / 127 over a block
(Jacob et al. 2018, arXiv:1712.05877, with zero point at 128).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.files import write_bytes

_BLOCKS = (64, 32, 16)  # at 128 the kernel's order of summation depends on the number of rows (docs/log.md)
_TABLE_VALUES_MIN = 1 << 14  # smaller tables (positions of a pico model) gain nothing
_INT8_COMPUTE = 4  # MatMulNBits' accuracy_level: activations are quantised to int8
_DOMAIN = "com.microsoft"


def quantize_blocks(weights: NDArray[np.float32], block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise each row in blocks of columns.

    Args:
        weights: ``[R, K]``.
        block: columns that share a scale; the last block is padded with zeros.

    Returns:
        Values ``[R, K/block, block]`` around 128, and scales ``[R, K/block]``.
    """
    rows, width = weights.shape
    count = -(-width // block)
    padded = np.zeros((rows, count * block), dtype=np.float32)
    padded[:, :width] = weights
    blocks = padded.reshape(rows, count, block)
    scales = np.abs(blocks).max(axis=2) / np.float32(127)
    scales[scales == 0] = 1  # a block of zeros
    values = np.rint(blocks / scales[..., None]) + 128
    return values.astype(np.uint8), scales.astype(np.float32)


def quantize_int8(source: Path, target: Path, *, keep_head: bool = True) -> None:
    """Quantise the weights of a graph that ``onnx_export`` wrote.

    Args:
        source: the fp32 file.
        target: the int8 file.
        keep_head: leave the last product, which gives the logits, in fp32: it is small and decides labels.
    """
    import onnx

    model = onnx.load(source)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    head = next((node.name for node in reversed(graph.node) if node.op_type in ("MatMul", "Gemm")), "")
    made: list[Any] = []
    tensors: dict[str, Any] = {}
    for node in graph.node:
        skip = keep_head and node.name == head
        made.append(node if skip else _quantized(node, weights, tensors))
    used = {name for node in made for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(made)
    graph.initializer.extend([*kept, *tensors.values()])
    if all(opset.domain != _DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    write_bytes(target, model.SerializeToString(deterministic=True))


def _quantized(node: Any, weights: dict[str, Any], tensors: dict[str, Any]) -> Any:
    """The node that takes this one's place, or the node itself when it has no large constant weights."""
    from onnx import numpy_helper

    if node.op_type == "MatMul" and node.input[1] in weights:
        matrix = numpy_helper.to_array(weights[node.input[1]])
        if matrix.ndim == 2 and matrix.dtype == np.float32:
            return _matmul(node, matrix, tensors)
    if node.op_type == "Gather" and node.input[0] in weights:
        table = numpy_helper.to_array(weights[node.input[0]])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if table.ndim == 2 and table.dtype == np.float32 and table.size >= _TABLE_VALUES_MIN and axis == 0:
            return _gather(node, table, tensors)
    return node


def _matmul(node: Any, matrix: NDArray[np.float32], tensors: dict[str, Any]) -> Any:
    inner, outer = matrix.shape  # x [.., K] @ matrix [K, N]
    block = _block(inner)
    values, scales = quantize_blocks(matrix.T, block)
    return _node(
        "MatMulNBits",
        node,
        [node.input[0], *_store(node.input[1], values, scales, tensors)],
        {"K": inner, "N": outer, "bits": 8, "block_size": block, "accuracy_level": _INT8_COMPUTE},
    )


def _gather(node: Any, table: NDArray[np.float32], tensors: dict[str, Any]) -> Any:
    block = _block(table.shape[1])
    if table.shape[1] % block:
        return node  # the operator wants whole blocks; such a narrow table is small
    values, scales = quantize_blocks(table, block)
    names = _store(node.input[0], values.reshape(table.shape), scales, tensors)
    attributes = {"bits": 8, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    return _node("GatherBlockQuantized", node, [names[0], node.input[1], names[1]], attributes)


def _block(width: int) -> int:
    return next((block for block in _BLOCKS if width % block == 0), 32)


def _store(name: str, values: NDArray[Any], scales: NDArray[Any], tensors: dict[str, Any]) -> list[str]:
    from onnx import numpy_helper

    names = [f"{name}.int8", f"{name}.scales"]
    for key, array in zip(names, (values, scales), strict=True):
        tensors[key] = numpy_helper.from_array(np.ascontiguousarray(array), key)
    return names


def _node(operator: str, old: Any, inputs: list[str], attributes: dict[str, int]) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, list(old.output), name=old.name, domain=_DOMAIN, **attributes)
