"""Prompts as tokens: rendering, counting, and shortening what does not fit the context.

Notable: template and tokenizer run in the engine's process, so what is counted is what will be read. Nothing is
shortened unless the request asks for it, and what was dropped is counted. Not here: answering (``llamacpp``,
``openvino_generator``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from locum.core.errors import UserError
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_request import chat_fields, refusal

_TOKENIZE_S = 60.0


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


class Prompts:
    """Turns requests into prompts.

    Args:
        process: with the model.
        template: whether the model has a chat template.
    """

    def __init__(self, process: TokenizerProcess, *, template: bool) -> None:
        self._process = process
        self._template = template

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
        self.require_template()
        return self._post("/apply-template", chat_fields(request))["prompt"]

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
        if not request.truncate or self._surely_fits(request):
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

    def _surely_fits(self, request: CompletionRequest) -> bool:
        """A token is at least a byte, and half of the context is enough for what a template adds."""
        texts = [request.prompt or "", *(message.content for message in request.messages)]
        turns = len(request.messages)
        calls = any(message.tool_calls for message in request.messages)
        length = sum(len(text.encode("utf-8", "replace")) for text in texts) + 16 * turns
        return not request.tools and not calls and 2 * length < self.n_ctx

    def _count(self, request: CompletionRequest) -> int:
        return len(self.tokens(self.render(request)))

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
