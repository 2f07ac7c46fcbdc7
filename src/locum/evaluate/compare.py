"""Two models on the same rows, with a verdict in one sentence.

Notable: a share of right answers is compared by McNemar's mid-p test and a paired interval, any other metric by a
paired bootstrap. Where rows belong together, whole groups are drawn, and signs of whole groups are flipped in place of
McNemar's test; "no difference was shown" is said where that is so, and never "equal". Not here: choosing
(``evaluate.choose``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from locum.evaluate.metrics import document
from locum.evaluate.scored import Scored, count_groups, require_same_rows, rows_of_groups
from locum.schema.evaluation import Comparison
from locum.schema.evaluation import Interval as IntervalDocument
from locum.stats.clusters import sign_flip
from locum.stats.paired import mcnemar, paired_bootstrap, paired_difference
from locum.stats.rowwise import Mean, binary


def compare_shares(
    a: str,
    right_a: NDArray[np.bool_],
    b: str,
    right_b: NDArray[np.bool_],
    metric: str = "accuracy",
    groups: NDArray[np.int64] | None = None,
) -> Comparison:
    """The share of rows that a gets right minus that of b: McNemar's mid-p test, paired Student interval.

    Where rows belong together: the sign-flip test of groups, and the interval between them.

    Args:
        a: name of the first model.
        right_a: whether it is right, ``[n]``.
        b: name of the second.
        right_b: whether it is right, same rows.
        metric: what the share is called.
        groups: a number per row, the same for rows that belong together; None where none do.

    Raises:
        UserError: no rows, or unequal numbers of them.
    """
    difference = _within(document(paired_difference(right_a, right_b, groups=groups).interval))
    if groups is None:
        p_value, test = mcnemar(right_a, right_b).p_value, "mcnemar-midp"
    else:
        flipped = sign_flip(right_a, right_b, groups)
        p_value, test = flipped.p_value, flipped.method
    rows = rows_of_groups(len(right_a), count_groups(groups))
    return Comparison(
        a=a,
        b=b,
        metric=metric,
        n=len(right_a),
        difference=difference,
        p_value=p_value,
        test=test,
        verdict=_verdict(a, b, _spoken(metric), difference, rows, p_value),
        groups=count_groups(groups),
    )


def compare(a: Scored, b: Scored, metric: str = "accuracy") -> Comparison:
    """Two models on the same split.

    Args:
        a: answers of the first.
        b: of the second, to the same rows.
        metric: one that both have.

    Raises:
        CheckFailed: they did not answer the same rows.
    """
    require_same_rows(a, b)
    first, second = a.metrics[metric], b.metrics[metric]
    if isinstance(first, Mean) and isinstance(second, Mean) and binary(first) and binary(second):
        return compare_shares(a.model, first.values > 0, b.model, second.values > 0, metric, a.groups)
    difference = _within(metric_difference(a, b, metric))
    return Comparison(
        a=a.model,
        b=b.model,
        metric=metric,
        n=a.n,
        difference=difference,
        p_value=None,
        test="paired-bootstrap",
        verdict=_verdict(a.model, b.model, _spoken(metric), difference, rows_of_groups(a.n, a.n_groups), None),
        groups=a.n_groups,
    )


def shown(comparison: Comparison) -> bool:
    """Whether a difference was shown: by the test at 5 %, or without one by a 95 % interval that leaves 0 out."""
    return _shown(comparison.difference, comparison.p_value)


def metric_difference(a: Scored, b: Scored, metric: str, level: float = 0.95) -> IntervalDocument:
    """The metric of a minus that of b, with a paired bootstrap interval; infinite on one group alone."""
    return document(paired_bootstrap(a.metrics[metric], b.metrics[metric], a.n, level=level, groups=a.groups))


def _spoken(metric: str) -> str:
    """A metric's name in a sentence."""
    return {"macro_f1": "macro-F1"}.get(metric, metric.replace("_", " "))


def _within(interval: IntervalDocument) -> IntervalDocument:
    """The interval cut to what a difference of two metrics in [0, 1] can be; one row, or one group, says nothing."""
    return interval.model_copy(update={"low": max(-1.0, interval.low), "high": min(1.0, interval.high)})


def _shown(difference: IntervalDocument, p_value: float | None) -> bool:
    return (difference.low > 0 or difference.high < 0) if p_value is None else p_value < 0.05


def _verdict(a: str, b: str, metric: str, d: IntervalDocument, rows: str, p_value: float | None) -> str:
    points = f"{100 * abs(d.value):.1f} points of {metric}"
    low, high = sorted((100 * abs(d.low), 100 * abs(d.high)))
    p_text = "" if p_value is None else f", p {'< 0.001' if p_value < 0.001 else f'= {p_value:.3f}'}"
    if _shown(d, p_value):
        better, worse = (a, b) if d.value > 0 else (b, a)
        interval = f"95 % interval {low:.1f} to {high:.1f}" if d.low * d.high > 0 else "95 % interval touches 0"
        return f"{better} is better than {worse} by {points} on {rows} ({interval}{p_text})."
    return (
        f"No difference was shown between {a} and {b} on {rows}: {100 * d.value:+.1f} points of {metric} "
        f"(95 % interval {100 * d.low:+.1f} to {100 * d.high:+.1f}{p_text})."
    )
