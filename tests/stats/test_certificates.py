"""The certificates on known and degenerate inputs, and against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from locum.core.errors import UserError
from locum.stats.marginal import certify_marginal
from locum.stats.regret import certify_regret
from locum.stats.risk import answered_locally
from locum.stats.sample_size import errors_allowed, rungs
from locum.stats.selective import certify_selective, fixed_thresholds

NAN = float("nan")


def all_three(confidence, wrong, level=0.05, **options):
    wrong = np.asarray(wrong, dtype=float)
    return (
        certify_selective(confidence, wrong, alpha=level, delta=0.05, **options),
        certify_marginal(confidence, wrong, epsilon=level, delta=0.05, **options),
        certify_regret(confidence, 1 - wrong, np.ones(len(wrong)), epsilon=level, delta=0.05, **options),
    )


def handed_over(bound, n):
    return bound.threshold is None and bound.accepted == 0 and bound.local_share == 0 and bound.n == n


def test_fault_91_no_threshold_certifies_so_everything_is_handed_over():
    score = np.random.default_rng(0).random(500).round()  # two values: half the traffic, or all
    for bound in all_three(score, np.ones(500)):
        assert handed_over(bound, 500)
        assert bound.reason == "risk-too-high"
        assert bound.observed is None
        assert bound.upper_bound is None
        assert not answered_locally(score, bound.threshold).any()


def test_fault_92_constant_confidence_hands_everything_over():
    for bound in all_three(np.full(500, 0.9), np.zeros(500)):
        assert handed_over(bound, 500)
        assert bound.reason == "constant-confidence"


def test_fault_92_constant_confidence_is_all_or_nothing_when_allowed():
    for bound in all_three(np.full(500, 0.9), np.zeros(500), allow_constant=True):
        assert (bound.threshold, bound.accepted) == (0.9, 500)
    for bound in all_three(np.full(500, 0.9), np.arange(500) < 100, allow_constant=True):
        assert handed_over(bound, 500)


def test_fault_92_nan_confidence_is_never_answered_locally():
    for bound in all_three(np.full(500, NAN), np.zeros(500)):
        assert handed_over(bound, 500)
        assert bound.reason == "no-confidence"
    score = np.random.default_rng(0).random(500)
    score[::2] = NAN
    wrong = np.isnan(score)  # wrong exactly where it is never asked
    for bound in all_three(score, wrong):
        assert bound.accepted == answered_locally(score, bound.threshold).sum() == 250
        assert bound.errors == 0
    assert answered_locally([NAN, 0.5, 0.4], 0.5).tolist() == [False, True, False]


def test_fault_92_tied_confidence_is_accepted_whole_in_any_row_order():
    rng = np.random.default_rng(1)
    score = rng.choice([0.2, 0.5, 0.9], 600)
    wrong = rng.random(600) < np.where(score == 0.9, 0.005, 0.4)
    shuffle = rng.permutation(600)
    for bound, again in zip(all_three(score, wrong), all_three(score[shuffle], wrong[shuffle]), strict=True):
        assert bound == again
        assert bound.threshold == 0.9
        assert bound.accepted == (score == 0.9).sum()


def test_fault_21_too_few_labels_certify_nothing_and_say_so():
    score = np.arange(58.0)
    for bound in all_three(score, np.zeros(58)):
        assert handed_over(bound, 58)
        assert bound.reason == "too-few-labels"
    selective, marginal, _ = all_three(np.arange(59.0), np.zeros(59))
    assert selective.accepted == marginal.accepted == 59
    for bound in all_three(np.array([]), np.array([])):
        assert handed_over(bound, 0)


def test_a_perfect_student_answers_everything():
    for bound in all_three(np.random.default_rng(2).random(1000), np.zeros(1000)):
        assert bound.local_share == 1.0
        assert bound.observed == 0.0
        assert 0 < bound.upper_bound < 0.05


@st.composite
def splits(draw):
    n = draw(st.integers(1, 260))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    score = rng.random(n).round(draw(st.integers(1, 6)))
    score[rng.random(n) < draw(st.sampled_from([0.0, 0.1]))] = NAN
    wrong = rng.random(n) < draw(st.sampled_from([0.0, 0.05, 0.5])) * (2 - 2 * np.nan_to_num(score))
    return score, wrong


@given(splits(), st.sampled_from([0.05, 0.2]), st.sampled_from([0.05, 0.2]))
@settings(max_examples=60, deadline=None)
def test_selective_equals_a_plain_loop(split, alpha, delta):
    score, wrong = split
    bound = certify_selective(score, wrong, alpha=alpha, delta=delta, allow_constant=True)
    usable, n = np.sort(score[~np.isnan(score)])[::-1], len(score)
    counts = rungs(len(usable), alpha, delta)
    best = None
    if len(counts):
        first = min(np.ceil(0.2 * n), counts[-1])
        for k in [*counts[counts >= first], len(usable)]:
            local = score >= usable[k - 1]
            if stats.binom.cdf(wrong[local].sum(), local.sum(), alpha) > delta:
                break
            best = usable[k - 1]
    assert bound.threshold == best


@given(splits(), st.sampled_from([0.05, 0.2]))
@settings(max_examples=60, deadline=None)
def test_marginal_equals_a_plain_loop(split, epsilon):
    score, wrong = split
    bound = certify_marginal(score, wrong, epsilon=epsilon, delta=0.1, allow_constant=True)
    allowed = errors_allowed(len(score), epsilon, 0.1)
    passing = [t for t in np.unique(score[~np.isnan(score)]) if (wrong & (score >= t)).sum() <= allowed]
    assert bound.threshold == (min(passing) if passing else None)


@given(splits())
@settings(max_examples=40, deadline=None)
def test_every_certificate_tells_the_truth_about_its_threshold(split):
    score, wrong = split
    for bound in all_three(score, wrong, 0.2):
        local = answered_locally(score, bound.threshold)
        assert bound.accepted == local.sum()
        assert bound.errors == (local & wrong).sum()
        assert (bound.reason == "certified") == (bound.threshold is not None)
        if bound.threshold is not None:
            assert bound.observed <= bound.upper_bound <= 0.2


@given(splits())
@settings(max_examples=30, deadline=None)
def test_only_the_order_of_confidence_matters(split):
    score, wrong = split
    for bound, logit in zip(all_three(score, wrong), all_three(np.log(score + 1) * 7 - 3, wrong), strict=True):
        assert (bound.accepted, bound.errors) == (logit.accepted, logit.errors)


def test_fixed_thresholds_are_tested_as_given():
    rng = np.random.default_rng(3)
    score = rng.beta(4.25, 0.75, 1000)
    wrong = rng.random(1000) > score
    reference = rng.beta(4.25, 0.75, 5000)
    fixed = fixed_thresholds(reference, 1000, 0.05, 0.05)
    bound = certify_selective(score, wrong, alpha=0.05, delta=0.05, thresholds=fixed)
    assert bound.threshold in fixed
    assert bound.local_share == pytest.approx(
        certify_selective(score, wrong, alpha=0.05, delta=0.05).local_share, abs=0.1
    )
    assert len(fixed_thresholds([NAN], 1000, 0.05, 0.05)) == 0
    assert len(fixed_thresholds(reference, 20, 0.05, 0.05)) == 0
    empty = certify_selective(score, wrong, alpha=0.05, delta=0.05, thresholds=[])
    assert handed_over(empty, 1000)
    above_all = certify_selective(score, wrong, alpha=0.05, delta=0.05, thresholds=[2.0, 0.9])
    assert handed_over(above_all, 1000)  # nothing accepted proves nothing, and the sequence stops there


def test_regret_credits_the_student_where_the_llm_is_wrong():
    rng = np.random.default_rng(5)
    score = rng.random(800)
    llm = rng.random(800) < 0.8
    student = rng.random(800) < 0.9
    bound = certify_regret(score, student, llm, epsilon=0.03, delta=0.05)
    assert bound.local_share == 1.0
    assert bound.observed < 0
    assert bound.method == "fixed-sequence-trinomial"
    partial = certify_regret(score, student * 0.75, llm * 0.75, epsilon=0.03, delta=0.05)
    assert partial.method == "fixed-sequence-betting"
    assert partial.local_share == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: certify_selective([0.5], [1, 0], alpha=0.05, delta=0.05),
        lambda: certify_selective([0.5], [0.5], alpha=0.05, delta=0.05),
        lambda: certify_selective([0.5], [1], alpha=0.0, delta=0.05),
        lambda: certify_selective([0.5], [1], alpha=0.05, delta=0.05, start_share=1.5),
        lambda: certify_marginal([0.5], [1], epsilon=0.05, delta=2),
        lambda: certify_regret([0.5], [1.5], [1], epsilon=0.05, delta=0.05),
        lambda: certify_regret([0.5], [NAN], [1], epsilon=0.05, delta=0.05),
    ],
)
def test_impossible_inputs_are_refused(call):
    with pytest.raises(UserError):
        call()
