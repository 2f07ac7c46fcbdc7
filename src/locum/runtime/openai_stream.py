"""Answers that come in pieces: server-sent events, and the chunks of a completion in them.

Notable: a stream ends well only when the server said why it ended (``finish_reason``) and then ended it; whatever else
happens is an error, never a ``stop`` that nobody wrote. ``EventParser`` follows the WHATWG's description of the format
(HTML Living Standard, 9.2) on bytes, so that a character split between two packets is whole again before it is read.
Not here: opening the stream, what its failures are called for the caller (``openai``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from locum.core.errors import LocumError
from locum.runtime.completion import Chunk, Completion, FinishedStream, TokenLogprob, ToolCallDelta
from locum.runtime.http_exchange import BrokenOffError, ClosedError, Exchange, PoolError, SizeError
from locum.runtime.openai_wire import BAD_DOCUMENT, Document, Told, made_completion, read_logprobs, text_of
from locum.runtime.protocol import Stop
from locum.schema.message import ToolCall

_LINE_BYTES_MAX = 1 << 20
_CALLS_MAX = 128
_HELD_BYTES_MAX = 64 << 20
_LOGPROB_BYTES = 100  # what is kept of a token and each alternative, about


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    data: bytes
    kind: str = "message"


class EventParser:
    """Bytes in, events out; lines may end in LF, CRLF or CR, anywhere between two packets."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip_lf = False
        self._begun = False
        self._data: list[bytes] = []
        self._size = 0
        self._kind = "message"

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are whole now.

        Raises:
            SizeError: a line or an event is larger than 1 MiB.
        """
        if self._skip_lf and piece:
            self._skip_lf = False
            piece = piece.removeprefix(b"\n")
        if b"\r" in piece:
            self._skip_lf = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if not self._begun and lines:
            self._begun = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        events: list[Event] = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append(Event(b"\n".join(self._data), self._kind))
                self._data, self._size, self._kind = [], 0, "message"
            else:
                self._kind = "message"
        if len(self._rest) + self._size > _LINE_BYTES_MAX:
            raise SizeError
        return events

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > _LINE_BYTES_MAX:
                raise SizeError
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")
        # a line that begins with a colon is a comment; id and retry are for reconnecting, which cannot be done here


class StreamRefusedError(Exception):
    """The server told of an error within the stream; holds the error's document."""

    def __init__(self, document: Any) -> None:
        super().__init__()
        self.document = document


class BadChunkError(Exception):
    """An event is not a chunk of a completion."""


@dataclass
class _Call:
    """A tool call while it is written."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


class Assembler:
    """Chunks of the API into ``Chunk`` and, at the end, the whole ``Completion``.

    Args:
        asked: the model asked for.
    """

    def __init__(self, asked: str) -> None:
        self._told = Told(asked)
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, _Call] = {}
        self._held = 0
        self.finish_reason: str | None = None

    def take(self, event: Event) -> Chunk | None:
        """One event; None when it brings nothing for the caller.

        Raises:
            StreamRefusedError: it tells of an error.
            BadChunkError: it is not a chunk.
            SizeError: the whole answer would be larger than is kept.
        """
        try:
            document = orjson.loads(event.data)
            if event.kind == "error" or document.get("error"):
                raise StreamRefusedError(document if "error" in document else {"error": document})
            self._told.hear(document)
            choices = document.get("choices")
            if not choices:
                return None
            return self._read(choices[0])
        except BAD_DOCUMENT as error:
            raise BadChunkError(event.data[:200].decode("utf-8", "replace")) from error

    def completion(self, extra: dict[str, str]) -> Completion:
        """The whole answer."""
        finish = self.finish_reason or ""
        if self._refusals:
            extra["refusal"] = "".join(self._refusals)
            finish = "content_filter"
        calls = tuple(ToolCall(call.id, call.name, "".join(call.arguments)) for _, call in sorted(self._calls.items()))
        text = "".join(self._texts)
        return made_completion(text, finish, calls, tuple(self._logprobs), self._told, extra)

    def _read(self, choice: Document) -> Chunk | None:
        delta = choice.get("delta")
        text, refusal, calls = "", "", ()
        if delta is None:
            text = text_of(choice.get("text"))
        else:
            text = text_of(delta.get("content"))
            refusal = str(delta.get("refusal") or "")
            calls = tuple(self._call(piece) for piece in delta.get("tool_calls") or ())
        logprobs = read_logprobs(choice.get("logprobs"))
        self._held += len(text)
        if refusal or calls or logprobs:
            self._hold(refusal, calls, logprobs)
        if self._held > _HELD_BYTES_MAX:
            raise SizeError
        self._logprobs.extend(logprobs)
        if text:
            self._texts.append(text)
        if refusal:
            self._refusals.append(refusal)
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])
        return Chunk(text, logprobs, calls, refusal=refusal) if text or refusal or logprobs or calls else None

    def _hold(self, refusal: str, calls: tuple[ToolCallDelta, ...], logprobs: tuple[TokenLogprob, ...]) -> None:
        """Count what is kept of an answer beside its text."""
        self._held += len(refusal) + sum(len(call.arguments) for call in calls)
        self._held += sum(_LOGPROB_BYTES * (1 + len(token.top)) for token in logprobs)

    def _call(self, piece: Document) -> ToolCallDelta:
        index = int(piece.get("index") or 0)
        if not 0 <= index < _CALLS_MAX:
            raise ValueError("tool call index")
        function = piece.get("function") or {}
        call = self._calls.get(index)
        fresh = call is None
        if call is None:
            call = self._calls[index] = _Call(str(piece.get("id") or ""), str(function.get("name") or ""))
        arguments = str(function.get("arguments") or "")
        call.arguments.append(arguments)
        return ToolCallDelta(index, arguments, call.id if fresh else None, call.name if fresh else None)


class WholeStream:
    """An answer that comes in one piece, as a stream that any thread can stop while it is waited for.

    Args:
        ask: sends the request and waits, until it is stopped at the latest.
        sent: the exchange of a request that was sent already.
    """

    def __init__(self, ask: Callable[[Stop], Completion], sent: Exchange | None = None) -> None:
        self._ask = ask
        self._answer: FinishedStream | None = None
        self._stop = Stop()
        if sent is not None:
            self._stop.calls(sent.abort)

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The whole text, then the end.

        Raises:
            LocumError: no proper answer in time.
        """
        if self._stop.is_set:
            raise StopIteration
        if self._answer is None:
            try:
                self._answer = FinishedStream(self._ask(self._stop))
            except LocumError:
                if self._stop.is_set:
                    raise StopIteration from None
                raise
        return next(self._answer)

    def close(self) -> None:
        """Stop: the connection is shut, by which the server knows; a second call does nothing."""
        self._stop.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class OpenAiStream:
    """A stream of one answer; one thread iterates, any thread may ``close``.

    Args:
        exchange: an answer with status 200 whose body was not read.
        asked: the model asked for.
        extra: facts for the whole answer.
        on_end: told once how it ended: None well, an exception otherwise (``ClosedError`` when the caller stopped);
            gives the exception to raise.
    """

    def __init__(
        self,
        exchange: Exchange,
        asked: str,
        extra: dict[str, str],
        on_end: Callable[[Exception | None, Completion | None], Exception | None],
    ) -> None:
        self._exchange = exchange
        self._extra = extra
        self._on_end: Callable[[Exception | None, Completion | None], Exception | None] | None = on_end
        self._parser = EventParser()
        self._assembler = Assembler(asked)
        self._ready: deque[Chunk] = deque()
        self._error: Exception | None = None
        self._done = False
        self._closed = False

    def __iter__(self) -> Iterator[Chunk]:
        """Itself."""
        return self

    def __next__(self) -> Chunk:
        """The next chunk, waiting for it.

        Raises:
            LocumError: the server failed, fell silent, or ended the stream before its end.
        """
        while not self._ready:
            if self._done:
                self._exchange.finish()
                raise StopIteration
            if self._error is not None:  # what came before it was handed out first
                error, self._error = self._error, None
                raise error
            if self._closed:
                raise StopIteration
            self._advance()
        return self._ready.popleft()

    def close(self) -> None:
        """Stop: the connection is shut, by which the server knows; a second call does nothing."""
        self._closed = True
        if self._done:
            self._exchange.finish()
            return
        self._exchange.abort()
        self._ended(ClosedError(), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _advance(self) -> None:
        """Read once, and make chunks of what came."""
        try:
            piece = self._exchange.read_some()
            if not piece:
                self._at_end()
                return
            for event in self._parser.feed(piece):
                if event.data.strip() == b"[DONE]":
                    self._at_end()
                    return
                chunk = self._assembler.take(event)
                if chunk is not None:
                    self._ready.append(chunk)
        except ClosedError:
            if not self._closed:  # the generator was closed, not the stream
                self._fail(ClosedError())
        except (PoolError, StreamRefusedError, BadChunkError) as error:
            self._exchange.abort()
            self._fail(error)

    def _at_end(self) -> None:
        if self._assembler.finish_reason is None:
            raise BrokenOffError("the stream ended without saying why")
        try:
            completion = self._assembler.completion(self._extra)
        except BAD_DOCUMENT as error:  # counts that are no numbers
            raise BadChunkError(f"usage: {error}") from error
        self._done = True
        self._ready.append(Chunk(final=completion))
        self._ended(None, completion)

    def _fail(self, error: Exception) -> None:
        self._closed = True
        self._error = self._ended(error, None)

    def _ended(self, error: Exception | None, completion: Completion | None) -> Exception | None:
        on_end, self._on_end = self._on_end, None
        return on_end(error, completion) if on_end is not None else None
