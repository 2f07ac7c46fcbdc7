"""Every engine, ready to ask, for the contract suites."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import SourceError
from locum.runtime import Classifier, open_classifier
from locum.runtime.gguf_check import check_gguf
from locum.runtime.model_files import seal
from locum.testing import FakeClassifier, pico_linear, pico_onnx
from locum.testing.pico import LABELS, WORDS


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct in GGUF, from the catalogue."""
    from locum.sources.bases import ensure_base

    if "LOCUM_TEST_GGUF" in os.environ:
        return Path(os.environ["LOCUM_TEST_GGUF"])
    try:
        return ensure_base("SmolLM2-135M-Instruct", format="gguf")
    except SourceError as error:
        pytest.skip(f"SmolLM2-135M-Instruct cannot be had here: {error}")


def by_words(text: str) -> list[float]:
    """What the pico models compute, for the fake."""
    words = text.lower().split()
    return [float(sum(word in group for word in words)) for group in WORDS.values()]


def fake(_folder: Path, _request: pytest.FixtureRequest) -> Classifier:
    return FakeClassifier(LABELS, by_words)


def linear(folder: Path, _request: pytest.FixtureRequest) -> Classifier:
    pico_linear(folder)
    return open_classifier(folder)


def onnx(folder: Path, _request: pytest.FixtureRequest) -> Classifier:
    pico_onnx(folder)
    return open_classifier(folder, threads=2)


def openvino(folder: Path, _request: pytest.FixtureRequest) -> Classifier:
    pytest.importorskip("openvino")
    pico_onnx(folder)
    return open_classifier(folder, threads=2, engine="openvino")


def onnx_int8(folder: Path, _request: pytest.FixtureRequest) -> Classifier:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    pico_onnx(folder)
    whole = folder / "model.onnx"
    whole.rename(folder / "whole")
    quantize_dynamic(folder / "whole", whole, weight_type=QuantType.QInt8)
    (folder / "whole").unlink()
    from locum.testing.pico import reseal

    reseal(folder, precision="int8")
    return open_classifier(folder, threads=2)


def llamacpp(folder: Path, request: pytest.FixtureRequest) -> Classifier:
    gguf: Path = request.getfixturevalue("smollm2")
    folder.mkdir()
    shutil.copyfile(gguf, folder / "model.gguf")
    width = check_gguf(gguf).embedding_length or 0
    weight = np.random.default_rng(0).normal(size=(len(LABELS), width)).astype(np.float32) / width
    np.savez(folder / "head.npz", weight=weight, bias=np.zeros(len(LABELS), np.float32))
    seal(
        folder,
        name="smollm2",
        engine="llamacpp",
        family="decoder",
        precision="q8_0",
        labels=LABELS,
        weights="model.gguf",
        max_tokens=48,
        parameters=135_000_000,
        pooling="mean",
    )
    return open_classifier(folder, threads=1)


ENGINES: dict[str, Callable[[Path, pytest.FixtureRequest], Classifier]] = {
    "fake": fake,
    "linear": linear,
    "onnx": onnx,
    "onnx_int8": onnx_int8,
    "openvino": openvino,
    "llamacpp": llamacpp,
}
MARKS = {"llamacpp": [pytest.mark.models, pytest.mark.engines]}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in ENGINES])
def classifier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Classifier]:
    """One classifier of each engine in turn."""
    opened = ENGINES[request.param](tmp_path / "model", request)
    yield opened
    opened.close()
