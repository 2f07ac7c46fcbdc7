"""``POST /v1/completions``: text to continue as it is, without a chat template.

Notable: several prompts, each with several choices, come back in one list, prompt by prompt, as OpenAI's API orders
them. Token arrays are refused: ids of one tokenizer mean something else to another. Not here: chats (``chat``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import orjson
from pydantic import Field

from locum.gateway.calls import (
    DONE,
    Answered,
    Opened,
    Stamp,
    error_event,
    event,
    finite,
    truncated_of,
    usage_of,
)
from locum.gateway.documents import (
    MAX_CHOICES,
    Length,
    Penalty,
    Sampling,
    Short,
    StopText,
    StreamOptions,
    Text,
    read_document,
    refuse,
    seeded,
    stops,
)
from locum.gateway.errors import ApiError
from locum.runtime.completion import Chunk, Completion, CompletionRequest, TokenLogprob

_MAX_TOKENS = 16
"""How many tokens OpenAI's API writes here when nothing is said."""


class TextRequest(Sampling):
    """``POST /v1/completions``."""

    model: Short
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Length | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Annotated[bool, Field(description="Only false: the prompt is not repeated.")] | None = None
    user: Short | None = None


class TextCall:
    """One request for a continuation.

    Args:
        asked: its document.

    Raises:
        ApiError: 400, when fields do not go together.
    """

    def __init__(self, asked: TextRequest) -> None:
        if asked.echo:
            refuse("echo", "the prompt is not repeated", "unsupported_value")
        self._prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        if len(self._prompts) * (asked.n or 1) > MAX_CHOICES:
            refuse("n", f"at most {MAX_CHOICES} choices over all prompts")
        self._asked = asked
        self.stamp = Stamp(asked.model, "cmpl-")

    @classmethod
    def read(cls, body: bytes) -> TextCall:
        """From a body.

        Raises:
            ApiError: 400, naming the field at fault.
        """
        return cls(read_document(TextRequest, body))

    @property
    def model(self) -> str:
        """The model as it was asked for."""
        return self._asked.model

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted piece by piece."""
        return self._asked.stream is True

    def requests(self, max_tokens: int) -> list[CompletionRequest]:
        """One for each prompt and choice."""
        asked = self._asked
        first = CompletionRequest(
            (),
            max_tokens=asked.max_tokens or min(_MAX_TOKENS, max_tokens),
            stop=stops(asked.stop),
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            logprobs=asked.logprobs,
            **asked.sampling(),
        )
        return [
            replace(first, prompt=prompt, seed=seeded(asked.seed, index))
            for prompt in self._prompts
            for index in range(asked.n or 1)
        ]

    def body(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """A ``text_completion``."""
        choices = [
            _choice(index, each.completion.text, _Logprobs().add(each.completion.logprobs), each.completion)
            for index, each in enumerate(answers)
        ]
        return {
            **_head(self.stamp, answers[0].opened.fingerprint, choices),
            "usage": usage_of(answers),
            "locum": answers[0].opened.origin.to_json(truncated_of(answers)),
        }

    def events(self, index: int) -> TextEvents:
        """The events of one choice."""
        return TextEvents(self.stamp, index)

    def tail(self, answers: Sequence[Answered]) -> bytes:
        """The counts, when they were asked for, and ``[DONE]``."""
        options = self._asked.stream_options
        if options is None or not options.include_usage:
            return DONE
        return event({**_head(self.stamp, answers[0].opened.fingerprint, []), "usage": usage_of(answers)}) + DONE

    def failure(self, error: ApiError) -> bytes:
        """The envelope, as an event."""
        return error_event(error)


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
        if not chunk.logprobs:
            return self._before + orjson.dumps(chunk.text) + self._after if chunk.text else b""
        return self._event(chunk.text, self._logprobs.add(chunk.logprobs))

    def end(self, completion: Completion) -> bytes:
        """Why it ended."""
        return event(_head(self._stamp, self._fingerprint, [_choice(self._index, "", None, completion)]))

    def _event(self, text: str, logprobs: dict[str, Any] | None = None, **more: Any) -> bytes:
        return event({**_head(self._stamp, self._fingerprint, [_choice(self._index, text, logprobs, None)]), **more})


class _Logprobs:
    """Tokens in the older form, with their offsets in the text of the choice so far."""

    def __init__(self) -> None:
        self._offset = 0

    def add(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """The next tokens; None for none."""
        if not tokens:
            return None
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.token)
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{text: finite(logprob) for text, logprob in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _head(stamp: Stamp, fingerprint: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": stamp.identifier,
        "object": "text_completion",
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": fingerprint,
        "choices": choices,
    }


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, completion: Completion | None) -> dict[str, Any]:
    reason = None if completion is None else completion.finish_reason
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
