"""Function calls in what a model writes: read while it is written, and told from text.

Notable: a call is ``{"name": …, "arguments": {…}}`` of a function that was offered, at the beginning of the answer or
of a line, or in the tag of the model's template, one or several, fenced or not, with nothing but calls after it. Text
that begins like one is held back until it is known; anything else is text.
Not here: what binds a call (``tool_calls``).
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Collection
from typing import Any

from locum.runtime.completion import ToolCallDelta
from locum.schema.message import ToolCall

_LEAD = re.compile(r"\s*(?:```[a-zA-Z_]*\s+)?(?:<[a-z_]{2,24}>\s*|\[[A-Z_]{2,24}\]\s*)?(?:\[\s*)?")
"""What may stand before a call: a fence, a tag, the bracket of a list."""
_PART_OF_LEAD = re.compile(r"\s*(?:`{1,2}|```[a-zA-Z_]*|(?:```[a-zA-Z_]*\s+)?(?:<[a-z_]{0,24}|\[[A-Z_]{0,24}))?")
_TRAIL = re.compile(r"\s*(?:[,;]\s*)?(?:\]\s*)?(?:</[a-z_]{2,24}>\s*)?(?:```\s*)?")
_HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]{1,64})"\s*,\s*"(?:arguments|parameters)"\s*:')
_FIRST_KEY = re.compile(r'\{\s*(?:"([a-z]*)(?:("\s*)(?::\s*(?:"([^"\\]*)("?))?)?)?)?')
_KEYS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
_ID_LETTERS = string.ascii_letters + string.digits
_DECODER = json.JSONDecoder()


def new_call_id() -> str:
    """A name for a call: nine letters and digits, because Mistral's templates take no other."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


class CallReader:
    """Tells calls from text.

    Args:
        names: of the functions that may be called.
        tag: what the model's template writes before a call, wherever the call stands; may be empty.
        fits: whether arguments keep the schema of the function that is named.
        held: functions whose calls are told when they are whole and fit: their grammar says less than their schema.
        binds: whether a call can be bound once its arguments begin (``due``); else it is read in the end.
        tagged: only calls in the tag are calls.

    Attributes:
        text: all that was written.
        due: the function whose arguments begin with the end of ``text``, which is cut there; None when none does.
        over: how many characters were cut there.
        calls: those that are whole.
    """

    def __init__(
        self,
        names: Collection[str],
        tag: str,
        fits: Callable[[str, Any], bool],
        *,
        held: Collection[str] = (),
        binds: bool = True,
        tagged: bool = False,
    ) -> None:
        self._names = names
        self._tag = tag.strip()
        self._fits = fits
        self._held = held
        self._binds = binds
        self._tagged = tagged
        self.text = ""
        self.due: str | None = None
        self.over = 0
        self.calls: list[ToolCall] = []
        self._told = 0  # text before it was told
        self._look = 0  # where the next call may begin, at the earliest
        self._open: tuple[str, str] | None = None  # id and name of the call whose arguments are being written
        self._arguments = 0  # where they begin
        self._ended = 0  # where the last whole call does
        self._scan = _Scan()

    @property
    def pending(self) -> ToolCall | None:
        """The call whose arguments are not whole yet."""
        if self._open is None:
            return None
        return ToolCall(*self._open, self.text[self._arguments :].lstrip())

    @property
    def in_frame(self) -> bool:
        """Whether another call was begun after those that are whole."""
        return "{" in self.text[self._ended :]

    def feed(self, piece: str) -> list[str | ToolCallDelta]:
        """Take what was written; what can be told now."""
        self.text += piece
        said: list[str | ToolCallDelta] = []
        while self.due is None and (self._call(said) if self._open is not None else self._seek(said)):
            pass
        return said

    def finish(self) -> list[str | ToolCallDelta]:
        """The answer has ended; what is left to be told."""
        rest = self.text[self._told :]
        if self._open is not None or not rest:
            return []
        self._told = len(self.text)
        if self.calls and not rest.strip("\n"):
            return []
        found = None if self._tagged else self._whole(self.text[self._look :])
        if found is None:
            return [] if self.calls else [rest]
        before = self.text[self._told - len(rest) : self._look]
        return [*([before] if before.strip() else []), *(self.add(name, arguments) for name, arguments in found)]

    def _seek(self, said: list[str | ToolCallDelta]) -> bool:
        """Look for the next call; whether to go on."""
        while (start := self._next_start()) is not None:
            self._look = start
            opened = self._opened(self.text[start:])
            if opened is None:
                self._look = start + 1
                continue
            name, size, lead = opened
            if name and self._binds and (not self.text[:start].strip() or self.calls or self._in_tag(lead)):
                self._tell(said, start)
                self._begin(name, start + size, said)
                return True
            if not self.calls:
                self._tell(said, start)
            return False
        keep = next((n for n in range(len(self._tag) - 1, 0, -1) if self.text.endswith(self._tag[:n])), 0)
        self._look = len(self.text) - keep
        self._tell(said, self._look)
        return False

    def _tell(self, said: list[str | ToolCallDelta], end: int) -> None:
        """Text up to there is text; what stands between and after bound calls is their frame."""
        piece = self.text[self._told : end]
        self._told = max(self._told, end)
        if piece and not self.calls:
            said.append(piece)

    def _next_start(self) -> int | None:
        """The next place where a call may begin: the answer's, a line's, or that of a tag."""
        if self._look == 0 or self.text[self._look - 1 : self._look] == "\n":
            return self._look if self._look < len(self.text) else None
        places = [self.text.find("\n", self._look) + 1]
        if self._tag:
            places.append(self.text.find(self._tag, self._look))
        if self.calls:  # of the next one in a list
            places.append(self.text.find("{", self._look))
        found = [place for place in places if place >= (1 if place == places[0] else 0) and place < len(self.text)]
        return min(found, default=None)

    def _in_tag(self, lead: str) -> bool:
        return bool(self._tag) and self._tag in lead

    def _opened(self, part: str) -> tuple[str, int, str] | None:
        """What a text begins like: None, no call; else the function (empty while it is not known), how long the text is
        up to its arguments, and what stands before the call.
        """
        lead = _LEAD.match(part)
        at = lead.end() if lead is not None else 0
        if at == len(part):
            return "", 0, part
        if part[at] != "{":
            return ("", 0, "") if _PART_OF_LEAD.fullmatch(part) else None
        if self._tagged and not self._in_tag(part[:at]):
            return None
        head = _HEAD.match(part, at)
        if head is not None:
            return (head[1], head.end(), part[:at]) if head[1] in self._names else None
        first = _FIRST_KEY.match(part, at)
        key, closed, value, whole = first.groups() if first is not None else (None, None, None, None)
        ended = first is not None and first.end() == len(part)
        if key is None or (not closed and not ended):
            return ("", 0, "") if key is None and ended else None
        if not closed:
            return ("", 0, "") if any(known.startswith(key) for known in _KEYS) else None
        if key not in _KEYS:
            return None
        if key == "name" and not (value is None and ended):
            value = value or ""
            known = value in self._names if whole else ended and any(name.startswith(value) for name in self._names)
            return ("", 0, "") if known else None
        return "", 0, ""

    def _begin(self, name: str, arguments: int, said: list[str | ToolCallDelta]) -> None:
        """The arguments of a call begin: what was written after that is not what the grammar would have allowed."""
        self.over = len(self.text) - arguments
        self.text = self.text[:arguments]
        self._told = self._look = self._arguments = arguments
        self._open = (new_call_id(), name)
        self._scan = _Scan()
        self.due = name
        if name not in self._held:
            said.append(ToolCallDelta(len(self.calls), "", *self._open))

    def _call(self, said: list[str | ToolCallDelta]) -> bool:
        """Take arguments; whether they are whole."""
        if self._open is None:
            return False
        name = self._open[1]
        end = self._scan.end(self.text, self._told)
        piece = self.text[self._told : end or len(self.text)]
        if self._told == self._arguments or not self.text[self._arguments : self._told].strip():
            piece = piece.lstrip()
        if name not in self._held and piece:
            said.append(ToolCallDelta(len(self.calls), piece))
        self._told = end or len(self.text)
        if end is None:
            return False
        arguments = self.text[self._arguments : end].lstrip()
        call, self._open = ToolCall(*self._open, arguments), None
        self._look = self._ended = end
        if name in self._held:
            if not self._fits(name, json.loads(arguments)):
                said.append(f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}')
                return True
            said.append(ToolCallDelta(len(self.calls), arguments, call.id, name))
        self.calls.append(call)
        return True

    def _whole(self, part: str) -> list[tuple[str, str]] | None:
        """The calls that a text consists of, each with its arguments; None when it is anything else."""
        found: list[tuple[str, str]] = []
        at = 0
        while at < len(part):
            lead = _LEAD.match(part, at)
            at = lead.end() if lead is not None else at
            try:
                value, at = _DECODER.raw_decode(part, at)
            except (ValueError, RecursionError):
                return None
            call = self._call_of(value)
            if call is None:
                return None
            found.append(call)
            trail = _TRAIL.match(part, at)
            at = trail.end() if trail is not None else at
        return found or None

    def _call_of(self, value: Any) -> tuple[str, str] | None:
        if isinstance(value, dict) and isinstance(value.get("function"), dict) and not set(value) - _KEYS:  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            value = value["function"]  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(value, dict) or set(value) - _KEYS or value.get("name") not in self._names:  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            return None
        arguments: Any = value.get("arguments", value.get("parameters"))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                return None
        name = str(value["name"])  # pyright: ignore[reportUnknownArgumentType]
        if not isinstance(arguments, dict) or not self._fits(name, arguments):
            return None
        return name, json.dumps(arguments, ensure_ascii=False)

    def add(self, name: str, arguments: str) -> ToolCallDelta:
        """Take a call that is whole."""
        call = ToolCall(new_call_id(), name, arguments)
        self.calls.append(call)
        return ToolCallDelta(len(self.calls) - 1, arguments, call.id, name)


class _Scan:
    """Where a JSON object ends that is written piece by piece."""

    def __init__(self) -> None:
        self._deep = 0
        self._quoted = self._escaped = False

    def end(self, text: str, start: int) -> int | None:
        """The place after the object, of which the text from ``start`` on is new; None while it is open."""
        for place in range(start, len(text)):
            char = text[place]
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._quoted = False
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._deep += 1
            elif char in "}]":
                self._deep -= 1
                if self._deep == 0:
                    return place + 1
        return None
