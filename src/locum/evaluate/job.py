"""The measuring job: one student over the splits it is asked, in a process of its own.

Notable: a fresh process makes the memory figure honest, and an engine that crashes takes only itself down. The
engine is chosen first, so that what is reported was answered by what will serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from locum.core.files import write_json
from locum.data.load import iterate
from locum.evaluate.answers import answer_rows, answer_timed
from locum.evaluate.engines import choose_engine
from locum.evaluate.latency import measure, open_measured, time_singles
from locum.evaluate.runner import predict_rows
from locum.runtime.model_files import read_spec
from locum.runtime.open import open_classifier
from locum.runtime.protocol import Classifier
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import EngineChoice, Measured, MeasureRequest
from locum.schema.model import EngineName
from locum.students.open import open_drafter

_LONGEST = 32
_DRAFTS = 20
"""Drafts that are timed one by one; each may take a second."""
_DRAFTS_S = 20.0

Rows = dict[SplitName, list[Row]]


def run(request_file: Path, out: Path) -> None:
    """Answer the splits through the serving engine, time it, and write predictions and ``measured.json``.

    Args:
        request_file: a ``MeasureRequest``.
        out: folder to fill.

    Raises:
        LocumError: the model is refused, a split is missing, or the disk is full.
    """
    request = MeasureRequest.from_json(request_file.read_bytes(), str(request_file))
    folder = Path(request.model)
    rows: dict[SplitName, list[Row]] = {split: list(iterate(Path(request.data), split)) for split in request.splits}
    measured = _measure_classifier if read_spec(folder).purpose == "classify" else _measure_drafter
    write_json(out / "measured.json", measured(request, folder, rows, out).to_json())


def answer(request_file: Path, out: Path) -> None:
    """Have a student that was measured before answer further splits, and write its drafts.

    Args:
        request_file: a ``MeasureRequest`` of a student that drafts.
        out: folder to fill.

    Raises:
        LocumError: the model is refused, a split is missing, or the disk is full.
    """
    request = MeasureRequest.from_json(request_file.read_bytes(), str(request_file))
    with closing(open_drafter(Path(request.model), request.task, threads=request.threads)) as drafter:
        for split in request.splits:
            answer_rows(drafter, list(iterate(Path(request.data), split)), split).save(out / f"{split}.jsonl")


def _measure_classifier(request: MeasureRequest, folder: Path, rows: Rows, out: Path) -> Measured:
    first = [row.input for row in rows[request.splits[0]]]
    classifier, memory_mb, choice = _fastest(folder, request.threads, first, _longest(first))
    try:
        for split, some in rows.items():
            predict_rows(classifier, some, split, path=out / f"{split}.npz")
        latency = measure(classifier.logits, first, threads=request.threads, name=classifier.spec.name)
    finally:
        classifier.close()
    return Measured(latency=latency, memory_mb=memory_mb, size_mb=_size_mb(folder), engines=choice)


def _measure_drafter(request: MeasureRequest, folder: Path, rows: Rows, out: Path) -> Measured:
    first = [row.input for row in rows[request.splits[0]]]
    drafter, memory_mb = open_measured(
        lambda: open_drafter(folder, request.task, threads=request.threads),
        lambda opened: opened.draft,
        _longest(first)[-1:],
    )
    try:
        alone = time_singles(drafter.draft, first, n=_DRAFTS, warmup=1, limit_s=_DRAFTS_S, name=drafter.spec.name)
        rates: dict[SplitName, float] = {}
        for split, some in rows.items():
            answers, rates[split] = answer_timed(drafter, some, split)
            answers.save(out / f"{split}.jsonl")
    finally:
        drafter.close()
    latency = alone.latency(rates[request.splits[0]], threads=request.threads)
    return Measured(latency=latency, memory_mb=memory_mb, size_mb=_size_mb(folder))


def _longest(texts: Sequence[str]) -> list[str]:
    return sorted(texts, key=len)[-_LONGEST:]


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6


def _fastest(
    folder: Path, threads: int, texts: Sequence[str], longest: Sequence[str]
) -> tuple[Classifier, float | None, EngineChoice]:
    """The engine that answers the soonest, open, with the memory that it took."""
    memory_mb: dict[EngineName, float | None] = {}

    def open_engine(engine: EngineName) -> Classifier:
        opened, memory_mb[engine] = open_measured(
            lambda: open_classifier(folder, threads=threads, engine=engine), lambda opened: opened.logits, longest
        )
        return opened

    spec = read_spec(folder)
    choice, opened = choose_engine(spec, open_engine(spec.engine), open_engine, texts)
    for name, engine in opened.items():
        if name != choice.engine:
            engine.close()
    return opened[choice.engine], memory_mb[choice.engine], choice
