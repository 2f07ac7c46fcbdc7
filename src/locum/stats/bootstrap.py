"""Bootstrap intervals: any statistic of rows, and statistics of a confusion matrix.

Notable: a statistic is vectorised, it takes an array of resampled row numbers, shape (b, n), and
returns one value per resample, shape (b,); resamples come in blocks, so memory stays flat. A confusion
matrix is resampled as one multinomial draw, which is the same distribution as resampling its rows and
needs n numbers fewer. Rows that belong together are drawn as whole groups.
Not here: paired differences (``stats.paired``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from locum.stats import clusters
from locum.stats.distributions import normal_cdf, normal_quantile
from locum.stats.inputs import Floats, Ints, check_open_unit, floats, input_error
from locum.stats.intervals import Interval

RowStatistic = Callable[[Ints], Floats]
ConfusionStatistic = Callable[[Floats], Floats]
BootstrapMethod = Literal["percentile", "bca"]

_BLOCK_NUMBERS = 4_000_000


def _row_blocks(n: int, resamples: int, seed: int) -> Iterator[Ints]:
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // n)
    for start in range(0, resamples, block):
        yield generator.integers(0, n, size=(min(block, resamples - start), n), dtype=np.int64)


def bootstrap_interval(
    statistic: RowStatistic,
    n: int,
    *,
    level: float = 0.95,
    method: BootstrapMethod = "bca",
    resamples: int = 2000,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> Interval:
    """Bootstrap interval of a statistic of n rows (Efron 1979; BCa: Efron 1987, DiCiccio & Efron 1996).

    With groups these are drawn, all rows of each (Davison & Hinkley 1997, §3.8), and the interval is the percentile
    one of ``clusters.expanded``, whatever ``method`` says.

    Args:
        statistic: row numbers, shape (b, m) → values, shape (b,); m is n, or n−1 for the jackknife, or as many as the
            drawn groups have.
        n: number of rows.
        level: coverage, reached asymptotically.
        method: percentile, or BCa, which corrects bias and skew.
        resamples: how many draws.
        seed: of the draws.
        groups: a whole number per row, the same for rows that belong together; None where all are drawn singly.

    Returns:
        The interval. Degenerate: one group alone gives (−∞, ∞); resamples that are NaN (an undefined statistic) are
        left out; a statistic that never varies gives a width of 0; where BCa is undefined (all draws on one side, no
        jackknife spread) the percentile interval is returned, and ``method`` says so.

    Raises:
        UserError: no rows, or the statistic is undefined on every resample.
    """
    check_open_unit("level", level)
    if n < 1 or resamples < 1:
        raise input_error(f"a bootstrap needs rows and resamples, got n={n}, resamples={resamples}")
    value = float(statistic(np.arange(n, dtype=np.int64)[None, :])[0])
    if groups is not None:
        return _over_groups(statistic, value, clusters.as_groups(groups, n), level, resamples, seed)
    draws = np.concatenate([floats(statistic(rows)) for rows in _row_blocks(n, resamples, seed)])
    if method == "percentile" or n < 2:
        return interval_of_draws(value, draws, level)
    return _bca(value, draws, _jackknife(statistic, n), level)


def _over_groups(
    statistic: RowStatistic, value: float, codes: Ints, level: float, resamples: int, seed: int
) -> Interval:
    count = int(codes.max()) + 1
    if count < 2:
        return Interval(value, -math.inf, math.inf, "bootstrap-groups")
    draws = np.array([float(statistic(rows[None])[0]) for rows in clusters.resampled_rows(codes, resamples, seed)])
    low, high = np.quantile(_defined(draws), clusters.expanded(level, count))
    return Interval(value, float(low), float(high), "bootstrap-groups")


def interval_of_draws(value: float, draws: Floats, level: float) -> Interval:
    """The percentile interval: the (1∓level)/2 quantiles of bootstrap draws, NaN draws left out.

    Raises:
        UserError: every draw is NaN.
    """
    low, high = np.quantile(_defined(draws), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), "bootstrap-percentile")


def _defined(draws: Floats) -> Floats:
    kept = draws[~np.isnan(draws)]
    if len(kept) == 0:
        raise input_error("the statistic is undefined on every resample")
    return kept


def _jackknife(statistic: RowStatistic, n: int) -> Floats:
    """The statistic with each row left out once, shape (n,)."""
    block = max(1, _BLOCK_NUMBERS // n)
    parts: list[Floats] = []
    for start in range(0, n, block):
        left_out = np.arange(start, min(start + block, n), dtype=np.int64)[:, None]
        kept = np.arange(n - 1, dtype=np.int64)[None, :]
        parts.append(floats(statistic(kept + (kept >= left_out))))
    return np.concatenate(parts)


def _bca(value: float, draws: Floats, jackknife: Floats, level: float) -> Interval:
    kept = draws[~np.isnan(draws)]
    defined = jackknife[~np.isnan(jackknife)]
    deviation = defined.sum() / max(1, len(defined)) - defined
    spread = float((deviation**2).sum())
    below = float(np.mean(kept < value) + np.mean(kept == value) / 2) if len(kept) else math.nan
    if not 0.0 < below < 1.0 or spread == 0.0 or math.isnan(value):
        return interval_of_draws(value, draws, level)
    bias = float(normal_quantile(below))
    acceleration = float((deviation**3).sum()) / (6 * spread**1.5)
    z = bias + normal_quantile([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(kept, normal_cdf(bias + z / (1 - acceleration * z)))
    return Interval(value, float(low), float(high), "bootstrap-bca")


def confusion_interval(
    confusion: ArrayLike,
    statistic: ConfusionStatistic,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a statistic of a confusion matrix, rows drawn with replacement.

    Drawing n rows with replacement makes the matrix a Multinomial(n, cells/n); only cells that are not
    zero are drawn. A matrix does not say which rows belong together: where some do, resample the rows
    (``confusion.macro_f1_of_rows`` with ``bootstrap_interval``).

    Args:
        confusion: counts, rows gold and columns predicted, shape (k, k).
        statistic: matrices, shape (b, k, k) → values, shape (b,).
        level: coverage, reached asymptotically.
        resamples: how many draws.
        seed: of the draws.

    Raises:
        UserError: the matrix is not square, is empty, or holds negative counts.
    """
    check_open_unit("level", level)
    counts = floats(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any() or counts.sum() < 1:
        raise input_error(f"a confusion matrix is square with counts ≥ 0 and not empty, got shape {counts.shape}")
    n, cells = int(counts.sum()), np.flatnonzero(counts)
    value = float(statistic(counts[None])[0])
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // counts.size)
    draws: list[Floats] = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        matrices = np.zeros((size, counts.size))
        matrices[:, cells] = generator.multinomial(n, counts.ravel()[cells] / n, size=size)
        draws.append(floats(statistic(matrices.reshape(size, *counts.shape))))
    return interval_of_draws(value, np.concatenate(draws), level)


def macro_f1(confusion: Floats) -> Floats:
    """Macro-F1 of confusion matrices, shape (b, k, k) → (b,).

    F1 of a class is 2·TP/(gold + predicted); a class that is neither gold nor predicted is left out of
    the mean (scikit-learn's ``labels`` present in the data). Degenerate: an empty matrix gives NaN.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    present = total > 0
    f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=present)
    classes = present.sum(axis=-1)
    return np.divide(f1.sum(axis=-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)


def macro_f1_interval(confusion: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of macro-F1 from a confusion matrix; see ``confusion_interval``.

    Raises:
        UserError: the matrix is not square, is empty, or holds negative counts.
    """
    return confusion_interval(confusion, macro_f1, level=level, resamples=resamples, seed=seed)
