"""The measuring job: one student over all its splits, in a process of its own.

Notable: a fresh process makes the memory figure honest, and an engine that crashes takes only itself down. The
engine is chosen first, so that what is reported was answered by what will serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from locum.core.files import write_json
from locum.data.load import iterate
from locum.evaluate.engines import choose_engine
from locum.evaluate.latency import measure, open_measured
from locum.evaluate.runner import predict_rows
from locum.runtime.model_files import read_spec
from locum.runtime.open import open_classifier
from locum.runtime.protocol import Classifier
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import EngineChoice, Measured, MeasureRequest
from locum.schema.model import EngineName

_LONGEST = 32


def run(request_file: Path, out: Path) -> None:
    """Answer every split through the serving engine, time it, and write predictions and ``measured.json``.

    Args:
        request_file: a ``MeasureRequest``.
        out: folder to fill.

    Raises:
        LocumError: the model is refused, a split is missing, or the disk is full.
    """
    request = MeasureRequest.from_json(request_file.read_bytes(), str(request_file))
    folder = Path(request.model)
    rows: dict[SplitName, list[Row]] = {split: list(iterate(Path(request.data), split)) for split in request.splits}
    first = [row.input for row in rows[request.splits[0]]]
    longest = sorted(first, key=len)[-_LONGEST:]
    classifier, memory_mb, choice = _fastest(folder, request.threads, first, longest)
    try:
        for split, some in rows.items():
            predict_rows(classifier, some, split, path=out / f"{split}.npz")
        latency = measure(classifier, first, threads=request.threads)
    finally:
        classifier.close()
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    found = Measured(latency=latency, memory_mb=memory_mb, size_mb=size / 1e6, engines=choice)
    write_json(out / "measured.json", found.to_json())


def _fastest(
    folder: Path, threads: int, texts: Sequence[str], longest: Sequence[str]
) -> tuple[Classifier, float | None, EngineChoice]:
    """The engine that answers the soonest, open, with the memory that it took."""
    memory_mb: dict[EngineName, float | None] = {}

    def open_engine(engine: EngineName) -> Classifier:
        opened, memory_mb[engine] = open_measured(
            lambda: open_classifier(folder, threads=threads, engine=engine), longest
        )
        return opened

    spec = read_spec(folder)
    choice, opened = choose_engine(spec, open_engine(spec.engine), open_engine, texts)
    for name, engine in opened.items():
        if name != choice.engine:
            engine.close()
    return opened[choice.engine], memory_mb[choice.engine], choice
