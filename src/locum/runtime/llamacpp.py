"""Text from GGUF files through llama.cpp: answers, streams, and the weighing of given continuations.

Notable: names of control tokens in a message are read as text, so a conversation that holds one goes as token ids.
llama.cpp ignores tools that the chat template has no place for, which is an error here, and function calls are bound
and read here (``tool_calls``) wherever the template writes them as JSON. Several requests are answered in one batch;
each has a connection to the engine's process of its own, and a whole answer is a stream that was read to its end, so
both are the same text. Closing a stream ends the connection, and llama.cpp stops with the next token. At temperature
0 and with a cache for each slot the packaged library wrote the same text whether it was alone or in a batch, read the
prompt anew or kept it, wrote ahead or not; in a shared cache, and in builds for wider vectors, which choose their
arithmetic by the size of a batch, a near tie may fall the other way. Not here: the process (``llama_process``), the
words of its API (``llama_request``), embeddings and classification (``llama_embed``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError, ModelFileError, UserError
from locum.core.text import one_line
from locum.runtime.call_stream import CallStream
from locum.runtime.completion import Chunk, Completion, CompletionRequest, Progress, RequestFault
from locum.runtime.gguf_check import GgufHeader, check_gguf
from locum.runtime.gguf_vocabulary import control_tokens
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_echo import EchoStream, PromptEcho
from locum.runtime.llama_process import LlamaProcess, Turn
from locum.runtime.llama_prompt import Piece, Prompts
from locum.runtime.llama_request import (
    CHAT_PATH,
    TEXT_PATH,
    Answer,
    check_options,
    grammar_of,
    refusal,
    sampling_fields,
    text_fields,
    too_long,
    tools_json,
    wants_calls,
)
from locum.runtime.llama_score import score_continuations
from locum.runtime.llama_settings import EngineSettings, generation_child
from locum.runtime.llama_template import RenderGuard, check_template, has_place_for_tools, probe_template, templates_of
from locum.runtime.protocol import CompletionStream, Scores, Stop
from locum.runtime.tool_calls import PROBE_TOOL, CallForm, check_earlier_calls, form_of, plan_calls
from locum.schema.message import Message

_WITH_USAGE = {"stream_options": {"include_usage": True}}
_SPARE_TOKENS = 128
"""Models of one family pad their vocabularies differently; llama.cpp takes this much."""


class LlamaGenerator:
    """Text from a GGUF file, with the chat template that stands in it; also weighs given continuations.

    Args:
        path: the file.
        settings: how to serve it.

    Raises:
        ModelFileError: the file, an adapter or the draft is damaged, hostile or unsupported.
        UserError: ``settings.server_binary`` is no program.
    """

    def __init__(self, path: Path, settings: EngineSettings | None = None) -> None:
        settings = settings or EngineSettings()
        header = check_gguf(path)
        for adapter in settings.adapters.values():
            check_gguf(adapter)
        if settings.draft is not None:
            _require_same_vocabulary(header, check_gguf(settings.draft), settings.draft)
        self._templates = templates_of(header)
        self._model = path.stem
        self._settings = settings
        self._adapters = {name: place for place, name in enumerate(settings.adapters)}
        self.process = LlamaProcess(
            generation_child(path, settings, header.context_length),
            ready_s=settings.load_s,
            idle_s=settings.idle_s,
            check=lambda: check_template(self._templates, str(path)),
            probe=probe_template if self._templates else None,
        )
        control = control_tokens(path, header) if self._templates else ()
        guard = RenderGuard(self._templates, str(path), self.process.start).check
        self._prompts = Prompts(self.process, template=bool(self._templates), control=control, guard=guard)
        self._echo = PromptEcho(self.process, self._prompts)
        self._vocabulary = int(header.metadata.get("tokenizer.ggml.tokens", 0))
        self._takes_tools: bool | None = None
        self._form: CallForm | None = None

    @property
    def model(self) -> str:
        """The file's name without its ending."""
        return self._model

    @property
    def n_ctx(self) -> int:
        """Context of one request, in tokens."""
        return self.process.settings.n_ctx

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that a request may ask for."""
        return tuple(self._adapters)

    @property
    def problem(self) -> LocumError | None:
        """Why a request would not be answered now, as ``LlamaProcess.problem``."""
        return self.process.problem

    def start(self) -> None:
        """Load the model now instead of with the first request.

        Raises:
            LocumError: as ``complete``.
        """
        self.process.start()

    def complete(self, request: CompletionRequest) -> Completion:
        """Write an answer, blocking; from several threads, as many at a time as there are slots.

        Raises:
            UserError: ``runtime-too-long``, ``runtime-unknown-adapter``, ``runtime-unsupported-option``,
                ``runtime-chat-template``.
            LocumError: as ``LlamaProcess.post``.
        """
        with self.stream(request) as stream:
            for chunk in stream:
                if chunk.final is not None:
                    return chunk.final
        raise LocumError("runtime-closed", "the answer was stopped", where=self.process.where)

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> CompletionStream:
        """Write an answer in pieces; returns once the engine reads the prompt. ``stop`` ends the wait for that.

        Raises:
            LocumError: as ``complete``; ``runtime-closed`` when it was stopped.
        """
        check_options(request, speculative=self._settings.speculative)
        check_earlier_calls(request.messages)
        if wants_calls(request):
            return self._stream_with_tools(request, stop)
        fields: dict[str, Any] = self._adapter_field(request.adapter)
        grammar = grammar_of(request)
        if grammar is not None:
            fields["grammar"] = grammar
        request, truncated = self._prompts.fit(request)
        fields |= sampling_fields(request, self.n_ctx, self._room(request))
        answer = Answer(self._model, request.logprobs, truncated)
        if request.prompt is None and request.logprobs is None and self._prompts.control_in(request) is None:
            conversation = self._prompts.conversation(request)
            return self._ask(CHAT_PATH, fields | conversation | _WITH_USAGE, answer, stop)
        if request.prompt_ids is not None or request.echo:
            return self._raw(request, fields, answer, stop)
        prompt = self._prompts.joined(self._prompts.pieces(request))
        return self._ask(TEXT_PATH, fields | text_fields(prompt, request.logprobs), answer, stop)

    def _stream_with_tools(self, request: CompletionRequest, stop: Stop | None) -> CallStream:
        """An answer that may be a call; its text goes on under one grammar after the other (``call_stream``)."""
        adapter = self._adapter_field(request.adapter)
        self._require_place_for_tools()
        plan = plan_calls(request, self._call_form())
        request, truncated = self._prompts.fit(request)
        room = self._room(request)
        fields = adapter | sampling_fields(request, self.n_ctx, room)
        free = not plan.forced and plan.grammar is None
        if free and request.logprobs is None and not self._reads_calls(request):
            plan = replace(plan, by_engine=True)
            wish = {} if request.parallel_tool_calls is None else {"parallel_tool_calls": request.parallel_tool_calls}
            fields |= self._prompts.conversation(request) | {"tools": tools_json(plan.relaxed), "tool_choice": "auto"}

            def read_there(written: str, tokens: int, grammar: str | None, *, stops: bool) -> LlamaStream:
                del written, tokens, grammar, stops  # it is asked once, and for all of the answer
                return self._ask(CHAT_PATH, fields | wish | _WITH_USAGE, Answer(self._model, None, 0), stop)

            return CallStream(plan, read_there, room, truncated, self._model)
        pieces = self._prompts.pieces(request)
        if plan.forced and pieces[-1].text.rstrip().endswith("<think>"):
            pieces.append(Piece("\n</think>\n\n"))  # what must be a call is no thought

        def proceed(written: str, tokens: int, grammar: str | None, *, stops: bool) -> LlamaStream:
            prompt = self._prompts.joined([*pieces, *([Piece(written)] if written else [])])
            body = fields | {"n_predict": tokens} | text_fields(prompt, request.logprobs)
            body |= ({} if stops else {"stop": []}) | ({} if grammar is None else {"grammar": grammar})
            at_once = free and not written  # where a call begins is not to be missed
            return self._ask(TEXT_PATH, body, Answer(self._model, request.logprobs, 0), stop, at_once=at_once)

        return CallStream(plan, proceed, room, truncated, self._model)

    def _ask(
        self, path: str, body: dict[str, Any], answer: Answer, stop: Stop | None, *, at_once: bool = False
    ) -> LlamaStream:
        try:
            turn = self.process.stream(path, body, self._settings.timeout_s, stop)
        except EngineRefusedError as error:
            raise refusal(error, self.process.where) from None
        interval_s = 0.0 if at_once else self._settings.stream_interval_s
        return LlamaStream(turn, answer, self.process.where, interval_s=interval_s)

    def _room(self, request: CompletionRequest) -> int:
        return self._prompts.room(request) if self._settings.shared_cache else request.max_tokens

    def _raw(
        self, request: CompletionRequest, fields: dict[str, Any], answer: Answer, stop: Stop | None
    ) -> CompletionStream:
        """The answer to a raw prompt that came as ids, or is given back before what follows it."""
        foreign = [token for token in request.prompt_ids or () if not 0 <= token < self._vocabulary]
        if foreign:
            raise UserError(
                "runtime-prompt-ids",
                f"the model has {self._vocabulary} tokens, and {foreign[0]} is the id of none",
                where=self.process.where,
                fix="send ids of the model's own tokenizer, or text",
            )
        ids = self._prompts.ids_of(request)
        if len(ids) >= self.n_ctx:
            raise too_long(len(ids), self.n_ctx)
        first = None
        if request.echo:
            adapter = self._adapter_field(request.adapter)
            first = self._echo.read(request, adapter, self._settings.timeout_s, stop)
        following = None
        if first is None or (request.max_tokens and ids):  # llama.cpp writes nothing after nothing
            following = self._ask(TEXT_PATH, fields | text_fields(ids, request.logprobs), answer, stop)
            if first is None:
                return following
        return EchoStream(first or Chunk(), following, self._model, len(ids))

    def score(self, request: CompletionRequest, continuations: Sequence[str]) -> NDArray[np.float64]:
        """Log-probability of each continuation after the prompt, ``[len(continuations)]``.

        The sum over its tokens of the natural logarithm of the model's probability at temperature 1, without
        penalties or constraint. Nothing is written: each token that several continuations share, and each that follows
        one, is read once, over the prompt that is kept from the first.

        Args:
            request: messages or prompt, and adapter; the rest does not matter.
            continuations: texts that follow the prompt as they are.

        Raises:
            LocumError: as ``complete``.
        """
        return self.score_greedy(request, continuations).logprobs

    def score_greedy(self, request: CompletionRequest, continuations: Sequence[str]) -> Scores:
        """As ``score``, and whether each continuation is what greedy decoding would write.

        Raises:
            LocumError: as ``complete``.
        """
        fields = self._adapter_field(request.adapter)
        pieces = self._prompts.pieces(request)
        return score_continuations(self.process, self._prompts, pieces, continuations, fields, self._settings.timeout_s)

    def render(self, request: CompletionRequest) -> str:
        """The text that the model reads for a request: its messages through the chat template, or its raw prompt.

        Raises:
            LocumError: as ``complete``.
        """
        return self._prompts.render(request)

    def prompt_tokens(self, request: CompletionRequest) -> list[int]:
        """Ids of the tokens that the model reads for a request, the template's included."""
        return self._prompts.ids_of(request)

    def count_tokens(self, request: CompletionRequest) -> int:
        """How many tokens the prompt of a request has, the template's included."""
        return len(self.prompt_tokens(request))

    def close(self) -> None:
        """End the child process; a second call does nothing."""
        self.process.close()

    def _reads_calls(self, request: CompletionRequest) -> bool:
        """Whether calls that need not come are read here: llama.cpp knows forms that are no JSON, and thoughts."""
        thinks = any("<think>" in template for template in self._templates)
        return (self._call_form().native and not thinks) or self._prompts.control_in(request) is not None

    def _call_form(self) -> CallForm:
        if self._form is None:
            self._form = form_of(self._rendered)
        return self._form

    def _rendered(self, messages: tuple[Message, ...]) -> str | None:
        try:
            return self._prompts.render(CompletionRequest(messages, tools=(PROBE_TOOL,)))
        except UserError:  # the template refuses such a conversation
            return None

    def _require_place_for_tools(self) -> None:
        if self._takes_tools is None:
            self._takes_tools = has_place_for_tools(self.process)
        if not self._takes_tools:
            raise RequestFault(
                "runtime-unsupported-option",
                "the model's chat template has no place for tools",
                where=self.process.where,
                fix="ask without tools or with tool_choice none, or use a model that was trained to call functions",
            ).about("tools")

    def _adapter_field(self, name: str | None) -> dict[str, Any]:
        if name is not None and name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise UserError(
                "runtime-unknown-adapter",
                f"the model has no adapter {one_line(name, 80)!r}",
                fix=f"adapters: {known}",
            )
        # all of them by name: an empty list would leave what another adapter read in the slot's memory
        scales = [{"id": place, "scale": float(other == name)} for other, place in self._adapters.items()]
        return {"lora": scales} if scales else {}


def _require_same_vocabulary(model: GgufHeader, draft: GgufHeader, where: Path) -> None:
    """Refuse a draft whose tokens mean something else: llama.cpp would leave it aside without a word."""
    names = ("tokenizer.ggml.model", "tokenizer.ggml.pre")
    counts = [int(header.metadata.get("tokenizer.ggml.tokens", 0)) for header in (model, draft)]
    same = all(model.metadata.get(name) == draft.metadata.get(name) for name in names)
    if not same or abs(counts[0] - counts[1]) > _SPARE_TOKENS:
        raise ModelFileError(
            "runtime-mismatch",
            f"the draft's vocabulary of {counts[1]} tokens is not the model's of {counts[0]}",
            where=str(where),
            fix="take a draft of the same family of models",
        )


class LlamaStream:
    """The chunks of one answer; the last one has ``final``.

    Args:
        turn: its events.
        answer: puts it together.
        where: the model's file, for messages.
        interval_s: least time between two chunks; what comes in between waits for the token after it.
    """

    def __init__(self, turn: Turn, answer: Answer, where: str, *, interval_s: float = 0.0) -> None:
        self._turn = turn
        self._answer = answer
        self._where = where
        self._interval_s = interval_s
        self._next_s = 0.0
        self._over = False

    @property
    def progress(self) -> Progress:
        """Tokens so far."""
        return self._answer.progress

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The next chunk, waiting for it.

        Raises:
            LocumError: as ``LlamaGenerator.complete``.
        """
        if self._over:
            raise StopIteration
        chunk = self._gather()
        if self._over:  # closed by another thread
            raise StopIteration
        if chunk is not None:
            return chunk
        self._over = True
        if self._answer.completion is None:
            raise LocumError("runtime-engine-failed", "llama.cpp ended an answer without its end", where=self._where)
        return Chunk(final=self._answer.completion)

    def _gather(self) -> Chunk | None:
        """What was written until the next chunk is due; None at the end."""
        held: Chunk | None = None
        try:
            for event in self._turn:
                chunk = self._answer.take(event)
                if chunk is not None:
                    held = chunk if held is None else held + chunk
                    now_s = time.monotonic()
                    if now_s >= self._next_s:
                        self._next_s = now_s + self._interval_s
                        break
        except EngineRefusedError as error:
            raise refusal(error, self._where) from None
        return held

    def close(self) -> None:
        """Stop; any thread may, at any time, and a second call does nothing."""
        self._over = True
        self._turn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
