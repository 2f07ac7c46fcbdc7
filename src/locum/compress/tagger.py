"""A trained tagger becomes a model folder that answers as it did, or no folder at all.

Notable: int8 is tried before fp32. Each is opened by the engine that will serve it and reads the whole dev split, in
windows as in service; it is kept when its tokens get the tags of the trained weights, and its spans are as good. Most
tokens are outside of every span, so agreement of tags alone would say little. Not here: writing ONNX (``onnx_export``,
``int8``), students that score labels (``export``).

N tokens of the dev split, C tags.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.compress.parity import softmax
from locum.compress.student_files import read_logits, read_trained
from locum.core.errors import CheckFailed, DataError, LocumError, ModelFileError, UserError
from locum.core.files import atomic_folder, write_bytes, write_json
from locum.core.progress import note, track, warn
from locum.runtime.model_files import seal
from locum.runtime.open import open_tagger
from locum.runtime.protocol import TaggedText
from locum.runtime.windows import tag_whole
from locum.schema.data import Row
from locum.schema.model import ModelSpec, Parity, Precision
from locum.schema.training import ExportFormat, ExportRequest
from locum.scoring.spans import Span, span_rows
from locum.stats.rowwise import value
from locum.tasks.bio import BioTags
from locum.tasks.tag import load_spans

MODEL_FOLDER, PARITY_NAME = "model", "parity.json"
ONNX_NAME, TOKENIZER_NAME = "model.onnx", "tokenizer.json"
_PRECISIONS: dict[ExportFormat, Precision] = {"onnx-int8": "int8", "onnx-fp32": "fp32"}
_ROWS_A_STEP = 64
_Z = 2.0  # standard errors


@dataclass(frozen=True, eq=False)
class TaggedDev:
    """The dev split beside what the trained weights said about its tokens.

    Attributes:
        texts: inputs.
        gold: their spans.
        scores: of the trained weights, ``[N, C]``.
    """

    texts: list[str]
    gold: list[list[Span]]
    scores: NDArray[np.float32]


def main(request: Path, out: Path) -> None:
    """Run one export as a job for a child process.

    Args:
        request: JSON file with an ``ExportRequest`` whose labels are types of spans.
        out: existing folder to fill: ``model/`` and, written last, ``parity.json``.

    Raises:
        LocumError: as ``export_tagger``; ``schema-invalid`` for a request that is none.
    """
    asked = ExportRequest.from_json(request.read_bytes(), str(request), UserError)
    _, parity = export_tagger(asked, out / MODEL_FOLDER)
    write_json(out / PARITY_NAME, parity.to_json())


def export_tagger(asked: ExportRequest, out: Path) -> tuple[ModelSpec, Parity]:
    """Export a trained tagger in the first format that answers as the trained weights did.

    Args:
        asked: what to export, and how near it must stay.
        out: the model folder; complete or absent, an old one is replaced.

    Returns:
        The ``model.json`` that was written, and the comparison.

    Raises:
        CheckFailed: no format answered as the trained weights did (``compress-parity``); nothing is written.
        ModelFileError: the trained folder is incomplete, damaged, or must not be opened.
        LocumError: a format was asked for that taggers do not have, or PyTorch cannot export it.
    """
    from locum.compress.onnx_export import export_tagger_onnx
    from locum.models.tagger import load_tagger

    folder = Path(asked.trained)
    trained = read_trained(folder)
    tags = BioTags.of_types(asked.labels)
    dev = _read_dev(folder, Path(asked.dev), tags)
    tried: list[str] = []
    with atomic_folder(out) as whole:
        scratch = whole / ".scratch"
        scratch.mkdir()
        with track("write ONNX"):
            student = load_tagger(folder)
            export_tagger_onnx(student, scratch / ONNX_NAME, max_tokens=trained.max_tokens)
        facts = {
            "max_tokens": trained.max_tokens,
            "parameters": trained.parameters,
            "surface_forms": student.reads_surface,
        }
        for wanted in asked.formats or tuple(_PRECISIONS):
            model = scratch / wanted
            spec = _write(asked, facts, tags, scratch / ONNX_NAME, model, wanted)
            parity = _compare(model, spec, asked, tags, dev, tuple(tried))
            if parity.passed:
                break
            tried.append(_failure(parity))
            warn(f"not kept: {tried[-1]}")
        else:
            raise CheckFailed(
                "compress-parity",
                f"the exported tagger does not answer as the trained one did: {'; '.join(tried)}",
                where=asked.trained,
                fix="train it again; if it stays, exclude this candidate from `students` and report it",
            )
        for path in model.iterdir():
            path.rename(whole / path.name)
        shutil.rmtree(scratch)
    note(f"exported {asked.name} as onnx {spec.precision}", agreement=round(parity.label_agreement, 4))
    return spec, parity


def check_tags(
    dev: TaggedDev, exported: Sequence[TaggedText], tags: BioTags, asked: ExportRequest, precision: Precision
) -> Parity:
    """Compare an exported tagger with the trained one, on the same texts.

    It passes when the share of equal tags is at least ``min_agreement``, both among all tokens and among those that
    either puts inside a span; and the loss of micro F1 is at most ``max_accuracy_drop``, or the gold spans lost are not
    more than chance loses: b lost and c gained with b - c ≤ 2√(b + c) (McNemar 1947, Psychometrika 12:153).

    Raises:
        ModelFileError: the exported tagger reads other tokens than the trained one did.
    """
    scores = np.concatenate([each.logits for each in exported])
    if scores.shape != dev.scores.shape:
        raise ModelFileError(
            "compress-trained",
            f"{dev.scores.shape} scores of dev's tokens were trained, and the engine gives {scores.shape}",
            where=asked.trained,
            fix="train it again",
        )
    sound = np.isfinite(scores).all(axis=1)
    scores = np.where(sound[:, None], scores, 0.0)
    before, after = dev.scores.argmax(axis=1), np.where(sound, scores.argmax(axis=1), -1)
    inside = (before != tags.outside) | (after != tags.outside)
    equal = before == after
    agreement = min(float(equal.mean()), float(equal[inside].mean()) if inside.any() else 1.0)
    gaps = np.where(sound[:, None], np.abs(softmax(dev.scores) - softmax(scores)), 1.0)
    old, new = (_spans(dev.texts, exported, some, tags) for some in (dev.scores, scores))
    f1_old, f1_new = (value(span_rows(spans, dev.gold)) for spans in (old, new))
    lost, gained = _only_in(old, new, dev.gold), _only_in(new, old, dev.gold)
    holds = f1_old - f1_new <= asked.max_accuracy_drop or lost - gained <= _Z * math.sqrt(lost + gained)
    return Parity(
        n=len(before),
        engine="onnx",
        precision=precision,
        label_agreement=agreement,
        mean_gap=float(gaps.mean()),
        max_gap=float(gaps[np.arange(len(before)), before].max()),
        accuracy_trained=f1_old,
        accuracy_exported=f1_new,
        min_agreement=asked.min_agreement,
        max_accuracy_drop=asked.max_accuracy_drop,
        passed=agreement >= asked.min_agreement and holds,
    )


def _spans(
    texts: Sequence[str], read: Sequence[TaggedText], scores: NDArray[np.float32], tags: BioTags
) -> list[list[Span]]:
    """The spans of texts, from scores of all their tokens in order."""
    parts = np.split(scores, np.cumsum([len(each.spans) for each in read])[:-1])
    return [
        [found.span for found in tags.read(text, each.spans, part).spans]
        for text, each, part in zip(texts, read, parts, strict=True)
    ]


def _only_in(some: Sequence[list[Span]], others: Sequence[list[Span]], gold: Sequence[list[Span]]) -> int:
    """Gold spans that some answers have and others have not."""
    rows = zip(some, others, gold, strict=True)
    return sum(len((set(wanted) & set(first)) - set(second)) for first, second, wanted in rows)


def _compare(
    model: Path, spec: ModelSpec, asked: ExportRequest, tags: BioTags, dev: TaggedDev, tried: tuple[str, ...]
) -> Parity:
    tagger = open_tagger(model, threads=asked.threads)
    found: list[TaggedText] = []
    try:
        with track(f"check onnx {spec.precision} on dev", total=len(dev.texts), unit="row") as tracker:
            for start in range(0, len(dev.texts), _ROWS_A_STEP):
                texts = dev.texts[start : start + _ROWS_A_STEP]
                found += tag_whole(tagger, texts)
                tracker.advance(len(texts))
    finally:
        tagger.close()
    return check_tags(dev, found, tags, asked, spec.precision).model_copy(update={"tried": tried})


def _write(
    asked: ExportRequest, facts: dict[str, int], tags: BioTags, fp32: Path, model: Path, wanted: ExportFormat
) -> ModelSpec:
    """Write one format with everything its engine reads, ``model.json`` last, with the facts of the student."""
    from locum.compress.int8 import quantize_int8

    precision = _PRECISIONS.get(wanted)
    if precision is None:
        raise LocumError("compress-export", f"{wanted} is not for taggers", fix=f"choose {' or '.join(_PRECISIONS)}")
    model.mkdir()
    write_bytes(model / TOKENIZER_NAME, (Path(asked.trained) / TOKENIZER_NAME).read_bytes())
    if precision == "int8":
        with track("quantise to int8"):
            quantize_int8(fp32, model / ONNX_NAME)
    else:
        write_bytes(model / ONNX_NAME, fp32.read_bytes())
    return seal(
        model,
        name=asked.name,
        engine="onnx",
        family="encoder",
        precision=precision,
        labels=tags.names,
        weights=ONNX_NAME,
        purpose="tag",
        **facts,
    )


def _read_dev(folder: Path, split: Path, tags: BioTags) -> TaggedDev:
    """The dev split and the scores that training left for its tokens.

    Raises:
        ModelFileError: the scores are missing, damaged, or of other tags.
        DataError: the split is empty or damaged.
    """
    with split.open(encoding="utf-8") as file:
        rows = [Row.from_json(line, f"{split}:{number}", DataError) for number, line in enumerate(file, 1)]
    scores = read_logits(folder)
    if not rows:
        raise DataError("compress-dev", "the dev split holds no rows", where=str(split), fix="train again on this data")
    if scores.shape[1] != len(tags.names):
        what = f"it was trained for {scores.shape[1]} tags, and the types give {len(tags.names)}"
        raise ModelFileError("compress-trained", what, where=str(folder), fix="train it again")
    return TaggedDev([row.input for row in rows], [load_spans(row.output) for row in rows], scores)


def _failure(parity: Parity) -> str:
    """Why an export was not kept, in one line."""
    what = f"{parity.engine} {parity.precision}"
    if parity.label_agreement < parity.min_agreement:
        share, needed = 100 * parity.label_agreement, 100 * parity.min_agreement
        return f"{what}: tags agree on {share:.1f} % of tokens, needed {needed:.1f} %"
    return f"{what}: span F1 {parity.accuracy_exported:.3f}, trained {parity.accuracy_trained:.3f}"
