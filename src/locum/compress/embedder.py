"""A pretrained encoder becomes an embedding model that is served without PyTorch, checked text by text.

Notable: int8 is tried before fp32, as for students; what is kept gives every sample text a vector whose cosine with
PyTorch's is at least 0.99, through the engine that will serve it. The samples are short and long, plain and odd, and
in several scripts, because rounding hurts rare tokens first. Not here: training an encoder, students (``export``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from locum.compress.int8 import quantize_int8
from locum.core.errors import CheckFailed
from locum.core.files import atomic_folder, write_bytes
from locum.core.progress import note, track, warn
from locum.runtime.model_files import seal
from locum.runtime.open import open_onnx_embedder
from locum.schema.model import ModelSpec, Precision
from locum.schema.training import EmbedderParity, EmbedderRequest

if TYPE_CHECKING:
    from locum.compress.onnx_export import Embedding
    from locum.runtime.tokenize import TextTokenizer

SAMPLES = (
    "hello",
    "My card never arrived, and I have been waiting for two weeks now.",
    "How do I change my PIN?",
    "The quick brown fox jumps over the lazy dog.",
    "Invoice 2024-00871 was paid twice; please refund EUR 1,284.50 to the account ending in 4417.",
    "def mean(values): return sum(values) / len(values)",
    "SELECT name, count(*) FROM orders WHERE total > 100 GROUP BY name;",
    "Where is the nearest train station?",
    "The mitochondrion is the powerhouse of the cell.",
    "In 1905 Einstein published four papers that changed physics.",
    "Terrible service. I will never come back!!!",
    "absolutely loved it, ten out of ten",
    "Please summarise the attached contract in three sentences.",
    "Wie spät ist es in Zürich?",
    "¿Dónde está la biblioteca más cercana?",
    "Je voudrais réserver une table pour deux personnes.",
    "你好,请问这个多少钱?",
    "Привет, как дела?",
    "🙂🙂 great 👍",
    "a",
    "",
    "0 1 2 3 4 5 6 7 8 9",
    "https://example.org/path?query=1#part",
    "Water boils at 100 degrees Celsius at sea level, and at a lower temperature on a mountain, because the pressure "
    "of the air is lower there; cooks in high places therefore boil their potatoes for longer.",
    "word " * 120,
)


def export_embedder(asked: EmbedderRequest, out: Path) -> tuple[ModelSpec, EmbedderParity]:
    """Export an encoder as an embedding model folder.

    Args:
        asked: what to export, and how near it must stay.
        out: the model folder; complete or absent, an old one is replaced.

    Returns:
        The ``model.json`` that was written, and the comparison.

    Raises:
        CheckFailed: no format stays near enough (``compress-parity``); nothing is written.
        ModelFileError: the encoder is damaged or must not be opened.
        LocumError: PyTorch cannot export it.
    """
    from locum.compress.onnx_export import Embedding, export_embedding_onnx
    from locum.models.base_files import inspect_base
    from locum.models.body import load_body
    from locum.models.tokenizer import open_tokenizer, write_tokenizer

    base = inspect_base(Path(asked.base))
    body = load_body(base)
    tried: list[str] = []
    with atomic_folder(out) as folder:
        scratch = folder / ".scratch"
        scratch.mkdir()
        tokenizer = write_tokenizer(base, scratch)
        vocabulary = cast("Any", body).get_input_embeddings().num_embeddings
        wanted = _vectors(Embedding(body, asked.pooling), open_tokenizer(tokenizer, asked.max_tokens, vocabulary))
        with track("write ONNX"):
            export_embedding_onnx(body, asked.pooling, scratch / "fp32.onnx", max_tokens=asked.max_tokens)
        for precision in asked.formats:
            model = scratch / precision
            spec = _write(asked, scratch, model, precision)
            parity = _compare(model, wanted, precision, asked, tried)
            if parity.cosine_min >= asked.min_cosine:
                break
            tried.append(f"{precision}: cosine {parity.cosine_min:.4f} < {asked.min_cosine}")
            warn(f"not kept: {tried[-1]}")
        else:
            raise CheckFailed(
                "compress-parity",
                f"the exported model gives other vectors than {asked.name}: {'; '.join(tried)}",
                where=asked.base,
            )
        for path in model.iterdir():
            path.rename(folder / path.name)
        shutil.rmtree(scratch)
    note(f"exported {asked.name} as an embedder, {parity.precision}", cosine=round(parity.cosine_min, 4))
    return spec, parity


def _write(asked: EmbedderRequest, scratch: Path, model: Path, precision: Precision) -> ModelSpec:
    model.mkdir()
    source = scratch / "fp32.onnx"
    write_bytes(model / "tokenizer.json", (scratch / "tokenizer.json").read_bytes())
    if precision == "int8":
        with track("quantise to int8"):
            quantize_int8(source, model / "model.onnx", keep_head=False)
    else:
        write_bytes(model / "model.onnx", source.read_bytes())
    return seal(
        model,
        name=asked.name,
        engine="onnx",
        family="encoder",
        precision=precision,
        labels=(),
        weights="model.onnx",
        max_tokens=asked.max_tokens,
        parameters=asked.parameters,
        purpose="embed",
    )


def _compare(
    model: Path, wanted: NDArray[np.float32], precision: Precision, asked: EmbedderRequest, tried: Sequence[str]
) -> EmbedderParity:
    embedder = open_onnx_embedder(model, threads=asked.threads)
    try:
        cosines = (embedder.embed(SAMPLES) * wanted).sum(axis=1)
    finally:
        embedder.close()
    return EmbedderParity(
        n=len(SAMPLES),
        precision="int8" if precision == "int8" else "fp32",
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        min_cosine=asked.min_cosine,
        tried=tuple(tried),
    )


def _vectors(embedding: Embedding, tokenizer: TextTokenizer) -> NDArray[np.float32]:
    """What PyTorch gives, one text at a time, ``[len(SAMPLES), D]``."""
    import torch

    rows: dict[int, NDArray[np.float32]] = {}
    embedding.eval()
    with torch.inference_mode():
        for batch in tokenizer.pad(tokenizer.encode(SAMPLES), max_rows=1, max_cells=1):
            vector = embedding(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask))
            rows[int(batch.rows[0])] = vector[0].numpy()
    return np.stack([rows[row] for row in range(len(SAMPLES))])
