"""``CallStream``: an answer that may hold function calls, from an engine that continues texts.

Notable: when the arguments of a call begin, what is being written is stopped there and goes on under the grammar of
that function; the engine has read all of it already, so that costs a few milliseconds. Log-probabilities are those of
what was kept. Stop strings end text, and no call.
Not here: what is a call (``call_reader``), grammars (``tool_calls``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, Self

from locum.runtime.call_reader import CallReader
from locum.runtime.completion import Chunk, Completion, Progress, TokenLogprob, ToolCallDelta
from locum.runtime.constraints import check_arguments
from locum.runtime.protocol import CompletionStream
from locum.runtime.tool_calls import CallPlan


class TextStream(CompletionStream, Protocol):
    """A stream that tells how far it is."""

    @property
    def progress(self) -> Progress:
        """Its tokens so far."""
        ...


class Continues(Protocol):
    """How an engine is asked to continue a text after the prompt."""

    def __call__(self, written: str, tokens: int, grammar: str | None, *, stops: bool) -> TextStream:
        """At most so many tokens after ``written``, within the grammar; ``stops``: the request's stop strings count."""
        ...


class CallStream:
    """The chunks of one answer; the last one has ``final``.

    Args:
        plan: which calls there may be, and how they are bound.
        proceed: asks the engine; it is asked at once.
        tokens: most tokens of the answer.
        truncated: tokens that were dropped from the prompt.
        model: name of the engine.

    Attributes:
        unenforced: places in the request's tools that no grammar holds arguments to.

    Raises:
        LocumError: the engine refuses or fails.
    """

    def __init__(self, plan: CallPlan, proceed: Continues, tokens: int, truncated: int, model: str) -> None:
        self.unenforced = plan.unenforced
        self._plan = plan
        self._proceed = proceed
        self._tokens = tokens
        self._truncated = truncated
        self._model = model
        self._reader = CallReader(
            plan.tools, plan.form.before, self._fits, held=plan.held, binds=not plan.by_engine, tagged=plan.tagged
        )
        self._done = Progress()  # by the streams that were left
        self._logprobs: list[TokenLogprob] = []
        self._fresh: list[TokenLogprob] = []  # not told yet
        self._text: list[str] = []
        self._is_first = True
        self._closed = False
        self._stream = proceed(plan.start, tokens, plan.grammar, stops=not plan.forced)
        self._chunks = self._run()

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The next chunk, waiting for it.

        Raises:
            LocumError: the engine fails.
        """
        return next(self._chunks)

    def close(self) -> None:
        """Stop; any thread may, at any time, and a second call does nothing."""
        self._closed = True
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> Iterator[Chunk]:
        reader = self._reader
        if self._plan.start:
            yield from self._told(reader.feed(self._plan.start))
            reader.due = None  # its grammar is at work
        final: Completion | None = None
        while final is None:
            for chunk in self._stream:
                if chunk.final is not None:
                    final = chunk.final
                    break
                said = reader.feed(chunk.text)
                self._fresh.extend(chunk.logprobs)
                if reader.due is not None:
                    self._drop_tokens()
                yield from self._told(said)
                if reader.due is not None:
                    break
            if self._closed:
                return
            if final is None:
                final = self._bind()
        said = [*reader.finish(), *self._of_engine(final)]
        if self._plan.forced:  # what is left of a call that was cut is no text
            said = [part for part in said if not isinstance(part, str)]
        yield from self._told(said, last=True)
        yield Chunk(final=self._completion(final))

    def _bind(self) -> Completion | None:
        """Go on under the grammar of the call that begins; the end, where no token is left for it."""
        name = self._reader.due or ""
        done, before = self._stream.progress, self._done
        self._stream.close()
        self._done = Progress(before.read or done.read, before.cached or done.cached, before.written + done.written)
        self._reader.due = None
        left = self._tokens - self._done.written
        if left <= 0:
            return Completion("", "length", self._done.read, 0, self._model)
        self._stream = self._proceed(self._reader.text, left, self._plan.bound[name], stops=False)
        if self._closed:
            self._stream.close()
        return None

    def _drop_tokens(self) -> None:
        """Forget the tokens after the place where the arguments of a call begin."""
        over = self._reader.over
        while self._fresh and over > 0:
            over -= len(self._fresh.pop().token)

    def _told(self, said: list[str | ToolCallDelta], *, last: bool = False) -> Iterator[Chunk]:
        """A chunk of what can be told, with the tokens that came meanwhile."""
        if not said and not (last and self._fresh):
            return
        text = "".join(part for part in said if isinstance(part, str))
        calls = tuple(part for part in said if not isinstance(part, str))
        self._text.append(text)
        self._logprobs += self._fresh
        tokens, self._fresh = tuple(self._fresh), []
        truncated, self._is_first = self._truncated if self._is_first else 0, False
        yield Chunk(text, tokens, calls, truncated_tokens=truncated)

    def _of_engine(self, final: Completion) -> list[str | ToolCallDelta]:
        """The calls that the engine has read itself, as far as they keep their schemas; the others are text."""
        said: list[str | ToolCallDelta] = []
        for call in final.tool_calls:
            try:
                arguments = json.loads(call.arguments or "{}")
            except (ValueError, RecursionError):
                arguments = None
            if call.name in self._plan.tools and isinstance(arguments, dict) and self._fits(call.name, arguments):
                said.append(self._reader.add(call.name, call.arguments or "{}"))
            elif final.finish_reason != "length":
                said.append(f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}')
        return said

    def _fits(self, name: str, arguments: Any) -> bool:
        return check_arguments(self._plan.tools[name].parameters, arguments)

    def _completion(self, final: Completion) -> Completion:
        calls, cut = tuple(self._reader.calls), self._reader.pending
        reason = final.finish_reason
        if calls and cut is None and (reason == "stop" or not self._reader.in_frame):
            reason = "tool_calls"
        return replace(
            final,
            text="".join(self._text),
            finish_reason="length" if cut is not None else reason,
            input_tokens=self._done.read or final.input_tokens,
            cached_tokens=self._done.cached if self._done.read else final.cached_tokens,
            output_tokens=self._done.written + final.output_tokens,
            tool_calls=calls,
            cut_call=cut,
            logprobs=tuple(self._logprobs),
            truncated_tokens=self._truncated,
        )
