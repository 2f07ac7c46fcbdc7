"""Are rows that are said to be fresh the very rows that a student learned from? By counts of texts alone.

Traffic repeats itself: fresh rows hold texts that stand in the learned ones, too, and how many is known from those
alone. Of n fresh rows, about n·(r+1)·N_(r+1)/N have a text that stands there r times, where N_k texts stand there k
times and N is all rows (Good 1953, after Turing). Learned rows given again are far from that. Not here: how texts are
told apart (``data.fingerprint``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from locum.stats.distributions import normal_quantile, poisson_limit
from locum.stats.inputs import Ints, floats
from locum.stats.special import special

DOUBT = 0.001
"""How seldom each rule may refuse rows that are fresh."""

_SELDOM = 6
"""Texts that stand there two to five times show that a text which stands there once may come again by itself."""
_DRAWS = 4000
_DRAWS_LARGE = 400
_LARGE = 500
"""Texts from which on a sum over them is taken as normal, from fewer draws."""


@dataclass(frozen=True)
class Reuse:
    """What is not as it would be with fresh rows.

    Attributes:
        rows: how many rows are in question, of all of them.
        most: most of them that fresh rows would have; None where the rule counts nothing.
        why: the rule, as half a sentence.
    """

    rows: int
    most: int | None
    why: str


def find_reuse(learned: Ints, hits: Ints, *, tolerated: float = 0.0) -> Reuse | None:
    """Why rows cannot be fresh; None when nothing speaks against it.

    Args:
        learned: how often each distinct text stands in the learned rows, shape (k,); 0 for a text of other rows that
            were learned from as well, which are another traffic.
        hits: for each row that is said to be fresh, the position of its text in ``learned``, or −1; shape (n,).
        tolerated: share of rows below which nothing is refused. At 0, where no learned text stands two to five
            times, a single row whose text stands there once is one too many.

    Returns:
        The first rule that is broken. No rows, or nothing learned, break none.
    """
    n, total = len(hits), int(learned.sum())
    seen = hits >= 0
    if n == 0 or len(learned) == 0 or not seen.any():
        return None
    often = learned[hits[seen]]
    spectrum = np.bincount(learned)
    alone, twice = (int(spectrum[k]) if k < len(spectrum) else 0 for k in (1, 2))
    least = math.floor(tolerated * n)
    once = int((often <= 1).sum())
    seldom = int(spectrum[2:_SELDOM].sum())
    expected = 2 * n * poisson_limit(twice, DOUBT, "upper") / max(total, 1)
    most = 0 if tolerated == 0 and seldom == 0 else _poisson_most(expected)
    if once > max(most, least):
        return Reuse(once, max(most, least), "have a text that the student learned from once")
    repeated = int((often > 1).sum())
    most = _repeated_most(spectrum, total, n)
    if repeated > max(most, least):
        return Reuse(repeated, max(most, least), "have a text that the student learned from several times")
    if not seen.all():
        return None
    # the lower limit of N₁, so that a few texts that stand there once do not condemn a short file
    if n * math.log1p(-min(poisson_limit(alone, DOUBT, "lower") / max(total, 1), 1 - 1e-12)) < math.log(DOUBT):
        return Reuse(
            n,
            None,
            "are known to the student, not one is new, and many it learned from came once only",
        )
    if _agrees_too_well(learned, hits, n):
        return Reuse(n, None, "are known to the student, each text as often as it learned it, which fresh rows are not")
    return None


def _poisson_most(mean: float) -> int:
    """The largest count that a Poisson variable with this mean has, but for ``DOUBT``."""
    return math.ceil(float(special.pdtrik(1 - DOUBT, mean))) if mean > 0 else 0


def _repeated_most(spectrum: Ints, total: int, n: int) -> int:
    """Most of n fresh rows whose text stands among the learned ones twice or more.

    The share is Σ k·N_k/N over k ≥ 3. Its own uncertainty is that of whole texts coming or not, Σ k²·N_k/N², and one
    text that stands there three times is taken as several, so that a count of 0 is no certainty.
    """
    times = np.arange(len(spectrum))
    heavy = np.where(times >= 3, spectrum, 0)
    share = min(
        1.0, float((times * heavy).sum()) / max(total, 1) + 3 * poisson_limit(0, DOUBT, "upper") / max(total, 1)
    )
    spread = math.sqrt(n * share * (1 - share) + n**2 * float((times**2 * heavy).sum()) / max(total, 1) ** 2)
    return min(n, math.ceil(n * share + float(normal_quantile(1 - DOUBT)) * spread))


def _agrees_too_well(learned: Ints, hits: Ints, n: int) -> bool:
    """Whether fresh counts lie closer to the learned ones than draws do, but for ``DOUBT``.

    Under the model both counts are draws of one distribution: shares from Dirichlet(learned), counts from a
    multinomial. The distance is Σ (f − n·r/N)² / (n·r/N); its distribution is simulated.
    """
    own = learned > 0
    counts = np.bincount(hits, minlength=len(learned))
    if own.sum() < 2 or counts[~own].any():
        return False  # one text says nothing; and no counts are known of texts of another traffic
    learned, fresh = learned[own], floats(counts[own])
    expected = n * floats(learned) / float(learned.sum())
    seen = float(((fresh - expected) ** 2 / expected).sum())
    random = np.random.default_rng(1953)
    large = len(learned) >= _LARGE
    drawn = np.empty(_DRAWS_LARGE if large else _DRAWS)
    for index in range(len(drawn)):
        shares = random.dirichlet(learned)
        drawn[index] = ((random.multinomial(n, shares) - expected) ** 2 / expected).sum()
    if large:
        return seen < float(drawn.mean() - normal_quantile(1 - DOUBT) * drawn.std(ddof=1))
    return float((drawn <= seen).mean()) <= DOUBT
