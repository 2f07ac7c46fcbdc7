"""``Message``: one turn of a conversation; ``tasks`` writes them and every generator reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ToolCall:
    """A function that a model asks to be called.

    Attributes:
        id: by which the function's result is matched to the call.
        name: the function's.
        arguments: a JSON object, as the model wrote it; it need not be valid.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, user, assistant or tool.
        content: the text; empty when an assistant only called tools.
        tool_calls: what an assistant asked to be called.
        tool_call_id: which call a tool's message answers.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
