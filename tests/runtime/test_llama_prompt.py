"""How many tokens an answer may have where slots share a cache: counted only where bytes cannot tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from locum.core.errors import UserError
from locum.runtime import CompletionRequest, Message
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_prompt import Prompts
from locum.runtime.llama_settings import EngineSettings

N_CTX = 200
SYSTEM = Message("system", "Be brief.")


@dataclass
class ByteTokenizer:
    """A tokenizer of bytes, whose template puts ``> `` before each turn and may want a system message first."""

    wants_system: bool = False
    asked: list[str] = field(default_factory=list)
    settings: EngineSettings = field(default_factory=lambda: EngineSettings(n_ctx=N_CTX))
    where: str = "model.gguf"

    def post(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert timeout_s > 0
        self.asked.append(path)
        if path == "/tokenize":
            return {"tokens": list(body["content"].encode())}
        if self.wants_system and body["messages"][0]["role"] != "system":
            raise EngineRefusedError(400, {"message": "the first message must be the system's"})
        return {"prompt": "".join(f"> {message['content']}" for message in body["messages"])}


def test_a_short_request_is_not_counted_but_for_the_template_once() -> None:
    process = ByteTokenizer()
    prompts = Prompts(process, template=True)
    for _ in range(3):
        assert prompts.room(CompletionRequest((Message("user", "Hello"),), max_tokens=8)) == 8
    assert process.asked == ["/apply-template", "/tokenize"]


def test_an_answer_ends_where_its_own_context_does() -> None:
    prompts = Prompts(ByteTokenizer(), template=True)
    assert prompts.room(CompletionRequest((Message("user", "a" * 150),), max_tokens=100)) == N_CTX - 152
    with pytest.raises(UserError) as error:
        prompts.room(CompletionRequest((Message("user", "a" * N_CTX),), max_tokens=100))
    assert error.value.code == "runtime-too-long"


def test_a_template_that_refuses_the_probe_still_takes_what_it_takes() -> None:
    process = ByteTokenizer(wants_system=True)
    prompts = Prompts(process, template=True)
    asked = CompletionRequest((SYSTEM, Message("user", "a" * 100)), max_tokens=120)
    assert prompts.room(asked) == N_CTX - len("> Be brief.> ") - 100
    assert prompts.room(asked) == N_CTX - len("> Be brief.> ") - 100
    assert process.asked.count("/apply-template") == 3  # the probe once, then each request itself
    with pytest.raises(UserError) as error:
        prompts.room(CompletionRequest((Message("user", "Hello"),), max_tokens=8))
    assert "must be the system's" in str(error.value)
