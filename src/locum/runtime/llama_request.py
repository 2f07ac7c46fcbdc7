"""Requests and answers in the words of llama.cpp's server.

Notable: llama.cpp samples with top-k 40, top-p 0.95 and min-p 0.05 unless told otherwise, so every option is sent,
off when the request leaves it off. A constraint goes as a grammar that was compiled and bounded here
(``constraints``), never as a schema. A conversation goes through the chat template inside the engine's process,
except when token log-probabilities are wanted, which only its plain completion tells for every character. Where several
tokens write one, it tells that of the last, streamed or not, and nothing at all of those before. Not here: sending
(``llama_process``), and what does not fit the context (``llama_prompt``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from locum.core.errors import LocumError, UserError
from locum.core.text import one_line
from locum.runtime.completion import (
    Chunk,
    Completion,
    CompletionRequest,
    Progress,
    RequestFault,
    TokenLogprob,
    Tool,
    ToolCallDelta,
)
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.tool_calls import check_earlier_calls
from locum.schema.message import Message, ToolCall

CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/completion"
_KEPT_FIELDS = ["stop", "stop_type", "truncated", "tokens_predicted", "tokens_evaluated", "timings"]
_SEEDS = 2**32 - 1
"""How many seeds llama.cpp has: the largest number of 32 bits means a random one."""
_TEMPLATE_SAYS = re.compile(r"Jinja Exception: (.+)", re.DOTALL)
"""What a template says when it refuses a conversation (``raise_exception``), after the place in it."""
_LOGPROB_LEAST = -1e30
"""What llama.cpp writes for a probability of zero is below this."""
_LOGPROB_ZERO = -103.97
"""Logarithm of the smallest float32 above zero: as far down as its probabilities reach."""


def check_options(request: CompletionRequest, *, speculative: bool) -> None:
    """Refuse what the engine cannot do.

    Args:
        request: as asked.
        speculative: whether tokens are written ahead.

    Raises:
        UserError: ``runtime-unsupported-option``.
    """
    if request.sent is not None and request.sent.llm_only:
        _unsupported(", ".join(request.sent.llm_only), "leave it out", request.sent.llm_only[0])
    if request.logprobs is not None and speculative:
        _unsupported(
            "log-probabilities while a draft or lookup writes ahead",
            "open the model without draft and lookup",
            "logprobs",
        )
    if wants_calls(request):
        if request.grammar is not None:
            _unsupported("a grammar together with tools", "set tool_choice to none, or ask for a schema", "grammar")
        if request.prompt is not None:
            _unsupported("tools together with a raw prompt", "send messages", "tools")
    if request.grammar is not None and request.json_schema is not None:
        _unsupported("a grammar together with a schema", "send one of them", "grammar")


def wants_calls(request: CompletionRequest) -> bool:
    """Whether the answer may be a call of a function."""
    return bool(request.tools) and request.tool_choice != "none"


def _unsupported(what: str, fix: str, param: str) -> None:
    raise RequestFault("runtime-unsupported-option", f"llama.cpp does not give {what}", fix=fix).about(param)


def grammar_of(request: CompletionRequest) -> str | None:
    """The grammar that binds the answer, checked; None when nothing does.

    Raises:
        UserError: a schema or grammar that is not valid, or over the limits.
    """
    if request.json_schema is None and request.grammar is None:
        return None
    from locum.runtime.constraints import check_grammar, compile_schema

    if request.json_schema is not None:
        return compile_schema(request.json_schema)
    check_grammar(request.grammar or "")
    return request.grammar


def chat_fields(request: CompletionRequest) -> dict[str, Any]:
    """Messages and tools, for ``/v1/chat/completions`` and ``/apply-template``.

    The template sees the tools; that none may be called keeps llama.cpp from making a grammar of them.

    Raises:
        RequestFault: arguments of an earlier call are no JSON object.
        UserError: ``tool_choice`` names no tool.
    """
    check_earlier_calls(request.messages)
    body: dict[str, Any] = {"messages": [_message(message) for message in request.messages]}
    if wants_calls(request):
        choice, tools = request.tool_choice, request.tools
        if choice not in ("auto", "required"):  # the model is told of no other
            tools = tuple(tool for tool in tools if tool.name == choice)
            if not tools:
                raise UserError("runtime-unsupported-option", f"tool_choice {one_line(choice)!r} names no tool")
        body |= {"tools": tools_json(tools), "tool_choice": "none"}
    return body


def tools_json(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Functions as the API takes them."""
    return [
        {
            "type": "function",
            "function": {"name": each.name, "description": each.description, "parameters": each.parameters},
        }
        for each in tools
    ]


def sampling_fields(request: CompletionRequest, n_ctx: int, room: int) -> dict[str, Any]:
    """Everything that decides how tokens are chosen and when to stop.

    Args:
        request: as asked.
        n_ctx: penalties look back over the whole context.
        room: most tokens that the answer may have.
    """
    penalised = request.presence_penalty or request.frequency_penalty or request.repeat_penalty != 1.0
    body: dict[str, Any] = {
        "n_predict": room,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "min_p": request.min_p,
        "typical_p": 1.0,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repeat_penalty": request.repeat_penalty,
        "repeat_last_n": n_ctx if penalised else 0,
        "stop": [stop for stop in request.stop if stop],
    }
    if request.seed is not None:
        body["seed"] = request.seed % _SEEDS
    return body


def text_fields(prompt: str | list[int], logprobs: int | None) -> dict[str, Any]:
    """What only ``/completion`` takes."""
    body: dict[str, Any] = {"prompt": prompt, "response_fields": _KEPT_FIELDS}
    if logprobs is not None:
        body["n_probs"] = max(1, logprobs)  # 0 would give none at all
    return body


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments.strip() or "{}"},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


@dataclass
class Answer:
    """Puts an answer together from its events.

    Args:
        model: name of the engine.
        logprobs: alternatives to give with each token, None for no log-probabilities.
        truncated_tokens: dropped from the prompt.
    """

    model: str
    logprobs: int | None
    truncated_tokens: int
    completion: Completion | None = None
    _first: bool = True
    _text: list[str] = field(default_factory=list[str])
    _tokens: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    _calls: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    _finish: str = "stop"
    _written: int = 0
    _told: int = 0
    _read: int = 0
    _cached: int = 0

    @property
    def progress(self) -> Progress:
        """Tokens so far."""
        return Progress(self._read, self._cached, self._written)

    def take(self, event: dict[str, Any]) -> Chunk | None:
        """The chunk that an event makes, None when it says nothing; the last event fills ``completion``."""
        chunk = self._chat(event) if "choices" in event else self._plain(event)
        if chunk is not None and self._first:
            self._first = False
            chunk = Chunk(chunk.text, chunk.logprobs, chunk.tool_calls, truncated_tokens=self.truncated_tokens)
        return chunk

    def _chat(self, event: dict[str, Any]) -> Chunk | None:
        text, deltas = "", list[ToolCallDelta]()
        for choice in event["choices"]:
            delta = choice["delta"]
            text += delta.get("content") or ""
            deltas.extend(self._delta(call) for call in delta.get("tool_calls") or [])
            self._finish = choice.get("finish_reason") or self._finish
        usage = event.get("usage")
        if usage is not None:
            counts = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
            self._complete(*counts, event.get("timings") or {})
        if not text and not deltas:
            return None
        self._text.append(text)
        return Chunk(text, (), tuple(deltas))

    def _plain(self, event: dict[str, Any]) -> Chunk | None:
        if event.get("stop"):
            self._finish = "length" if event["truncated"] or event["stop_type"] == "limit" else "stop"
            self._complete(int(event["tokens_evaluated"]), int(event["tokens_predicted"]), event["timings"])
            return None
        if read := event.get("prompt_progress"):
            self._read, self._cached = int(read["total"]), int(read["cache"])
        text = event.get("content") or ""
        told = event.get("completion_probabilities") or []
        self._written = int(event.get("tokens_predicted", self._written))
        held_back, self._told = self._written - self._told - len(told), self._written if told else self._told
        tokens = tuple(self._logprob(token, 1 if place else max(1, 1 + held_back)) for place, token in enumerate(told))
        self._text.append(text)
        self._tokens.extend(tokens)
        return Chunk(text, tokens) if text or tokens else None

    def _delta(self, call: dict[str, Any]) -> ToolCallDelta:
        index, function = int(call["index"]), call.get("function") or {}
        known = self._calls.setdefault(index, ["", "", ""])
        known[0] = call.get("id") or known[0]
        known[1] = function.get("name") or known[1]
        known[2] += function.get("arguments") or ""
        return ToolCallDelta(index, function.get("arguments") or "", call.get("id") or None, function.get("name"))

    def _logprob(self, token: dict[str, Any], tokens: int) -> TokenLogprob:
        best = token["top_logprobs"][: self.logprobs or 0]
        top = tuple((text_of(other), bounded(other["logprob"])) for other in best)
        text = text_of(token)
        return TokenLogprob(text, bounded(token["logprob"]), top, tokens, silent=not text)

    def _complete(self, read: int, written: int, timings: dict[str, Any]) -> None:
        extra: dict[str, str] = {}
        if timings.get("predicted_per_second"):
            extra["tokens_per_s"] = f"{timings['predicted_per_second']:.1f}"
        if "draft_n" in timings:
            extra["draft_tokens"] = str(timings["draft_n"])
            extra["draft_accepted"] = str(timings.get("draft_n_accepted", 0))
        calls = tuple(ToolCall(*self._calls[index]) for index in sorted(self._calls))
        self.completion = Completion(
            text="".join(self._text),
            finish_reason="tool_calls" if calls and self._finish == "stop" else self._finish,
            input_tokens=read,
            output_tokens=written,
            model=self.model,
            extra=extra,
            tool_calls=calls,
            logprobs=tuple(self._tokens),
            cached_tokens=int(timings.get("cache_n", 0)),
            truncated_tokens=self.truncated_tokens,
        )


def text_of(token: dict[str, Any]) -> str:
    """A token's text, without loss where it is a part of a character."""
    return bytes(token["bytes"]).decode("utf-8", "surrogateescape")


def bounded(logprob: float) -> float:
    """A log-probability as a number of use: zero's logarithm becomes that of the smallest float32."""
    return _LOGPROB_ZERO if logprob < _LOGPROB_LEAST else min(0.0, logprob)


def too_long(needed: object, room: object) -> UserError:
    """The error for a prompt that fills the context, both in tokens."""
    return UserError(
        "runtime-too-long",
        f"This model's maximum context length is {room} tokens. However, the prompt has {needed} tokens, "
        "which exceeds the context window",
        fix="shorten the prompt, or set truncate",
    )


def refusal(error: EngineRefusedError, where: str) -> LocumError:
    """The engine's error as ours."""
    said = one_line(str(error))
    if (own := _TEMPLATE_SAYS.search(str(error))) is not None:
        return RequestFault(
            "runtime-request-value",
            f"{one_line(own[1], 300)} (the model's chat template says so of these messages)",
            where=where,
            fix="send the messages in the order and form that the template takes",
        ).about("messages")
    if error.error.get("type") == "exceed_context_size_error":
        return too_long(error.error.get("n_prompt_tokens"), error.error.get("n_ctx"))
    if error.status == 400:
        return UserError("runtime-unsupported-option", f"llama.cpp refuses the request: {said}")
    return LocumError("runtime-engine-failed", f"llama.cpp: {said}", where=where)
