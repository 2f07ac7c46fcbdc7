"""Log-probabilities of tokens that are parts of characters, that wrote several at once, and that wrote nothing."""

from __future__ import annotations

from typing import Any

import pytest

from locum.gateway.calls import bytes_of, token_json
from locum.runtime.completion import Chunk, Completion, TokenLogprob
from locum.testing import ChunkGenerator

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
