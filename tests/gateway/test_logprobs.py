"""Log-probabilities of tokens that are parts of characters, that wrote several at once, and that wrote nothing."""

from __future__ import annotations

from typing import Any

import pytest

from locum.gateway.calls import bytes_of, token_json
from locum.runtime.completion import Chunk, Completion, TokenLogprob
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import open_model
from locum.testing import ChunkGenerator
from locum.testing.pico_gguf import pico_gguf

HALF, OTHER_HALF = b"\xe6".decode("utf-8", "surrogateescape"), b"\xe5\xae".decode("utf-8", "surrogateescape")
TOKENS = (
    TokenLogprob("日", -0.5, ((HALF, -0.5), (OTHER_HALF, -1.0)), tokens=3),
    TokenLogprob("", -0.1, (("", -0.1), ("a", -3.0)), silent=True),
)


@pytest.fixture
def gateway(start_model: Any) -> Any:
    final = Completion("日", "stop", 1, 4, "m", logprobs=TOKENS)
    chunks = [Chunk("日", TOKENS[:1]), Chunk("", TOKENS[1:]), Chunk(final=final)]
    return start_model(ChunkGenerator(lambda _request: chunks))


def test_bytes_are_those_that_were_written() -> None:
    told = token_json(TOKENS[0])
    assert (told["token"], told["bytes"], told["locum"]) == ("日", [0xE6, 0x97, 0xA5], {"tokens": 3})
    assert [top["bytes"] for top in told["top_logprobs"]] == [[0xE6], [0xE5, 0xAE]]
    assert [top["token"] for top in told["top_logprobs"]] == ["\ufffd", "\ufffd"]
    assert "locum" not in token_json(TokenLogprob("a", -1.0))
    assert bytes_of("\ud83d") == b"?"


def test_a_chat_has_no_entry_for_the_end(gateway: Any) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2}
    whole = gateway.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert [token["token"] for token in whole["logprobs"]["content"]] == ["日"]
    streamed = gateway.http.post("/v1/chat/completions", json={**body, "stream": True}).text
    assert streamed.count('"top_logprobs"') == 1 and '"content":[]' not in streamed


def test_a_completion_spells_parts_of_characters_apart(gateway: Any) -> None:
    body = {"model": "tiny", "prompt": "x", "logprobs": 2}
    told = gateway.http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert told["tokens"] == ["日"] and told["text_offset"] == [0]
    assert told["top_logprobs"] == [{"bytes:\\xe6": -0.5, "bytes:\\xe5\\xae": -1.0}]
    assert gateway.http.post("/v1/completions", json={**body, "stream": True}).text.count('"top_logprobs"') == 1


def test_a_response_has_no_entry_for_the_end(gateway: Any) -> None:
    body = {"model": "tiny", "input": "x", "include": ["message.output_text.logprobs"], "store": False}
    part = gateway.http.post("/v1/responses", json=body).json()["output"][0]["content"][0]
    assert [token["token"] for token in part["logprobs"]] == ["日"]
    streamed = gateway.http.post("/v1/responses", json={**body, "stream": True}).text
    assert streamed.count("event: response.output_text.delta") == 1


@pytest.mark.engines
def test_lm_evals_request_gets_an_entry_for_each_token(start_model, tmp_path):
    pico = pico_gguf(tmp_path / "pico.gguf")
    settings = EngineSettings(n_ctx=256, slots=1, threads=1)
    gateway = start_model(open_model(pico.path, settings))
    asked = {"model": "tiny", "max_tokens": 1, "temperature": 0, "logprobs": 1, "seed": 1234, "echo": True}
    text = "The über-cat sat"
    ids = pico.encode(text)
    by_text = gateway.http.post("/v1/completions", json={**asked, "prompt": text}).json()["choices"][0]
    answered = gateway.http.post("/v1/completions", json={**asked, "prompt": [ids, ids[:4]]})
    assert answered.status_code == 200, answered.text
    arrays = answered.json()["choices"]
    assert by_text["text"].startswith(text) and arrays[0]["text"] == by_text["text"]
    told = by_text["logprobs"]
    assert {len(values) for values in told.values()} == {len(ids) + 1}
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    offsets = [len(bytes(ids[: place + 1]).decode(errors="ignore")) for place in range(len(ids))]
    assert [place + 1 for place in told["text_offset"][:4]] == offsets[:4] and told["text_offset"][-1] == len(text)
    context = 10
    score = sum(told["token_logprobs"][context:-1])
    assert score == pytest.approx(pico.log_probability(ids[:context], ids[context:]), abs=0.1)
    assert len(arrays[1]["logprobs"]["tokens"]) == 5
    refused = gateway.http.post("/v1/completions", json={**asked, "prompt": [[99_999]]})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "prompt"
