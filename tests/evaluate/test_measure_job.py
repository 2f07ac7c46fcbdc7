"""The measuring job: splits answered by the engine that was chosen, and the choice recorded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from locum.core.files import write_json, write_text
from locum.evaluate import engines, job
from locum.evaluate.predictions import Predictions
from locum.schema.data import Row
from locum.schema.evaluation import EngineChoice, EngineTrial, Measured, MeasureRequest
from locum.schema.model import EngineName
from locum.schema.taskfile import parse_task
from locum.students.protocol import Draft
from locum.testing import pico_onnx
from locum.testing.bundles import pico_task
from locum.testing.pico import WORDS


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A request over two splits of a pico student."""
    pico_onnx(tmp_path / "model")
    rows = [
        Row(id=f"r{n}", input=f"{word} {other}", output=label)
        for label, words in WORDS.items()
        for n, (word, other) in enumerate(itertools.pairwise(words))
    ]
    for split in ("dev", "test"):
        write_text(tmp_path / "data" / f"{split}.jsonl", "".join(row.model_dump_json() + "\n" for row in rows))
    request = MeasureRequest(
        model=str(tmp_path / "model"),
        data=str(tmp_path / "data"),
        task=parse_task(pico_task()),
        splits=("dev", "test"),
        threads=1,
    )
    write_json(tmp_path / "request.json", request.to_json())
    (tmp_path / "out").mkdir()
    return tmp_path


def measured(folder: Path) -> Measured:
    job.run(folder / "request.json", folder / "out")
    return Measured.from_json((folder / "out" / "measured.json").read_bytes(), "measured.json")


def test_a_writer_is_timed_before_its_engine_has_read_the_rows(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Remembers:
        """Answers at once what it has read before, as an engine with a prompt cache does."""

        spec = SimpleNamespace(name="it")

        def __init__(self) -> None:
            self.read: set[str] = set()

        def draft(self, texts: Sequence[str]) -> list[Draft]:
            if not self.read.issuperset(texts):
                time.sleep(0.02)
            self.read.update(texts)
            return [Draft(output="x") for _ in texts]

        def close(self) -> None:
            pass

    request = MeasureRequest.from_json((asked / "request.json").read_bytes(), "request.json")
    monkeypatch.setattr(job, "open_drafter", lambda *_, **__: Remembers())
    rows = [Row(id=f"r{n}", input=f"say {n}", output="x") for n in range(job._DRAFTS)]
    found = job._measure_drafter(request, asked / "model", {"dev": rows, "test": rows[:2]}, asked)
    assert found.latency.n == job._DRAFTS
    assert found.latency.p50_ms >= 20


def test_every_engine_that_is_here_is_timed_and_recorded(asked: Path) -> None:
    pytest.importorskip("openvino")
    found = measured(asked)
    assert found.engines is not None
    trials = {trial.engine: trial for trial in found.engines.trials}
    assert set(trials) == {"onnx", "openvino"}
    for trial in trials.values():
        assert trial.p50_ms is not None and trial.version and trial.agreement == 1.0 and trial.n == 200
    assert found.engines.engine in trials and "ms" in found.engines.why
    assert found.latency.p50_ms > 0
    predictions = Predictions.load(asked / "out" / "test.npz")
    assert predictions.correct.all()


@pytest.mark.parametrize("winner", ["onnx", "openvino"])
def test_the_splits_are_answered_by_the_engine_that_won(
    asked: Path, winner: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    asking: list[str] = []

    def decide(default: EngineName, trials: list[EngineTrial], n: int) -> EngineChoice:
        return EngineChoice(engine=winner, default=default, n=n, why="it was told to", trials=tuple(trials))

    plain = job.predict_rows

    def note(classifier, *rest, **more):  # type: ignore[no-untyped-def]
        asking.append(type(classifier).__name__)
        return plain(classifier, *rest, **more)

    monkeypatch.setattr(engines, "decide", decide)
    monkeypatch.setattr(job, "predict_rows", note)
    found = measured(asked)
    assert found.engines is not None and found.engines.engine == winner
    assert set(asking) == {"OnnxClassifier" if winner == "onnx" else "OpenVinoClassifier"}


def test_the_default_alone_is_not_timed_against_anything(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "is_installed", lambda _name: False)
    found = measured(asked)
    assert found.engines is not None and found.engines.engine == "onnx" and found.engines.n == 0
    assert found.engines.trials == (EngineTrial(engine="openvino", reason="not installed"),)
