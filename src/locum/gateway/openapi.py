"""``openapi_document``: the OpenAPI 3.1 description of the gateway, from the very documents that check requests.

Notable: request schemas are pydantic's, so they cannot drift from what is accepted; bodies of answers are described
here, and the tests hold every answer against them. Not here: examples, which ``docs/api.md`` has.
"""

from __future__ import annotations

from typing import Any

import locum
from locum.gateway.chat import ChatRequest
from locum.gateway.completions import TextRequest
from locum.gateway.documents import Document
from locum.gateway.embeddings import EmbeddingRequest
from locum.gateway.errors import API_CODES
from locum.gateway.page import REVIEW_PATH, SERVED_PATH
from locum.gateway.response_documents import ResponseRequest
from locum.gateway.review import ReviewRequest

_REFUSALS = {
    400: "A field is unknown, missing or out of bounds, or fields do not go together; `param` names it.",
    401: "The key is missing or wrong.",
    403: "`Host` or `Origin` names another host.",
    404: "No such path or model.",
    405: "The path does not take this method.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    431: "The headers are too large.",
    500: "The engine failed, or an unexpected error.",
    502: "The LLM did not answer properly.",
    503: "Overloaded, or the engine is starting again; see `Retry-After`.",
    504: "The engine or the LLM did not answer in time.",
}
_ALWAYS = (400, 401, 403, 405, 408, 431, 500)
_ANSWERING = (404, 413, 502, 503, 504)
_HEADERS = {
    "x-locum-route": "Where the answer came from: local, llm or abstain.",
    "x-locum-confidence": "The student's calibrated confidence; absent for written text and for the LLM.",
    "x-locum-certificate": "The certificate that covers the answer; none, or void.",
    "x-locum-truncated": "How many tokens of the input were dropped, when it was cut.",
    "x-request-id": "The request's name in the access log.",
}


def openapi_document() -> dict[str, Any]:
    """The description of every path, with its errors."""
    schemas: dict[str, Any] = dict(_ANSWERS)
    paths: dict[str, Any] = {
        "/v1/chat/completions": _post("Answer a conversation.", ChatRequest, "ChatCompletion", schemas, streams=True),
        "/v1/completions": _post("Continue a text.", TextRequest, "TextCompletion", schemas, streams=True),
        "/v1/responses": _post("Answer an input.", ResponseRequest, "Response", schemas, streams=True),
        "/v1/embeddings": _post("Embed texts.", EmbeddingRequest, "Embeddings", schemas, streams=False),
        "/v1/models": _get("The models that are served.", "Models"),
        "/v1/models/{name}": _get("One model.", "Model", 404),
        "/health": _get("Whether the process answers.", "Health"),
        "/ready": _get("What is served; 503 while its engine cannot load it.", "Ready", 503),
        "/openapi.json": _get("This document.", "Any"),
        "/metrics": _get("Counters in Prometheus's text format.", None),
        SERVED_PATH: _get(
            "For the page at /: the task, the certificate, and where the last requests went.", "Served", 404
        ),
        REVIEW_PATH: _post("Say whether an answer is right.", ReviewRequest, "Reviewed", schemas, streams=False),
    }
    paths["/v1/models/{name}"]["get"]["parameters"] = [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    ]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Locum",
            "version": locum.__version__,
            "description": "OpenAI's API in front of a bundle or a plain model; each answer says where it came from.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _post(
    summary: str, document: type[Document], answer: str, schemas: dict[str, Any], *, streams: bool
) -> dict[str, Any]:
    schema = document.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[document.__name__] = schema
    content: dict[str, Any] = {"application/json": {"schema": _reference(answer)}}
    if streams:
        content["text/event-stream"] = {}
    body = {"required": True, "content": {"application/json": {"schema": _reference(document.__name__)}}}
    return {"post": {"summary": summary, "requestBody": body, "responses": _responses(content, *_ANSWERING)}}


def _get(summary: str, answer: str | None, *statuses: int) -> dict[str, Any]:
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if answer is not None:
        content = {"application/json": {"schema": _reference(answer)}}
    return {"get": {"summary": summary, "responses": _responses(content, *statuses)}}


def _responses(content: dict[str, Any], *statuses: int) -> dict[str, Any]:
    headers = {name: {"description": what, "schema": {"type": "string"}} for name, what in _HEADERS.items()}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "headers": headers, "content": content}}
    for status in sorted({*_ALWAYS, *statuses}):
        refusal: dict[str, Any] = {
            "description": _REFUSALS[status],
            "content": {"application/json": {"schema": _reference("Error")}},
        }
        if status == 503:
            refusal["headers"] = {"retry-after": {"description": "Seconds to wait.", "schema": {"type": "string"}}}
        responses[str(status)] = refusal
    return responses


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_OBJECT_OR_NULL = {"type": ["object", "null"]}
_FINISH = {"enum": ["stop", "length", "tool_calls", "content_filter"]}

_ANSWERS: dict[str, Any] = {
    "Any": {"type": "object"},
    "Health": _object({"status": {"const": "ok"}}),
    "Ready": _object(
        {
            "status": {"const": "ready"},
            "name": _TEXT,
            "kind": _TEXT,
            "certificate": _TEXT_OR_NULL,
            "certificate_void": _TEXT_OR_NULL,
        }
    ),
    "Model": _object({"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT}),
    "Models": _object({"object": {"const": "list"}, "data": _list(_reference("Model"))}),
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": {
                        "enum": ["invalid_request_error", "authentication_error", "upstream_error", "server_error"]
                    },
                    "param": _TEXT_OR_NULL,
                    "code": {
                        "enum": list(API_CODES),
                        "description": "\n".join(f"{code}: {meaning}" for code, meaning in API_CODES.items()),
                    },
                }
            )
        }
    ),
    "Locum": _object(
        {
            "route": {"enum": ["local", "llm", "abstain"]},
            "confidence": {"type": ["number", "null"]},
            "fields": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
            "certificate": _TEXT_OR_NULL,
            "certificate_void": _TEXT_OR_NULL,
            "reason": _TEXT,
            "ignored_messages": _COUNT,
            "left_out": _list({"type": "string", "description": "A field of the request that was not done."}),
            "truncated_tokens": _COUNT,
        }
    ),
    "Served": _object(
        {
            "name": _TEXT,
            "kind": _TEXT,
            "version": _TEXT,
            "models": _list(_TEXT),
            "certificate": _OBJECT_OR_NULL,
            "certificate_void": _TEXT_OR_NULL,
            "llm": _TEXT_OR_NULL,
            "review": _TEXT_OR_NULL,
            "traffic": _object(
                {
                    **dict.fromkeys(("local", "llm", "abstained", "failed"), _COUNT),
                    "median_ms": {"type": ["number", "null"]},
                    "recent": _list(
                        _object(
                            {
                                "id": _TEXT,
                                "time": {"type": "number"},
                                "route": {"enum": ["local", "llm", "abstain", "none"]},
                                "confidence": {"type": ["number", "null"]},
                                "status": _COUNT,
                                "error": _TEXT_OR_NULL,
                                "ms": {"type": "number"},
                            }
                        )
                    ),
                }
            ),
        }
    ),
    "Reviewed": _object({"status": {"const": "kept"}, "labelled": {"type": "boolean"}}),
    "Usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}, completion_tokens=_COUNT),
    "ChatCompletion": _object(
        {
            "id": _TEXT,
            "object": {"const": "chat.completion"},
            "created": _COUNT,
            "model": _TEXT,
            "choices": _list(
                _object(
                    {
                        "index": _COUNT,
                        "message": _object(
                            {"role": {"const": "assistant"}, "content": _TEXT_OR_NULL, "refusal": _TEXT_OR_NULL},
                            tool_calls=_list({"type": "object"}),
                        ),
                        "finish_reason": _FINISH,
                        "logprobs": _OBJECT_OR_NULL,
                    }
                )
            ),
            "usage": _reference("Usage"),
            "locum": _reference("Locum"),
        },
        system_fingerprint=_TEXT_OR_NULL,
    ),
    "TextCompletion": _object(
        {
            "id": _TEXT,
            "object": {"const": "text_completion"},
            "created": _COUNT,
            "model": _TEXT,
            "choices": _list(
                _object({"index": _COUNT, "text": _TEXT, "finish_reason": _FINISH, "logprobs": _OBJECT_OR_NULL})
            ),
            "usage": _reference("Usage"),
            "locum": _reference("Locum"),
        }
    ),
    "Response": _object(
        {
            "id": _TEXT,
            "object": {"const": "response"},
            "created_at": _COUNT,
            "status": {"enum": ["completed", "incomplete", "in_progress"]},
            "model": _TEXT,
            "output": _list(_object({"id": _TEXT, "type": {"enum": ["message", "function_call"]}})),
            "usage": _OBJECT_OR_NULL,
            "locum": _reference("Locum"),
        }
    ),
    "Embeddings": _object(
        {
            "object": {"const": "list"},
            "model": _TEXT,
            "data": _list(
                _object(
                    {
                        "object": {"const": "embedding"},
                        "index": _COUNT,
                        "embedding": {"anyOf": [_TEXT, _list({"type": "number"})]},
                    }
                )
            ),
            "usage": _reference("Usage"),
        }
    ),
}
