"""Metrics as statistics of rows, so that any of them can be resampled, compared in pairs and bounded.

Notable: a metric that is a mean of rows keeps its rows; one that is pooled over rows (BLEU, micro F1) keeps each row's
counts, and its value is a function of their sum. Both are called with resampled row numbers, as ``stats.bootstrap``
and ``stats.paired`` ask. Not here: scoring a row (``scoring``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from locum.stats.bootstrap import RowStatistic, bootstrap_interval
from locum.stats.clusters import as_groups, share_interval
from locum.stats.inputs import Floats, Ints
from locum.stats.intervals import Interval, wilson


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of a score per row.

    Attributes:
        values: ``[n]``, each in [0, 1].
    """

    values: Floats

    def __call__(self, rows: Ints) -> Floats:
        """Row numbers, ``[b, m]`` → means, ``[b]``."""
        return self.values[rows].mean(axis=-1)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Pooled:
    """A function of counts that are summed over rows.

    Attributes:
        counts: ``[n, k]``.
        value: sums, ``[b, k]`` → values, ``[b]``.
    """

    counts: Floats
    value: Callable[[Floats], Floats]

    def __call__(self, rows: Ints) -> Floats:
        """Row numbers, ``[b, m]`` → values, ``[b]``; one block of memory a resample, ``[m, k]``."""
        return self.value(np.stack([self.counts[some].sum(axis=0) for some in rows]))

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.counts)


@dataclass(frozen=True, eq=False)
class Coded:
    """Any other statistic of row numbers, with the number of rows that it is about."""

    statistic: RowStatistic
    n: int

    def __call__(self, rows: Ints) -> Floats:
        """Row numbers, ``[b, m]`` → values, ``[b]``."""
        return self.statistic(rows)


Metric = Mean | Pooled | Coded
"""A metric of n rows; call it with resampled row numbers."""


def value(metric: Metric) -> float:
    """The metric over all its rows."""
    return float(metric(np.arange(metric.n, dtype=np.int64)[None, :])[0])


def binary(metric: Metric) -> bool:
    """Whether it is a share: the mean of rows that are each 0 or 1."""
    return isinstance(metric, Mean) and bool(np.isin(metric.values, (0.0, 1.0)).all())


def interval(metric: Metric, level: float = 0.95, *, groups: Ints | None = None) -> Interval:
    """The metric with an interval: Wilson's for a share, else the bootstrap (BCa for a mean, else percentile).

    Args:
        metric: over some rows; a share of none lies between 0 and 1.
        level: coverage.
        groups: a whole number per row, the same for rows that belong together: whole groups are drawn
            (``stats.clusters``). Of one group alone nothing is known but that a metric of a task lies in [0, 1].

    Raises:
        UserError: no rows, of a metric that is no share or whose rows have groups.
    """
    if groups is not None:
        if isinstance(metric, Mean) and binary(metric):
            return share_interval(metric.values, groups, level)
        found = bootstrap_interval(metric, metric.n, level=level, groups=groups)
        return found if as_groups(groups, metric.n).any() else replace(found, low=0.0, high=1.0)
    if isinstance(metric, Mean) and binary(metric):
        return wilson(int(metric.values.sum()), metric.n, level)
    return bootstrap_interval(metric, metric.n, level=level, method="bca" if isinstance(metric, Mean) else "percentile")
