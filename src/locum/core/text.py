"""Text that people will see: control characters made visible, so that nothing hidden steers a reader.

Notable: a data set or a request may hold ANSI escapes, bidirectional overrides or zero-width characters
that reorder or hide text in a terminal, a log or a page. ``visible`` spells each as its code point.
Not here: escaping for HTML (jinja does it) or for Markdown (``report.card``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline; DEL and C1
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # bidi, zero-width
    "\U000e0000-\U000e007f"  # tags, invisible copies of ASCII
    "\ud800-\udfff]"  # surrogates, which cannot be encoded
)


def _spelled(match: re.Match[str]) -> str:
    return f"⟨U+{ord(match.group()):04X}⟩"


def visible(text: str) -> str:
    """The text with every control, bidirectional, zero-width and surrogate character as ``⟨U+202E⟩``.

    Tab and newline stay. What comes back can always be encoded as UTF-8.
    """
    return _HIDDEN.sub(_spelled, text)


def one_line(text: str, limit: int = 200) -> str:
    """``visible`` text on one line, cut to ``limit`` characters with an ellipsis: for logs and messages."""
    flat = " ".join(visible(text[: 4 * limit]).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def count_of(count: int, what: str) -> str:
    """A number of things, as a sentence begins: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def html_table(title: str, facts: Mapping[str, object]) -> str:
    """A small table for notebooks; every text in it is escaped, so none can be markup."""
    from html import escape  # `locum --help` need not wait for its table of entities

    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(visible(name))}</th>"
        f"<td style='text-align:left'>{escape(visible(str(value)))}</td></tr>"
        for name, value in facts.items()
        if value is not None
    )
    return f"<table><caption style='text-align:left'>{escape(visible(title))}</caption>{rows}</table>"
