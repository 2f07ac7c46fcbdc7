"""Spans of a text as it was given, put in place in the text as it is read.

Notable: normalising moves characters (line ends, composed letters, invisible characters, white space at the ends). The
text is cut at every span's ends, each piece is normalised, and the pieces must give the normalised whole again: then
their lengths are the new places. Where they do not, a span ends inside a character, and the row is refused rather than
guessed at. Not here: what a span may look like in a file (``tasks.tag``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from locum.data.normalise import Count, unstripped
from locum.scoring.spans import Span
from locum.tasks.tag import GivenSpan, check_spans
from locum.tasks.written import GoldFault


def place_spans(raw: str, spans: Sequence[GivenSpan], kept: str, count: Count) -> list[Span]:
    """Spans of a raw text as spans of the text that is kept of it.

    Args:
        raw: the text as the file has it.
        spans: in characters of ``raw``.
        kept: ``normalise(raw)``, or its beginning where it was too long.
        count: called with ``span_beyond_cut`` for each span that the kept text does not hold whole; it is left out.

    Raises:
        GoldFault: a span is not within the text, overlaps another, quotes another text, ends inside a character, or
            holds nothing that stays; the message says which.
    """
    check_spans(spans, raw)
    bounds = sorted({0, len(raw), *(span.start for span in spans), *(span.end for span in spans)})
    pieces = [unstripped(raw[start:end]) for start, end in pairwise(bounds)]
    whole = unstripped(raw)
    if "".join(pieces) != whole:
        raise GoldFault("a span begins or ends inside a character that is written as several")
    stripped = whole.strip()
    leading = len(whole) - len(whole.lstrip())
    ends = accumulate((len(piece) for piece in pieces), initial=-leading)
    places = {bound: min(max(end, 0), len(stripped)) for bound, end in zip(bounds, ends, strict=True)}
    placed: list[Span] = []
    for span in spans:
        start, end = places[span.start], places[span.end]
        if not stripped[start:end].strip():
            raise GoldFault(f"span {span.start} to {span.end} ({span.label}) holds only characters nobody can see")
        if end > len(kept):
            count("span_beyond_cut")
        else:
            placed.append((start, end, span.label))
    return placed
