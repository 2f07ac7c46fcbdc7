"""Text encoders exported to ONNX that turn texts into vectors.

Notable: pooling and the division by the length stand in the graph (``compress.embedder``), so any engine that runs
it gives the same vectors. Batches are of like length, and a vector does not depend on its neighbours.
Not here: who computes (``onnx_session``), an index over vectors (``retrieval``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import ModelFileError
from locum.runtime.onnx import BATCH_CELLS, BATCH_ROWS
from locum.runtime.onnx_session import OnnxModel, OpenSession, OrtSession
from locum.runtime.protocol import Embedded
from locum.schema.model import ModelSpec

_OUTPUT = "vector"
_LENGTH_GAP_MAX = 1e-3


class OnnxEmbedder:
    """An embedding model in ONNX: output ``vector``, float32 ``[B, D]``, rows of length one.

    Safe to call from several threads. The folder must have passed ``verify_folder``.

    Args:
        folder: with the weights and ``tokenizer.json``.
        spec: its ``model.json``, ``purpose`` embed.
        threads: CPU threads; None takes the usable cores.
        open_session: who computes; ONNX Runtime by default.

    Raises:
        ModelFileError: the file is not ONNX, damaged, unsupported, no embedding model, or does not fit its tokenizer.
    """

    def __init__(
        self, folder: Path, spec: ModelSpec, *, threads: int | None = None, open_session: OpenSession = OrtSession
    ) -> None:
        self._model = OnnxModel(folder, spec, _OUTPUT, threads=threads, open_session=open_session)
        self._rows_alone = self._model.facts.batch_dependent
        vector = self._model.probe()
        length = float(np.linalg.norm(vector))
        if vector.ndim != 2 or vector.dtype != np.float32 or abs(length - 1) > _LENGTH_GAP_MAX:
            raise ModelFileError(
                "runtime-mismatch",
                f"it gives {vector.dtype} {list(vector.shape)} of length {length:.3g}, needed: one row of length 1",
                where=str(self._model.path),
                fix="export it again with `locum export NAME --as embedder`",
            )
        self._dimensions = int(vector.shape[1])

    @property
    def spec(self) -> ModelSpec:
        """The folder's ``model.json``."""
        return self._model.spec

    @property
    def model(self) -> str:
        """Its name."""
        return self._model.spec.name

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length one, ``[len(texts), dimensions]``.

        Raises:
            LocumError: the model is closed, or the engine failed.
        """
        return self.read(texts).vectors

    def read(self, texts: Sequence[str]) -> Embedded:
        """The vectors, and how many tokens of each text were read, special tokens included.

        Raises:
            LocumError: the model is closed, or the engine failed.
        """
        self._model.session()
        result = np.empty((len(texts), self._dimensions), dtype=np.float32)
        max_rows = 1 if self._rows_alone else BATCH_ROWS
        encoded = self._model.tokenizer.encode_counted(texts)
        for batch in self._model.tokenizer.pad(encoded.ids, max_rows=max_rows, max_cells=BATCH_CELLS):
            result[batch.rows] = self._model.run(batch)
        return Embedded(result, np.array([len(ids) for ids in encoded.ids], dtype=np.int64), encoded.dropped)

    def close(self) -> None:
        """Release the session; a second call does nothing."""
        self._model.close()
