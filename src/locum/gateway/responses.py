"""``POST /v1/responses``: the answer, whole or as the documented events.

Notable: every event carries a running number, so one request is one choice and one thread writes all of its events.
The text of an answer is one message item, and each function call an item of its own, in the order they were begun. An
abstention is a message whose only part is a refusal, and an LLM's refusal is such a part, too.
Not here: what is taken (``response_documents``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from locum.gateway.calls import Answered, Call, Opened, Stamp, event, token_json, truncated_of, written
from locum.gateway.documents import JsonObject
from locum.gateway.errors import ApiError
from locum.gateway.response_documents import ResponseRequest, ToolChoice
from locum.runtime.completion import Chunk, Completion, CompletionRequest, TokenLogprob


class ResponseCall(Call[ResponseRequest]):
    """One request of the Responses API."""

    document = ResponseRequest
    prefix = "resp_"
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "messages": ("input",),
        "response_format": ("text.format",),
        "logprobs": ("top_logprobs", "include"),
        "truncate": ("truncation",),
    }

    def __init__(self, asked: ResponseRequest, fields: Mapping[str, Any]) -> None:
        super().__init__(asked, fields)
        self._request = asked.request()
        self._events: ResponseEvents | None = None

    def requests(self, max_tokens: int) -> list[CompletionRequest]:
        """The one request."""
        return [replace(self._request, max_tokens=self._asked.max_output_tokens or max_tokens)]

    def body(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """A ``response`` that is completed, or incomplete."""
        answered = answers[0]
        return self.response(answered.completion, _items(self.stamp, answered), answered.opened, truncated_of(answers))

    def events(self, index: int) -> ResponseEvents:
        """The events of the answer; there is one choice."""
        del index
        self._events = ResponseEvents(self, self.stamp)
        return self._events

    def tail(self, answers: Sequence[Answered]) -> bytes:
        """The whole response once more; this API has no ``[DONE]``."""
        whole = self.body(answers)
        return self.numbered(f"response.{whole['status']}", response=whole)

    def own(self, error: ApiError) -> ApiError:
        """A tool's schema stands beside its name here, and an earlier call is an item of ``input``."""
        param = error.param or ""
        if param.startswith("tools."):
            error.param = param.replace(".function.parameters", ".parameters")
            error.message = error.message.replace(".function.parameters", ".parameters")
        elif (call := _EARLIER_CALL.match(param)) is not None:
            error.param = f"input.{self._asked.item_of_call(int(call[1]), int(call[2]))}.{call[3]}"
            error.message = error.message.replace(param, error.param)
        return self.named(error)

    def failure(self, error: ApiError) -> bytes:
        """An ``error`` event: what went wrong stands beside its type, as OpenAI documents it, and in ``error``."""
        return self.numbered(
            "error", code=error.code, message=error.message, param=error.param, error=error.to_json()["error"]
        )

    def numbered(self, kind: str, **data: Any) -> bytes:
        """An event of the stream, whoever writes it."""
        events = self._events or ResponseEvents(self, self.stamp)
        return events.event(kind, **data)

    def response(
        self, completion: Completion | None, output: list[dict[str, Any]], opened: Opened, truncated_tokens: int
    ) -> dict[str, Any]:
        """The response object; ``completion`` None while it is being made. It has every field of Open Responses."""
        asked = self._asked
        status, why = _status(completion)
        return {
            "id": self.stamp.identifier,
            "object": "response",
            "created_at": self.stamp.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": why,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": _reasoning(asked),
            "safety_identifier": asked.safety_identifier,
            "service_tier": "default",
            "presence_penalty": asked.presence_penalty or 0.0,
            "frequency_penalty": asked.frequency_penalty or 0.0,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": _text_config(asked),
            "tool_choice": asked.tool_choice or "auto"
            if not isinstance(asked.tool_choice, ToolChoice)
            else asked.tool_choice.model_dump(exclude_none=True),
            "tools": [{**_NO_TOOL, **tool.model_dump(exclude_none=True)} for tool in asked.functions],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "auto" if self._request.truncate else "disabled",
            "usage": None if completion is None else _usage(completion),
            "user": asked.user,
            "locum": opened.origin.to_json(truncated_tokens),
        }


class ResponseEvents:
    """The events of one answer, numbered."""

    def __init__(self, call: ResponseCall, stamp: Stamp) -> None:
        self._call = call
        self._stamp = stamp
        self._number = 0
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._parts: dict[str, int] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._places: dict[int, int] = {}

    def event(self, kind: str, **data: Any) -> bytes:
        """The next event."""
        number = self._number
        self._number += 1
        return event({"type": kind, "sequence_number": number, **data}, kind)

    def begin(self, opened: Opened, truncated_tokens: int) -> bytes:
        """That there is a response; and a refusal at once, where nobody answers."""
        empty = self._call.response(None, [], opened, truncated_tokens)
        parts = [self.event("response.created", response=empty), self.event("response.in_progress", response=empty)]
        if opened.origin.refusal is not None:
            parts.append(self._refusal_delta(opened.origin.refusal))
        return b"".join(parts)

    def piece(self, chunk: Chunk) -> bytes:
        """Deltas of the text and of function calls."""
        parts: list[bytes] = []
        told = written(chunk.logprobs)
        if chunk.text or told:
            if "text" not in self._parts:
                parts.append(self._begin_part("text"))
            self._text.append(chunk.text)
            self._tokens.extend(told)
            parts.append(self._text_delta(chunk.text, told))
        if chunk.refusal:
            parts.append(self._refusal_delta(chunk.refusal))
        for call in chunk.tool_calls:
            if call.index not in self._calls:
                parts.append(self._begin_call(call.index, call.id or f"call_{call.index}", call.name or ""))
            if call.arguments:
                item = self._calls[call.index]
                item["arguments"] += call.arguments
                delta = {"item_id": item["id"], "output_index": self._places[call.index], "delta": call.arguments}
                parts.append(self.event("response.function_call_arguments.delta", **delta))
        return b"".join(parts)

    def end(self, completion: Completion) -> bytes:
        """That each item is done."""
        status, _ = _status(completion)
        parts: list[bytes] = []
        if not self._places:
            parts.append(self._begin_part("text"))  # an empty answer is an empty message, as in the whole response
        content: list[dict[str, Any]] = []
        for kind in self._parts:
            if kind == "text":
                part = _text_part("".join(self._text), self._tokens)
                tokens = [token_json(token) for token in self._tokens]
                done = self.event("response.output_text.done", **self._at(kind), text=part["text"], logprobs=tokens)
            else:
                part = _refusal_part("".join(self._refusal))
                done = self.event("response.refusal.done", **self._at(kind), refusal=part["refusal"])
            parts += [done, self.event("response.content_part.done", **self._at(kind), part=part)]
            content.append(part)
        if content:
            parts.append(self._item_done(self._places[-1], _message(self._stamp, content, status)))
        for index, item in self._calls.items():
            at = {"item_id": item["id"], "output_index": self._places[index], "name": item["name"]}
            parts.append(self.event("response.function_call_arguments.done", **at, arguments=item["arguments"]))
            whole = "completed" if index < len(completion.tool_calls) else status
            parts.append(self._item_done(self._places[index], {**item, "status": whole}))
        return b"".join(parts)

    def _begin_part(self, kind: str) -> bytes:
        """A part of the message, ``text`` or ``refusal``, and the message where it is the first."""
        added = b""
        if not self._parts:
            self._places[-1] = len(self._places)
            item = _message(self._stamp, [], "in_progress")
            added = self.event("response.output_item.added", output_index=self._places[-1], item=item)
        self._parts[kind] = len(self._parts)
        empty = _text_part("", []) if kind == "text" else _refusal_part("")
        return added + self.event("response.content_part.added", **self._at(kind), part=empty)

    def _at(self, kind: str) -> dict[str, Any]:
        """Where a part of the message stands."""
        place, part = self._places[-1], self._parts[kind]
        return {"item_id": _message_id(self._stamp), "output_index": place, "content_index": part}

    def _text_delta(self, text: str, told: Sequence[TokenLogprob]) -> bytes:
        if told:
            tokens = [token_json(token) for token in told]
            return self.event("response.output_text.delta", **self._at("text"), delta=text, logprobs=tokens)
        number = self._number
        self._number += 1
        at = (_message_id(self._stamp).encode(), self._places[-1], self._parts["text"])
        return _DELTA % (number, *at, orjson.dumps(text))

    def _refusal_delta(self, piece: str) -> bytes:
        begun = b"" if "refusal" in self._parts else self._begin_part("refusal")
        self._refusal.append(piece)
        return begun + self.event("response.refusal.delta", **self._at("refusal"), delta=piece)

    def _begin_call(self, index: int, call_id: str, name: str) -> bytes:
        self._places[index] = len(self._places)
        item = self._calls[index] = _call_item(self._stamp, index, (call_id, name, ""), "in_progress")
        return self.event("response.output_item.added", output_index=self._places[index], item=item)

    def _item_done(self, place: int, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.done", output_index=place, item=item)


_DELTA = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":%d,"item_id":"%s","output_index":%d,'
    b'"content_index":%d,"logprobs":[],"delta":%s}\n\n'
)


_NO_TOOL: JsonObject = {"description": None, "parameters": None, "strict": None}
"""What a function has, when nothing is said about it."""

_EARLIER_CALL = re.compile(r"messages\.(\d+)\.tool_calls\.(\d+)\.function\.(.+)")
"""A call of an earlier turn, as a chat names its fields."""


def _reasoning(asked: ResponseRequest) -> JsonObject:
    """How the model was to think, as it was asked for; ``left_out`` says what became of it."""
    sent = asked.reasoning
    return {"effort": sent and sent.effort, "summary": sent and (sent.summary or sent.generate_summary)}


def _text_config(asked: ResponseRequest) -> JsonObject:
    """The form of the answer."""
    sent = asked.text.model_dump(exclude_none=True, by_alias=True) if asked.text is not None else {}
    form: JsonObject = {"type": "text", **sent.get("format", {})}
    if form["type"] == "json_schema":
        form = {"name": "answer", "description": None, "strict": False, **form}
    return {**sent, "format": form}


def _items(stamp: Stamp, answered: Answered) -> list[dict[str, Any]]:
    """The output: text and refusal first, then each call."""
    completion = answered.completion
    refusal = answered.opened.origin.refusal or completion.extra.get("refusal")
    status, _ = _status(completion)
    calls = [
        _call_item(stamp, index, (call.id, call.name, call.arguments), "completed")
        for index, call in enumerate(completion.tool_calls)
    ]
    if completion.cut_call is not None:
        cut = completion.cut_call
        calls.append(_call_item(stamp, len(calls), (cut.id, cut.name, cut.arguments), status))
    parts: list[dict[str, Any]] = []
    if completion.text or not (calls or refusal):
        parts.append(_text_part(completion.text, completion.logprobs))
    if refusal:
        parts.append(_refusal_part(refusal))
    return [_message(stamp, parts, status), *calls] if parts else calls


def _message_id(stamp: Stamp) -> str:
    return f"msg_{stamp.key}"


def _message(stamp: Stamp, parts: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    return {
        "id": _message_id(stamp),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": parts,
    }


def _text_part(text: str, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [token_json(token) for token in written(tokens)],
    }


def _refusal_part(refusal: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": refusal}


def _call_item(stamp: Stamp, index: int, call: tuple[str, str, str], status: str) -> dict[str, Any]:
    """A function call: its id, its name and its arguments."""
    call_id, name, arguments = call
    return {
        "id": f"fc_{stamp.key}_{index}",
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _status(completion: Completion | None) -> tuple[str, dict[str, str] | None]:
    if completion is None:
        return "in_progress", None
    if completion.finish_reason == "length":
        return "incomplete", {"reason": "max_output_tokens"}
    if completion.finish_reason == "content_filter" and "refusal" not in completion.extra:
        return "incomplete", {"reason": "content_filter"}
    return "completed", None


def _usage(completion: Completion) -> dict[str, Any]:
    read, written = completion.input_tokens, completion.output_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": completion.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
