"""Spans: micro and per-type F1 and BIO decoding, equal to seqeval on random tags."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest

from locum.core.errors import UserError
from locum.scoring import spans
from locum.stats import rowwise

warnings.filterwarnings("ignore", module="seqeval")
TYPES = ("PER", "ORG", "LOC")


def random_tags(rng: random.Random, count: int, *, clean: bool) -> list[str]:
    """Tags of one text; clean ones never start a span with ``I-``."""
    tags: list[str] = []
    for _ in range(count):
        previous = tags[-1] if tags else "O"
        choices = ["O", *(f"B-{kind}" for kind in TYPES)]
        choices += [f"I-{previous[2:]}"] * 3 if previous != "O" else []
        choices += [] if clean else [f"I-{kind}" for kind in TYPES]
        tags.append(rng.choice(choices))
    return tags


def offsets(tags: list[str]) -> list[tuple[int, int]]:
    """Tokens of three characters and a space."""
    return [(4 * i, 4 * i + 3) for i in range(len(tags))]


def read(rows: list[list[str]], *, strict: bool = False) -> list[list[spans.Span]]:
    return [spans.bio_spans(tags, offsets(tags), strict=strict) for tags in rows]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_equal_to_seqeval_on_random_tags(strict: bool) -> None:
    from seqeval.metrics import classification_report, f1_score
    from seqeval.scheme import IOB2

    rng = random.Random(3)
    options = {"mode": "strict", "scheme": IOB2} if strict else {}
    for _ in range(60):
        lengths = [rng.randrange(1, 12) for _ in range(6)]
        gold = [random_tags(rng, n, clean=True) for n in lengths]
        answered = [random_tags(rng, n, clean=False) for n in lengths]
        if not any("B-" in tag for row in gold for tag in row):
            continue
        ours = spans.span_rows(read(answered, strict=strict), read(gold, strict=strict))
        assert rowwise.value(ours) == pytest.approx(f1_score(gold, answered, zero_division=0, **options))
        report = classification_report(gold, answered, output_dict=True, zero_division=0, **options)
        scores = spans.per_type(read(answered, strict=strict), read(gold, strict=strict))
        for score in scores:
            theirs = report[score.label]
            assert (score.precision, score.recall, score.support) == pytest.approx(
                (theirs["precision"], theirs["recall"], theirs["support"])
            )
            assert score.f1 == pytest.approx(theirs["f1-score"])
        assert spans.macro_f1(scores) == pytest.approx(report["macro avg"]["f1-score"])


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("B-PER I-PER O", [(0, 7, "PER")], [(0, 7, "PER")]),
        ("B-PER B-PER", [(0, 3, "PER"), (4, 7, "PER")], [(0, 3, "PER"), (4, 7, "PER")]),
        ("O I-ORG I-ORG", [(4, 11, "ORG")], []),
        ("B-PER I-ORG", [(0, 3, "PER"), (4, 7, "ORG")], [(0, 3, "PER")]),
        ("B-PER O I-PER", [(0, 3, "PER"), (8, 11, "PER")], [(0, 3, "PER")]),
        ("B-DATE-TIME", [(0, 3, "DATE-TIME")], [(0, 3, "DATE-TIME")]),
    ],
)
def test_bio_decoding(tags: str, lenient: list[spans.Span], strict: list[spans.Span]) -> None:
    words = tags.split()
    assert spans.bio_spans(words, offsets(words)) == lenient
    assert spans.bio_spans(words, offsets(words), strict=True) == strict


@pytest.mark.parametrize("tags", [["X-PER"], ["B-"], ["PER"], ["B-PER", "O"]])
def test_tags_of_another_form_are_refused(tags: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        spans.bio_spans(tags, [(0, 3)])
    assert caught.value.code == "scoring-input"


def test_a_span_counts_only_with_both_ends_and_its_label() -> None:
    gold = [(0, 4, "PER"), (9, 12, "LOC")]
    assert spans.span_f1(gold, gold) == 1.0
    assert spans.span_f1([(0, 4, "ORG"), (9, 12, "LOC")], gold) == 0.5
    assert spans.span_f1([(0, 5, "PER")], gold) == 0.0
    assert spans.span_f1([(0, 4, "PER"), (0, 4, "PER")], [(0, 4, "PER")]) == 1.0  # said twice, counted once


def test_no_spans_on_either_side_is_agreement() -> None:
    assert spans.span_f1([], []) == 1.0
    assert spans.span_f1([(0, 1, "X")], []) == spans.span_f1([], [(0, 1, "X")]) == 0.0
    assert spans.macro_f1([]) == 1.0


def test_rows_are_resampled_without_scoring_again() -> None:
    gold = [[(0, 1, "A")], [(0, 1, "A"), (2, 3, "B")]]
    answered = [[(0, 1, "A")], [(0, 1, "B")]]
    rows = spans.span_rows(answered, gold)
    assert rows.counts.tolist() == [[1, 1, 1], [0, 1, 2]]
    assert rows(np.array([[0, 0], [1, 1], [0, 1]])) == pytest.approx([1.0, 0.0, 2 / 5])


def test_no_rows_are_refused() -> None:
    for score in (spans.span_rows, spans.per_type):
        with pytest.raises(UserError) as caught:
            score([], [])
        assert caught.value.code == "scoring-input"
