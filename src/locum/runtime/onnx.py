"""Encoders and decoders exported to ONNX that classify.

Notable: where activations are rounded with one scale for the batch, a row's scores would depend on its
neighbours; such rows run one at a time, spread over the threads, and every answer is the same however it was
asked. Other files, Locum's own int8 among them, run in batches sorted by length.
Not here: who computes (``onnx_session``), tokenizing (``tokenize``), embeddings and tags.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError, ModelFileError
from locum.runtime.onnx_session import OnnxModel, OpenSession, OrtSession
from locum.runtime.protocol import Scored
from locum.schema.model import ModelSpec

BATCH_ROWS = 4  # of like length: padding costs more than fewer calls save (32 rows: 232/s, 4 rows: 575/s)
BATCH_CELLS = 4096  # rows x tokens; more gains nothing on a few cores and takes memory
_OUTPUT = "logits"


class OnnxClassifier:
    """A classifier in ONNX: inputs ``input_ids``, ``attention_mask`` (``token_type_ids``), output ``logits``.

    Safe to call from several threads. The folder must have passed ``verify_folder``.

    Args:
        folder: with the weights and ``tokenizer.json``.
        spec: its ``model.json``.
        threads: CPU threads; None takes the usable cores.
        open_session: who computes; ONNX Runtime by default.

    Raises:
        ModelFileError: the file is not ONNX, damaged, unsupported, or does not fit its tokenizer or labels.
    """

    def __init__(
        self, folder: Path, spec: ModelSpec, *, threads: int | None = None, open_session: OpenSession = OrtSession
    ) -> None:
        self._model = OnnxModel(folder, spec, _OUTPUT, threads=threads, open_session=open_session)
        self._rows_alone = self._model.facts.batch_dependent
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        scores = self._model.probe()
        if scores.shape != (1, len(spec.labels)) or scores.dtype != np.float32:
            raise ModelFileError(
                "runtime-mismatch",
                f"it gives {scores.dtype} {list(scores.shape)} for {len(spec.labels)} labels",
                where=str(self._model.path),
            )

    @property
    def spec(self) -> ModelSpec:
        """The folder's ``model.json``."""
        return self._model.spec

    @property
    def threads(self) -> int:
        """CPU threads that compute."""
        return self._model.threads

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores before softmax and temperature, ``[len(texts), n_labels]``.

        Raises:
            LocumError: the model is closed, or the engine failed.
        """
        return self.read(texts).logits

    def read(self, texts: Sequence[str]) -> Scored:
        """The scores, and how many tokens of each text were over ``max_tokens``.

        Raises:
            LocumError: the model is closed, or the engine failed.
        """
        self._model.session()
        result = np.empty((len(texts), len(self.spec.labels)), dtype=np.float32)
        max_rows = 1 if self._rows_alone else BATCH_ROWS
        encoded = self._model.tokenizer.encode_counted(texts)
        batches = self._model.tokenizer.pad(encoded.ids, max_rows=max_rows, max_cells=BATCH_CELLS)
        if len(batches) == 1 or self.threads == 1 or not self._rows_alone:
            for batch in batches:
                result[batch.rows] = self._model.run(batch)
        else:
            for batch, scores in zip(batches, self._workers().map(self._model.run, batches), strict=True):
                result[batch.rows] = scores
        return Scored(result, encoded.dropped)

    def close(self) -> None:
        """Release the session and the threads; a second call does nothing."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._closed = True
        self._model.close()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise LocumError("runtime-closed", f"{self.spec.name} was closed while it answered")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="locum-onnx")
            return self._pool
