"""``Call``: one request for text, whatever its endpoint, between its document and the bytes of its answer.

Notable: an endpoint brings three things, and none of them waits: what to ask (``requests``), the body of a whole
answer, and the events of a streamed one; how a body is read and a list of choices framed is said here once. The
events are made piece by piece in the thread that reads the engine, from
parts that are encoded once, because this is what each token costs. ``Opened`` says where an answer comes from
before its first byte; ``Answered`` is one that has ended. Not here: who answers (``targets``), threads and
sockets (``streaming``, ``app``).
"""

from __future__ import annotations

import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import orjson

from locum.gateway.documents import WritingRequest, refuse, typed_document
from locum.gateway.errors import ApiError
from locum.gateway.strict_json import parse_json
from locum.runtime.completion import Chunk, Completion, CompletionRequest, TokenLogprob
from locum.runtime.protocol import Arrival, CompletionStream

_DONE = b"data: [DONE]\n\n"
_LOGPROB_MIN = -9999.0
"""What OpenAI's API writes for a log-probability that is minus infinity, which JSON cannot hold."""


@dataclass(frozen=True)
class Origin:
    """Where an answer comes from; known before its first byte.

    Attributes:
        route: local, llm or abstain.
        certificate: first 12 characters of the hash of the certificate that covers this answer; None: none does.
        void: why the bundle's certificate does not hold; None when it does, or where there is none.
        fields: confidence of each field of the answer, by path; None where fields have none.
        ignored_messages: messages of the request that are not part of the input.
        left_out: fields of the request that were not done, though the answer is given.
        refusal: why nobody answered; None when somebody did.
    """

    route: str
    reason: str = ""
    confidence: float | None = None
    fields: Mapping[str, float] | None = None
    certificate: str | None = None
    void: str | None = None
    ignored_messages: int = 0
    left_out: tuple[str, ...] = ()
    refusal: str | None = None

    def headers(self, truncated_tokens: int) -> dict[str, str]:
        """The same for those who read no body."""
        headers = {
            "x-locum-route": self.route,
            "x-locum-certificate": self.certificate or ("void" if self.void else "none"),
        }
        if self.confidence is not None:
            headers["x-locum-confidence"] = f"{self.confidence:.4f}"
        if truncated_tokens:
            headers["x-locum-truncated"] = str(truncated_tokens)
        return headers

    def to_json(self, truncated_tokens: int) -> dict[str, Any]:
        """The ``locum`` object of a body."""
        return {
            "route": self.route,
            "confidence": None if self.confidence is None else round(self.confidence, 6),
            "fields": None if self.fields is None else {path: round(sure, 6) for path, sure in self.fields.items()},
            "certificate": self.certificate,
            "certificate_void": self.void,
            "reason": self.reason,
            "ignored_messages": self.ignored_messages,
            "left_out": self.left_out,
            "truncated_tokens": truncated_tokens,
        }


@dataclass(frozen=True)
class Opened:
    """An answer that has begun: who gives it, and its pieces.

    Attributes:
        fingerprint: of what answers.
        arrival: for answers that the event loop can wait for; None when a thread has to.
    """

    origin: Origin
    stream: CompletionStream
    fingerprint: str
    arrival: Arrival | None = None


@dataclass(frozen=True)
class Answered:
    """An answer that has ended."""

    opened: Opened
    completion: Completion


def left_out(request: CompletionRequest, *, passed_on: Collection[str] = ()) -> tuple[str, ...]:
    """The caller's fields that are not done: what is asked of nobody, and what only another would have taken.

    Args:
        request: as asked.
        passed_on: hints that were passed on.
    """
    sent = request.sent
    if sent is None:
        return ()
    return (*sent.left_out, *(name for name in sent.hints if name not in passed_on))


def new_key(bits: int) -> str:
    """A name that no other answer has; it guards nothing, so it need not ask the system for entropy each time."""
    return f"{random.getrandbits(bits):0{bits // 4}x}"


@dataclass(frozen=True)
class Stamp:
    """What every piece of an answer repeats."""

    model: str
    prefix: str
    created: int = field(default_factory=lambda: int(time.time()))
    key: str = field(default_factory=lambda: new_key(128))

    @property
    def identifier(self) -> str:
        """The answer's name, such as ``chatcmpl-…``."""
        return f"{self.prefix}{self.key}"


R = TypeVar("R", bound=WritingRequest)


class Call(ABC, Generic[R]):
    """One request for text, as its endpoint puts and answers it.

    Args:
        asked: its document.
        fields: the same as it came.

    Attributes:
        document: the class of ``asked``.
        prefix: how the names of its answers begin.
        words: what its endpoint calls the fields that it does not call as a chat does; the first of them that was sent,
            else the first.
        stamp: what every piece of its answer repeats.

    Raises:
        ApiError: 400, when fields do not go together.
    """

    document: type[R]
    prefix: str
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, asked: R, fields: Mapping[str, Any]) -> None:
        del fields
        self._asked = asked
        if asked.stream_options is not None and asked.stream is not True:
            refuse("stream_options", "it is only allowed when stream is true")
        self.stamp = Stamp(asked.model, self.prefix)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From a body.

        Raises:
            ApiError: 400, naming the field at fault.
        """
        value = parse_json(body)
        return cls(typed_document(cls.document, value), value)

    @property
    def model(self) -> str:
        """The model as it was asked for."""
        return self._asked.model

    def named(self, error: ApiError) -> ApiError:
        """An error about a field of a chat as one about the field that was sent."""
        field = (error.param or "").partition(".")[0]
        sent = self._asked.model_fields_set
        if field in self.words and field not in sent:
            words = self.words[field]
            error.param = next((word for word in words if word.partition(".")[0] in sent), words[0])
            error.message = re.sub(rf"(^|\s){field}:", rf"\g<1>{error.param}:", error.message, count=1)
        return error

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted piece by piece."""
        return self._asked.stream is True

    @abstractmethod
    def requests(self, max_tokens: int) -> list[CompletionRequest]:
        """What to ask, one entry a choice; ``max_tokens`` where the caller set none."""

    @abstractmethod
    def body(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """The whole answer, one entry a choice."""

    @abstractmethod
    def events(self, index: int) -> Events:
        """Makes the events of the choice at ``index``."""

    @abstractmethod
    def tail(self, answers: Sequence[Answered]) -> bytes:
        """What follows once every choice has ended."""

    def own(self, error: ApiError) -> ApiError:
        """An engine's error in the words of this endpoint; engines name fields as a chat does."""
        return error

    def failure(self, error: ApiError) -> bytes:
        """The event that says that the answer failed on its way; nothing follows it."""
        return b"event: error\ndata: " + error.to_bytes() + b"\n\n"


class ChoicesCall(Call[R]):
    """A call whose answer is a list of choices, framed alike when it is whole and when it is streamed.

    Attributes:
        kind: the ``object`` of a whole answer.
        chunk_kind: the ``object`` of an event.
    """

    kind: str
    chunk_kind: str

    @abstractmethod
    def choice(self, index: int, answered: Answered) -> dict[str, Any]:
        """One choice of a whole answer."""

    def body(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """The choices with the counts, and where they come from."""
        opened = answers[0].opened
        choices = [self.choice(index, each) for index, each in enumerate(answers)]
        return {
            **choices_head(self.stamp, self.kind, opened.fingerprint, choices),
            "usage": usage_of(answers),
            "locum": opened.origin.to_json(truncated_of(answers)),
        }

    def tail(self, answers: Sequence[Answered]) -> bytes:
        """The counts, when they were asked for, and ``[DONE]``."""
        options = self._asked.stream_options
        if options is None or not options.include_usage:
            return _DONE
        head = choices_head(self.stamp, self.chunk_kind, answers[0].opened.fingerprint, [])
        return event({**head, "usage": usage_of(answers)}) + _DONE


class Events(Protocol):
    """The events of one choice; used by one thread."""

    def begin(self, opened: Opened, truncated_tokens: int) -> bytes:
        """What comes before the first piece."""
        ...

    def piece(self, chunk: Chunk) -> bytes:
        """One piece; empty when there is nothing to say."""
        ...

    def end(self, completion: Completion) -> bytes:
        """The end of the choice."""
        ...


def event(data: Any, name: str | None = None) -> bytes:
    """A server-sent event (WHATWG HTML, 9.2) with JSON as its data."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


def choices_head(stamp: Stamp, kind: str, fingerprint: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """What stands around a list of choices, in a body and in each event."""
    return {
        "id": stamp.identifier,
        "object": kind,
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": fingerprint,
        "choices": choices,
    }


def usage_of(answers: Sequence[Answered]) -> dict[str, Any]:
    """Token counts over all choices, the prompt counted once; 0 where nobody counted."""
    read = max((each.completion.input_tokens for each in answers), default=0)
    written = sum(each.completion.output_tokens for each in answers)
    cached = max((each.completion.cached_tokens for each in answers), default=0)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def truncated_of(answers: Sequence[Answered]) -> int:
    """How many tokens of the prompt were dropped, at most over the choices."""
    return max((each.completion.truncated_tokens for each in answers), default=0)


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(_LOGPROB_MIN, logprob)


def written(tokens: Iterable[TokenLogprob]) -> list[TokenLogprob]:
    """Those that wrote something, which an end token does not."""
    return [token for token in tokens if not token.silent]


def bytes_of(text: str) -> bytes:
    """What a token wrote, a part of a character too; of a surrogate that stands for no byte, a question mark."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def token_json(token: TokenLogprob) -> dict[str, Any]:
    """A token with its alternatives, as chats and responses write it; ``locum`` when several tokens wrote it."""
    several = {"locum": {"tokens": token.tokens}} if token.tokens > 1 else {}
    return {
        **_one(token.token, token.logprob),
        "top_logprobs": [_one(text, logprob) for text, logprob in token.top],
        **several,
    }


def _one(text: str, logprob: float) -> dict[str, Any]:
    data = bytes_of(text)
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}
