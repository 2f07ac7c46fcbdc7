"""Entities: strict span F1, micro and per type, and reading spans out of BIO tags.

Notable: a predicted span counts when start, end and label all equal a gold span's (strict, as seqeval and the
CoNLL script count). Spans are characters ``(start, end, label)``, end exclusive. Not here: the tagger's scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from locum.core.errors import UserError
from locum.scoring.counts import Floats, check_rows, f1_of_counts
from locum.stats.rowwise import Pooled

Span = tuple[int, int, str]


@dataclass(frozen=True)
class SpanScore:
    """Precision, recall and F1 of one type; a ratio without a denominator is 0, as in seqeval.

    Attributes:
        label: the type.
        precision: right of predicted.
        recall: found of gold.
        f1: their harmonic mean.
        support: gold spans.
        predicted: predicted spans.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


def span_counts(predicted: Iterable[Span], gold: Iterable[Span]) -> tuple[int, int, int]:
    """Right, predicted and gold spans of one row; a span that stands there twice counts once."""
    answered, wanted = set(predicted), set(gold)
    return len(answered & wanted), len(answered), len(wanted)


def span_f1(predicted: Iterable[Span], gold: Iterable[Span]) -> float:
    """F1 of one row, in [0, 1]. Degenerate: no span on either side is 1."""
    return float(f1_of_counts(np.array(span_counts(predicted, gold), dtype=np.float64)))


def span_rows(predictions: Sequence[Iterable[Span]], golds: Sequence[Iterable[Span]]) -> Pooled:
    """What each row adds to micro F1: right, predicted and gold spans, ``[n, 3]``.

    Raises:
        UserError: ``scoring-input`` when there are no rows or the counts differ.
    """
    check_rows(len(predictions), len(golds))
    counts = [span_counts(answered, wanted) for answered, wanted in zip(predictions, golds, strict=True)]
    return Pooled(np.array(counts, dtype=np.float64), f1_of_counts)


def per_type(predictions: Sequence[Iterable[Span]], golds: Sequence[Iterable[Span]]) -> tuple[SpanScore, ...]:
    """Scores of every type that is gold or predicted, by name.

    Raises:
        UserError: ``scoring-input`` when there are no rows or the counts differ.
    """
    check_rows(len(predictions), len(golds))
    totals: dict[str, Floats] = {}
    for answered, wanted in zip(map(set, predictions), map(set, golds), strict=True):
        for column, spans in enumerate((answered & wanted, answered, wanted)):
            for _, _, label in spans:
                totals.setdefault(label, np.zeros(3))[column] += 1
    return tuple(_score(label, totals[label]) for label in sorted(totals))


def macro_f1(scores: Sequence[SpanScore]) -> float:
    """Mean F1 over types, each with the same weight. Degenerate: no type at all is 1."""
    return sum(score.f1 for score in scores) / len(scores) if scores else 1.0


def _score(label: str, totals: Floats) -> SpanScore:
    hits, predicted, gold = totals
    precision = hits / predicted if predicted else 0.0
    recall = hits / gold if gold else 0.0
    f1 = float(f1_of_counts(totals))
    return SpanScore(label, float(precision), float(recall), f1, int(gold), int(predicted))


def bio_spans(tags: Sequence[str], offsets: Sequence[tuple[int, int]], *, strict: bool = False) -> list[Span]:
    """The spans that BIO (IOB2) tags name, in order.

    Args:
        tags: ``O``, ``B-TYPE`` or ``I-TYPE``, one a token.
        offsets: start and end of each token, in characters.
        strict: whether an ``I-`` that continues nothing is dropped (seqeval's ``mode="strict"``, ``IOB2``);
            otherwise it opens a span, as in the CoNLL script and seqeval's default.

    Raises:
        UserError: ``scoring-input`` for a tag of another form, or as many offsets as tags are not there.
    """
    if len(tags) != len(offsets):
        raise UserError("scoring-input", f"{len(tags)} tags and {len(offsets)} offsets", fix="give one offset a token")
    spans: list[Span] = []
    open_label: str | None = None
    for tag, (start, end) in zip(tags, offsets, strict=True):
        prefix, _, label = tag.partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not label):
            raise UserError("scoring-input", f"{tag!r} is no BIO tag", fix="tags are O, B-TYPE or I-TYPE")
        if prefix == "I" and label == open_label:
            spans[-1] = (spans[-1][0], end, label)
        elif prefix == "B" or (prefix == "I" and not strict):
            spans.append((start, end, label))
            open_label = label
        else:
            open_label = None
    return spans
