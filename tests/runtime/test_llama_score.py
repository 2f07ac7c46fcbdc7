"""Which continuations llama.cpp would write itself, against NumPy's own decoding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locum.runtime import CompletionRequest
from locum.runtime.llama_score import token_tree
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.open import open_model
from locum.runtime.protocol import GreedyScorer
from locum.testing.pico_gguf import PicoDecoder, pico_gguf


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> PicoDecoder:
    return pico_gguf(tmp_path_factory.mktemp("pico") / "pico.gguf")


@pytest.fixture(scope="module")
def model(pico: PicoDecoder) -> Iterator[LlamaGenerator]:
    opened = open_model(pico.path, EngineSettings(n_ctx=256, slots=2, threads=1, timeout_s=120))
    yield opened
    opened.close()


def greedy_bytes(pico: PicoDecoder, prompt: str, count: int) -> bytes:
    """What NumPy writes."""
    ids = pico.encode(prompt)
    for _ in range(count):
        ids.append(int(pico.logits(ids)[-1].argmax()))
    return bytes(ids[len(prompt) :])


def test_tokens_that_begin_alike_share_the_tree() -> None:
    root = token_tree([[1, 2], [1, 3], []])
    assert root.ends == [2] and list(root.following) == [1]
    assert {token: node.ends for token, node in root.following[1].following.items()} == {2: [0], 3: [1]}


@pytest.mark.engines
@pytest.mark.parametrize("prompt", ["hello wor", "a", "The capital of"])
def test_greedy_is_what_decoding_writes(prompt: str, pico: PicoDecoder, model: LlamaGenerator) -> None:
    written = greedy_bytes(pico, prompt, 6).decode("ascii")
    other = written[:5] + chr(ord(written[5]) ^ 1)  # differs in the last token only
    first = chr(ord(written[0]) ^ 1) + written[1:]  # or in the first only
    request = CompletionRequest((), prompt=prompt)
    found = model.score_greedy(request, [written, written[:3], other, first, ""])
    assert found.greedy.tolist() == [True, True, False, False, True]
    again = model.score(request, [written, written[:3], other, first, ""])
    assert found.logprobs.tolist() == pytest.approx(again.tolist(), abs=1e-3)
    alone = [bool(model.score_greedy(request, [text]).greedy[0]) for text in (written, other, first)]
    assert alone == [True, False, False]  # each in requests of its own
    assert isinstance(model, GreedyScorer)
