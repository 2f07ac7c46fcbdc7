"""What a model said, without what it thought aloud.

Notable: reasoning models write their thought between marks of their own, and a token limit may come before its end; a
template may have opened the thought for them. A thought is never read as an answer. Not here: what the answer means.
"""

from __future__ import annotations

import re

_READ_CHARS = 200_000
_NAMES = r"(?:think(?:ing)?|thoughts?|reasoning|seed:think)"
_OPEN = rf"(?:<{_NAMES}>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>)"
_CLOSE = rf"(?:</{_NAMES}>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>)"
_START = re.compile(_OPEN, re.IGNORECASE)
_END = re.compile(_CLOSE, re.IGNORECASE)
_WHOLE = re.compile(rf"{_OPEN}.*?{_CLOSE}", re.DOTALL | re.IGNORECASE)


def spoken(completion: str) -> str:
    """The answer in a completion: no thought, no white space at the ends; empty where the thought has no end.

    Args:
        completion: what a model wrote; at most its first 200,000 characters are looked at.
    """
    text = _WHOLE.sub("", completion[:_READ_CHARS])
    text = _END.split(text)[-1]  # a template may have opened the thought for it
    return _START.split(text)[0].strip()  # and the limit may have come before its end


def thought_unended(completion: str) -> bool:
    """Whether a completion ends within a thought."""
    return _START.search(_WHOLE.sub("", completion[:_READ_CHARS])) is not None
