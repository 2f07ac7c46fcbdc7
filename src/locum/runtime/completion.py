"""What a generator is asked and what it answers: requests, chunks of a stream, whole completions.

Notable: one request says everything (sampling, constraint, tools, adapter), so that every engine takes the same
and refuses what it cannot do with ``runtime-unsupported-option`` instead of ignoring it. Not here: who answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from locum.core.errors import UserError
from locum.schema.message import Message, ToolCall

LEFT_OUT = "left_out"
"""Where a completion keeps the names of the fields that its server refused, separated by commas."""


class RequestFault(UserError):
    """A request with a value that cannot be; ``param`` names the field, in the words of a chat."""

    param: str | None = None

    def about(self, param: str) -> Self:
        """The same fault, of this field."""
        self.param = param
        return self


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        parameters: JSON schema of the arguments, an object.
        strict: whether an LLM behind a URL must keep to it; None leaves that to the LLM.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool | None = None


@dataclass(frozen=True)
class SchemaWords:
    """How a schema is put to an LLM behind a URL; other engines keep to the schema whatever is said here.

    Attributes:
        any_object: whether any JSON object is asked for, without naming a schema.
        name, description: of the schema.
        strict: whether the LLM must keep to it; None leaves that to the LLM.
    """

    any_object: bool = False
    name: str = "answer"
    description: str | None = None
    strict: bool | None = True


@dataclass(frozen=True)
class AsSent:
    """A request in the words of whoever sent it through OpenAI's API.

    Attributes:
        fields: of a chat, or of a completion. An LLM behind a URL is asked with these as they came.
        llm_only: which of them only such an LLM can take, and would change the answer: no other may leave them out.
        hints: which of them only such an LLM can take, and an answer without them is what was asked for all the same.
        left_out: what was sent and is asked of nobody.
        beside: whether the fields are sent beside the request's own, and not in their place.
    """

    fields: Mapping[str, Any]
    llm_only: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    beside: bool = False


@dataclass(frozen=True)
class CompletionRequest:
    """What a generator is asked.

    Attributes:
        messages: the conversation so far; empty when ``prompt`` is given.
        max_tokens: most tokens to write.
        temperature: 0 takes the most probable token each time.
        stop: strings that end the answer and are not part of it.
        seed: for sampling.
        prompt: text to continue as it is, without a chat template.
        top_p: sample from the smallest set of tokens with this probability (Holtzman et al. 2020); 1 is off.
        top_k: sample from this many tokens; 0 is off.
        min_p: drop tokens below this share of the best one's probability (Nguyen et al. 2024); 0 is off.
        presence_penalty: taken off the logit of a token that occurred; 0 is off.
        frequency_penalty: taken off for each time that it occurred; 0 is off.
        repeat_penalty: divides the logit of a token that occurred (Keskar et al. 2019); 1 is off.
        logprobs: None for none; else how many alternatives come with each token's log-probability.
        json_schema: the answer must be JSON that this schema allows.
        schema_words: how that is put.
        grammar: the answer must be in the language of this GBNF grammar (start symbol ``root``).
        tools: functions that may be called.
        tool_choice: auto, none, required, or the name of the one to call.
        parallel_tool_calls: whether an answer may hold several calls; None leaves it to the engine. An engine is only
            asked for it; whoever needs it holds answers to it (``Chunk.with_one_call``).
        adapter: LoRA adapter to answer with, by its name; None is the base alone.
        truncate: when the prompt does not fit the context, drop its oldest part and say so, instead of an error.
        flexible: what a server refuses by name (``temperature``, ``stop``) may be left out, and the answer then says so
            (``extra["left_out"]``): for requests whose settings are Locum's own, not a caller's.
        whole: nobody reads the pieces as they come, so that an engine for which that is cheaper may give a stream's
            answer in one, and its errors with it.
        sent: the same as it was sent; None when nobody sent it.
        prompt_ids: the raw prompt as ids of the model's own tokenizer; ``prompt`` is empty then.
        echo: the answer begins with the raw prompt, and its log-probabilities with those of the prompt's tokens (of the
            first NaN). Only then may ``max_tokens`` be 0.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    prompt: str | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    logprobs: int | None = None
    json_schema: dict[str, Any] | None = None
    schema_words: SchemaWords = SchemaWords()
    grammar: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool | None = None
    adapter: str | None = None
    truncate: bool = False
    flexible: bool = False
    whole: bool = False
    sent: AsSent | None = None
    prompt_ids: tuple[int, ...] | None = None
    echo: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """A token that was written, with its log-probability before sampling (natural logarithm).

    Attributes:
        token: its text; bytes of it that are a part of a character stand as surrogates (``surrogateescape``).
        top: the most probable tokens at this place with theirs, best first.
        tokens: how many tokens wrote the text: where an engine tells of a character that took several only when it is
            whole, the log-probability and ``top`` are those of the last of them.
        silent: it wrote nothing, like the token that ends an answer.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    tokens: int = 1
    silent: bool = False


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a tool call while it is written: ``id`` and ``name`` come with the first piece of each ``index``."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Progress:
    """What an engine has done for an answer so far, in tokens; ``cached`` is how many of those read it had before."""

    read: int = 0
    cached: int = 0
    written: int = 0


@dataclass(frozen=True)
class Completion:
    """What a generator wrote.

    Attributes:
        finish_reason: stop, length, tool_calls, or content_filter.
        model: the name the engine gave itself, as a fingerprint of what answered.
        logprobs: one for each token, when they were asked for.
        cached_tokens: how many of ``input_tokens`` were not read again, because an earlier request had them.
        truncated_tokens: how many tokens of the prompt were dropped to fit the context.
        cut_call: a call that the limit of tokens cut, whose arguments are not whole.
        extra: further facts, by engine (draft tokens accepted, what the server called itself); ``refusal``, where an
            LLM said why it does not answer; ``left_out``, names of the fields that a server refused.
    """

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    model: str
    extra: dict[str, str] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    truncated_tokens: int = 0
    cut_call: ToolCall | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be taken for an answer, or a label: not refused, not filtered, not empty."""
        return self.finish_reason != "content_filter" and bool(self.text.strip())


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer while it is written.

    Attributes:
        final: in the last chunk, and only there: the whole answer, with its counts.
        truncated_tokens: in the first chunk: how many tokens of the prompt were dropped to fit the context.
        refusal: a piece of why the LLM does not answer, which is no part of the text.
    """

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    final: Completion | None = None
    truncated_tokens: int = 0
    refusal: str = ""

    def __add__(self, later: Chunk) -> Chunk:
        """One chunk of two that follow each other."""
        return Chunk(
            text=self.text + later.text,
            logprobs=self.logprobs + later.logprobs,
            tool_calls=self.tool_calls + later.tool_calls,
            final=later.final,
            truncated_tokens=self.truncated_tokens,
            refusal=self.refusal + later.refusal,
        )

    def with_one_call(self) -> Chunk:
        """The same without any tool call but the first."""
        final = self.final
        if final is not None and len(final.tool_calls) > 1:
            final = replace(final, tool_calls=final.tool_calls[:1])
        return replace(self, tool_calls=tuple(call for call in self.tool_calls if call.index == 0), final=final)


class FinishedStream:
    """The stream of an answer that came in one piece: its content, then its end."""

    def __init__(self, completion: Completion) -> None:
        calls = tuple(
            ToolCallDelta(index, call.arguments, call.id, call.name) for index, call in enumerate(completion.tool_calls)
        )
        first = Chunk(
            completion.text,
            completion.logprobs,
            calls,
            truncated_tokens=completion.truncated_tokens,
            refusal=completion.extra.get("refusal", ""),
        )
        self._chunks = iter((first, Chunk(final=completion)))

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The content, then the end."""
        return next(self._chunks)

    def close(self) -> None:
        """End; a second call does nothing."""
        self._chunks = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
