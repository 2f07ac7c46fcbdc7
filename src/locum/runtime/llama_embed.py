"""Vectors from GGUF files through llama.cpp, and classification over them.

Notable: a text is read in one piece and alone, so its vector does not depend on its neighbours. A text of fewer bytes
than tokens are allowed cannot be too long, and is sent without being counted first. Vectors travel as base64 of their
float32 bits. Not here: writing text (``llamacpp``).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.core.cpu import usable_cores
from locum.core.errors import LocumError, ModelFileError
from locum.runtime.gguf_check import GgufHeader, check_gguf
from locum.runtime.gguf_vocabulary import wordpiece
from locum.runtime.linear import read_arrays
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_process import LlamaProcess
from locum.runtime.llama_request import refusal
from locum.runtime.llama_settings import ChildSettings, EngineSettings, Pooling
from locum.runtime.llama_template import check_template, templates_of
from locum.runtime.model_files import resolve_inside
from locum.runtime.protocol import Embedded, Scored
from locum.schema.model import ModelSpec

HEAD_NAME = "head.npz"
_EMBED_TIMEOUT_S = 120.0
_EMBED_IDLE_S = 60.0  # nothing is heard while a text is read, in one step
_CHARACTERS_A_TOKEN = 100
_SPECIAL_TOKENS = 2
_MAX_TOKENS = 2048  # a text is read in one step, and the memory for that is taken when the process starts
_RAW, _LENGTH_ONE = -1, 2
_POOLING_TYPES: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}
"""llama.cpp's numbers in ``ARCHITECTURE.pooling_type``."""


class TextVectors:
    """A GGUF file that gives each text a pooled embedding.

    Args:
        path: the file, checked.
        header: its header.
        max_tokens: longer texts are cut there.
        pooling: mean, last or cls.
        normalise: whether vectors get length one.
        settings: threads, the time to load and a ``server_binary`` are taken from it.
    """

    def __init__(
        self,
        path: Path,
        header: GgufHeader,
        *,
        max_tokens: int,
        pooling: Pooling,
        normalise: bool,
        settings: EngineSettings,
    ) -> None:
        binary = settings.binary()
        templates = templates_of(header)
        self.max_tokens = max_tokens
        self._normalise = _LENGTH_ONE if normalise else _RAW
        self._frame: list[int] | None = None
        self._wordpiece = wordpiece(path, header)  # llama.cpp's own drops vowels of Korean and Devanagari
        self.process = LlamaProcess(
            ChildSettings(
                str(path.resolve()),
                max(64, max_tokens + 8),
                pooling,
                settings.threads or usable_cores(),
                flash_attention=settings.flash_attention,
                prefix_reuse=False,
                binary=None if binary is None else str(binary),
            ),
            ready_s=settings.load_s,
            idle_s=_EMBED_IDLE_S,
            check=lambda: check_template(templates, str(path)),
        )

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, with those that begin and end every text."""
        if self._wordpiece is not None:
            return self._wordpiece.encode(text).ids
        body = {"content": text, "add_special": True, "parse_special": True}
        return self._post("/tokenize", body)["tokens"]

    def vector(self, text: str) -> tuple[NDArray[np.float32], int, int]:
        """The embedding of a text, ``[D]``, how many tokens were read for it, and how many were not."""
        clean = text[: self.max_tokens * _CHARACTERS_A_TOKEN].encode("utf-8", "replace").decode()
        content: str | list[int] = clean
        dropped = int(len(text) > self.max_tokens * _CHARACTERS_A_TOKEN)
        if self._wordpiece is not None or not clean or len(clean.encode()) + _SPECIAL_TOKENS > self.max_tokens:
            ids = self.tokens(clean) or self.tokens(" ")  # nothing at all has no embedding
            dropped = max(dropped, len(ids) - self.max_tokens)
            content = self._cut(ids)
        body = {"input": content, "encoding_format": "base64", "embd_normalize": self._normalise}
        answer = self._post("/v1/embeddings", body, slot=True)
        vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
        return vector, answer["usage"]["prompt_tokens"], dropped

    def close(self) -> None:
        """End the child process."""
        self.process.close()

    def _cut(self, ids: list[int]) -> list[int]:
        """The first tokens, with the one that ends every text in the last place, as a ``tokenizer.json`` cuts."""
        if len(ids) <= self.max_tokens:
            return ids
        if self._frame is None:
            self._frame = self.tokens("")  # of a text without words: what stands around every text
        kept = ids[: self.max_tokens]
        if self._frame[-1:] == ids[-1:]:
            kept[-1] = ids[-1]
        return kept

    def _post(self, path: str, body: dict[str, Any], *, slot: bool = False) -> dict[str, Any]:
        try:
            return self.process.post(path, body, _EMBED_TIMEOUT_S, slot=slot)
        except EngineRefusedError as error:
            raise refusal(error, self.process.where) from None


class LlamaEmbedder:
    """Vectors of length one from a GGUF file.

    Args:
        path: the file.
        pooling: how token embeddings become one; None takes what the file says, or else mean.
        max_tokens: longer texts are cut there; None takes the context the model was trained for, up to 2,048.
        settings: threads, and a ``server_binary``.

    Raises:
        ModelFileError: the file is damaged, hostile or unsupported.
    """

    def __init__(
        self,
        path: Path,
        *,
        pooling: Pooling | None = None,
        max_tokens: int | None = None,
        settings: EngineSettings | None = None,
    ) -> None:
        header = check_gguf(path)
        width = header.embedding_length
        if width is None:
            raise ModelFileError(
                "runtime-unsupported", "the file does not say how wide its vectors are", where=str(path)
            )
        longest = header.context_length or _MAX_TOKENS
        stated = _POOLING_TYPES.get(header.metadata.get(f"{header.architecture}.pooling_type", 1), "mean")
        self._model = path.stem
        self._width = width
        self._vectors = TextVectors(
            path,
            header,
            max_tokens=min(longest, max_tokens or _MAX_TOKENS),
            pooling=pooling or stated,
            normalise=True,
            settings=settings or EngineSettings(),
        )

    @property
    def model(self) -> str:
        """The file's name without its ending."""
        return self._model

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._width

    @property
    def process(self) -> LlamaProcess:
        """The engine's process."""
        return self._vectors.process

    @property
    def problem(self) -> LocumError | None:
        """Why a text would not be answered now, as ``LlamaProcess.problem``."""
        return self.process.problem

    def start(self) -> None:
        """Load the model now instead of with the first text; errors as ``LlamaProcess.post``."""
        self.process.start()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length one, ``[len(texts), dimensions]``.

        Raises:
            LocumError: as ``LlamaProcess.post``.
        """
        return self.read(texts).vectors

    def read(self, texts: Sequence[str]) -> Embedded:
        """The vectors, and how many tokens of each text were read.

        Raises:
            LocumError: as ``LlamaProcess.post``.
        """
        vectors = np.empty((len(texts), self._width), dtype=np.float32)
        tokens, dropped = np.zeros((2, len(texts)), dtype=np.int64)
        for row, text in enumerate(texts):
            vectors[row], tokens[row], dropped[row] = self._vectors.vector(text)
        return Embedded(vectors, tokens, dropped)

    def close(self) -> None:
        """End the child process; a second call does nothing."""
        self._vectors.close()


class LlamaClassifier:
    """A decoder in GGUF that classifies: pooled embeddings, then the linear head of ``head.npz``.

    ``head.npz`` holds ``weight`` [C, D] and ``bias`` [C] (C labels, D the model's width).

    Args:
        folder: with the GGUF file and ``head.npz``; it must have passed ``verify_folder``.
        spec: its ``model.json``; ``pooling`` must be given.
        threads: CPU threads; None takes the usable cores.

    Raises:
        ModelFileError: a file is damaged or unsupported, or the parts do not fit together.
        UserError: LOCUM_LLAMA_SERVER names no program.
    """

    def __init__(self, folder: Path, spec: ModelSpec, *, threads: int | None = None) -> None:
        path = resolve_inside(folder, spec.weights)
        header = check_gguf(path)
        if HEAD_NAME not in spec.files or spec.pooling is None:
            raise ModelFileError("runtime-mismatch", f"model.json needs {HEAD_NAME} and pooling", where=str(folder))
        arrays = read_arrays(folder / HEAD_NAME)
        width = header.embedding_length
        expected = {"weight": (len(spec.labels), width), "bias": (len(spec.labels),)}
        if {name: array.shape for name, array in arrays.items()} != expected:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ModelFileError("runtime-mismatch", f"{shapes}, needed {expected}", where=str(folder / HEAD_NAME))
        self._weight = arrays["weight"].astype(np.float32)
        self._bias = arrays["bias"].astype(np.float32)
        self._spec = spec
        self._vectors = TextVectors(
            path,
            header,
            max_tokens=spec.max_tokens,
            pooling=spec.pooling,
            normalise=False,
            settings=EngineSettings(threads=threads),
        )

    @property
    def spec(self) -> ModelSpec:
        """The folder's ``model.json``."""
        return self._spec

    @property
    def process(self) -> LlamaProcess:
        """The engine's process."""
        return self._vectors.process

    @property
    def problem(self) -> LocumError | None:
        """Why a text would not be answered now, as ``LlamaProcess.problem``."""
        return self.process.problem

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores before softmax and temperature, ``[len(texts), n_labels]``: ``pooled @ weight.T + bias``.

        Raises:
            LocumError: as ``LlamaProcess.post``.
        """
        return self.read(texts).logits

    def read(self, texts: Sequence[str]) -> Scored:
        """The scores, and how many tokens of each text were over ``max_tokens``.

        Raises:
            LocumError: as ``LlamaProcess.post``.
        """
        result = np.empty((len(texts), len(self._spec.labels)), dtype=np.float32)
        dropped = np.zeros(len(texts), dtype=np.int64)
        for row, text in enumerate(texts):
            vector, _, dropped[row] = self._vectors.vector(text)
            result[row] = vector @ self._weight.T + self._bias
        return Scored(result, dropped)

    def close(self) -> None:
        """End the child process; a second call does nothing."""
        self._vectors.close()
