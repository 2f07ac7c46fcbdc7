"""Inputs over a model's limit: refused, or cut and said so, with the request's own numbers (fault 76)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from locum.gateway.targets import ModelTarget
from locum.runtime.open import open_embedder
from locum.testing import FakeEmbedder, pico_embedder

pytestmark = pytest.mark.engines
LONG = "card " * 200
LIMIT = 16  # tokens that the pico models read, two of them special


@pytest.fixture
def vectors(start_model, tmp_path: Path):
    pico_embedder(tmp_path / "vectors")
    return start_model(ModelTarget("vectors", embedder=open_embedder(tmp_path / "vectors", threads=1)))


def test_fault_76_a_text_that_is_too_long_to_embed_is_refused(vectors):
    for text in (LONG + "delivery", ["pin", LONG], [*["pin"] * 40, LONG], " " * 2000 + "pin"):
        refused = vectors.http.post("/v1/embeddings", json={"model": "vectors", "input": text})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
        assert "truncate" in error["message"]
    whole = vectors.http.post("/v1/embeddings", json={"model": "vectors", "input": "card " * (LIMIT - 2)})
    assert whole.json()["usage"] == {"prompt_tokens": LIMIT, "total_tokens": LIMIT}
    assert "x-locum-truncated" not in whole.headers and whole.json()["locum"]["truncated_tokens"] == 0
    assert vectors.metric("locum_truncations_total") == 0
    assert vectors.metric("locum_input_tokens_total") == LIMIT


def test_fault_76_a_text_that_is_cut_as_asked_says_so_and_counts_what_was_read(vectors):
    body = {"model": "vectors", "input": [LONG, "pin", LONG], "truncate": True}
    made = vectors.http.post("/v1/embeddings", json=body)
    dropped = 2 * (200 + 2 - LIMIT)
    assert made.status_code == 200 and made.headers["x-locum-truncated"] == str(dropped)
    assert made.json()["locum"] == {"route": "local", "truncated_tokens": dropped}
    assert made.json()["usage"]["prompt_tokens"] == 2 * LIMIT + 3
    assert vectors.metric("locum_truncations_total") == 1
    assert vectors.metric("locum_input_tokens_total") == 2 * LIMIT + 3


def test_fault_76_what_is_cut_of_many_texts_is_added_up(start_model):
    gateway = start_model(None, FakeEmbedder(max_tokens=2))
    body = {"model": "tiny", "input": ["a b c"] * 70, "truncate": True}
    made = gateway.http.post("/v1/embeddings", json=body)
    assert made.headers["x-locum-truncated"] == "70" and made.json()["usage"]["prompt_tokens"] == 140


@pytest.mark.parametrize("stream", [False, True])
def test_fault_76_a_certified_answer_to_a_cut_input_says_so(start, stream: bool):
    gateway = start(engine="onnx")
    answer = gateway.ask(LONG, stream=stream)
    assert answer.headers["x-locum-route"] == "local" and answer.headers["x-locum-truncated"] == "186"
    assert answer.headers["x-locum-certificate"] == gateway.student.certificate.hash()[:12]
    assert '"truncated_tokens":186' in answer.text
    local = gateway.ask(LONG, model="pico@local")
    assert local.json()["locum"]["truncated_tokens"] == 186
    assert "x-locum-truncated" not in gateway.ask("card").headers
    assert gateway.metric("locum_truncations_total") == 2


def test_fault_76_concurrent_answers_carry_their_own_numbers(start):
    gateway = start(engine="onnx")

    def told(words: int) -> int:
        return gateway.ask("card " * words).json()["locum"]["truncated_tokens"]

    counts = [*range(10, 40)] * 2
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(told, counts)) == [max(0, words + 2 - LIMIT) for words in counts]


def test_an_input_that_is_handed_over_goes_whole(start):
    gateway = start(script=["card"], engine="onnx", threshold=None)
    answer = gateway.ask(LONG)
    assert answer.headers["x-locum-route"] == "llm" and "x-locum-truncated" not in answer.headers
    assert LONG.strip() in gateway.upstream.received[-1].body["messages"][-1]["content"]
