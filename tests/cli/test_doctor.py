"""``locum doctor``: what it finds, how it says it, and its status."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from locum.pipeline import doctor
from locum.runtime import engines
from locum.runtime.engines import EngineStatus, engine_statuses, engines_for, require_runnable
from locum.testing import fake_spec


def test_all_is_said_in_one_document(run: Any) -> None:
    done = run("doctor", "--json")
    assert done.status == 0
    found = done.document
    assert found["ok"] and found["locum"] and found["python"]
    assert {"linear", "onnx", "llamacpp", "openvino", "openai"} == {each["name"] for each in found["engines"]}
    assert found["device"]["cores"] > 0 and found["cache"]["folder"]
    names = [finding["name"] for finding in found["findings"]]
    assert {"Python", "Locum", "cores", "memory", "training", "cache"} <= set(names)
    assert "package index" not in names


def test_people_get_a_table(run: Any) -> None:
    done = run("doctor")
    assert done.status == 0
    assert "engine onnx" in done.stdout and "cores" in done.stdout and "cache" in done.stdout


def test_fault_35_what_is_broken_exits_3(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("LOCUM_LLAMA_SERVER", "no-such-program")
    done = run("doctor", "--json")
    assert done.status == 3
    broken = {each["name"]: each for each in done.document["findings"] if each["state"] == "broken"}
    assert set(broken) == {"cache", "engine llamacpp"}
    assert "LOCUM_CACHE" in broken["cache"]["advice"]
    assert "no-such-program" in broken["engine llamacpp"]["advice"]
    assert "[cli-broken]" in done.stderr
    assert "✗" in run("doctor").stdout


def test_an_engine_that_dies_when_loaded_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_ASK_LLAMA", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.delenv("LOCUM_LLAMA_SERVER", raising=False)
    status = {each.name: each for each in engine_statuses()}["llamacpp"]
    assert not status.available and "another processor" in status.reason
    monkeypatch.setattr(engines, "_ASK_LLAMA", "raise ImportError('libgomp.so.1 is missing')")
    status = {each.name: each for each in engine_statuses()}["llamacpp"]
    assert not status.available and "libgomp" in status.reason


def test_instructions_that_the_packaged_build_leaves_unused_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_ASK_LLAMA", "print('CPU : AVX2 = 1 | AVX512 = 0 | FMA = 1 |')")
    monkeypatch.delenv("LOCUM_LLAMA_SERVER", raising=False)
    status = {each.name: each for each in engine_statuses(["avx2", "avx512f", "amx_int8"])}["llamacpp"]
    assert status.available and status.build == ("AVX2", "FMA")
    assert "avx512f, amx_int8" in status.advice and "LOCUM_LLAMA_SERVER" in status.advice
    plain = {each.name: each for each in engine_statuses(["avx2"])}["llamacpp"]
    assert plain.advice == ""


def test_openvino_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_version", lambda _package: None)
    status = {each.name: each for each in engine_statuses()}
    assert not status["openvino"].available and not status["openvino"].needed
    assert "[openvino]" in status["openvino"].reason
    assert not status["onnx"].available and status["onnx"].needed


def test_findings_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda _package: None)
    missing = doctor._training(dict.fromkeys(["torch", "onnx"]))
    assert missing.state == "note" and "[train]" in missing.advice
    old = EngineStatus("onnx", "", needed=True, available=True, version="1")
    weak = doctor.profile_device().model_copy(update={"instructions": ("sse",), "architecture": "x86_64"})
    assert doctor._engine(old, weak).state == "broken"
    assert "sse4_2" in doctor._engine(old, weak).advice


def test_cuda_without_a_card_is_told_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia_card", lambda: False)
    monkeypatch.setattr(doctor, "cuda_packages_mb", lambda: 6500.0)
    told = doctor._cuda()
    assert told is not None and told.state == "note" and "6.5 GB" in told.value
    monkeypatch.setattr(doctor, "has_nvidia_card", lambda: True)
    assert doctor._cuda() is None
    monkeypatch.setattr(doctor, "has_nvidia_card", lambda: False)
    monkeypatch.setattr(doctor, "cuda_packages_mb", lambda: 0.0)
    assert doctor._cuda() is None


def test_engines_that_can_run_a_model() -> None:
    spec = fake_spec(("a", "b"))
    assert engines_for(spec) == ("linear",)
    onnx = spec.model_copy(update={"engine": "onnx"})
    assert engines_for(onnx) == ("onnx", "openvino")
    assert engines_for(onnx.model_copy(update={"purpose": "embed"})) == ("onnx",)
    assert require_runnable(onnx, "openvino") == "openvino"
    with pytest.raises(engines.UserError, match="did you mean 'openvino'"):
        require_runnable(onnx, "openvin")


def test_it_is_quick() -> None:
    start_s = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "locum.cli.main", "doctor", "--json"], capture_output=True, check=True)
    assert time.monotonic() - start_s < 20  # a second or two, but for a busy machine
    assert done.stdout
    loaded = (
        "import locum.pipeline.doctor, sys; sys.exit(bool({'torch', 'onnxruntime', 'xllamacpp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0
