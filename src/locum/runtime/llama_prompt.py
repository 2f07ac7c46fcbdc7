"""Prompts as tokens: rendering, counting, and shortening what does not fit the context.

Notable: template and tokenizer run in the engine's process, so what is counted is what will be read. A message that
holds the name of a control token (``<|im_end|>``) would be read as that token, and could forge turns; such a name is
kept out of the template and read as the letters it is made of (``Piece``; a vocabulary that begins every text with a
space does so there, too). Nothing is shortened unless the request asks for it, and what was dropped is counted. Not
here: answering (``llamacpp``, ``openvino_generator``).
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from locum.core.errors import UserError
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_request import chat_fields, refusal, too_long
from locum.schema.message import Message

_TOKENIZE_S = 60.0
_SPECIAL_TOKENS = 4
"""At most so many tokens begin every prompt."""
_TURN_TOKENS = 16
"""At most so many tokens mark a turn."""


class _Context(Protocol):
    @property
    def n_ctx(self) -> int: ...


class TokenizerProcess(Protocol):
    """An engine's process, as far as its template and its tokenizer can be asked."""

    @property
    def settings(self) -> _Context:
        """With the context of one request, in tokens."""
        ...

    @property
    def where(self) -> str:
        """The model's file, for messages."""
        ...

    def post(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Answer ``/apply-template``, ``/tokenize`` or ``/detokenize`` as llama.cpp's server does."""
        ...


@dataclass(frozen=True)
class Piece:
    """A part of a prompt.

    Attributes:
        literal: read as the letters it is made of; else names of control tokens are those tokens.
    """

    text: str
    literal: bool = False


class Prompts:
    """Turns requests into prompts.

    Args:
        process: with the model.
        template: whether the model has a chat template.
        control: names of the control tokens that a message cannot mean; none leaves messages as they are.
        guard: refuses conversations that the template would take too long for.
    """

    def __init__(
        self,
        process: TokenizerProcess,
        *,
        template: bool,
        control: Sequence[str] = (),
        guard: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._process = process
        self._guard = guard
        self._template = template
        longest_first = sorted(control, key=len, reverse=True)
        self._frame: float | None = None
        self._control = re.compile("|".join(map(re.escape, longest_first))) if control else None

    @property
    def n_ctx(self) -> int:
        """Context of one request, in tokens."""
        return self._process.settings.n_ctx

    def require_template(self) -> None:
        """Refuse a conversation that nothing says how to write down.

        Raises:
            UserError: the model has no chat template.
        """
        if not self._template:
            raise UserError(
                "runtime-chat-template",
                "the model has no chat template, so it takes no messages",
                where=self._process.where,
                fix="send a raw prompt, or use an instruction-tuned model",
            )

    def render(self, request: CompletionRequest) -> str:
        """The text that the model reads: the raw prompt, or the messages through the chat template.

        Raises:
            UserError: no template, or the template refuses the messages.
        """
        if request.prompt is not None:
            return request.prompt
        return self._post("/apply-template", self.conversation(request))["prompt"]

    def conversation(self, request: CompletionRequest) -> dict[str, Any]:
        """Messages and tools as the engine's template gets them, which it will be done with in time.

        Raises:
            UserError: no template, or it takes too long for them.
        """
        self.require_template()
        fields = chat_fields(request)
        if self._guard is not None:
            self._guard(fields)
        return fields

    def control_in(self, request: CompletionRequest) -> str | None:
        """The name of a control token that a message holds as text; None when there is none, and for a raw prompt."""
        if self._control is None or request.prompt is not None:
            return None
        found = (self._control.search(message.content) for message in request.messages)
        return next((match[0] for match in found if match is not None), None)

    def pieces(self, request: CompletionRequest) -> list[Piece]:
        """The prompt, in parts that are read as they should be; one part unless a message names a control token.

        Raises:
            UserError: as ``render``; or the template changes messages so much that their parts are not found again.
        """
        if self._control is None or self.control_in(request) is None:
            return [Piece(self.render(request))]
        word = secrets.token_hex(8)  # which no message holds and hardly a template changes
        names: list[str] = []

        def put_aside(match: re.Match[str]) -> str:
            names.append(match[0])
            return f"q{word}q{len(names) - 1}q"

        messages = tuple(
            replace(message, content=self._control.sub(put_aside, message.content)) for message in request.messages
        )
        parts = re.split(f"q{word}q([0-9]+)q", self.render(replace(request, messages=messages)))
        if any(word in part.lower() for part in parts):
            raise UserError(
                "runtime-chat-template",
                f"the chat template rewrites messages, so {names[0]!r} in one of them cannot be told from its own",
                where=self._process.where,
                fix="take it out of the message",
            )
        return [Piece(names[int(part)], literal=True) if place % 2 else Piece(part) for place, part in enumerate(parts)]

    def joined(self, pieces: Sequence[Piece]) -> str | list[int]:
        """A prompt as the engine takes it: a text, or token ids where a part of it is to be read as letters."""
        if any(piece.literal for piece in pieces):
            return self.ids(pieces)
        return "".join(piece.text for piece in pieces)

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of a prompt, with the tokens that begin every prompt."""
        if len(pieces) == 1:
            return self.tokens(pieces[0].text)
        made: list[int] = []
        for place, piece in enumerate(pieces):
            special = not piece.literal
            body = {"content": piece.text, "add_special": place == 0, "parse_special": special}
            made += self._post("/tokenize", body)["tokens"] if piece.text or place == 0 else []
        return made

    def ids_of(self, request: CompletionRequest) -> list[int]:
        """Token ids of the prompt of a request."""
        return self.ids(self.pieces(request)) if request.prompt_ids is None else list(request.prompt_ids)

    def spelled(self, request: CompletionRequest) -> tuple[list[int], list[str], int]:
        """A raw prompt token by token.

        Returns:
            Ids; the text of each, a part of a character as surrogates; and how many begin every prompt and are no part
            of this one.
        """
        text, first = request.prompt or "", 0
        if request.prompt_ids is not None:
            text = self._post("/detokenize", {"tokens": list(request.prompt_ids)})["content"]
        else:
            frame = self.tokens("")
            first = len(frame) if self.tokens(text)[: len(frame)] == frame else 0
        body = {"content": text, "add_special": request.prompt_ids is None, "parse_special": True, "with_pieces": True}
        pieces = self._post("/tokenize", body)["tokens"]
        ids = [int(piece["id"]) for piece in pieces]
        if request.prompt_ids is not None and ids != list(request.prompt_ids):  # their text is split otherwise
            ids = list(request.prompt_ids)
            pieces = [{"piece": self._post("/detokenize", {"tokens": [token]})["content"]} for token in ids]
        said = [piece["piece"] for piece in pieces]
        whole = [part if isinstance(part, str) else bytes(part).decode("utf-8", "surrogateescape") for part in said]
        return ids, whole, first

    def tokens(self, text: str, *, whole: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: any.
            whole: it is a whole prompt: special tokens are recognised, and those that begin every prompt are added.
        """
        body = {"content": text, "add_special": whole, "parse_special": whole}
        return self._post("/tokenize", body)["tokens"]

    def fit(self, request: CompletionRequest) -> tuple[CompletionRequest, int]:
        """Shorten a request to the context, when it may be and must be.

        The oldest turns after the system messages go first, whole, up to the next user's; then the head of what is
        left. Room is kept for ``max_tokens``, but not more than three quarters of the context.

        Returns:
            The request, and how many tokens of the prompt were dropped.

        Raises:
            UserError: ``runtime-too-long`` when what may not be dropped is too long already.
        """
        if not request.truncate or self._most(request) < self.n_ctx:
            return request, 0
        total = self._count(request)
        if total < self.n_ctx:
            return request, 0
        room = max(self.n_ctx - request.max_tokens, self.n_ctx // 4) - 1
        shorter = self._drop_turns(request, room) if request.prompt is None else request
        left = self._count(shorter)
        while left > room:
            shorter = self._drop_head(shorter, left - room)
            left = self._count(shorter)
        return shorter, total - left

    def room(self, request: CompletionRequest) -> int:
        """How many tokens the answer may have: those asked for, as far as prompt and answer fit the context.

        Where slots share a cache, llama.cpp lets a request take the room of others.

        Raises:
            UserError: ``runtime-too-long`` when the prompt fills the context.
        """
        if self._most(request) + request.max_tokens <= self.n_ctx:
            return request.max_tokens
        total = self._count(request)
        if total >= self.n_ctx:
            raise too_long(total, self.n_ctx)
        return min(request.max_tokens, self.n_ctx - total)

    def _most(self, request: CompletionRequest) -> float:
        """At most this many tokens, without counting them: a token is at least a byte; infinite with tools."""
        if request.tools or any(message.tool_calls for message in request.messages):
            return math.inf
        if request.prompt_ids is not None:
            return len(request.prompt_ids)
        texts = [request.prompt or "", *(message.content for message in request.messages)]
        return sum(len(text.encode("utf-8", "replace")) for text in texts) + self._template_tokens(request)

    def _template_tokens(self, request: CompletionRequest) -> float:
        """What the template adds to the messages of a request, at most; infinite where that is not known."""
        if request.prompt is not None:
            return _SPECIAL_TOKENS
        if self._frame is None:
            try:
                self._frame = self._count(CompletionRequest(messages=(Message("user", "a"),)))
            except UserError:  # it may take this request and not that one: then each is counted
                self._frame = math.inf
        return self._frame + _TURN_TOKENS * len(request.messages)

    def _count(self, request: CompletionRequest) -> int:
        return len(self.ids_of(request))

    def _drop_turns(self, request: CompletionRequest, room: int) -> CompletionRequest:
        messages = request.messages
        kept = next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))
        starts = [place for place in range(kept + 1, len(messages)) if messages[place].role == "user"]
        shorter = request
        low, high = 0, len(starts) - 1
        while low <= high:  # the fewest turns dropped that are enough
            middle = (low + high) // 2
            tried = replace(request, messages=messages[:kept] + messages[starts[middle] :])
            if self._count(tried) <= room:
                shorter, high = tried, middle - 1
            else:
                low = middle + 1
        if shorter is request and starts:
            return replace(request, messages=messages[:kept] + messages[starts[-1] :])
        return shorter

    def _drop_head(self, request: CompletionRequest, excess: int) -> CompletionRequest:
        if request.prompt_ids is not None:
            return replace(request, prompt_ids=request.prompt_ids[excess:])
        if request.prompt is not None:
            return replace(request, prompt=self._tail(request.prompt, excess))
        *before, last = request.messages
        return replace(request, messages=(*before, replace(last, content=self._tail(last.content, excess))))

    def _tail(self, text: str, excess: int) -> str:
        ids = self.tokens(text, whole=False)
        if excess >= len(ids):
            raise UserError(
                "runtime-too-long",
                f"even without its oldest part the prompt is {excess - len(ids)} tokens over the context "
                f"of {self.n_ctx}",
                fix="shorten the system message or the tools",
            )
        tail: str = self._post("/detokenize", {"tokens": ids[excess:]})["content"]
        tail = tail.lstrip("\ufffd")  # half a character
        return tail if len(tail) < len(text) else text[1:]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._process.post(path, body, _TOKENIZE_S)
        except EngineRefusedError as error:
            raise refusal(error, self._process.where) from None
