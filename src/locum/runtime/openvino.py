"""The same ONNX folders in OpenVINO: an engine of Intel's for Intel's and ARM's processors, an optional extra.

Notable: the precision is pinned to float32 (beside the file's own int8 weights). OpenVINO would take bfloat16 where the
processor has it, and the same bundle would then answer differently on another machine. Its CPU plug-in keeps integers
in 32 bits; a graph whose arithmetic needs more is refused and not computed wrongly. Not here: text generation
(``openvino_generator``), whether it is the fastest (``evaluate.engines``).
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError, ModelFileError, UserError
from locum.core.extras import install_command
from locum.core.text import one_line
from locum.runtime.onnx import OnnxClassifier
from locum.runtime.onnx_check import OnnxFacts
from locum.schema.model import ModelSpec

_INT32_MAX = 2**31 - 1
_INTEGER_ARITHMETIC = frozenset({"Multiply", "Add", "Subtract", "Mod", "FloorMod", "Divide"})
_SMALL = 16  # constants of more values are weights
_TYPES = {"i64": "int64", "i32": "int32", "f32": "float32"}


class OpenVinoSession:
    """A graph in OpenVINO; answers come one after the other, each on all threads.

    Args:
        path: the ONNX file, checked.
        threads: CPU threads.
        facts: what ``check_onnx`` found, for messages.

    Raises:
        UserError: OpenVINO is not installed.
        ModelFileError: OpenVINO cannot open the graph, or would compute it wrongly.
    """

    def __init__(self, path: Path, threads: int, facts: OnnxFacts) -> None:
        openvino = import_openvino("openvino")
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": "",
        }
        try:
            model = core.read_model(str(path))
            _refuse_wide_integers(model, path)
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:  # OpenVINO's own errors are RuntimeErrors
            raise ModelFileError(
                "runtime-unsupported",
                f"OpenVINO {openvino.__version__} cannot open it ({facts.nodes} nodes): {one_line(str(error), 300)}",
                where=str(path),
                fix="use --engine onnx",
            ) from error
        self._request: Any = compiled.create_infer_request()
        self._turn = threading.Lock()  # a request answers one at a time
        self._inputs = {port.any_name: _type(port) for port in compiled.inputs}
        self._ports = {name: port for port in compiled.outputs for name in port.names}

    @property
    def inputs(self) -> Mapping[str, str]:
        """Types by name."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names."""
        return tuple(self._ports)

    def run(self, output: str, feeds: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute one output.

        Raises:
            LocumError: ``runtime-engine-failed``.
        """
        try:
            with self._turn:
                return np.array(self._request.infer(dict(feeds))[self._ports[output]])  # a copy: its memory is reused
        except RuntimeError as error:
            shape = feeds["input_ids"].shape
            raise LocumError(
                "runtime-engine-failed", f"OpenVINO failed on {shape}: {one_line(str(error), 300)}"
            ) from error


class OpenVinoClassifier(OnnxClassifier):
    """As ``OnnxClassifier``, computed by OpenVINO."""

    def __init__(self, folder: Path, spec: ModelSpec, *, threads: int | None = None) -> None:
        super().__init__(folder, spec, threads=threads, open_session=OpenVinoSession)


def import_openvino(module: str) -> Any:
    """Import ``openvino`` or ``openvino_genai``, or say how to install them.

    Raises:
        UserError: ``core-missing-extra``.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            "core-missing-extra",
            f"the openvino engine needs {module}, which cannot be imported: {one_line(str(error))}",
            fix=f"{install_command('openvino')}; or name another engine with --engine",
        ) from error


def _type(port: Any) -> str:
    name = port.element_type.get_type_name()
    return _TYPES.get(name, str(name))


def _refuse_wide_integers(model: Any, path: Path) -> None:
    """Refuse integer arithmetic with constants that 32 bits cannot hold.

    Raises:
        ModelFileError: ``runtime-unsupported``.
    """
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or _type(node.output(0)) != "int64":
            continue
        shape = node.output(0).get_shape()
        if np.prod(list(shape)) > _SMALL or not np.any(np.abs(node.get_data().astype(np.float64)) > _INT32_MAX):
            continue
        users = {target.get_node().get_type_name() for target in node.output(0).get_target_inputs()}
        if users & _INTEGER_ARITHMETIC:
            raise ModelFileError(
                "runtime-unsupported",
                "it computes with integers of more than 32 bits, which OpenVINO cuts",
                where=str(path),
                fix="use --engine onnx, or build the bundle again with this version of Locum",
            )
