"""The OpenAPI document, and schemathesis over it: valid and invalid requests by the hundred, in-process.

``positive_data_acceptance`` is not among the checks: fields that are each valid can still not go together (a tool
choice without tools), and that is a 400 by design, with the field named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import hypothesis
import orjson
import pytest
import schemathesis
from schemathesis import GenerationMode, checks
from schemathesis.config import SchemathesisConfig

from locum.gateway.app import create_app
from locum.gateway.asgi import AsgiApp, Message, Receive, Scope, Send
from locum.gateway.errors import API_CODES
from locum.gateway.openapi import openapi_document
from locum.gateway.settings import Settings
from locum.gateway.targets import ModelTarget
from locum.testing import FakeEmbedder, FakeGenerator

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]
EXAMPLES = 25


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsgiApp]:
    log = tmp_path_factory.mktemp("schema") / "log"
    target = ModelTarget("tiny", FakeGenerator(["one two three"]), FakeEmbedder())
    made = create_app(target, settings=Settings(log_file=log, allowed_hosts=("localhost", "testserver")))

    async def always_up(scope: Scope, receive: Receive, send: Send) -> None:
        """Without a lifespan: the in-process client begins and ends one with every request."""
        if scope["type"] != "lifespan":
            await made(scope, receive, send)
            return
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})

    yield always_up
    asyncio.run(_shut_down(made))


@pytest.fixture(scope="module")
def document(app: AsgiApp) -> Any:
    """The schema with the one model that is served, so that most requests get beyond its name."""
    described = openapi_document()
    for name in ("ChatRequest", "TextRequest", "ResponseRequest", "EmbeddingRequest"):
        described["components"]["schemas"][name]["properties"]["model"] = {"const": "tiny"}
    loaded = schemathesis.openapi.from_dict(described, config=SchemathesisConfig())
    loaded.app = app
    return loaded


async def _shut_down(made: AsgiApp) -> None:
    messages = iter(("lifespan.startup", "lifespan.shutdown"))

    async def receive() -> Message:
        return {"type": next(messages)}

    async def send(_message: Message) -> None:
        return

    await made({"type": "lifespan"}, receive, send)


OPERATIONS = [
    (method.upper(), path, mode)
    for path, item in openapi_document()["paths"].items()
    for method in item
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or method == "post"  # nothing about the others could be invalid
]


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS)
def test_fault_73_every_request_gets_an_answer_or_a_listed_refusal(
    document: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = document[path][method]

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=EXAMPLES if method == "POST" else 3,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case: Any) -> None:
        response = case.call()
        refused_unread = response.status_code == 413  # which schemathesis does not take for a refusal
        chosen = [check for check in CHECKS if not (refused_unread and check is checks.negative_data_rejection)]
        case.validate_response(response, checks=chosen)
        if response.status_code >= 400 and response.content:
            assert response.json()["error"]["code"] in API_CODES

    check()


def test_the_document_names_every_path_and_refusal() -> None:
    described = openapi_document()
    assert described["openapi"].startswith("3.1")
    assert {path for path in described["paths"] if path.startswith("/v1/")} == {
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/{name}", "/v1/responses",
    }  # fmt: skip
    chat = described["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) >= {"200", "400", "401", "403", "404", "408", "413", "500", "502", "503", "504"}
    assert described["components"]["schemas"]["ChatRequest"]["additionalProperties"] is False
    assert described["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"] == list(
        API_CODES
    )


def _ask(app: AsgiApp, path: str) -> bytes:
    """One request, without a client."""
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        parts.append(message.get("body", b""))

    scope: Scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
    take: Receive = receive
    give: Send = send
    asyncio.run(app(scope, take, give))
    return b"".join(parts)


def test_the_document_is_served(app: AsgiApp) -> None:
    assert orjson.loads(_ask(app, "/openapi.json"))["info"]["title"] == "Locum"
