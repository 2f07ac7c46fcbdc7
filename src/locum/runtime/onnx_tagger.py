"""Token classifiers exported to ONNX: a score of every tag for every token, with the token's place in the text.

Notable: places are in characters of the text as it was given, whatever the tokenizer's normaliser did to it, so a
span can be cut out of the original. Special tokens ([CLS], [SEP]) are left out. Not here: joining tokens to entities,
which is the business of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import ModelFileError
from locum.runtime.onnx import BATCH_CELLS, BATCH_ROWS
from locum.runtime.onnx_session import OnnxModel, OpenSession, OrtSession
from locum.runtime.protocol import TaggedText
from locum.runtime.surface import padded_forms, surface_forms
from locum.runtime.tokenize import Batch, Tokens
from locum.schema.model import ModelSpec

_OUTPUT = "logits"


class OnnxTagger:
    """A token classifier in ONNX: output ``logits``, float32 ``[B, T, tags]``.

    Safe to call from several threads. The folder must have passed ``verify_folder``.

    Args:
        folder: with the weights and ``tokenizer.json``.
        spec: its ``model.json``, ``purpose`` tag; its labels are the tags.
        threads: CPU threads; None takes the usable cores.
        open_session: who computes; ONNX Runtime by default.

    Raises:
        ModelFileError: the file is not ONNX, damaged, unsupported, or does not fit its tokenizer or tags.
    """

    def __init__(
        self, folder: Path, spec: ModelSpec, *, threads: int | None = None, open_session: OpenSession = OrtSession
    ) -> None:
        self._model = OnnxModel(folder, spec, _OUTPUT, threads=threads, open_session=open_session)
        self._max_rows = 1 if self._model.facts.batch_dependent else BATCH_ROWS
        scores = self._model.probe()
        if scores.shape != (1, 1, len(spec.labels)) or scores.dtype != np.float32:
            raise ModelFileError(
                "runtime-mismatch",
                f"it gives {scores.dtype} {list(scores.shape)} for {len(spec.labels)} tags and one token",
                where=str(self._model.path),
            )

    @property
    def spec(self) -> ModelSpec:
        """The folder's ``model.json``."""
        return self._model.spec

    def tag(self, texts: Sequence[str]) -> list[TaggedText]:
        """Scores before the softmax, one entry a text.

        Raises:
            LocumError: the model is closed, or the engine failed.
        """
        self._model.session()
        read = self._model.tokenizer.read(texts)
        found: dict[int, TaggedText] = {}
        ids = [tokens.ids for tokens in read]
        for batch in self._model.tokenizer.pad(ids, max_rows=self._max_rows, max_cells=BATCH_CELLS):
            forms = self._forms(texts, read, batch) if self.spec.surface_forms else None
            scores = self._model.run(batch, forms)  # [n, T, tags]
            for place, row in enumerate(batch.rows):
                found[int(row)] = _tagged(read[row], scores[place])
        return [found[row] for row in range(len(texts))]

    def _forms(self, texts: Sequence[str], read: Sequence[Tokens], batch: Batch) -> NDArray[np.int64]:
        found = [surface_forms(texts[row], read[row].spans) for row in map(int, batch.rows)]
        return padded_forms(found, batch.input_ids.shape[1])

    def close(self) -> None:
        """Release the session; a second call does nothing."""
        self._model.close()


def _tagged(tokens: Tokens, scores: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> TaggedText:
    kept = np.flatnonzero(~tokens.special)
    return TaggedText(tokens.spans[kept], np.ascontiguousarray(scores[kept]), tokens.dropped)
