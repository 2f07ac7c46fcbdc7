"""Encoders and decoders exported to ONNX, served by ONNX Runtime.

Notable: where activations are rounded with one scale for the batch, a row's scores would depend on its
neighbours; such rows run one at a time, spread over the threads, and every answer is the same however it was
asked. Other files, Locum's own int8 among them, run in batches sorted by length. Threads come from the
container's quota; they spin within a run, which takes a third off the latency, and sleep between runs.
Not here: tokenizing (``tokenize``), checks of the file (``onnx_check``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.cpu import usable_cores
from locum.core.errors import LocumError, ModelFileError
from locum.runtime.model_files import resolve_inside
from locum.runtime.onnx_check import OnnxFacts, check_onnx
from locum.runtime.tokenize import Batch, TextTokenizer
from locum.schema.model import ModelSpec

TOKENIZER_NAME = "tokenizer.json"
_BATCH_ROWS = 4  # of like length: padding costs more than fewer calls save (32 rows: 232/s, 4 rows: 575/s)
_BATCH_CELLS = 4096  # rows x tokens; more gains nothing on a few cores and takes memory
_KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUT = "logits"


class OnnxClassifier:
    """A classifier in ONNX: inputs ``input_ids``, ``attention_mask`` (``token_type_ids``), output ``logits``.

    Safe to call from several threads. The folder must have passed ``verify_folder``.

    Args:
        folder: with the weights and ``tokenizer.json``.
        spec: its ``model.json``.
        threads: CPU threads; None takes the usable cores.

    Raises:
        ModelFileError: the file is not ONNX, damaged, unsupported, or does not fit its tokenizer or labels.
    """

    def __init__(self, folder: Path, spec: ModelSpec, *, threads: int | None = None) -> None:
        self._spec = spec
        self.threads = threads or usable_cores()
        path = resolve_inside(folder, spec.weights)
        facts = check_onnx(path, set(spec.files))
        self._rows_alone = facts.batch_dependent
        if TOKENIZER_NAME not in spec.files:
            raise ModelFileError("runtime-file-missing", f"model.json names no {TOKENIZER_NAME}", where=str(folder))
        self.tokenizer = TextTokenizer(folder / TOKENIZER_NAME, spec.max_tokens)
        self._session: Any = _session(path, self.threads, facts)
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._inputs = self._check_signature(path)
        self._check_fit(path)

    @property
    def spec(self) -> ModelSpec:
        """The folder's ``model.json``."""
        return self._spec

    @property
    def truncated(self) -> int:
        """How many inputs were cut at ``max_tokens`` so far."""
        return self.tokenizer.truncated

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores before softmax and temperature, ``[len(texts), n_labels]``.

        Raises:
            LocumError: the model is closed, or the engine failed.
        """
        if self._session is None:
            raise LocumError("runtime-closed", f"{self._spec.name} was asked after it was closed")
        result = np.empty((len(texts), len(self._spec.labels)), dtype=np.float32)
        if not texts:
            return result
        max_rows = 1 if self._rows_alone else _BATCH_ROWS
        batches = self.tokenizer.batches(texts, max_rows=max_rows, max_cells=_BATCH_CELLS)
        if len(batches) == 1 or self.threads == 1 or not self._rows_alone:
            for batch in batches:
                result[batch.rows] = self._run(batch)
        else:
            for batch, scores in zip(batches, self._workers().map(self._run, batches), strict=True):
                result[batch.rows] = scores
        return result

    def close(self) -> None:
        """Release the session and the threads; a second call does nothing."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._session = None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._session is None:
                raise LocumError("runtime-closed", f"{self._spec.name} was closed while it answered")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="locum-onnx")
            return self._pool

    def _run(self, batch: Batch) -> NDArray[np.float32]:
        session = self._session
        if session is None:
            raise LocumError("runtime-closed", f"{self._spec.name} was closed while it answered")
        feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(batch.input_ids)
        try:
            return session.run([_OUTPUT], {name: feeds[name] for name in self._inputs})[0]
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise LocumError(
                "runtime-engine-failed", f"ONNX Runtime failed on {batch.input_ids.shape}: {_short(error)}"
            ) from error

    def _check_signature(self, path: Path) -> tuple[str, ...]:
        inputs = tuple(node.name for node in self._session.get_inputs())
        outputs = [node.name for node in self._session.get_outputs()]
        foreign = [name for name in inputs if name not in _KNOWN_INPUTS]
        if foreign or "input_ids" not in inputs or _OUTPUT not in outputs:
            raise ModelFileError(
                "runtime-mismatch",
                f"inputs {list(inputs)} and outputs {outputs}; needed: {_KNOWN_INPUTS[:2]} and {_OUTPUT!r}",
                where=str(path),
                fix="export it again with these names",
            )
        wrong = [node.name for node in self._session.get_inputs() if node.type != "tensor(int64)"]
        if wrong:
            raise ModelFileError("runtime-mismatch", f"inputs {wrong} are not int64", where=str(path))
        return inputs

    def _check_fit(self, path: Path) -> None:
        """Run the tokenizer's largest id once: a smaller vocabulary in the weights shows here, not in service."""
        ids = np.full((1, 1), self.tokenizer.largest_id, dtype=np.int64)
        try:
            scores = self._run(Batch(np.zeros(1, dtype=np.intp), ids, np.ones_like(ids)))
        except LocumError as error:
            raise ModelFileError(
                "runtime-mismatch",
                f"the model cannot take token id {self.tokenizer.largest_id} of its tokenizer: {error.cause}",
                where=str(path),
                fix="export model and tokenizer together",
            ) from error
        if scores.shape != (1, len(self._spec.labels)) or scores.dtype != np.float32:
            raise ModelFileError(
                "runtime-mismatch",
                f"it gives {scores.dtype} {list(scores.shape)} for {len(self._spec.labels)} labels",
                where=str(path),
            )


def _session(path: Path, threads: int, facts: OnnxFacts) -> Any:
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
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        unsupported = type(error).__name__ in ("NotImplemented", "InvalidGraph") or "opset" in str(error).lower()
        raise ModelFileError(
            "runtime-unsupported" if unsupported else "runtime-damaged",
            f"ONNX Runtime {onnxruntime.__version__} cannot open it (IR {facts.ir_version}, "
            f"{facts.nodes} nodes): {_short(error)}",
            where=str(path),
            fix="export it again; a newer onnxruntime may know more operators",
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
