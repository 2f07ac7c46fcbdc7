"""One ONNX graph, open to be run: what the classifier, the embedder and the tagger share, by engine.

Notable: a ``GraphSession`` is the seam between what a model means and who computes it; ONNX Runtime stands behind it
here, OpenVINO in ``openvino_session``. Threads come from the container's quota; they spin within a run, which takes
a third off the latency, and sleep between runs. Not here: what is asked (``onnx``, ``onnx_embedder``, ``onnx_tagger``),
checks of the file (``onnx_check``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from locum.core.cpu import usable_cores
from locum.core.errors import LocumError, ModelFileError
from locum.runtime.model_files import resolve_inside
from locum.runtime.onnx_check import OnnxFacts, check_onnx
from locum.runtime.tokenize import Batch, TextTokenizer
from locum.schema.model import ModelSpec

TOKENIZER_NAME = "tokenizer.json"
_KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class GraphSession(Protocol):
    """An open graph; ``run`` may be called from several threads at once."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """Types by name of what it takes, as ``int64``."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives."""
        ...

    def run(self, output: str, feeds: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute one output.

        Raises:
            LocumError: the engine failed.
        """
        ...


OpenSession = Callable[[Path, int, OnnxFacts], GraphSession]
"""Opens (file, threads, what ``check_onnx`` found)."""


class OrtSession:
    """A graph in ONNX Runtime.

    Args:
        path: the file, checked.
        threads: CPU threads.
        facts: what ``check_onnx`` found, for messages.

    Raises:
        ModelFileError: ONNX Runtime cannot open it.
    """

    def __init__(self, path: Path, threads: int, facts: OnnxFacts) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_mem_pattern = False  # lengths differ from call to call, so no pattern repeats
        options.log_severity_level = 4
        # Threads that spin within a run answer one message in two thirds of the time; between runs they sleep.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            unsupported = type(error).__name__ in ("NotImplemented", "InvalidGraph") or "opset" in str(error).lower()
            raise ModelFileError(
                "runtime-unsupported" if unsupported else "runtime-damaged",
                f"ONNX Runtime {onnxruntime.__version__} cannot open it (IR {facts.ir_version}, "
                f"{facts.nodes} nodes): {_short(error)}",
                where=str(path),
                fix="export it again; a newer onnxruntime may know more operators",
            ) from error
        self._inputs = {node.name: node.type.removeprefix("tensor(").rstrip(")") for node in self._session.get_inputs()}
        self._outputs = tuple(node.name for node in self._session.get_outputs())

    @property
    def inputs(self) -> Mapping[str, str]:
        """Types by name."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names."""
        return self._outputs

    def run(self, output: str, feeds: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute one output.

        Raises:
            LocumError: ``runtime-engine-failed``.
        """
        try:
            return self._session.run([output], dict(feeds))[0]
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            shape = feeds["input_ids"].shape
            raise LocumError("runtime-engine-failed", f"ONNX Runtime failed on {shape}: {_short(error)}") from error


class OnnxModel:
    """A model folder with an ONNX graph and a ``tokenizer.json``, open; the folder must have passed ``verify_folder``.

    Args:
        folder: with the weights and ``tokenizer.json``.
        spec: its ``model.json``.
        output: the graph's output that is wanted.
        threads: CPU threads; None takes the usable cores.
        open_session: who computes; ONNX Runtime by default.

    Raises:
        ModelFileError: the file is not ONNX, damaged, unsupported, or does not fit its tokenizer.
    """

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        output: str,
        *,
        threads: int | None = None,
        open_session: OpenSession = OrtSession,
    ) -> None:
        self.spec = spec
        self.threads = threads or usable_cores()
        self.path = resolve_inside(folder, spec.weights)
        self.facts = check_onnx(self.path, set(spec.files))
        if TOKENIZER_NAME not in spec.files:
            raise ModelFileError("runtime-file-missing", f"model.json names no {TOKENIZER_NAME}", where=str(folder))
        self.tokenizer = TextTokenizer(folder / TOKENIZER_NAME, spec.max_tokens)
        self._output = output
        self._lock = threading.Lock()
        self._session: GraphSession | None = open_session(self.path, self.threads, self.facts)
        self._inputs = self._check_signature(self._session)

    def session(self) -> GraphSession:
        """The open graph.

        Raises:
            LocumError: it is closed.
        """
        session = self._session
        if session is None:
            raise LocumError("runtime-closed", f"{self.spec.name} was asked after it was closed")
        return session

    def run(self, batch: Batch, forms: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The output for one batch, rows in the batch's order.

        Args:
            batch: padded rows.
            forms: surface form of each token, ``[n, tokens]``, for a graph that reads them.

        Raises:
            LocumError: closed, or the engine failed.
        """
        feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(batch.input_ids) if forms is None else forms
        return self.session().run(self._output, {name: feeds[name] for name in self._inputs})

    def probe(self) -> NDArray[np.float32]:
        """The output for one token, the tokenizer's largest id: a smaller vocabulary shows here, not in service.

        Raises:
            ModelFileError: the graph cannot take it.
        """
        ids = np.full((1, 1), self.tokenizer.largest_id, dtype=np.int64)
        try:
            return self.run(Batch(np.zeros(1, dtype=np.intp), ids, np.ones_like(ids)))
        except LocumError as error:
            raise ModelFileError(
                "runtime-mismatch",
                f"the model cannot take token id {self.tokenizer.largest_id} of its tokenizer: {error.cause}",
                where=str(self.path),
                fix="export model and tokenizer together",
            ) from error

    def close(self) -> None:
        """Release the session; a second call does nothing."""
        with self._lock:
            self._session = None

    def _check_signature(self, session: GraphSession) -> tuple[str, ...]:
        inputs = tuple(session.inputs)
        foreign = [name for name in inputs if name not in _KNOWN_INPUTS]
        if foreign or "input_ids" not in inputs or self._output not in session.outputs:
            raise ModelFileError(
                "runtime-mismatch",
                f"inputs {list(inputs)} and outputs {list(session.outputs)}; "
                f"needed: {_KNOWN_INPUTS[:2]} and {self._output!r}",
                where=str(self.path),
                fix="export it again with these names",
            )
        wrong = [name for name, kind in session.inputs.items() if kind != "int64"]
        if wrong:
            raise ModelFileError("runtime-mismatch", f"inputs {wrong} are not int64", where=str(self.path))
        if self.spec.surface_forms and "token_type_ids" not in inputs:
            cause = "it is to read surface forms and has no input token_type_ids"
            raise ModelFileError("runtime-mismatch", cause, where=str(self.path), fix="export it again")
        return inputs


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
