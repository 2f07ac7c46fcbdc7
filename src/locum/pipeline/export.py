"""Another form of a student that was built, an encoder as an embedding model, or a tuned decoder as GGUF.

Notable: the same parity check as in the build stands before the files: a form that does not answer as the trained
weights did is not written. The trained weights are found in the build's own folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from locum.bundle.report import read_report
from locum.core.child import run_job
from locum.core.cpu import usable_cores
from locum.core.errors import UserError
from locum.core.files import atomic_file, atomic_folder, write_json
from locum.core.registry import nearest
from locum.data.load import label_names
from locum.pipeline import make_ranker, make_tagger
from locum.pipeline.make_classifier import EXPORT
from locum.pipeline.preflight import require_training
from locum.schema.base import Document
from locum.schema.candidate import Candidate
from locum.schema.model import Parity
from locum.schema.training import (
    AdapterExportRequest,
    EmbedderParity,
    EmbedderRequest,
    ExportFormat,
    ExportRequest,
    GeneratorExportRequest,
    GeneratorFormat,
    GeneratorParity,
    Trained,
)
from locum.sources.bases import ensure_base
from locum.sources.catalogue import catalogue

_KEY_CHARS = 12
"""Of a step's key, at the end of its folder's name."""


def export_student(build: Path, out: Path, format: ExportFormat | None = None, candidate: str | None = None) -> Parity:
    """Write a built student in another form.

    Args:
        build: the folder that ``locum build --out`` made, with ``work/`` in it.
        out: the model folder to write; complete or absent.
        format: the form; None takes the student's own, as the build does.
        candidate: which rung of the ladder; None takes the one that was chosen.

    Returns:
        How the exported files compare with the trained weights on dev.

    Raises:
        UserError: there is no such build or candidate, or the student has no such form.
        CheckFailed: the form does not answer as the trained weights did; nothing is written.
        LocumError: the student cannot be written in that form.
    """
    trained = trained_students(build)
    name = candidate or read_report(build / "bundle").chosen
    if name not in trained:
        close = nearest(name, trained)
        hint = f"did you mean {close!r}?" if close else f"built there: {', '.join(trained) or 'nothing'}"
        raise UserError("core-unknown-name", f"{build} has no trained student {name!r}", fix=hint)
    request = json.loads((trained[name] / "request.json").read_text(encoding="utf-8"))
    record = Trained.from_json((trained[name] / "trained.json").read_bytes(), str(trained[name]))
    kind = str(request.get("kind", "classify"))
    if "mixing" in request:
        kind = "generate"
    elif request.get("labels") == []:
        kind = "rank"
    _require_form(record.candidate, kind, format)
    asked = ExportRequest(
        name=name,
        labels=() if kind == "rank" else tuple(label_names(Path(request["dev"]).parent)),
        trained=str(trained[name]),
        dev=request["dev"],
        threads=usable_cores(),
        formats=None if format is None else (format,),
        **({"min_agreement": make_ranker.SAME_FIRST} if kind == "rank" else {}),
    )
    job = {"tag": make_tagger.EXPORT, "rank": make_ranker.EXPORT}.get(kind, EXPORT)
    with atomic_folder(out) as folder:
        parity = _run(asked, folder, job, build / "work" / "export.log")
        return Parity.from_json(parity, str(out))


def _require_form(candidate: Candidate, kind: str, format: ExportFormat | None) -> None:
    """Refuse a form that a student cannot have, before anything is written."""
    if kind == "generate":
        cause = f"{candidate.name} writes, and is exported as GGUF"
        raise UserError("compress-export", cause, fix="locum export BUNDLE --as gguf, ollama or huggingface")
    if format is None:
        return
    if candidate.family == "linear":
        name = "BM25" if kind == "rank" else "TF-IDF"
        cause = f"a {name} student has one form, its own, and no ONNX or GGUF form"
        raise UserError("compress-export", f"{cause} ({candidate.name}, {format})", fix="leave out --format")
    if format.startswith("gguf") and (kind != "classify" or candidate.family != "decoder"):
        cause = f"{format} is for decoders that classify; {candidate.name} is a {candidate.family} for {kind}"
        raise UserError("compress-export", cause, fix="choose onnx-int8 or onnx-fp32, or leave out --format")


def export_embedder(name: str, out: Path, *, offline: bool = False) -> EmbedderParity:
    """Write an encoder of the catalogue as an embedding model folder, which ``locum serve`` serves.

    Args:
        name: the encoder's name or alias.
        out: the model folder to write; complete or absent.
        offline: download nothing.

    Returns:
        How its vectors compare with PyTorch's.

    Raises:
        SourceError: no such base, or it cannot be had.
        UserError: it is no encoder, or the training extra is not installed.
        CheckFailed: the exported files give other vectors; nothing is written.
    """
    base = catalogue().find(name)
    if base.facts.family != "encoder":
        encoders = ", ".join(each.name for each in catalogue().bases if each.facts.family == "encoder")
        raise UserError(
            "compress-export", f"{base.name} is a {base.facts.family}, and an encoder embeds", fix=f"known: {encoders}"
        )
    require_training()
    asked = EmbedderRequest(
        name=base.name,
        base=str(ensure_base(base.name, format="safetensors", offline=offline)),
        pooling=base.pooling,
        max_tokens=base.facts.max_tokens,
        parameters=base.facts.parameters,
        threads=usable_cores(),
    )
    log = out.with_name(f"{out.name}.log")
    with atomic_folder(out) as folder:
        parity = EmbedderParity.from_json(_run(asked, folder, "locum.compress.job:embedder", log), str(out))
    log.unlink(missing_ok=True)
    return parity


def export_decoder(
    source: str,
    out: Path,
    *,
    dev: Path | None = None,
    formats: tuple[GeneratorFormat, ...] | None = None,
    offline: bool = False,
) -> GeneratorParity:
    """Write a tuned decoder as a model folder with one GGUF file, which ``locum serve`` serves.

    Args:
        source: its folder in the layout of Hugging Face, or the name of a base.
        out: the model folder to write; complete or absent.
        dev: conversations to check it on; None takes the ``dev.jsonl`` that tuning left in the folder.
        formats: in order of preference; None takes q8_0 before f16.
        offline: download nothing.

    Returns:
        How what was kept compares with the weights in PyTorch.

    Raises:
        SourceError: there is no such base, or it cannot be had.
        UserError: there are no conversations, or the training extra is not installed.
        CheckFailed: no format answers as the weights do; nothing is written.
        LocumError: the decoder cannot be written as GGUF.
    """
    require_training()
    folder = ensure_base(source, format="safetensors", offline=offline)
    conversations = dev or folder / "dev.jsonl"
    if not conversations.is_file():
        raise UserError(
            "compress-dev",
            "an export is checked on conversations, and there are none",
            where=str(conversations),
            fix="--dev FILE, JSON Lines of id, messages and completion",
        )
    chosen: dict[str, Any] = {} if formats is None else {"formats": formats}
    asked = GeneratorExportRequest(
        name=out.name, folder=str(folder), dev=str(conversations), threads=usable_cores(), **chosen
    )
    log = out.with_name(f"{out.name}.log")
    with atomic_folder(out) as partial:
        parity = GeneratorParity.from_json(_run(asked, partial, "locum.compress.job:generator", log), str(out))
    log.unlink(missing_ok=True)
    return parity


def export_lora(adapter: Path, base: Path, out: Path) -> None:
    """Write a LoRA adapter of PEFT as a GGUF file for ``locum serve BASE --adapter NAME=FILE``.

    Args:
        adapter: its folder.
        base: GGUF file of the base that it was trained on.
        out: file to write.

    Raises:
        UserError: the training extra is not installed.
        LocumError: as ``compress.gguf_adapter.export_adapter``.
    """
    require_training()
    asked = AdapterExportRequest(name=out.stem, adapter=str(adapter.resolve()), base=str(base.resolve()))
    log = out.with_name(f"{out.name}.log")
    with atomic_file(out) as file:  # the job's own folder goes, its file stays
        scratch = Path(f"{file.name}.export")
        scratch.mkdir()
        try:
            write_json(scratch / "request.json", asked.to_json())
            run_job("locum.compress.job:adapter", scratch / "request.json", scratch, log=log, threads=usable_cores())
            file.write((scratch / "adapter.gguf").read_bytes())
        finally:
            shutil.rmtree(scratch)
    log.unlink(missing_ok=True)


def _run(asked: Document, folder: Path, job: str, log: Path) -> bytes:
    """Run an export job and move its model into the folder; returns what stands in its ``parity.json``."""
    scratch = folder / ".export"
    scratch.mkdir()
    write_json(scratch / "request.json", asked.to_json())
    run_job(job, scratch / "request.json", scratch, log=log, threads=usable_cores())
    parity = (scratch / "parity.json").read_bytes()
    for path in (scratch / "model").iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(scratch)
    return parity


def trained_students(build: Path) -> dict[str, Path]:
    """Folders with trained weights in a build, by candidate name.

    Of several trainings of one candidate, under other budgets, it is the one in the report, else the last one; where
    that was repeated on train and dev together, the repetition, which is what the bundle serves.
    """
    bundle = build / "bundle"
    ladder = read_report(bundle).ladder if (bundle / "report.json").is_file() else ()
    reported = [rung.trained.files for rung in ladder if rung.trained is not None]
    records = [(path.stat().st_mtime, path) for path in (build / "work").glob("train-*/trained.json")]
    read = [(Trained.from_json(path.read_bytes(), str(path)), time_s, path.parent) for time_s, path in records]
    read.sort(key=lambda each: (each[0].files in reported, each[1]))
    found = {trained.candidate.name: folder for trained, _, folder in read}
    repeated: dict[str, Path] = {}
    for record in (build / "work").glob("refit-*/step.json"):  # written last: the repetition is whole
        of = str(json.loads(record.read_text(encoding="utf-8"))["inputs"].get("train"))
        repeated |= {name: record.parent for name, first in found.items() if of.startswith(first.name[-_KEY_CHARS:])}
    return found | repeated
