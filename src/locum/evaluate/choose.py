"""The ladder's decisions: which student to take, and whether the next rung is worth building.

Notable: both look at dev predictions only, row by row against each other, so what is hard for everyone
cancels out. Taking is eager to go small: the smallest student that meets the target, or that is within one
standard error of the best by the paired difference (Breiman et al. 1984, CART §3.4.3), both in the metric and in
log loss, and less than a point below it. Log loss tells students apart on far fewer rows than accuracy does, and
what a confidence is worth decides how much can be answered locally. Stopping
is slow to give up, because a rung that is not built cannot be chosen: a different *family* or a *tuned* body
after a frozen one is never skipped on the evidence of one rung alone (a frozen encoder at 82 % says
nothing of a tuned one at 88 %, nor that of a decoder at 90 %). Skipped are rungs that

- cannot be needed: the target is met by a lower confidence bound, or so few dev errors are left that even a
  perfect student would be within one standard error; or
- have been shown not to pay (one-sided bound of one standard error): a tuned body gained less than a point over the
  same body frozen, so what the task needs is read off the surface and a larger body would be tuned in vain; of two
  fully tuned students of one family the costlier gained less than a point; or two such in a row in any family.

Students of one base differ in nothing that serving costs (a frozen body and a tuned one are one size), so
sizes within 10 % of each other count as equal. Among equals within one standard error of the best of them the one
that was trained the least is taken, the first on the ladder: a tuned body that is not shown to be better has lost some
of what pre-training taught it, and does worse on inputs unlike the training rows (Kumar et al. 2022, arXiv:2202.10054).
Where dev rows belong together, standard errors and bounds are those between groups. Not here: what the device or the
budget rules out (``fit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from locum.evaluate.compare import metric_difference
from locum.evaluate.scored import Scored, require_same_rows, rows_of_groups
from locum.schema.candidate import Candidate
from locum.stats.paired import non_inferiority, within_one_standard_error
from locum.stats.rowwise import Mean, interval

SAME_SIZE = 1.10
"""Sizes whose ratio is at most this count as equal."""

WORTH_POINTS = 0.01
"""A costlier student is worth its cost from this much of the metric on."""

ONE_SE_LEVEL = 0.6827  # two-sided level of an interval of one standard error either way
ONE_SE_ALPHA = 0.1587  # one-sided level of a bound one standard error away


@dataclass(frozen=True, eq=False)
class Rung:
    """A built student, as the choice sees it: what serving it costs and what it answered on dev."""

    candidate: Candidate
    size_mb: float
    dev: Scored

    def score(self, metric: str) -> float:
        """The metric on dev."""
        return self.dev.score(metric)


@dataclass(frozen=True)
class Choice:
    """The student that was taken.

    Attributes:
        name: the candidate's.
        best: the name of the best on dev.
        eligible: names that met the target, or are within one standard error of the best.
        why: one sentence.
    """

    name: str
    best: str
    eligible: tuple[str, ...]
    why: str


def choose(rungs: Sequence[Rung], *, metric: str = "accuracy", at_least: float | None = None) -> Choice:
    """The smallest student at or above the target on dev; without one, within one standard error of the best.

    Args:
        rungs: the built students, in the ladder's order, all on the same dev rows.
        metric: what goes.
        at_least: the target; when no student meets it, the rule without a target applies.

    Raises:
        ValueError: no rung.
        CheckFailed: they did not answer the same rows.
    """
    if not rungs:
        raise ValueError("nothing to choose from: no candidate was built")
    for rung in rungs[1:]:
        require_same_rows(rungs[0].dev, rung.dev)
    scores = {rung.candidate.name: rung.score(metric) for rung in rungs}
    best = max(rungs, key=lambda rung: (scores[rung.candidate.name], -rung.size_mb))
    meets = [rung for rung in rungs if at_least is not None and scores[rung.candidate.name] >= at_least]
    eligible = meets or [rung for rung in rungs if _as_good(rung, best, metric)]
    smallest_mb = min(rung.size_mb for rung in eligible)
    equals = [rung for rung in eligible if rung.size_mb <= smallest_mb * SAME_SIZE]
    top = max(equals, key=lambda rung: (scores[rung.candidate.name], -rung.size_mb))
    taken = next(rung for rung in equals if _as_good(rung, top, metric))
    return Choice(
        name=taken.candidate.name,
        best=best.candidate.name,
        eligible=tuple(rung.candidate.name for rung in eligible),
        why=_why(taken, best, scores, metric, at_least, bool(meets)),
    )


def _as_good(rung: Rung, best: Rung, metric: str) -> bool:
    """Whether the rung is within one standard error of the best in metric and log loss, and less than a point below."""
    if rung is best:
        return True
    if best.score(metric) - rung.score(metric) >= WORTH_POINTS or not _as_sure(rung.dev, best.dev):
        return False
    first, second = rung.dev.metrics[metric], best.dev.metrics[metric]
    if isinstance(first, Mean) and isinstance(second, Mean):
        return within_one_standard_error(first.values, second.values, groups=best.dev.groups)
    gap = metric_difference(best.dev, rung.dev, metric, ONE_SE_LEVEL)
    return (gap.low if np.isfinite(gap.low) else gap.value) <= 0  # one group alone has no standard error


def _as_sure(candidate: Scored, best: Scored) -> bool:
    """Whether the candidate's log loss is within one standard error of the best's, each at its own temperature.

    Rows whose gold label neither can name, or where one gave no scores, are the metric's matter; so is everything
    where a model gives no probabilities of answers.
    """
    if candidate.log_likelihood is None or best.log_likelihood is None:
        return True
    rows = np.isfinite(candidate.log_likelihood) & np.isfinite(best.log_likelihood)
    if not rows.any():
        return True
    groups = None if best.groups is None else best.groups[rows]
    return within_one_standard_error(candidate.log_likelihood[rows], best.log_likelihood[rows], groups=groups)


def _why(taken: Rung, best: Rung, scores: dict[str, float], metric: str, at_least: float | None, meets: bool) -> str:
    name, top = taken.candidate.name, best.candidate.name
    rows = rows_of_groups(taken.dev.n, taken.dev.n_groups, "dev rows")
    score = f"{100 * scores[name]:.1f} % {metric.replace('_', ' ')} on {rows}"
    if meets:
        return f"{name} is the smallest at or above the target of {100 * (at_least or 0):.1f} %: {score}."
    missed = "" if at_least is None else f"No student reached {100 * at_least:.1f} %. "
    if name == top:
        return f"{missed}{name} is the best on dev, and every smaller one is clearly worse: {score}."
    what = "the smallest" if taken.size_mb * SAME_SIZE < best.size_mb else "of one size the one trained the least"
    return (
        f"{missed}{name} is {what} that is not clearly worse than the best, {top} ({100 * scores[top]:.1f} %): {score}."
    )


def skip_reason(
    following: Candidate,
    built: Sequence[Rung],
    *,
    metric: str = "accuracy",
    at_least: float | None = None,
    noise_ceiling: float = 1.0,
) -> str | None:
    """Why the next rung is not worth building; None when it is.

    Args:
        following: the next candidate of the ladder, which is ordered by cost.
        built: what was built so far, in the ladder's order, all on the same dev rows.
        metric: what choices go by.
        at_least: the target.
        noise_ceiling: the best accuracy that the labels allow, from the data card.

    Returns:
        One sentence for the report, or None.
    """
    if not built:
        return None
    best = max(built, key=lambda rung: rung.score(metric))
    return (
        _target_met(best, metric, at_least)
        or _no_room(best, metric, noise_ceiling)
        or _tuning_did_not_pay(following, built, metric)
        or _family_levelled_off(following, built, metric)
        or _ladder_levelled_off(built, metric)
    )


def _target_met(best: Rung, metric: str, at_least: float | None) -> str | None:
    """The target lies below a one-sided 95 % lower bound of the best score."""
    if at_least is None:
        return None
    dev = best.dev
    low = interval(dev.metrics[metric], 0.90, groups=dev.groups).low
    if low < at_least:
        return None
    return (
        f"{best.candidate.name} meets the target of {100 * at_least:.1f} % with 95 % confidence "
        f"(lower bound {100 * low:.1f} % on {rows_of_groups(dev.n, dev.n_groups, 'dev rows')})"
    )


def _no_room(best: Rung, metric: str, noise_ceiling: float) -> str | None:
    """At most one dev error that a perfect student could mend: its gain would be within one standard error.

    Of graded answers nobody knows how many points are left to gain.
    """
    if metric not in ("accuracy", "macro_f1"):
        return None
    dev = best.dev
    wrong = int((~dev.correct).sum())
    mendable = wrong - (1 - noise_ceiling) * dev.n if metric == "accuracy" else wrong
    if mendable > 1:
        return None
    return (
        f"{best.candidate.name} makes {wrong} errors on {dev.n} dev rows, and as some equal texts have different "
        f"labels no student can be clearly better (at most {100 * noise_ceiling:.1f} % can be right)"
    )


def _family_levelled_off(following: Candidate, built: Sequence[Rung], metric: str) -> str | None:
    """The costlier of the family's last two fully tuned students did not pay."""
    tuned = [r for r in built if r.candidate.family == following.family and r.candidate.method == "full"]
    if following.method != "full" or len(tuned) < 2 or not _no_gain(tuned[-2], tuned[-1], metric):
        return None
    return (
        f"in the {following.family} family {tuned[-1].candidate.name} gains nothing worth its cost over "
        f"{tuned[-2].candidate.name} (less than {100 * WORTH_POINTS:.0f} point), so a costlier one is not tried"
    )


def _tuning_did_not_pay(following: Candidate, built: Sequence[Rung], metric: str) -> str | None:
    """A body was tuned and gained nothing over the same body frozen, so a larger body need not be tuned either."""
    if following.method != "full":
        return None
    for tuned in (rung for rung in built if rung.candidate.method == "full"):
        frozen = [r for r in built if r.candidate.method == "head" and r.candidate.base == tuned.candidate.base]
        if frozen and tuned.candidate.base != following.base and _no_gain(frozen[-1], tuned, metric):
            return (
                f"training all of {tuned.candidate.base} gained less than {100 * WORTH_POINTS:.0f} point over training"
                " its last layer alone, so larger models were not tried"
            )
    return None


def _ladder_levelled_off(built: Sequence[Rung], metric: str) -> str | None:
    """The last two fully tuned students each gained nothing over the best before them."""
    places = [index for index, rung in enumerate(built) if rung.candidate.method == "full"][-2:]
    if len(places) < 2 or places[0] == 0:
        return None
    for place in places:
        before = [rung for rung in built[:place] if rung.candidate.method == "full"]
        if not before or not _no_gain(max(before, key=lambda rung: rung.score(metric)), built[place], metric):
            return None
    first, second = (built[place].candidate.name for place in places)
    return (
        f"{first} and {second} each gain less than {100 * WORTH_POINTS:.0f} point over the best cheaper student, "
        "so a costlier one is not tried"
    )


def _no_gain(cheaper: Rung, costlier: Rung, metric: str) -> bool:
    """Whether the cheaper is shown to be less than a point worse (bound of one standard error).

    Few dev rows make a wide bound, so a small dev split hardly ever ends the ladder.
    """
    first, second = cheaper.dev.metrics[metric], costlier.dev.metrics[metric]
    if isinstance(first, Mean) and isinstance(second, Mean):
        groups = cheaper.dev.groups
        shown = non_inferiority(first.values, second.values, margin=WORTH_POINTS, alpha=ONE_SE_ALPHA, groups=groups)
        return shown.passed
    low = metric_difference(cheaper.dev, costlier.dev, metric, ONE_SE_LEVEL).low
    return not np.isnan(low) and low > -WORTH_POINTS
