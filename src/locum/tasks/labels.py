"""``LabelReader``: the label in what a prompted model wrote, or None.

Notable: it never invents one. Ways of reading are tried from the strictest to the loosest; each label that an answer
names must be the same, stand by itself (no "non-spam", no "1/10", no "card payments") and be denied by nothing
(``label_words``). Labels that differ only by case or punctuation are told apart by exact text, never by the looser
ways. Not here: asking again; an unreadable answer is an invalid answer and is counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from locum.scoring.spoken import spoken, thought_unended
from locum.tasks import label_words as words
from locum.tasks.json_answer import found_json, read_json

_MAX_CHARS = 20_000
_SENTENCE_WORDS = 40
_CUES = (
    r"(?:final |correct |best |predicted |overall )?(?:label|answer|category|class|intent|classification|output|result"
    r"|sentiment|prediction|rating|score|verdict|topic|choice|decision)s?"
)
_CUE = re.compile(
    rf"\b(?:{_CUES})\b(?:\W{{0,4}}[:=→]|\W{{1,4}}(?:is|would be|ist|est|es)\b:?)\s*(?P<rest>[^\n]+)", re.IGNORECASE
)
_CUE_WORD = re.compile(rf"(?i)\b(?:{_CUES})\b")
_KEY = re.compile(rf"(?:{_CUES}|value|name|tag)", re.IGNORECASE)
_NO_KEY = re.compile(r"(?i)\b(?:not|un\w+|non|ex\w*|error|inputs?|text|message|confidence|prob\w*|why|reason\w*)\b")
_FENCE = re.compile(r"^```\w*\s*\n?(?P<body>.*?)\n?```$", re.DOTALL)
_FRAME = re.compile(r"</?[a-z][\w-]*>|\$?\\boxed\{(?:\\\w+\{)?|\}+\$")
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able|afraid)|sorry"
    r"|i (?:can(?:no|')t|cannot|could not|couldn't|won't|will not|do not|don't|must decline)"
    r"|as an ai|unable to (?:answer|assist|classify|determine|comply|help)"
    r"|(?:cannot|can't|not possible to) (?:be )?(?:determined?|classif(?:y|ied)|labell?(?:ed)?|answer(?:ed)?"
    r"|assist|help))\b",
    re.IGNORECASE,
)
_SOFT = frozenset(" \t\n_-–‐‑/&.'")
_SIGNS = frozenset("_-–—.,;:!?()[]{}\"'`´‘’“”«»*•·|…、。，#→⇒✅✔☑")
_LEADING = re.compile(r"^(?:[\s\"'`´‘’“”«»*_(\[{:,•·|✅✔☑]|[#>]+(?=\s|[^\W\d])|[-–—](?=\s|[^\W\d])|<(?=.*>\W*$))+")
_TRAILING = re.compile(r"[\s\"'`´‘’“”«»*_)\]}>.,;:!?|…。]+$")
_CLOSING = re.compile(r"[\"'`´’”»*)\]}]*(?:_(?!\w))?")
_OPENING = re.compile(r"[\"'`´‘“«*(\[{_\s]*")
_GAP = re.compile(r"[ \t_\-–/&.]*")


class _Word(NamedTuple):
    text: str
    start: int
    end: int


class _Mention(NamedTuple):
    """A label in a text, by its words; ``label`` is None where several labels have these words."""

    label: str | None
    start: int
    end: int
    longer: bool  # another label begins with these words and goes on


class LabelReader:
    """Reads one task's labels.

    Args:
        labels: the allowed labels.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = tuple(labels)
        self._exact = frozenset(self.labels)
        self._most_chars = 4 * max(map(len, self.labels), default=0) + 100  # a label among marks
        self._folded = _unambiguous(self.labels, _fold)
        self._bare = _unambiguous(self.labels, lambda label: " ".join(_symbols(_trim(_plain(label)))))
        self._named: dict[tuple[str, ...], list[str]] = {}
        for label in self.labels:
            if found := tuple(word.text for word in _words(_plain(label))):
                self._named.setdefault(found, []).append(label)

    def read(self, completion: str) -> str | None:
        """The label, as it stands in the task; None for a refusal, nothing, or anything not clear.

        Args:
            completion: what the model wrote; only its first 20,000 characters are looked at.
        """
        text = spoken(completion[:_MAX_CHARS])
        if not text or thought_unended(completion[:_MAX_CHARS]):
            return None
        if fenced := _FENCE.match(text):
            text = fenced["body"].strip()
        whole = self._match(text)
        if whole is not None:
            return whole
        found = self._in_json(text)
        if found is not None:
            return found[0]
        if _REFUSAL.search(text.replace("’", "'")):
            return None
        said = _plain(_FRAME.sub("\n", text)).strip()
        named = {*self._after_cues(said), *self._on_lines(said)}
        if named:
            return named.pop() if len(named) == 1 else None
        return self._match(said) or self._in_sentence(said)

    def _match(self, text: str) -> str | None:
        """The label that the whole text is, up to case, spacing and punctuation."""
        text = text.strip()
        if text in self._exact:
            return text
        if len(text) > self._most_chars:
            return None
        plain = _plain(text)
        if re.match(r"[\W_]*\[\s*\]", plain):  # a box that is not ticked, or an empty list
            return None
        return self._folded.get(_fold(plain)) or self._bare.get(" ".join(_symbols(_trim(plain)))) or None

    def _in_json(self, text: str) -> tuple[str | None] | None:
        """What the JSON in a text names, which may be no label; None where the text holds no JSON that is about it."""
        whole = text.startswith(('"', "{", "["))
        if whole:
            try:
                return (self._in_value(read_json(text)),)
            except ValueError:
                pass
        found = {self._in_value(each.value) for each in found_json(text)} - {None}
        return (found.pop() if len(found) == 1 else None,) if found else None

    def _in_value(self, value: Any, deep: int = 0) -> str | None:
        """The label that a value is: alone, alone in a list, or under the key of an object that means the answer."""
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict) and deep < 4:
            keyed = [each for key, each in value.items() if _KEY.fullmatch(str(key).strip().replace("_", " "))]
            named = {self._in_value(each, deep + 1) for each in keyed}
            if keyed:
                return named.pop() if len(named) == 1 else None
            ((key, only),) = value.items() if len(value) == 1 else ((None, None),)
            usable = isinstance(only, str | dict | list) and not _NO_KEY.search(str(key).replace("_", " "))
            return self._in_value(only, deep + 1) if usable else None
        is_name = isinstance(value, str | int) and not isinstance(value, bool)
        return self._match(str(value)) if is_name else None

    def _after_cues(self, text: str) -> Iterator[str]:
        """The labels right after "label:", "the answer is"."""
        for cue in _CUE.finditer(text):
            rest = cue["rest"]
            start = cue.start("rest")
            whole = self._match(rest)
            if whole is not None and not _asks(rest, whole):
                yield whole
                continue
            at = start + (_OPENING.match(rest) or cue).end() if rest else start
            mentions = [each for each in self._mentions(text[start : cue.end()], start) if each.start == at]
            for each in mentions:
                if each.label is not None and self._ends(text, each):
                    yield each.label

    def _on_lines(self, text: str) -> Iterator[str]:
        """The labels that whole lines are, where there are several: an answer with its explanation."""
        lines = [line for line in text.split("\n") if line.strip()]
        found = [None if (label := self._match(line)) and _asks(line, label) else label for line in lines]
        for index in (0, len(lines) - 1) if len(lines) > 1 else ():
            label = found[index]
            if label is None:
                continue
            before, after = (lines[index - 1] if index else ""), "".join(lines[index + 1 : index + 2])
            introduced = _texts(before)[0 if before.rstrip().endswith(":") else -1 :]
            denied = not before.rstrip().endswith((".", "!")) and any(map(words.negates, introduced))
            taken_back = set(_texts(after)[:1]) & words.CORRECTIONS and label != self._match(after)
            listed = index and _numeric(label) and not _CUE_WORD.search(before) and before.rstrip()[-1] not in ".!"
            if not (denied or taken_back or listed):
                yield from {each for each in found if each is not None}

    def _in_sentence(self, text: str) -> str | None:
        """The only label that a short text names, where it stands by itself and nothing denies it."""
        text = words.SURE_IDIOMS.sub("", text)
        said = _words(text)
        mentions = list(self._mentions(text))
        if len(said) > _SENTENCE_WORDS or len({each.label for each in mentions}) != 1 or None in mentions[0]:
            return None
        label = str(mentions[0].label)
        if _numeric(label):
            numbers = {word.text for word in said if word.text[0].isdigit() or word.text in words.NUMBER_WORDS}
            if len(numbers) > 1:
                return None
        if any(self._denied(text, each) for each in mentions) or words.DENIED_AFTER.search(text):
            return None
        clear = any(self._begins(text, each) and self._ends(text, each) for each in mentions)
        return label if clear and len("".join(_texts(label))) > 1 else None  # "a" stands where it is not meant

    def _mentions(self, text: str, offset: int = 0) -> Iterator[_Mention]:
        """Labels in a text, the longest of those that lie in one another; letters alone are not looked for."""
        said = _words(text)
        until = 0
        longest = max(map(len, self._named), default=0)
        for start in range(len(said)):
            if start < until:
                continue
            for end in range(min(len(said), start + longest), start, -1):
                run = said[start:end]
                key = tuple(word.text for word in run)
                named = self._named.get(key)
                joined = all(_GAP.fullmatch(text[a.end : b.start]) for a, b in pairwise(run))
                if named is None or not joined or (not offset and key[0].isalpha() and len("".join(key)) == 1):
                    continue
                longer = any(len(other) > len(key) and other[: len(key)] == key for other in self._named)
                exact = [label for label in named if label == text[run[0].start : run[-1].end]]
                label = (exact or named)[0] if len(exact or named) == 1 else None
                yield _Mention(label, offset + run[0].start, offset + run[-1].end, longer)
                until = end
                break

    def _denied(self, text: str, mention: _Mention) -> bool:
        """Whether a word before a label in its sentence denies it."""
        sentence = re.split(r"[.!?\n;]\s", text[: mention.start])[-1]
        before = re.split(r"\b(?:because|since|so|therefore|thus|hence)\b", sentence)[-1]
        return any(map(words.negates, _texts(before)))

    def _begins(self, text: str, mention: _Mention) -> bool:
        """Whether what stands before a label leaves it standing by itself."""
        before = text[: mention.start]
        opened = before.rstrip("\"'`´‘“«*([{_")
        if re.search(r"[^\W_]$|[-+/&%$#=<>~@^\\!¬≠≤≥]\s?$", before) and not re.search(r"\s[-–—]\s$", before):
            return False
        said = _texts(opened)
        last = opened.rstrip()[-1:]
        if (last and not last.isalnum() and last not in _SIGNS) or re.search(r"\[\s*\]\s*$", before):
            return False
        if not said or last in ":.;!?,—–-\n" or "\n" in opened[len(opened.rstrip()) :]:
            return last not in (",", "?")
        label = str(mention.label)
        if _numeric(label):
            return said[-1] in words.NUMBER_BEFORE
        if label.casefold() in words.PLAIN:
            return said[-1] in words.PLAIN_BEFORE
        while said and said[-1] in words.ARTICLES:
            said.pop()
        if not said:
            return True
        instance = said[-1] == "of" and bool(words.CASES & set(said[-2:-1]))
        adverb = said[-1].endswith("ly") and said[-1] not in words.UNSURE_ADVERBS
        marked = opened != before and before[-1] in "`*"
        chosen = said[-2:] == ["go", "with"]
        likened = chosen or (
            said[-1] == "like" and said[-2:-1] in (["looks"], ["sounds"], ["seems"], ["feels"], ["reads"])
        )
        return said[-1] in words.BEFORE or instance or likened or adverb or marked or "_" in label

    def _ends(self, text: str, mention: _Mention) -> bool:
        """Whether what follows a label leaves it standing by itself."""
        rest = text[mention.end :].removeprefix("?" if str(mention.label).endswith("?") else "")
        closed = (_CLOSING.match(rest) or re.match("", rest)).end()  # pyright: ignore[reportOptionalMemberAccess]
        marked, rest = closed > 0, rest[closed:]
        clause = _texts(re.split(r"[.!?\n;]", rest.lstrip(" \n.!;,:—–-("))[0])
        first = clause[0] if clause else ""
        if not rest.strip(" |") or rest.lstrip(" ")[0] == "\n":
            return first not in words.CORRECTIONS
        if mention.longer and self._goes_on(mention, first):
            return False
        if re.match(r"[.;!]+(?:[\s\"')*]|$)", rest):
            return not set(_texts(rest)[:1]) & words.CORRECTIONS
        denies = words.negates(first) or first in ("yes", "no", "true")
        if re.match(r"\s*[:(]|\s+[-–—=]+>?\s|[–—]", rest):
            return not denies and not (first[:1].isdigit() and rest.lstrip()[0] != "(")
        if rest[0] == ",":
            return first in words.CLAUSE or (marked and rest[1:].lstrip()[:1] in "\"'")
        if not rest[0].isspace():
            return False
        if first in words.VERDICTS:
            praised = first not in ("is", "seems", "would") or bool(words.PRAISE & set(clause[1:5]))
            plain = str(mention.label).casefold() in words.PLAIN
            return praised and not plain and not any(map(words.negates, clause))
        if first in words.NOUNS | {"stars", "star", "points"} and not mention.longer:
            return str(mention.label).casefold() not in words.PLAIN and not any(map(words.negates, clause[1:3]))
        if _numeric(str(mention.label)) and first in ("to", "in", "for"):
            return False
        return first in words.AFTER or (marked and bool(re.match(r"[`*]", text[mention.end :])) and not denies)

    def _goes_on(self, mention: _Mention, word: str) -> bool:
        """Whether a word is as a longer label goes on: "closure" where there is "account closed"."""
        key = tuple(_texts(_plain(str(mention.label))))
        nexts = [other[len(key)] for other in self._named if len(other) > len(key) and other[: len(key)] == key]
        return any(word == each or (len(each) > 3 and word.startswith(each[:4])) for each in nexts)


def _asks(text: str, label: str) -> bool:
    """Whether a label is put as a question."""
    return text.rstrip().endswith("?") and not label.endswith("?")


def _numeric(label: str) -> bool:
    return label.strip()[:1].isdigit()


def _plain(text: str) -> str:
    """Compatible forms and spaces do not matter; lines do."""
    folded = unicodedata.normalize("NFKC", text).replace("’", "'").replace("\ufe0f", "")
    return "\n".join(" ".join(line.split()) for line in folded.splitlines())


def _fold(text: str) -> str:
    """In one case and on one line, without the quotes or punctuation around it."""
    return _trim(" ".join(_plain(text).split())).casefold()


def _trim(text: str) -> str:
    """Without what may stand around a label and means nothing: "- spam", "[spam]"; the minus of "-1" stays."""
    text = _LEADING.sub("", text)
    return text[: match.start()] if (match := _TRAILING.search(text)) else text


def _words(text: str) -> list[_Word]:
    """Runs of letters, marks of letters and digits; a number keeps its point and sign, a word its apostrophe."""
    if text.isascii():
        pattern = r"(?<!\w)[-+]\d+(?:[.,]\d+)*|\d+(?:[.,]\d+)*(?![^\W_])|[^\W_]+(?:'[^\W_]+)*"
        return [_Word(found[0].casefold(), *found.span()) for found in re.finditer(pattern, text)]
    marked = "".join("x" if unicodedata.category(each)[0] == "M" or each in "\u200c\u200d" else each for each in text)
    pattern = r"(?<!\w)[-−+]\d+(?:[.,]\d+)*|\d+(?:[.,]\d+)*(?![^\W_])|[^\W_]+(?:'[^\W_]+)*"
    return [_Word(text[slice(*found.span())].casefold(), *found.span()) for found in re.finditer(pattern, marked)]


def _texts(text: str) -> list[str]:
    return [word.text for word in _words(text)]


def _symbols(text: str) -> list[str]:
    """Words, and every sign that does not merely join two of them, so that "C++" and "A-" are not "C" and "A"."""
    found: list[str] = []
    at = 0
    for word in [*_words(text), _Word("", len(text), len(text))]:
        joins = _SOFT if found and word.text else frozenset(" ")
        found += [sign for sign in text[at : word.start] if sign not in joins]
        found += [word.text] if word.text else []
        at = word.end
    return found


def _unambiguous(labels: tuple[str, ...], key: Callable[[str], str]) -> dict[str, str]:
    """Labels by key, leaving out keys that are empty or that two labels share."""
    seen: dict[str, list[str]] = {}
    for label in labels:
        seen.setdefault(key(label), []).append(label)
    return {name: found[0] for name, found in seen.items() if name and len(found) == 1}
