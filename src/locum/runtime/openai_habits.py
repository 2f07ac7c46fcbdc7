"""What an OpenAI-compatible server takes: learned from what it refuses by name, for as long as the client lives.

Notable: names of fields are changed for every request. A setting is left out only of requests that say that theirs are
no caller's (``flexible``), and the answer tells which; a schema that is refused becomes "any JSON object" first, since
whoever reads such an answer checks it. Not here: sending (``openai``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from locum.core.progress import warn
from locum.runtime.openai_wire import Document, said

_SETTINGS = (
    "temperature",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "response_format",
    "reasoning_effort",
    "verbosity",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "user",
)
_SCHEMA = "json_schema"
"""Left out of ``response_format``, which is then any JSON object."""
_REFUSES = re.compile(
    r"(?i)unsupported|not (?:\w+ )?support|n't support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed"
    r"|extra|not accept|invalid|deprecated|only |must be|cannot|can't|additional propert|not available|incompatible"
)


@dataclass
class ServerHabits:
    """One server's; safe for several threads, since what is learned is only added to."""

    length_field: str = "max_tokens"
    stream_options: bool = True
    refused: set[str] = field(default_factory=set[str])

    def adapt(self, body: Document, left_out: set[str] | None) -> None:
        """Give a request the form that this server takes.

        Args:
            body: changed in place.
            left_out: gets the names of the settings that are left out; None where none may be.
        """
        if "max_tokens" in body and self.length_field != "max_tokens" and "messages" in body:
            body[self.length_field] = body.pop("max_tokens")
        if "stream" in body:
            if self.stream_options:
                body["stream_options"] = {"include_usage": True}
            else:
                body.pop("stream_options", None)
        if left_out is None or not self.refused:
            return
        for name in self.refused & body.keys():
            del body[name]
            left_out.add(name)
        if _SCHEMA in self.refused and body.get("response_format", {}).get("type") == _SCHEMA:
            body["response_format"] = {"type": "json_object"}
            left_out.add(_SCHEMA)

    def learns(self, body: Document, told: bytes, document: Any, *, flexible: bool) -> bool:
        """Whether a refusal says what to send instead, so that the request is to be sent again.

        Args:
            body: as it was sent.
            told: what the server answered.
            document: the same as JSON; None where it is none.
            flexible: whether settings may be left out.
        """
        if "max_tokens" in body and b"max_completion_tokens" in told:
            self.length_field = "max_completion_tokens"
            return True
        if "stream_options" in body and b"stream_options" in told:
            self.stream_options = False
            return True
        name = _refused(body, told.decode("utf-8", "replace"), document) if flexible else None
        if name is None:
            return False
        if name == "response_format" and body["response_format"].get("type") == _SCHEMA:
            name = _SCHEMA
        if name not in self.refused:
            self.refused.add(name)
            warn(f"the LLM's server refuses {name}: it is asked without, so its own setting holds")
        return True


def _refused(body: Document, told: str, document: Any) -> str | None:
    """The setting of a request that a server refuses by name."""
    error = document.get("error") if isinstance(document, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    sent = [name for name in _SETTINGS if name in body]
    if isinstance(param, str) and param:
        root = re.split(r"[.\[]", param)[0]
        return root if root in sent else None
    told = said(document, 2000) or told  # not its type: every fault is an "invalid_request_error"
    if not _REFUSES.search(told):
        return None
    for name in sent:
        plain = name not in ("stop", "user", "verbosity")  # an everyday word counts only where it is quoted
        quoted = rf"""["'`\\]{name}["'`\\.]"""
        if re.search(rf"{quoted}|\b{name}\b" if plain else quoted, told):
            return name
    return None
