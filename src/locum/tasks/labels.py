"""``LabelReader``: the label in what a prompted model wrote, or None.

Notable: the ways of reading are tried from the strictest to the loosest, and each gives an answer only when
it is the only one. Labels that differ only by case or punctuation are told apart by exact text, never by
the looser ways. Not here: asking again; an unreadable answer is an invalid answer and is counted.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

_MAX_CHARS = 20_000
_SENTENCE_WORDS = 40
_CUES = r"label|answer|category|class|intent|classification|output|result"
_CUE = re.compile(rf"\b(?:{_CUES})\b\W{{0,4}}(?:is|would be|[:=→])\s*(?P<rest>[^\n]+)", re.IGNORECASE)
_FENCE = re.compile(r"^```\w*\s*\n?(?P<body>.*?)\n?```$", re.DOTALL)
_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able|afraid)|sorry"
    r"|i (?:can(?:no|')t|cannot|could not|couldn't|won't|will not|do not|don't|must decline)"
    r"|as an ai|unable to (?:answer|assist|classify|determine|comply|help)"
    r"|(?:cannot|can't|not possible to) (?:be )?(?:determined?|classif(?:y|ied)|labell?(?:ed)?|answer(?:ed)?"
    r"|assist|help))\b",
    re.IGNORECASE,
)
_NEGATION = frozenset({"not", "no", "isn", "isnt", "never", "neither", "nor", "than", "without", "except", "unlike"})


class LabelReader:
    """Reads one task's labels.

    Args:
        labels: the allowed labels.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = tuple(labels)
        self._exact = {label: label for label in self.labels}
        self._folded = _unambiguous(self.labels, _fold)
        self._bare = _unambiguous(self.labels, lambda label: " ".join(_words(label)))
        self._words = {label: _words(label) for label in self._bare.values()}

    def read(self, completion: str) -> str | None:
        """The label, as it stands in the task; None for a refusal, nothing, or anything not clear.

        Args:
            completion: what the model wrote; only its first 20,000 characters are looked at.
        """
        text = _THINKING.sub("", completion[:_MAX_CHARS]).strip()
        if not text or re.search(r"<think(?:ing)?>", text, re.IGNORECASE):  # thinking that never ended
            return None
        if fenced := _FENCE.match(text):
            text = fenced["body"].strip()
        whole = self._match(text)
        if whole is not None:
            return whole
        is_json, value = _as_json(text)
        if is_json:
            return None if value is None else self._match(value)
        if _REFUSAL.search(text.replace("’", "'")):
            return None
        return self._after_cue(text) or self._first_line(text) or self._in_sentence(text)

    def _match(self, text: str) -> str | None:
        """The label that the whole text is, up to case, spacing and punctuation."""
        text = text.strip()
        return self._exact.get(text) or self._folded.get(_fold(text)) or self._bare.get(" ".join(_words(text))) or None

    def _after_cue(self, text: str) -> str | None:
        """After "Label:", "the answer is": every cue that is followed by a label must name the same one."""
        found = {self._match(rest) or self._match(re.split(r"[.;,(]\s|\s[-–—(]", rest)[0]) for rest in _cued(text)}
        found.discard(None)
        return found.pop() if len(found) == 1 else None

    def _first_line(self, text: str) -> str | None:
        """A label on the first line and an explanation below it."""
        first, _, rest = text.partition("\n")
        return self._match(first) if rest.strip() else None

    def _in_sentence(self, text: str) -> str | None:
        """The only label that a short sentence names, unless it is negated or compared with."""
        words = _words(text)
        if len(words) > _SENTENCE_WORDS:
            return None
        spans = [
            (start, start + len(label_words), label)
            for label, label_words in self._words.items()
            if len("".join(label_words)) > 1  # "a" and "1" stand in sentences that do not mean them
            for start in range(len(words) - len(label_words) + 1)
            if words[start : start + len(label_words)] == label_words
        ]
        longest = [
            (start, end, label)
            for start, end, label in spans
            if not any(s <= start and end <= e and (e - s) > (end - start) for s, e, _ in spans)
        ]
        named = {label for _, _, label in longest}
        if len(named) != 1 or any(_NEGATION & set(words[max(0, start - 4) : start]) for start, _, _ in longest):
            return None
        return named.pop()


def _cued(text: str) -> list[str]:
    return [found["rest"] for found in _CUE.finditer(text)]


def _fold(text: str) -> str:
    """Case, spacing, and quotes or punctuation around it do not matter."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" \"'`´‘’“”«»*_.,;:!?()[]{}<>#-")


def _words(text: str) -> list[str]:
    """Letters and digits only, as words; ``card_arrival``, ``card-arrival`` and ``CardArrival`` are not all one."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


def _unambiguous(labels: tuple[str, ...], key: Callable[[str], str]) -> dict[str, str]:
    """Labels by key, leaving out keys that are empty or that two labels share."""
    seen: dict[str, list[str]] = {}
    for label in labels:
        seen.setdefault(key(label), []).append(label)
    return {name: found[0] for name, found in seen.items() if name and len(found) == 1}


def _as_json(text: str) -> tuple[bool, str | None]:
    """Whether the text is JSON, and the one string it holds: alone, in a list, or as the label of an object."""
    if not text.startswith(('"', "{", "[")):
        return False, None
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False, None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        named = {str(v) for k, v in value.items() if re.fullmatch(_CUES, str(k), re.IGNORECASE)}
        every = list(value.values())
        value = named.pop() if len(named) == 1 else (every[0] if len(every) == 1 else None)
    return True, str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
