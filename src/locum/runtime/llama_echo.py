"""A prompt given back with the log-probabilities of its tokens, before what is written after it (``echo``).

Notable: llama.cpp's server tells the probabilities of what it writes and of nothing that it reads, so each token of the
prompt is asked for in its place, over what was read already; that costs what writing the prompt would. Of prompts that
begin alike, as the options of one question do, only what differs is asked. Not here: one such question
(``llama_score``).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from locum.runtime.completion import Chunk, Completion, CompletionRequest, TokenLogprob
from locum.runtime.llama_process import LlamaProcess
from locum.runtime.llama_prompt import Prompts
from locum.runtime.llama_score import Asker
from locum.runtime.protocol import CompletionStream, Stop

_KEPT_PROMPTS = 8
_KEPT_TOKENS = 2048
_KEPT_TOP = 5

Told = tuple[float, tuple[tuple[str, float], ...]]


class PromptEcho:
    """Weighs prompts.

    Args:
        process: with the model.
        prompts: its tokenizer.
    """

    def __init__(self, process: LlamaProcess, prompts: Prompts) -> None:
        self._process = process
        self._prompts = prompts
        self._lock = threading.Lock()
        self._kept: deque[tuple[object, list[int], list[Told]]] = deque(maxlen=_KEPT_PROMPTS)

    def read(self, request: CompletionRequest, fields: dict[str, Any], timeout_s: float, stop: Stop | None) -> Chunk:
        """The prompt as the beginning of an answer.

        Args:
            request: with a raw prompt, as text or as ids.
            fields: further fields of each question (the adapter).
            timeout_s: for all of it.
            stop: ends it.

        Raises:
            UserError: the prompt fills the context.
            LocumError: as ``LlamaProcess.post``.
        """
        ids, texts, first = self._prompts.spelled(request)
        text = request.prompt or ""
        if request.prompt_ids is not None:
            text = "".join(texts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if request.logprobs is None:
            return Chunk(text)
        told = self._told(ids, first, request.logprobs, fields, timeout_s, stop)
        tokens = [TokenLogprob(texts[place], *told[place]) for place in range(first, len(ids))]
        if tokens:  # nothing of the text comes before it, as in OpenAI's API
            tokens[0] = TokenLogprob(tokens[0].token, math.nan)
        return Chunk(text, tuple(tokens))

    def _told(
        self, ids: list[int], first: int, top: int, fields: dict[str, Any], timeout_s: float, stop: Stop | None
    ) -> list[Told]:
        key = (top, str(fields))
        told: list[Told] = [(math.nan, ())] * (first + 1)
        with self._lock:
            for other_key, other, values in self._kept:
                shared = _shared(ids, other) if other_key == key else 0
                if shared > len(told):
                    told = values[:shared]
        plain = self._prompts.tokens("a", whole=False)[-1]
        asker = Asker(self._process, fields, plain, time.monotonic() + timeout_s, timeout_s, stop)
        for place in range(len(told), len(ids)):
            told.append(asker.next_token(ids[:place], ids[place], top))
        if top <= _KEPT_TOP and len(ids) <= _KEPT_TOKENS:
            with self._lock:
                self._kept.append((key, ids, told))
        return told


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


class EchoStream:
    """A prompt, and then the pieces of what follows it.

    Args:
        first: the prompt.
        following: what is written after it; None for nothing.
        model: name of the engine.
        input_tokens: of the prompt.
    """

    def __init__(self, first: Chunk, following: CompletionStream | None, model: str, input_tokens: int) -> None:
        self._first = first
        self._following = following
        self._end = Completion("", "length", input_tokens, 0, model)
        self._told = 0
        self._last: Chunk | None = None
        self._begun = self._over = False

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The prompt, the pieces, the end."""
        if self._last is not None:
            chunk, self._last, self._over = self._last, None, True
            return chunk
        if self._over:
            raise StopIteration
        if not self._begun:
            self._begun = True
            return self._first
        chunk = Chunk(final=self._end) if self._following is None else next(self._following)
        if chunk.final is None:
            self._told += sum(token.tokens for token in chunk.logprobs)
            return chunk
        silent = max(0, chunk.final.output_tokens - self._told) if self._first.logprobs else 0
        untold = (TokenLogprob("", math.nan),) * silent  # half a character: llama.cpp tells nothing of it
        final = replace(
            chunk.final,
            text=self._first.text + chunk.final.text,
            logprobs=self._first.logprobs + chunk.final.logprobs + untold,
        )
        self._last = Chunk(final=final)
        if untold:
            return Chunk(logprobs=untold)
        return next(self)

    def close(self) -> None:
        """Stop; any thread may, at any time."""
        self._over = True
        if self._following is not None:
            self._following.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
