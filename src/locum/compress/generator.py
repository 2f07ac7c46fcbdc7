"""A tuned decoder becomes a model folder that reads, weighs and writes as it did, or no folder at all.

Notable: one GGUF file holds everything: weights, tokenizer, chat template, and the tokens that end an answer, so that
llama.cpp renders and stops as transformers does. Formats are tried in order of preference; each is opened by the
engine that will serve it and asked the same conversations as PyTorch, and why one was not kept stands in the result.
Not here: what PyTorch says (``generator_reference``), the verdict (``generator_parity``), how the file is written
(``gguf_export``), adapters (``gguf_adapter``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from locum.compress.generator_parity import ask, compare, describe_failure
from locum.compress.generator_reference import (
    Reference,
    TunedDecoder,
    Written,
    read_conversations,
    read_references,
)
from locum.compress.gguf_export import write_gguf
from locum.core.errors import CheckFailed, UserError
from locum.core.files import atomic_folder, write_json
from locum.core.progress import note, track, warn
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.model_files import seal
from locum.runtime.open import open_model
from locum.schema.training import GeneratorExportRequest, GeneratorFormat, GeneratorParity

GGUF_NAME = "model.gguf"
PARITY_NAME = "parity.json"
_TIMEOUT_S = 600.0  # for one row on a small machine


def export_generator(request: GeneratorExportRequest, out: Path) -> GeneratorParity:
    """Export a tuned decoder in the first format that answers as its weights do in PyTorch.

    Args:
        request: what to export, and how near it must stay.
        out: the model folder: ``model.gguf``, ``parity.json`` and ``model.json``; complete or absent, an old one is
            replaced.

    Returns:
        The comparison of what was kept.

    Raises:
        CheckFailed: no format stays near enough, or prompts are read as other tokens (``compress-parity``); nothing is
            written.
        DataError: the dev conversations cannot be used (``compress-dev``).
        ModelFileError: the tuned folder is damaged or must not be opened.
        LocumError: its architecture or tokenizer has no form in GGUF (``compress-export``).
    """
    if not request.formats:
        raise UserError("compress-export", "no format was asked for", fix="name at least one, for example q8_0")
    rows = read_conversations(Path(request.dev), request.rows)
    with track("load the tuned weights"):
        decoder = TunedDecoder(Path(request.folder))
    context = min(request.max_tokens or decoder.context, decoder.context)
    references = read_references(
        decoder, rows, context=context, scored_tokens=request.scored_tokens, answer_tokens=request.answer_tokens
    )
    if len(references) < len(rows):
        warn(f"{len(rows) - len(references)} of {len(rows)} dev conversations do not fit {context} tokens")
    with atomic_folder(out) as folder:
        parity = _first_that_holds(request, decoder, references, len(rows) - len(references), folder)
        write_json(folder / PARITY_NAME, parity.to_json())
        seal(
            folder,
            name=request.name,
            engine="llamacpp",
            family="decoder",
            precision=parity.precision,
            labels=(),
            weights=GGUF_NAME,
            max_tokens=context,
            parameters=decoder.parameters,
            purpose="generate",
        )
    note(
        f"exported {request.name} as GGUF {parity.precision}",
        mean_gap=round(parity.mean_gap, 4),
        size_mb=parity.size_mb,
    )
    return parity


def _first_that_holds(
    request: GeneratorExportRequest,
    decoder: TunedDecoder,
    references: Sequence[Reference],
    too_long: int,
    folder: Path,
) -> GeneratorParity:
    tried: list[str] = []
    path = folder / GGUF_NAME
    for kind in request.formats:
        with track(f"write GGUF {kind}"):
            write_decoder(decoder, path, kind=kind, name=request.name)
        parity = _compare(request, decoder, references, path, kind, too_long, tuple(tried))
        if parity.passed:
            return parity
        tried.append(describe_failure(parity))
        warn(f"not kept: {tried[-1]}")
    raise CheckFailed(
        "compress-parity",
        f"the exported model does not answer as the tuned one does: {'; '.join(tried)}",
        where=request.folder,
        fix="add a larger format (q8_0, f16), or accept a larger gap",
    )


def write_decoder(decoder: TunedDecoder, path: Path, *, kind: GeneratorFormat, name: str) -> None:
    """Write a decoder's GGUF file, unchecked.

    Args:
        decoder: the tuned weights.
        path: file to write.
        kind: type of the matrices.
        name: ``general.name``.

    Raises:
        LocumError: as ``write_gguf``.
    """
    tokenizer = decoder.folder / "tokenizer.json"
    weights = decoder.network.state_dict()
    write_gguf(path, decoder.config, weights, tokenizer, kind=kind, name=name, chat=decoder.chat)


def _compare(
    request: GeneratorExportRequest,
    decoder: TunedDecoder,
    references: Sequence[Reference],
    path: Path,
    kind: GeneratorFormat,
    too_long: int,
    tried: tuple[str, ...],
) -> GeneratorParity:
    longest = max(len(row.prompt) + max((request.answer_tokens, *row.sizes)) for row in references)
    settings = EngineSettings(n_ctx=longest + 1, slots=1, threads=request.threads, timeout_s=_TIMEOUT_S)
    model = open_model(path, settings)
    try:
        exported = ask(model, references, answer_tokens=request.answer_tokens)
    finally:
        model.close()
    with track("answer dev in PyTorch", total=len(references), unit="row") as tracker:
        written: list[Written] = []
        for row, said in zip(references, exported, strict=True):
            written.append(decoder.write(row.prompt, request.answer_tokens, draft=said.answer))
            tracker.advance(1)
    return compare(
        references,
        written,
        exported,
        decoder.encode,
        (request.max_mean_gap, request.max_perplexity_ratio, request.min_equal_answers),
        precision=kind,
        too_long=too_long,
        size_mb=round(path.stat().st_size / 1e6, 2),
        tried=tried,
    )
