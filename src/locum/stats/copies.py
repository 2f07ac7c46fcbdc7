"""Do copies among rows look like independent draws, as traffic repeats itself, or do they belong together?

A message that is common comes often; then some texts stand twice, some three times, and so on. A file that was joined
twice, a template filled ten times or a user who sends everything twice leaves counts that no such draws can explain.
Not here: what is done about it (``data.splits``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from locum.stats.distributions import poisson_limit
from locum.stats.inputs import check_open_unit, input_error

DOUBT = 0.001
"""How seldom true draws may be taken for copies that belong together, about."""


def strange_count(sizes: Iterable[int], doubt: float = DOUBT) -> int | None:
    """A number of copies that too many texts have, if rows were drawn independently; None when nothing is strange.

    When n rows are drawn independently from any distribution over texts, the number of texts that come r times has
    expectation Σ P(Poisson(λ) = r) over texts, so r!·E[N_r] is a moment sequence of a positive measure (Good
    1953; Harris 1959), and by Cauchy and Schwarz (r!·E[N_r])² ≤ (r−1)!·E[N_{r−1}] · (r+1)!·E[N_{r+1}], that is
    E[N_r]²·r/(r+1) ≤ E[N_{r−1}]·E[N_{r+1}] for r ≥ 2. The counts N_r are close to Poisson, so a count is strange when
    its lower limit still breaks this against the upper limits of its neighbours.

    Args:
        sizes: how often each distinct text came, each at least 1.
        doubt: one minus the confidence of each of the three limits.

    Returns:
        The number of copies at which the excess is greatest. No text more than once gives None; a handful of texts
        can always be draws.

    Raises:
        UserError: a size below 1, or ``doubt`` outside (0, 1).
    """
    check_open_unit("doubt", doubt)
    spectrum = Counter(int(size) for size in sizes)
    if spectrum and min(spectrum) < 1:
        raise input_error(f"a text came {min(spectrum)} times; sizes are 1 or more")
    strange, excess = None, 1.0
    for size, texts in spectrum.items():
        if size < 2:
            continue
        least = poisson_limit(texts, doubt, "lower")
        below, above = (poisson_limit(spectrum.get(near, 0), doubt, "upper") for near in (size - 1, size + 1))
        ratio = least**2 * size / (size + 1) / (below * above)
        if ratio > excess:
            strange, excess = size, ratio
    return strange
