"""The real small models: MiniLM as int8 ONNX, SmolLM2 as GGUF, against PyTorch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from locum.compress.export import export
from locum.compress.gguf_export import export_gguf
from locum.compress.pico import seal_trained
from locum.core.files import write_text
from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.models.classifier import SequenceClassifier, save_student
from locum.models.tokenizer import write_tokenizer
from locum.runtime.gguf_check import check_gguf
from locum.runtime.llama_embed import TextVectors
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import open_classifier
from locum.runtime.tokenize import TextTokenizer
from locum.schema.data import Row
from locum.sources.bases import ensure_base

pytestmark = [pytest.mark.models, pytest.mark.slow]

TOPICS = {
    "card": "my bank card has not arrived in the mail",
    "cash": "the machine did not give me the money I asked for",
    "pin": "I forgot the secret code of my card",
    "rate": "what is the exchange rate for euros today",
    "fraud": "someone stole my card and paid with it",
}
FORMS = (
    "{}",
    "{}, please help",
    "hello, {}",
    "{} and I am angry about it",
    "can you tell me: {}?",
    "{}!!! 24 hours ago",
)
TEXTS = [form.format(topic) for form in FORMS for topic in TOPICS.values()]


def encoded(folder: Path, texts: list[str]) -> list[torch.Tensor]:
    return [torch.tensor([ids]) for ids in TextTokenizer(folder / "tokenizer.json", 64).encode(texts)]


def embeddings(student: SequenceClassifier, folder: Path, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([student.embed(ids, torch.ones_like(ids)) for ids in encoded(folder, texts)])


def test_minilm_as_int8_is_small_and_answers_alike(tmp_path: Path) -> None:
    base = inspect_base(ensure_base("all-MiniLM-L6-v2"))
    student = SequenceClassifier(load_body(base), base.architecture, len(TOPICS)).eval()
    folder = tmp_path / "trained"
    save_student(student, folder)
    write_tokenizer(base, folder)
    prototypes = embeddings(student, folder, list(TOPICS.values()))
    with torch.no_grad():  # nearest topic by inner product
        student.head.weight.copy_(4.0 * prototypes)
        student.head.bias.copy_(-2.0 * (prototypes**2).sum(dim=1))
    save_student(student, folder)
    logits = student.head(embeddings(student, folder, TEXTS)).detach().numpy()
    np.save(folder / "dev_logits.npy", logits)
    labels = tuple(TOPICS)
    rows = [Row(id=str(n), input=text, output=labels[n % 5]).model_dump_json() for n, text in enumerate(TEXTS)]
    write_text(tmp_path / "dev.jsonl", "\n".join(rows) + "\n")
    seal_trained(folder, "encoder", student.parameters_count)
    out = tmp_path / "model"
    spec, parity = export(folder, tmp_path / "dev.jsonl", out, name="minilm", labels=labels, threads=1)
    assert (spec.precision, parity.tried) == ("int8", ())
    assert parity.accuracy_trained > 0.9 and parity.label_agreement >= 0.99 and parity.mean_gap < 0.02
    assert sum(file.stat().st_size for file in out.iterdir()) <= 25_000_000
    classifier = open_classifier(out, threads=1)
    try:
        together = classifier.logits(TEXTS)
        alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    finally:
        classifier.close()
    np.testing.assert_allclose(together, alone, atol=1e-3)


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2_layers: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(smollm2_layers[0], tmp_path_factory.mktemp("smollm2"))


@pytest.mark.engines
@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 0.01), ("q8_0", 0.08)])
def test_smollm2_in_gguf_embeds_as_pytorch(
    smollm2_layers: tuple[Any, Any], smollm2_tokenizer: Path, kind: str, tolerance: float, tmp_path: Path
) -> None:
    base, body = smollm2_layers
    student = SequenceClassifier(copy.deepcopy(body), base.architecture, 2).eval()
    path = tmp_path / "model.gguf"
    export_gguf(student, smollm2_tokenizer, path, kind=kind, name="smollm2")  # pyright: ignore[reportArgumentType]
    texts = ["My card never arrived", "PIN 4711 — 12:30 😀", "", "def f(x):\n    return x"]
    expected = embeddings(student, smollm2_tokenizer.parent, [text or " " for text in texts]).numpy()
    settings = EngineSettings(threads=1)
    vectors = TextVectors(path, check_gguf(path), max_tokens=64, pooling="last", normalise=False, settings=settings)
    try:
        found = np.stack([vectors.vector(text)[0] for text in texts])
    finally:
        vectors.close()
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
