#!/usr/bin/env bash
# Dynamic quantisation in ONNX Runtime: what a row gives depends on the rows that it is batched with.
#
# Guess: a matrix product treats rows apart, so a row gives the same alone and in a batch, quantised or not.
# Behaviour: ``quantize_dynamic`` puts one ``DynamicQuantizeLinear`` before the product, which takes one scale and one
# zero point from the least and the largest value of the whole batch. A row with large values makes all others coarse.
# The float model gives the row the same either way.
# Versions: onnxruntime 1.31.1, onnx 1.23.2, numpy 2.4.6, Python 3.11.
# Source: the ONNX operator DynamicQuantizeLinear (``y_scale`` is a scalar); onnxruntime issue 10111, where a maintainer
# says that it is expected.
#
# Exit status: 0 as stated, 1 changed, 2 the packages could not be installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/environment"
"$folder/environment/bin/python" -m pip install --quiet --disable-pip-version-check \
  onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6 || exit 2
"$folder/environment/bin/python" - <<'PYTHON'
from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path


def show() -> bool:
    """One row alone, and beside a row whose values are twenty times as large."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it proposes a preparation that one product does not need
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(64, 4)).astype(np.float32)
    row = draw.normal(size=(1, 64)).astype(np.float32)
    both = np.concatenate([row, 20 * draw.normal(size=(1, 64)).astype(np.float32)])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [numpy_helper.from_array(weights, "weights")],
    )
    apart: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), plain)
        quantize_dynamic(plain, quantised, weight_type=QuantType.QInt8)
        for path in (plain, quantised):
            session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
            alone, beside = (session.run(None, {"x": rows})[0][0] for rows in (row, both))
            apart[path.stem] = float(np.abs(alone - beside).max())
            print(f"{path.stem:<6} alone {alone.round(3)}  beside another row {beside.round(3)}")
    print(f"largest difference: float {apart['float']:.6f}, int8 {apart['int8']:.3f}")
    return apart["float"] < 1e-4 and apart["int8"] > 0.1


as_stated = show()
print("as stated" if as_stated else "CHANGED: the behaviour is not the one that this script's head states")
sys.exit(0 if as_stated else 1)
PYTHON
