"""``POST /v1/completions``: text to continue as it is, without a chat template.

Notable: several prompts, each with several choices, come back in one list, prompt by prompt, as OpenAI's API orders
them. Token arrays are refused: ids of one tokenizer mean something else to another. Not here: chats (``chat``).
"""

from __future__ import annotations

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
    Length,
    LogitBias,
    Text,
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

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Length | None = None
    logit_bias: LogitBias | None = None
    suffix: Annotated[Text, Field(description="Only for NAME@llm.")] | None = None
    best_of: Annotated[int, Field(ge=1, le=20, description="Only as many as are given (n).")] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Annotated[bool, Field(description="Only false: the prompt is not repeated.")] | None = None


class TextCall(ChoicesCall[TextRequest]):
    """One request for a continuation."""

    document = TextRequest
    prefix = "cmpl-"
    words: ClassVar[Mapping[str, str]] = {"messages": "prompt"}
    kind = chunk_kind = "text_completion"

    def __init__(self, asked: TextRequest, fields: Mapping[str, Any]) -> None:
        super().__init__(asked, fields)
        self._sent = asked.as_sent(fields)
        if asked.echo:
            refuse("echo", "the prompt is not repeated", "unsupported_value")
        if asked.best_of is not None and asked.best_of != (asked.n or 1):
            fewer = asked.best_of < (asked.n or 1)
            why = "it may not be less than n" if fewer else "each choice that is written is given; ask for more with n"
            refuse("best_of", why, "invalid_value" if fewer else "unsupported_value")
        self._prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        if len(self._prompts) * (asked.n or 1) > MAX_CHOICES:
            refuse("n", f"at most {MAX_CHOICES} choices over all prompts")

    def requests(self, max_tokens: int) -> list[CompletionRequest]:
        """One for each prompt and choice."""
        asked = self._asked
        first = CompletionRequest(
            (),
            max_tokens=asked.max_tokens or min(_MAX_TOKENS, max_tokens),
            stop=stops(asked.stop),
            logprobs=asked.logprobs,
            sent=self._sent,
            **asked.sampling(),
        )
        return [
            replace(first, prompt=prompt, seed=seeded(asked.seed, index))
            for prompt in self._prompts
            for index in range(asked.n or 1)
        ]

    def choice(self, index: int, answered: Answered) -> dict[str, Any]:
        """The text, and why it ended."""
        completion = answered.completion
        return _choice(index, completion.text, _Logprobs().add(completion.logprobs), completion)

    def events(self, index: int) -> TextEvents:
        """The events of one choice."""
        return TextEvents(self.stamp, index)


class TextEvents:
    """The events of one choice."""

    def __init__(self, stamp: Stamp, index: int) -> None:
        self._stamp = stamp
        self._index = index
        self._fingerprint = ""
        self._logprobs = _Logprobs()
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

    def __init__(self) -> None:
        self._offset = 0

    def add(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """The next tokens; None when none of them wrote anything."""
        tokens = written(tokens)
        if not tokens:
            return None
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.token)
        return {
            "tokens": [_name(token.token) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{_name(text): finite(logprob) for text, logprob in token.top} for token in tokens],
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
