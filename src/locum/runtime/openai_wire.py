"""OpenAI's documents: what a request becomes, and what an answer says; pure functions of both.

Notable: an option that a plain OpenAI endpoint does not know is refused, never left out, because the answer would not
be what was asked for. Options that are off are not sent, so that servers which know fewer of them work. What somebody
sent through our own API goes on as it came, and nothing is added to it. Not here:
the network (``http_pool``), retries (``openai``), streams (``openai_stream``).
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

import orjson

from locum.core.text import one_line
from locum.runtime.completion import Completion, CompletionRequest, RequestFault, TokenLogprob, Tool
from locum.schema.message import Message, ToolCall

Document = dict[str, Any]
BAD_DOCUMENT = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading a document that is not as promised may raise."""


_TOKENS_MAX = 10**9
"""No context holds so many: a larger count is a mistake, and would go into metrics and bills."""


def request_body(request: CompletionRequest, model: str) -> Document:
    """The JSON of a request, without the fields that say how to stream.

    Raises:
        LocumError: ``runtime-unsupported-option``: OpenAI's API has no such option.
    """
    _refuse_unknown(request)
    if request.sent is not None and not request.sent.beside:
        return _sent_on(request, request.sent.fields, model)
    body: Document = {"model": model}
    if request.prompt is not None:
        body["prompt"] = request.prompt
    else:
        body["messages"] = [_message(message) for message in request.messages]
    body["max_tokens"] = request.max_tokens
    body["temperature"] = request.temperature
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.presence_penalty:
        body["presence_penalty"] = request.presence_penalty
    if request.frequency_penalty:
        body["frequency_penalty"] = request.frequency_penalty
    if request.logprobs is not None:
        body |= _logprobs_fields(request)
    if request.json_schema is not None:
        body["response_format"] = _response_format(request)
    if request.tools:
        body |= _tool_fields(request)
    return body if request.sent is None else body | dict(request.sent.fields)


_OURS = frozenset({"model", "stream", "stream_options", "n", "best_of"}) | {
    "top_k", "min_p", "repeat_penalty", "grammar", "adapter", "truncate"
}  # fmt: skip
"""What we say ourselves, because each choice is asked for alone, and a stream is read to its counts; and what OpenAI's
API does not have, which is off here."""
_OF_A_MESSAGE = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal"})
"""What OpenAI's API takes in a message; of an answer that is sent back, clients repeat more."""


_PLAIN = frozenset({"role", "content"})


def _turn(turn: Document) -> Document:
    """A message as OpenAI's API takes it; null is as absent but in ``content``."""
    return {name: value for name, value in turn.items() if name in _OF_A_MESSAGE and (value or name == "content")}


def _sent_on(request: CompletionRequest, sent: Mapping[str, Any], model: str) -> Document:
    """The fields that were sent; null is as absent, and a tool that is no function has no way back."""
    body: Document = {"model": model}
    body |= {name: value for name, value in sent.items() if value is not None and name not in _OURS}
    if request.prompt is not None:
        body["prompt"] = request.prompt
    else:
        body["messages"] = [turn if turn.keys() <= _PLAIN else _turn(turn) for turn in body["messages"]]
    if request.seed is not None:
        body["seed"] = request.seed  # of this choice
    if "tools" in body:
        body["tools"] = [tool for tool in body["tools"] if tool["type"] == "function"]
        if not body["tools"]:
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                body.pop(name, None)
    return body


def encode(body: Document) -> bytes:
    """JSON in UTF-8; what cannot stand there (a lone surrogate, a number beyond 64 bits) is spelled in ASCII."""
    try:
        return orjson.dumps(body)
    except TypeError:
        import json

        return json.dumps(body, allow_nan=False).encode()


def _refuse_unknown(request: CompletionRequest) -> None:
    chat_only = request.prompt is not None
    refused = {
        "top_k": request.top_k != 0,
        "min_p": request.min_p != 0,
        "repeat_penalty": request.repeat_penalty != 1,
        "grammar": request.grammar is not None,
        "adapter": request.adapter is not None,
        "truncate": request.truncate,
        "prompt of token ids": request.prompt_ids is not None,
        "echo": request.echo,
        "json_schema (with prompt)": chat_only and request.json_schema is not None,
        "tools (with prompt)": chat_only and bool(request.tools),
        "tool_choice (without tools)": not request.tools and request.tool_choice not in ("auto", "none"),
    }
    names = [name for name, asked in refused.items() if asked]
    if names:
        raise RequestFault(
            "runtime-unsupported-option",
            f"{', '.join(names)}: OpenAI's API has no such option",
            fix="leave it out, or ask a local model",
        ).about(names[0].partition(" ")[0])


def _message(message: Message) -> Document:
    made: Document = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
        made["content"] = message.content or None
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def _logprobs_fields(request: CompletionRequest) -> Document:
    if request.prompt is not None:
        return {"logprobs": request.logprobs}
    return {"logprobs": True} | ({"top_logprobs": request.logprobs} if request.logprobs else {})


def _response_format(request: CompletionRequest) -> Document:
    words = request.schema_words
    if words.any_object:
        return {"type": "json_object"}
    schema: Document = {"name": words.name, "schema": request.json_schema}
    if words.description is not None:
        schema["description"] = words.description
    if words.strict is not None:
        schema["strict"] = words.strict
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: Tool) -> Document:
    function: Document = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_fields(request: CompletionRequest) -> Document:
    fields: Document = {"tools": [_tool(tool) for tool in request.tools]}
    choice = request.tool_choice
    if choice != "auto":
        named = choice if choice in ("none", "required") else {"type": "function", "function": {"name": choice}}
        fields["tool_choice"] = named
    if request.parallel_tool_calls is not None:
        fields["parallel_tool_calls"] = request.parallel_tool_calls
    return fields


def read_completion(body: bytes, asked: str) -> Completion:
    """A whole answer, of a chat or of a prompt.

    Args:
        body: JSON.
        asked: the model asked for, when the answer names none.

    Raises:
        ValueError: and the others of ``BAD_DOCUMENT``: this is no completion.
    """
    document = orjson.loads(body)
    choice = document["choices"][0]
    if "message" in choice:
        message = choice["message"]
        text, refusal = text_of(message.get("content")), message.get("refusal")
        calls = tuple(_tool_call(call) for call in message.get("tool_calls") or ())
    else:
        text, refusal, calls = text_of(choice["text"]), None, ()
    finish = str(choice.get("finish_reason") or ("tool_calls" if calls else "stop"))
    extra: dict[str, str] = {}
    if refusal:
        extra["refusal"] = str(refusal)
        finish = "content_filter"
    return made_completion(
        text, finish, calls, read_logprobs(choice.get("logprobs")), Told(asked).hear(document), extra
    )


class Told:
    """What answers say about themselves besides their text: who answered, and how many tokens it took.

    Args:
        asked: the model asked for.
    """

    def __init__(self, asked: str) -> None:
        self.model = asked
        self.fingerprint: str | None = None
        self.usage: Document | None = None

    def hear(self, document: Document) -> Told:
        """Take note of a document, whole or a chunk."""
        if document.get("model"):
            self.model = str(document["model"])
        if document.get("system_fingerprint"):
            self.fingerprint = str(document["system_fingerprint"])
        if document.get("usage"):
            self.usage = document["usage"]
        return self


def made_completion(
    text: str,
    finish: str,
    calls: tuple[ToolCall, ...],
    logprobs: tuple[TokenLogprob, ...],
    told: Told,
    extra: dict[str, str],
) -> Completion:
    """The answer, with its counts; ``extra["usage"]`` is ``missing`` where the server counted nothing.

    Raises:
        ValueError: and the others of ``BAD_DOCUMENT``: the counts are none.
    """
    usage = told.usage
    if usage is None:
        extra["usage"] = "missing"
        usage = {}
    if told.fingerprint:
        extra["system_fingerprint"] = told.fingerprint
    details = usage.get("prompt_tokens_details") or {}
    return Completion(
        text=text,
        finish_reason=finish,
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        model=told.model,
        extra=extra,
        tool_calls=calls,
        logprobs=logprobs,
        cached_tokens=_count(details, "cached_tokens"),
    )


class CountError(ValueError):
    """A count of tokens that is none; says which."""


def _count(usage: Document, name: str) -> int:
    """A count of tokens; 0 where the server tells none.

    Raises:
        CountError: it is no whole number, negative, or larger than any context.
    """
    value = usage.get(name)
    if type(value) is int and 0 <= value <= _TOKENS_MAX:  # nearly always
        return value
    if value is None:
        return 0
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= _TOKENS_MAX or value != int(value):
        raise CountError(f"{name} is {one_line(str(value), 40)}")
    return int(value)


def text_of(content: Any) -> str:
    """A message's text; some servers send a list of parts.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if part.get("type", "text") == "text")
    raise TypeError(f"content is {type(content).__name__}")


def _tool_call(call: Document) -> ToolCall:
    function = call["function"]
    return ToolCall(str(call.get("id") or ""), str(function["name"]), str(function.get("arguments") or ""))


def read_logprobs(document: Document | None) -> tuple[TokenLogprob, ...]:
    """Log-probabilities in either form: chat's list of tokens, or the parallel lists of a prompt's."""
    if not document:
        return ()
    if "tokens" in document:
        tops = document.get("top_logprobs") or [None] * len(document["tokens"])
        rows = zip(document["tokens"], document["token_logprobs"], tops, strict=True)
        return tuple(
            TokenLogprob(str(token), _logprob(value), _best((top or {}).items()))
            for token, value, top in rows
            if value is not None
        )
    return tuple(
        TokenLogprob(
            str(entry["token"]),
            _logprob(entry["logprob"]),
            _best((top["token"], top["logprob"]) for top in entry.get("top_logprobs") or ()),
        )
        for entry in document.get("content") or ()
    )


def _best(pairs: Any) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(((str(token), _logprob(value)) for token, value in pairs), key=lambda pair: -pair[1]))


def _logprob(value: Any) -> float:
    """A log-probability, minus infinity included.

    Raises:
        ValueError: it is none.
    """
    number = float(value)
    if math.isnan(number) or number == math.inf:
        raise ValueError(f"a log-probability of {number}")
    return number


def said(document: Any, limit: int = 200) -> str:
    """The message of an error document, on one line; empty when there is none."""
    error = document.get("error") if isinstance(document, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return one_line(str(text), limit) if text else ""


def said_code(document: Any) -> str:
    """The code or type of an error document; empty when there is none."""
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""


def is_over_context(document: Any, text: str) -> bool:
    """Whether a refusal says that the prompt does not fit the context, in OpenAI's words or in llama.cpp's."""
    told = ("maximum context length", "exceeds the available context size")
    return said_code(document) == "context_length_exceeded" or any(words in text for words in told)


def retry_after_s(value: str) -> float | None:
    """Seconds the server asks to wait (RFC 9110, 10.2.3: a number or a date); None when it does not say."""
    value = value.strip()
    try:
        if value.isascii() and value.replace(".", "", 1).isdigit():
            after_s = float(value)
        else:  # a date is on the wall clock, there is no other
            after_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, after_s) if math.isfinite(after_s) else None
