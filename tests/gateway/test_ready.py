"""A model whose engine dies and cannot load it again: ``/ready``, the caller's error, and what the operator reads."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from locum.bundle.student import open_bundle
from locum.core.errors import DeviceError, LocumError, ModelFileError
from locum.gateway.bundle_target import BundleTarget
from locum.gateway.targets import ModelTarget, Operator
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.protocol import Stop, problem_of
from locum.students.classifier import ClassifierStudent
from locum.students.confident import ConfidentStudent
from locum.testing import FakeClassifier, FakeGenerator
from locum.testing.bundles import pico_bundle
from locum.testing.pico_gguf import pico_gguf


class Failing(FakeGenerator):
    """A model that its engine may not load."""

    problem: LocumError | None = None

    def complete(self, request: CompletionRequest):
        if self.problem is not None:
            raise self.problem
        return super().complete(request)

    def stream(self, request: CompletionRequest, stop: Stop | None = None):
        if self.problem is not None:
            raise self.problem
        return super().stream(request, stop)


def test_ready_is_503_for_as_long_as_the_model_cannot_be_loaded(start_model, capsys: pytest.CaptureFixture[str]):
    engine = Failing()
    gateway = start_model(engine)
    assert gateway.http.get("/ready").status_code == 200
    engine.problem = DeviceError("runtime-memory", "no memory for 4 slots", where="/srv/secret.gguf")
    for _ in range(2):
        refused = gateway.ask(model="tiny")
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "engine_unavailable"
    ready = gateway.http.get("/ready")
    assert ready.status_code == 503 and "runtime-memory" in ready.json()["error"]["message"]
    assert "secret" not in ready.text + refused.text
    assert capsys.readouterr().err.count("/srv/secret.gguf: no memory for 4 slots") == 1
    assert gateway.http.get("/health").status_code == 200
    engine.problem = None
    assert gateway.http.get("/ready").status_code == gateway.ask(model="tiny").status_code == 200


@pytest.mark.engines
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_engine_that_died_and_cannot_load_its_file_again(
    start_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = pico_gguf(tmp_path / "m.gguf").path
    engine = LlamaGenerator(path, EngineSettings(n_ctx=128, slots=1, threads=1))
    gateway = start_model(engine)
    assert gateway.ask(model="tiny", max_tokens=4).status_code == 200
    assert gateway.http.get("/ready").status_code == 200
    other = tmp_path / "other.gguf"
    other.write_bytes(path.read_bytes().replace(b"llama", b"xlama"))
    other.replace(path)
    os.kill(engine.process.pid or 0, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while gateway.http.get("/ready").status_code == 200 and time.monotonic() < deadline:
        gateway.ask(model="tiny", max_tokens=4)
    assert gateway.http.get("/ready").status_code == 503
    for _ in range(2):
        assert gateway.ask(model="tiny").json()["error"]["message"].endswith("[runtime-unsupported]")
    assert capsys.readouterr().err.count("xlama") == 1


def test_a_student_that_is_not_loaded_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pico_bundle(tmp_path / "b")
    student = open_bundle(tmp_path / "b", threads=1)
    target = BundleTarget(student)
    assert target.problem is None
    broken = FakeClassifier(student.labels, lambda _text: [0.0] * len(student.labels))
    broken.problem = ModelFileError("runtime-unsupported", "an unknown architecture")  # type: ignore[attr-defined]
    labelling = ClassifierStudent(broken)
    labelling.wrap(lambda _engine: FakeClassifier(student.labels, lambda _text: []))
    for holder in (labelling, ConfidentStudent(broken, None)):  # type: ignore[arg-type]
        student._router.student = holder
        assert target.problem is problem_of(broken) is not None
    target.close()
    model = ModelTarget("m", FakeGenerator())
    assert model.problem is None


def test_each_reason_is_told_once(capsys: pytest.CaptureFixture[str]):
    operator = Operator()
    for why in ("one", "one", "two", "one"):
        operator.tell(LocumError("runtime-memory", why))
    operator.tell(None)
    told = capsys.readouterr().err
    assert told.count("one") == told.count("two") == 1
    assert [json.loads(line)["level"] for line in told.splitlines()] == ["error", "error"]


@pytest.mark.engines
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_fault_11_a_killed_engine_is_a_503_to_those_it_answered_and_ready_says_so_until_it_is_back(
    start_model, tmp_path: Path, number: signal.Signals
):
    path = pico_gguf(tmp_path / "m.gguf", n_ctx=8192).path
    engine = LlamaGenerator(path, EngineSettings(n_ctx=8192, slots=2, threads=1))
    gateway = start_model(engine)
    assert gateway.ask(model="tiny", max_tokens=4).status_code == 200
    first = engine.process.pid
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(gateway.ask, model="tiny", max_tokens=8000) for _ in range(2)]
        time.sleep(0.4)
        assert not any(answer.done() for answer in under_way)
        os.kill(first or 0, number)
        for answer in under_way:
            assert answer.result().status_code == 503 and int(answer.result().headers["retry-after"]) >= 1
    ready = gateway.http.get("/ready")
    assert ready.status_code == 503 and int(ready.headers["retry-after"]) >= 1
    assert gateway.http.get("/health").status_code == 200
    deadline = time.monotonic() + 30
    while gateway.http.get("/ready").status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gateway.http.get("/ready").status_code == 200, "it is started again though nobody asked for an answer"
    assert engine.process.pid not in (None, first)
    assert gateway.ask(model="tiny", max_tokens=4).status_code == 200
