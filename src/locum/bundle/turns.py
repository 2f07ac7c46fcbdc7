"""A chat template as the words around each turn, learnt from what the engine renders, and as a template of Ollama.

Notable: Ollama's templates are in Go's language, and no program turns Jinja into that. Most chat templates only put
fixed words around each turn; those words are found by rendering conversations whose contents are known, and a template
that does anything else is refused, because further conversations then come out differently. Not here: the engine's
rendering (``runtime.llama_template``), tools and images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from locum.core.errors import LocumError
from locum.schema.message import Message

Render = Callable[[Sequence[Message]], str]

_SYSTEM, _FIRST, _ANSWER, _SECOND = "locumsystem", "locumfirst", "locumanswer", "locumsecond"
_BREAKING = ("{{", "}}", '"""')


@dataclass(frozen=True)
class Turns:
    """The words around each turn.

    Attributes:
        system: before and after the system's text.
        no_system: what stands there when a conversation has none.
        user: before and after a user's text.
        assistant: before and after an answer.
        ask: before the answer that is to be written.
    """

    system: tuple[str, str]
    no_system: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    ask: str

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as ``go_template`` would write it."""
        texts = [message.content for message in messages if message.role == "system"]
        parts = ["\n\n".join(texts).join(self.system) if texts else self.no_system]
        for message in messages:
            if message.role != "system":
                parts.append(message.content.join(self.user if message.role == "user" else self.assistant))
        return "".join([*parts, self.ask])

    def go_template(self) -> str:
        """As Ollama reads it: ``TEMPLATE`` of a Modelfile.

        Source: https://docs.ollama.com/modelfile, and the package text/template of Go.
        """
        system = "{{ if .System }}" + "{{ .System }}".join(self.system) + "{{ else }}" + self.no_system + "{{ end }}"
        user = '{{ if eq .Role "user" }}' + "{{ .Content }}".join(self.user)
        assistant = '{{ else if eq .Role "assistant" }}' + "{{ .Content }}".join(self.assistant)
        return f"{system}{{{{ range .Messages }}}}{user}{assistant}{{{{ end }}}}{{{{ end }}}}{self.ask}"


def learn_turns(render: Render, where: str) -> Turns:
    """Find the words around each turn.

    Args:
        render: a conversation as the model reads it.
        where: the model, for messages.

    Raises:
        LocumError: the template does more than put words around turns (``bundle-layout``).
    """
    bare = render(_messages(None, _FIRST)).split(_FIRST)
    whole = render(_messages(_SYSTEM, _FIRST, _ANSWER, _SECOND))
    pieces: list[str] = []
    for content in (_SYSTEM, _FIRST, _ANSWER, _SECOND):
        before, found, whole = whole.partition(content)
        if not found:
            raise _refused(f"a turn's text is left out or moved ({content})", where)
        pieces.append(before)
    if len(bare) != 2:
        raise _refused("a user's text does not stand there once", where)
    before_system, after_system, after_user, after_answer, after_last = *pieces, whole
    user = _suffix([bare[0], after_system, after_answer]), _prefix([after_user, after_last])
    turns = Turns(
        system=(before_system, after_system.removesuffix(user[0])),
        no_system=bare[0].removesuffix(user[0]),
        user=user,
        assistant=(after_user.removeprefix(user[1]), after_answer.removesuffix(user[0])),
        ask=after_last.removeprefix(user[1]),
    )
    for messages in _PROBES:
        if turns.render(messages) != render(messages):
            shape = ", ".join(message.role for message in messages)
            raise _refused(f"{shape} is not written as words around turns", where)
    if any(breaking in "".join((*turns.system, turns.no_system, *user, *turns.assistant)) for breaking in _BREAKING):
        raise _refused(f"its words hold one of {', '.join(_BREAKING)}", where)
    return turns


def _messages(system: str | None, *turns: str) -> tuple[Message, ...]:
    first = () if system is None else (Message("system", system),)
    roles = ("user", "assistant")
    return (*first, *(Message(roles[place % 2], content) for place, content in enumerate(turns)))


_PROBES = (
    _messages(None, "How?"),
    _messages("Be brief.", "Why?"),
    _messages(None, "A {b}\n\nc", "d: e", "f"),
    _messages("S", "1", "2", "3", "4", "5"),
)


def _suffix(texts: Sequence[str]) -> str:
    return _prefix([text[::-1] for text in texts])[::-1]


def _prefix(texts: Sequence[str]) -> str:
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _refused(what: str, where: str) -> LocumError:
    return LocumError(
        "bundle-layout",
        f"its chat template has no form in Ollama: {what}",
        where=where,
        fix="serve it with `locum serve`, or write the Modelfile's TEMPLATE by hand",
    )
