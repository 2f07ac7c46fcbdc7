"""``is_refusal``: whether a written answer declines what it was asked instead of answering.

Notable: only a short answer that begins by saying so is a refusal, and only when what it declines is the request itself
("I can't help with that", "I'm unable to translate this text"). So an answer stays one that is sorry about something,
or says what a shop cannot do, or goes on with a "but". Where the input says such a thing too, an answer may quote it,
shorten it or take it up, and stays one as well. English alone is known. Not here: labels, whose reader knows looser
words wherever they stand (``tasks.labels``), because a label is no sentence.
"""

from __future__ import annotations

import re

_MOST_WORDS = 40
_SORRY = (
    r"(?:(?:(?:i'm|i am|we're|we are) (?:very |so |truly |really )?(?:sorry|afraid)|sorry|unfortunately|my apologies"
    r"|apologies|i apologi[sz]e),?(?: but| that)? )"
)
_AI = r"(?:as an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.,\n]{0,40},? )"
_CANNOT = r"(?:i|we) (?:can't|cannot|can not|couldn't|could not|won't|will not)"
_UNABLE = (
    rf"(?:{_CANNOT}|(?:i|we) (?:must|have to) decline to"
    r"|(?:i'm |i am |we're |we are )?(?:unable|not able|not allowed|not permitted) to)"
)
_REQUEST = (
    r"(?:request|question|task|problem|query|prompt|instructions?|text|passage|article|document|input|candidates)"
)
_THAT = rf"(?:(?:your|the|this|that|these|those|such)(?: \w+){{0,2}} {_REQUEST}|that|this|these|those|it)"
_ANSWER = r"(?:(?:an?|any|the|you) )*(?:answers?|summary|translations?|solutions?|response|ranking|code)"
_VERB = (
    r"(?:answer|complete|fulfil+|respond to|comply with|process|translate|summari[sz]e|solve|rank|determine|discuss"
    r"|write|generate|create|produce|provide|engage (?:with|in))"
)
_REST = r"\b[^.!?\n]{0,200}"
_DECLINED = rf"(?:(?:help|assist)(?: you)?(?: (?:with|on) {_THAT}{_REST})?|comply|{_VERB} (?:{_THAT}|{_ANSWER}){_REST})"
_END = r"""(?=["'”»*]*(?:[.!?\n]|$))"""
_REFUSAL = re.compile(
    rf"{_SORRY}?{_AI}?{_UNABLE}(?![^.!?\n]{{0,200}}\bbut\b) {_DECLINED}{_END}"
    rf"|{_SORRY}{_AI}?{_CANNOT}{_END}"  # nothing follows: "I'm sorry, I can't."
    rf"|{_SORRY}?{_AI}i (?:can't|cannot|do not|don't|am not|am unable|'m unable)\b"
)


def is_refusal(said: str, given: str = "") -> bool:
    """Whether an answer declines its request.

    Args:
        said: the answer.
        given: the input it was asked about.
    """
    return (
        len(said.split()) <= _MOST_WORDS
        and _REFUSAL.match(_plain(said).lstrip("\"'`*“«- ")) is not None
        and _REFUSAL.search(_plain(given)) is None
    )


def _plain(text: str) -> str:
    """Lower case, one form of the apostrophe, lines with single spaces."""
    lines = text.casefold().replace("’", "'").splitlines()
    return "\n".join(" ".join(line.split()) for line in lines)
