"""Text from a GGUF file through OpenVINO GenAI, in a child process that can be killed.

Notable: requests are answered in one batch, each with its own sampling, stop strings, schema and end, and what prompts
have in common is read once. OpenVINO reads GGUF files of the llama and qwen families, and some quantisations exactly;
a file in another one is encoded anew in 8 bits first (``gguf_reencode``), so that the answers are the model's own. It
has no tools, adapters or drafts here, no alternatives beside a token's log-probability, and no
grammars of strangers (a grammar that its parser refuses would end every answer under way): what it cannot do is
refused, never ignored. A JSON schema is compiled and bounded by ``constraints`` first. A prompt that is read beside
other work is rounded a little differently, so a seed repeats the answer of a request alone.
Not here: the process (``openvino_process``), what runs in it (``openvino_child``).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from locum.core.cpu import usable_cores
from locum.core.errors import LocumError, UserError
from locum.runtime.completion import Chunk, Completion, CompletionRequest, TokenLogprob
from locum.runtime.gguf_check import check_gguf
from locum.runtime.gguf_reencode import reencoded
from locum.runtime.llama_prompt import Prompts
from locum.runtime.llama_request import bounded, chat_fields, grammar_of
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llama_template import RenderGuard, check_template, templates_of
from locum.runtime.openvino import import_openvino
from locum.runtime.openvino_child import OpenVinoSettings
from locum.runtime.openvino_process import OpenVinoProcess, Turn
from locum.runtime.protocol import Stop

EXACT = frozenset({"F32", "F16", "Q8_0", "Q4_0"})
"""Types that OpenVINO reads as they are. Where a block has an offset, as in Q4_1 and Q4_K, it keeps a whole number of
steps of it: on SmolLM2-135M in Q4_1 a first token of probability 0.88 (llama.cpp and PyTorch) got 0.56. Q5_0 and some
others it does not read at all."""


class OpenVinoGenerator:
    """Text from a GGUF file, with the chat template that stands in it; its process starts with the first request.

    Args:
        path: the file.
        settings: how to serve it; what is llama.cpp's alone must be as it is by default.
        command: how to start the child (tests pass their own).

    Raises:
        UserError: OpenVINO GenAI is not installed, or has not what the settings ask for.
        ModelFileError: the file is damaged or hostile, or in a quantisation that cannot be decoded.
        DeviceError: there is no room for a copy that OpenVINO reads exactly.
    """

    def __init__(
        self, path: Path, settings: EngineSettings | None = None, *, command: Sequence[str] | None = None
    ) -> None:
        settings = settings or EngineSettings()
        _check_settings(settings)
        if command is None:
            import_openvino("openvino_genai")
        header = check_gguf(path)
        templates = templates_of(header)
        self._model = path.stem
        self._timeout_s = settings.timeout_s
        self._process = OpenVinoProcess(
            OpenVinoSettings(
                model=str(reencoded(path, header, EXACT).resolve()),
                n_ctx=min(settings.n_ctx, header.context_length or settings.n_ctx),
                slots=settings.slots,
                threads=settings.threads or usable_cores(),
                batch_tokens=settings.batch_tokens,
                kv_type=settings.kv_type,
                prefix_reuse=settings.prefix_reuse,
                stream_interval_s=settings.stream_interval_s,
            ),
            ready_s=settings.load_s,
            idle_s=settings.idle_s,
            check=lambda: check_template(templates, str(path)),
            command=command,
        )
        guard = RenderGuard(templates, str(path), self._process.start).check
        self._prompts = Prompts(self._process, template=bool(templates), guard=guard)

    @property
    def model(self) -> str:
        """The file's name without its ending."""
        return self._model

    @property
    def n_ctx(self) -> int:
        """Context of one request, in tokens."""
        return self._process.settings.n_ctx

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None when there is none."""
        return self._process.pid

    @property
    def problem(self) -> LocumError | None:
        """Why a request would not be answered now, as ``OpenVinoProcess.problem``."""
        return self._process.problem

    def start(self) -> None:
        """Load the model now instead of with the first request.

        Raises:
            LocumError: as ``OpenVinoProcess.start``.
        """
        self._process.start()

    def complete(self, request: CompletionRequest) -> Completion:
        """Write an answer, blocking; from several threads, as many at a time as there are slots.

        Raises:
            LocumError: as ``stream``.
        """
        with self.stream(request) as stream:
            for chunk in stream:
                if chunk.final is not None:
                    return chunk.final
        raise LocumError("runtime-closed", "the answer was stopped", where=self._process.where)

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> OpenVinoStream:
        """Write an answer in pieces; returns once the engine has taken the prompt. ``stop`` ends the wait for that.

        Raises:
            UserError: ``runtime-unsupported-option``, ``runtime-too-long``, ``runtime-chat-template``, or a schema
                that is refused.
            LocumError: as ``OpenVinoProcess.stream``; ``runtime-closed`` when it was stopped.
        """
        check_options(request)
        grammar = grammar_of(request)
        request, truncated = self._prompts.fit(request)
        if request.prompt is None:
            self._prompts.conversation(request)
        turn = self._process.stream({**request_fields(request), "grammar": grammar}, self._timeout_s)
        call_off = (stop or Stop()).calls(turn.close)
        try:
            for record in turn:
                logprobs = request.logprobs is not None
                return OpenVinoStream(turn, self._model, (record["begun"], truncated), logprobs=logprobs)
        finally:
            call_off()
        raise LocumError("runtime-closed", "the answer was stopped", where=self._process.where)

    def count_tokens(self, request: CompletionRequest) -> int:
        """How many tokens the prompt of a request has, the template's included."""
        return len(self._prompts.tokens(self._prompts.render(request)))

    def close(self) -> None:
        """End the child process; a second call does nothing."""
        self._process.close()


class OpenVinoStream:
    """The chunks of one answer; the last one has ``final``.

    Args:
        turn: its records.
        model: name of the engine.
        read: tokens of the prompt, and how many were dropped from it.
        logprobs: whether each token's log-probability is wanted.
    """

    def __init__(self, turn: Turn, model: str, read: tuple[int, int], *, logprobs: bool) -> None:
        self._turn = turn
        self._model = model
        self._truncated = read[1]
        self._logprobs = logprobs
        self._text: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._first = True

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The next chunk, waiting for it.

        Raises:
            LocumError: as ``OpenVinoProcess.stream``.
        """
        record = next(self._turn)
        if "done" in record:
            completion = Completion(
                text="".join(self._text),
                model=self._model,
                logprobs=tuple(self._tokens),
                truncated_tokens=self._truncated,
                **record["done"],
            )
            return Chunk(final=completion)
        tokens = tuple(TokenLogprob(text, bounded(logprob), silent=not text) for text, logprob in record["tokens"])
        self._text.append(record["piece"])
        self._tokens.extend(tokens)
        truncated, self._first = self._truncated if self._first else 0, False
        return Chunk(record["piece"], tokens, truncated_tokens=truncated)

    def close(self) -> None:
        """Stop; any thread may, at any time, and a second call does nothing."""
        self._turn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_options(request: CompletionRequest) -> None:
    """Refuse what the engine cannot do.

    Raises:
        UserError: ``runtime-unsupported-option``, naming every option that this engine lacks.
    """
    _refuse(
        {
            "top_logprobs": bool(request.logprobs),
            "grammar": request.grammar is not None,
            "tools": bool(request.tools) and request.tool_choice != "none",
            "adapter": request.adapter is not None,
            "echo": request.echo,
            "prompt of token ids": request.prompt_ids is not None,
        }
    )


def _check_settings(settings: EngineSettings) -> None:
    _refuse(
        {
            "draft": settings.draft is not None,
            "lookup": settings.lookup_tokens > 0,
            "adapter": bool(settings.adapters),
            "reuse_chunk": settings.reuse_chunk > 0,
            "server_binary": settings.server_binary is not None,
        }
    )


def _refuse(lacking: dict[str, bool]) -> None:
    asked = [name for name, wanted in lacking.items() if wanted]
    if asked:
        raise UserError(
            "runtime-unsupported-option",
            f"the openvino engine has no {', '.join(asked)}",
            fix="leave it out, or use the llamacpp engine",
        )


def request_fields(request: CompletionRequest) -> dict[str, Any]:
    """What the child is asked; its grammar comes beside it.

    Without a seed each request draws one, because OpenVINO would take the same for all.
    """
    sampled = request.temperature > 0
    config: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "do_sample": sampled,
        "repetition_penalty": request.repeat_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logprobs": int(request.logprobs is not None),
    }
    if sampled:
        seed = secrets.randbits(32) if request.seed is None else request.seed % 2**32
        config |= {"temperature": request.temperature, "top_p": request.top_p, "min_p": request.min_p}
        config |= {"rng_seed": seed} | ({"top_k": request.top_k} if request.top_k else {})
    body: dict[str, Any] = {
        "config": config,
        "stops": [stop for stop in request.stop if stop],
        "logprobs": request.logprobs is not None,
    }
    if request.prompt is not None:
        return body | {"prompt": request.prompt}
    return body | {"messages": chat_fields(replace(request, tools=()))["messages"]}
