"""A base as an embedding model: vectors as PyTorch's, whatever the pooling; nothing written when they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from locum.compress import embedder  # noqa: E402
from locum.compress.embedder import SAMPLES, export_embedder  # noqa: E402
from locum.compress.onnx_export import Embedding  # noqa: E402
from locum.core.errors import CheckFailed  # noqa: E402
from locum.models.base_files import inspect_base  # noqa: E402
from locum.models.body import load_body  # noqa: E402
from locum.models.pico import pico_base  # noqa: E402
from locum.runtime.open import open_embedder  # noqa: E402
from locum.schema.training import EmbedderRequest  # noqa: E402

WORDS = ["the", "card", "is", "my", "pin", "hello", "where", "how", "a", "word", "great", "please"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_base(tmp_path_factory.mktemp("base"), WORDS, width=64)


def request(base: Path, **fields: object) -> EmbedderRequest:
    plain = {"name": "pico", "base": str(base), "pooling": "mean", "max_tokens": 32, "parameters": 1, "threads": 1}
    return EmbedderRequest.model_validate(plain | fields)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_pytorchs(base: Path, tmp_path: Path, pooling: str) -> None:
    spec, parity = export_embedder(request(base, pooling=pooling), tmp_path / "out")
    assert spec.purpose == "embed" and spec.labels == () and spec.precision == parity.precision == "int8"
    assert parity.cosine_min >= 0.99 and parity.n == len(SAMPLES)
    opened = open_embedder(tmp_path / "out", threads=1)
    text = "where is my card"
    ids = torch.tensor([opened._model.tokenizer.encode([text])[0]])  # type: ignore[attr-defined]
    body = load_body(inspect_base(base))
    with torch.inference_mode():
        wanted = Embedding(body, pooling).eval()(ids, torch.ones_like(ids))[0].numpy()
        states = body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        plain = (states[0] if pooling == "cls" else states.mean(dim=0)).numpy()
    np.testing.assert_allclose(wanted, plain / np.linalg.norm(plain), atol=1e-5)
    (vector,) = opened.embed([text])
    assert float(vector @ wanted) > 0.99
    opened.close()


def test_int8_that_is_not_near_enough_gives_way_to_fp32_and_then_to_an_error(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = embedder._compare

    def strict(model, wanted, precision, asked, tried):  # type: ignore[no-untyped-def]
        found = plain(model, wanted, precision, asked, tried)
        return found.model_copy(update={"cosine_min": 0.5}) if precision in lost else found

    lost = ["int8"]
    monkeypatch.setattr(embedder, "_compare", strict)
    spec, parity = export_embedder(request(base), tmp_path / "out")
    assert spec.precision == "fp32" and parity.cosine_min > 0.9999
    assert parity.tried == ("int8: cosine 0.5000 < 0.99",)
    lost.append("fp32")
    with pytest.raises(CheckFailed) as caught:
        export_embedder(request(base), tmp_path / "none")
    assert caught.value.code == "compress-parity" and not (tmp_path / "none").exists()
