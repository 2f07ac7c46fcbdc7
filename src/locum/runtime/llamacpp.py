"""Text from GGUF files through llama.cpp: answers, streams, and the weighing of given continuations.

Notable: names of control tokens in a message are read as text, so a conversation that holds one goes as token ids.
llama.cpp ignores tools that the chat template has no place for, and lets a model write at any length before a call that
is required; both are errors here. Several requests are answered in one batch; each has a connection to the engine's
process of its own, and a whole answer is a stream that was read to its end, so both are the same text. Closing a stream
ends the connection, and llama.cpp stops with the next token. At temperature 0 and with a cache for each slot the
packaged library wrote the same text whether it was alone or in a batch, read the prompt anew or kept it, wrote ahead or
not; in a shared cache, and in builds for wider vectors, which choose their arithmetic by the size of a batch, a near
tie may fall the other way. Not here: the process (``llama_process``), the words of its API (``llama_request``),
embeddings and classification (``llama_embed``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError, ModelFileError, UserError
from locum.core.text import one_line
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.gguf_check import GgufHeader, check_gguf
from locum.runtime.gguf_vocabulary import control_tokens
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_process import LlamaProcess, Turn
from locum.runtime.llama_prompt import Prompts
from locum.runtime.llama_request import (
    CHAT_PATH,
    TEXT_PATH,
    Answer,
    check_options,
    grammar_of,
    refusal,
    sampling_fields,
    text_fields,
)
from locum.runtime.llama_score import score_continuations
from locum.runtime.llama_settings import EngineSettings, generation_child
from locum.runtime.llama_template import RenderGuard, check_template, has_place_for_tools, probe_template, templates_of
from locum.runtime.protocol import Scores, Stop

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
        self._takes_tools: bool | None = None

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
            LocumError: as ``LlamaProcess.post``; ``runtime-no-call`` when a call was required and none came.
        """
        with self.stream(request) as stream:
            for chunk in stream:
                if chunk.final is not None:
                    return chunk.final
        raise LocumError("runtime-closed", "the answer was stopped", where=self.process.where)

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> LlamaStream:
        """Write an answer in pieces; returns once the engine reads the prompt. ``stop`` ends the wait for that.

        Raises:
            LocumError: as ``complete``; ``runtime-closed`` when it was stopped.
        """
        check_options(request, speculative=self._settings.speculative)
        body: dict[str, Any] = self._adapter_field(request.adapter)
        grammar = grammar_of(request)
        if grammar is not None:
            body["grammar"] = grammar
        request, truncated = self._prompts.fit(request)
        room = self._prompts.room(request) if self._settings.shared_cache else request.max_tokens
        body |= sampling_fields(request, self.n_ctx, room)
        forged = self._prompts.control_in(request)
        with_tools = bool(request.tools) and request.tool_choice != "none"
        if forged is not None and with_tools:
            raise UserError(
                "runtime-unsupported-option",
                f"a message holds {forged!r}, a token of this model's own, and together with tools it cannot be read "
                "as text",
                where=self.process.where,
                fix="take it out of the message, or ask without tools",
            )
        if request.prompt is None and request.logprobs is None and forged is None:
            conversation = self._prompts.conversation(request)
            if with_tools:
                self._require_place_for_tools()
            path = CHAT_PATH
            body |= conversation | {"stream_options": {"include_usage": True}}
        else:
            path = TEXT_PATH
            pieces = self._prompts.pieces(request)
            prompt = pieces[0].text if len(pieces) == 1 else self._prompts.ids(pieces)
            body |= text_fields(prompt, request.logprobs)
        try:
            turn = self.process.stream(path, body, self._settings.timeout_s, stop)
        except EngineRefusedError as error:
            raise refusal(error, self.process.where) from None
        must_call = with_tools and request.tool_choice != "auto"
        answer = Answer(self._model, request.logprobs, truncated)
        interval_s = self._settings.stream_interval_s
        return LlamaStream(turn, answer, self.process.where, must_call=must_call, interval_s=interval_s)

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
        return self._prompts.ids(self._prompts.pieces(request))

    def count_tokens(self, request: CompletionRequest) -> int:
        """How many tokens the prompt of a request has, the template's included."""
        return len(self.prompt_tokens(request))

    def close(self) -> None:
        """End the child process; a second call does nothing."""
        self.process.close()

    def _require_place_for_tools(self) -> None:
        if self._takes_tools is None:
            self._takes_tools = has_place_for_tools(self.process)
        if not self._takes_tools:
            raise UserError(
                "runtime-unsupported-option",
                "the model's chat template has no place for tools",
                where=self.process.where,
                fix="ask without tools or with tool_choice none, or use a model that was trained to call functions",
            )

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
        must_call: whether an answer without a call is an error.
        interval_s: least time between two chunks; what comes in between waits for the token after it.
    """

    def __init__(
        self, turn: Turn, answer: Answer, where: str, *, must_call: bool = False, interval_s: float = 0.0
    ) -> None:
        self._turn = turn
        self._must_call = must_call
        self._answer = answer
        self._where = where
        self._interval_s = interval_s
        self._next_s = 0.0
        self._over = False

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
        completion = self._answer.completion
        if self._must_call and not completion.tool_calls:
            raise LocumError(
                "runtime-no-call",
                f"the model was to call a function, and wrote {completion.output_tokens} tokens without one",
                where=self._where,
                fix="allow more tokens, set tool_choice to auto, or use a model that is better at calling functions",
            )
        return Chunk(final=completion)

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
