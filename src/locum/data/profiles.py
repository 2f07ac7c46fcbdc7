"""``guess_profile``: what kind of writing a file of inputs and written answers asks for, with the reason.

Notable: by the rows alone: numbers behind ``####``, answers that stand in their input, answers much shorter than it,
answers as long as it in other words. A guess, to be shown and overruled. Not here: which columns these are
(``propose``).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import correlation, fmean, pstdev
from typing import NamedTuple

from locum.schema.kinds import Profile
from locum.tasks.written import several

_MOST = 0.8
_HALF = 0.5
_SHORT_CHARS, _LONG_INPUT_CHARS = 60.0, 300.0
_SUMMARY_SHARE = 0.5
_SHARED_WORDS, _TRANSLATED_WORDS = 0.4, 0.25
_LIKE_LENGTHS = 0.6
_LEAST_ROWS = 5
_LANGUAGES = (
    "en de fr es it pt nl pl cs ru uk ro bg el tr ar he fa hi zh ja ko vi sv da fi no hu english german french "
    "spanish italian portuguese dutch polish russian chinese japanese source src target tgt"
)
LANGUAGES = frozenset(_LANGUAGES.split())
"""Names that columns of translations have."""


class Guess(NamedTuple):
    """A profile and why."""

    profile: Profile
    why: str


def guess_profile(pairs: Sequence[tuple[str, str]], input_name: str, output_name: str) -> Guess:
    """What answers are to their inputs.

    Args:
        pairs: inputs and right answers as a build would read them, some dozens.
        input_name: of the column that is read (the first of several).
        output_name: of the column that is written.
    """
    inputs = [text.casefold() for text, _ in pairs]
    lists = [several(answer) for _, answer in pairs]
    answers = [found[0].casefold() if found else "" for found in lists]
    asked = _share(["?" in text for text in inputs])
    if _share(["####" in answer for answer in answers]) >= _MOST:
        return Guess("maths", "answers end in a number behind ####")
    if asked >= _HALF and _share([_is_number(answer) for answer in answers]) >= _MOST:
        return Guess("maths", "questions whose answers are numbers")
    if _share([answer.startswith("[") for _, answer in pairs]) >= _HALF:
        return Guess("qa", "each row has a list of right answers")
    read, written = fmean(map(len, inputs)), fmean(map(len, answers))
    inside = _share([bool(answer) and answer in text for answer, text in zip(answers, inputs, strict=True)])
    if written <= _SHORT_CHARS and (inside >= _HALF or asked >= _HALF):
        why = f"{inside:.0%} of the answers stand in their input" if inside >= _HALF else "short answers to questions"
        return Guess("qa", why)
    if {input_name.casefold(), output_name.casefold()} <= LANGUAGES:
        return Guess("translate", f"{input_name} and {output_name} name languages")
    shared = fmean(_shared(text, answer) for text, answer in zip(inputs, answers, strict=True))
    if read >= _LONG_INPUT_CHARS and written <= _SUMMARY_SHARE * read and shared >= _SHARED_WORDS:
        return Guess("summarise", f"answers are {written / read:.0%} as long as their input and share its words")
    if asked < _HALF and shared < _TRANSLATED_WORDS and _like_lengths(inputs, answers):
        return Guess("translate", "answers are as long as their input, in other words")
    return Guess("chat", "free text")


def _share(found: Sequence[bool]) -> float:
    return sum(found) / max(1, len(found))


def _is_number(text: str) -> bool:
    return bool(text) and text.strip("$€£% ").replace(",", "").replace(".", "", 1).lstrip("-").isdecimal()


def _shared(text: str, answer: str) -> float:
    """The share of an answer's words that stand in the input."""
    words, known = answer.split(), set(text.split())
    return sum(word in known for word in words) / max(1, len(words))


def _like_lengths(inputs: Sequence[str], answers: Sequence[str]) -> bool:
    """Whether answers are about as long as their inputs, and longer where those are."""
    read, written = [float(len(text)) for text in inputs], [float(len(text)) for text in answers]
    if len(read) < _LEAST_ROWS or not 0.5 <= fmean(written) / max(1.0, fmean(read)) <= 2.0:
        return False
    return pstdev(read) > 0 and pstdev(written) > 0 and correlation(read, written) >= _LIKE_LENGTHS
