"""``POST /v1/completions``: text to continue as it is, without a chat template.

Notable: several prompts, each with several choices, come back in one list, prompt by prompt, as OpenAI's API orders
them. Token arrays are ids of the model's own tokenizer, and only a model of this machine takes them. With ``echo`` the
log-probabilities have one entry for each token, of which the first is null. Not here: chats (``chat``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field

from locum.gateway.calls import (
    Answered,
    ChoicesCall,
    Opened,
    Stamp,
    bytes_of,
    choices_head,
    event,
    finite,
    written,
)
from locum.gateway.documents import (
    MAX_CHOICES,
    LogitBias,
    OrTokens,
    Text,
    TokenArrays,
    WritingRequest,
    refuse,
    seeded,
    stops,
)
from locum.runtime.completion import Chunk, Completion, CompletionRequest, TokenLogprob

_MAX_TOKENS = 16
"""How many tokens OpenAI's API writes here when nothing is said."""


class TextRequest(WritingRequest):
    """``POST /v1/completions``."""

    only_llm: ClassVar[tuple[str, ...]] = ("logit_bias", "moderation", "suffix")

    prompt: Annotated[Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)], OrTokens]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=1_000_000, description="0 only with echo.")] | None = None
    logit_bias: LogitBias | None = None
    suffix: Annotated[Text, Field(description="Only for NAME@llm.")] | None = None
    best_of: Annotated[int, Field(ge=1, le=20, description="Only as many as are given (n).")] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Annotated[bool, Field(description="The answer begins with the prompt.")] | None = None


class TextCall(ChoicesCall[TextRequest]):
    """One request for a continuation."""

    document = TextRequest
    prefix = "cmpl-"
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {"messages": ("prompt",)}
    kind = chunk_kind = "text_completion"

    def __init__(self, asked: TextRequest, fields: Mapping[str, Any]) -> None:
        super().__init__(asked, fields)
        self._sent = asked.as_sent(fields)
        if asked.max_tokens == 0 and not asked.echo:
            refuse("max_tokens", "nothing would be written; 0 is for a prompt that is given back (echo)")
        if asked.echo and asked.truncate:
            refuse("echo", "a prompt that is cut is not given back; leave out truncate", "unsupported_value")
        if asked.best_of is not None and asked.best_of != (asked.n or 1):
            fewer = asked.best_of < (asked.n or 1)
            why = "it may not be less than n" if fewer else "each choice that is written is given; ask for more with n"
            refuse("best_of", why, "invalid_value" if fewer else "unsupported_value")
        given = asked.prompt
        arrays = given if isinstance(given, TokenArrays) else None
        self._prompts = [given] if isinstance(given, str) else [""] * len(arrays) if arrays else given
        self._arrays = [None] * len(self._prompts) if arrays is None else [tuple(each) for each in arrays]
        if len(self._prompts) * (asked.n or 1) > MAX_CHOICES:
            refuse("n", f"at most {MAX_CHOICES} choices over all prompts")

    def requests(self, max_tokens: int) -> list[CompletionRequest]:
        """One for each prompt and choice."""
        asked = self._asked
        first = CompletionRequest(
            (),
            max_tokens=min(_MAX_TOKENS, max_tokens) if asked.max_tokens is None else asked.max_tokens,
            echo=asked.echo is True,
            stop=stops(asked.stop),
            logprobs=asked.logprobs,
            sent=self._sent,
            **asked.sampling(),
        )
        return [
            replace(first, prompt=prompt, prompt_ids=ids, seed=seeded(asked.seed, index))
            for prompt, ids in zip(self._prompts, self._arrays, strict=True)
            for index in range(asked.n or 1)
        ]

    def choice(self, index: int, answered: Answered) -> dict[str, Any]:
        """The text, and why it ended."""
        completion = answered.completion
        return _choice(index, completion.text, _Logprobs(self._asked.echo).add(completion.logprobs), completion)

    def events(self, index: int) -> TextEvents:
        """The events of one choice."""
        return TextEvents(self.stamp, index, echo=self._asked.echo)


class TextEvents:
    """The events of one choice."""

    def __init__(self, stamp: Stamp, index: int, *, echo: bool | None = None) -> None:
        self._stamp = stamp
        self._index = index
        self._fingerprint = ""
        self._logprobs = _Logprobs(echo)
        self._before = self._after = b""

    def begin(self, opened: Opened, truncated_tokens: int) -> bytes:
        """Where the answer comes from."""
        self._fingerprint = opened.fingerprint
        self._before, _, self._after = self._event("\x00").partition(b'"\\u0000"')
        return self._event("", locum=opened.origin.to_json(truncated_tokens))

    def piece(self, chunk: Chunk) -> bytes:
        """Text, with its tokens when they were asked for."""
        logprobs = self._logprobs.add(chunk.logprobs)
        if logprobs is None:
            return self._before + orjson.dumps(chunk.text) + self._after if chunk.text else b""
        return self._event(chunk.text, logprobs)

    def end(self, completion: Completion) -> bytes:
        """Why it ended."""
        return self._event("", completion=completion)

    def _event(
        self,
        text: str,
        logprobs: dict[str, Any] | None = None,
        completion: Completion | None = None,
        **more: Any,
    ) -> bytes:
        choice = _choice(self._index, text, logprobs, completion)
        return event({**choices_head(self._stamp, TextCall.chunk_kind, self._fingerprint, [choice]), **more})


class _Logprobs:
    """Tokens in the older form, with their offsets in the text of the choice so far."""

    def __init__(self, echo: bool | None) -> None:
        self._echo = echo
        self._offset = 0

    def add(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """The next tokens; None when none of them wrote anything, except where each is counted (``echo``)."""
        tokens = tokens if self._echo else written(tokens)
        if not tokens:
            return None
        offsets: list[int] = []
        for token in tokens:
            data = bytes_of(token.token)
            within = bool(data) and data[0] & 0xC0 == 0x80  # of UTF-8: it goes on with a character
            offsets.append(max(0, self._offset - within))
            self._offset += sum(byte & 0xC0 != 0x80 for byte in data)
        known = [None if math.isnan(token.logprob) else token for token in tokens]
        return {
            "tokens": [_name(token.token) for token in tokens],
            "token_logprobs": [None if token is None else finite(token.logprob) for token in known],
            "top_logprobs": [
                None if token is None else {_name(text): finite(logprob) for text, logprob in token.top}
                for token in known
            ],
            "text_offset": offsets,
        }


def _name(text: str) -> str:
    """A token as its text; parts of characters byte by byte, as OpenAI spells them, so that no two are the same."""
    data = bytes_of(text)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, completion: Completion | None) -> dict[str, Any]:
    reason = None if completion is None else completion.finish_reason
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
