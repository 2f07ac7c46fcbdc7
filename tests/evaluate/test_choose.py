"""The ladder's decisions on planted answers, with the ladders that the design names."""

from __future__ import annotations

import numpy as np
import pytest

from locum.cascade.confidence import fit_temperature
from locum.core.errors import CheckFailed
from locum.evaluate.choose import Rung, choose, skip_reason
from locum.evaluate.predictions import Predictions
from locum.evaluate.scored import Scored
from locum.schema.candidate import Candidate, Family, Method
from locum.stats.rowwise import Mean

SIZE_MB = {"tfidf": 2.0, "mini/head": 23.0, "mini/full": 23.1, "base/full": 110.0, "smol": 140.0, "smol-2": 380.0}
FAMILY: dict[str, tuple[Family, Method]] = {
    "tfidf": ("linear", "linear"),
    "mini/head": ("encoder", "head"),
    "mini/full": ("encoder", "full"),
    "base/full": ("encoder", "full"),
    "smol": ("decoder", "full"),
    "smol-2": ("decoder", "full"),
}


def candidate(name: str) -> Candidate:
    family, method = FAMILY[name]
    return Candidate(name=name, family=family, method=method, base=None if method == "linear" else name.split("/")[0])


def scored(answers: Predictions) -> Scored:
    """At the temperature that suits these rows, as a build does."""
    return answers.scored(fit_temperature(answers))


def planted(name: str, right: np.ndarray, ids: str = "dev") -> Rung:
    gold = np.arange(len(right)) % 2
    logits = np.zeros((len(right), 2), np.float32)
    logits[np.arange(len(right)), np.where(right, gold, 1 - gold)] = 3.0
    return Rung(candidate(name), SIZE_MB[name], scored(Predictions(name, "dev", ("a", "b"), ids, logits, gold)))


def correlated(accuracy: dict[str, float], n: int = 1000, seed: int = 0) -> list[Rung]:
    """Students whose rights overlap as real ones do: a shared difficulty per row plus their own noise."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=n)
    rungs = []
    for name, share in accuracy.items():
        score = shared + 0.6 * generator.normal(size=n)
        rungs.append(planted(name, score <= np.quantile(score, share)))
    return rungs


def exact(wrong: dict[str, tuple[int, int]], n: int = 1000) -> list[Rung]:
    """Students that are wrong on rows ``start`` to ``end``, to plant discordant counts exactly."""
    rows = np.arange(n)
    return [planted(name, (rows < start) | (rows >= end)) for name, (start, end) in wrong.items()]


def test_the_smallest_that_meets_the_target_is_taken() -> None:
    rungs = correlated({"tfidf": 0.90, "mini/head": 0.93, "mini/full": 0.95, "smol": 0.96})
    made = choose(rungs, at_least=0.92)
    assert made.name == "mini/full"  # one size with the frozen body, and better
    assert made.eligible == ("mini/head", "mini/full", "smol")
    assert "smallest at or above the target of 92.0 %" in made.why
    assert choose(rungs, at_least=0.90).name == "tfidf"


def test_when_the_target_is_missed_the_best_rule_applies_and_says_so() -> None:
    made = choose(correlated({"tfidf": 0.70, "mini/full": 0.80}), at_least=0.9)
    assert made.name == "mini/full"
    assert made.why.startswith("No student reached 90.0 %. mini/full is the best on dev")


def test_one_standard_error_takes_the_smaller() -> None:
    close = exact({"tfidf": (0, 52), "smol": (20, 70)})  # 2 rows apart, 40 discordant: se 6.3 rows
    made = choose(close)
    assert (made.name, made.best) == ("tfidf", "smol")
    assert "the smallest that is not clearly worse than the best, smol" in made.why
    apart = exact({"tfidf": (0, 60), "smol": (20, 70)})  # 10 rows apart
    assert choose(apart).name == "smol"


def test_paired_errors_are_stricter_than_unpaired_ones() -> None:
    nested = exact({"tfidf": (0, 55), "smol": (0, 50)})  # 5 rows, all one way: se 2.2 rows (unpaired: 9.8)
    assert choose(nested).name == "smol"


def test_of_two_of_one_size_the_tuned_one_must_be_shown_to_be_better() -> None:
    shown = correlated({"tfidf": 0.83, "mini/head": 0.90, "mini/full": 0.938})
    assert choose(shown).name == "mini/full"
    tied = correlated({"tfidf": 0.83, "mini/head": 0.934, "mini/full": 0.938})
    assert choose(tied).best == "mini/full"
    assert choose(tied).name == "mini/head"
    assert (
        "of one size the one trained the least that is not clearly worse than the best, mini/full" in choose(tied).why
    )
    behind = correlated({"tfidf": 0.83, "mini/head": 0.938, "mini/full": 0.932})
    assert choose(behind).name == "mini/head"


def test_of_two_of_one_size_at_the_target_the_better_is_taken_where_it_is_shown_to_be() -> None:
    rungs = correlated({"tfidf": 0.83, "mini/head": 0.90, "mini/full": 0.938})
    assert choose(rungs, at_least=0.85).name == "mini/full"
    tied = correlated({"tfidf": 0.83, "mini/head": 0.934, "mini/full": 0.938})
    assert choose(tied, at_least=0.85).name == "mini/head"


def test_sst2_reaches_and_takes_the_tuned_decoder() -> None:
    share = {"tfidf": 0.80, "mini/head": 0.82, "mini/full": 0.88, "smol": 0.905}
    for seed in range(10):
        rungs = correlated(share, seed=seed)
        for built in range(len(rungs)):
            assert skip_reason(candidate(list(share)[built]), rungs[:built]) is None
        assert choose(rungs).name == "smol"


def test_a_frozen_body_that_gains_nothing_does_not_stop_the_tuned_one() -> None:
    built = exact({"tfidf": (0, 200), "mini/head": (0, 200)})
    assert skip_reason(candidate("mini/full"), built) is None
    assert skip_reason(candidate("smol"), built) is None


def test_a_family_that_has_levelled_off_is_left_and_another_is_still_tried() -> None:
    built = exact({"mini/head": (0, 120), "mini/full": (0, 100), "base/full": (0, 99)})
    reason = skip_reason(candidate("base/full"), built)
    assert reason is not None and "base/full gains nothing worth its cost over mini/full" in reason
    assert skip_reason(candidate("smol"), built) is None
    assert skip_reason(candidate("mini/head"), built) is None


def test_a_body_that_is_tuned_in_vain_ends_the_tuning_of_larger_ones() -> None:
    vain = exact({"tfidf": (0, 120), "mini/head": (0, 60), "mini/full": (0, 59)})
    assert "over training its last layer alone" in (skip_reason(candidate("smol"), vain) or "")
    assert skip_reason(candidate("mini/full"), vain[:2]) is None
    gained = exact({"tfidf": (0, 180), "mini/head": (0, 180), "mini/full": (0, 120)})
    assert skip_reason(candidate("smol"), gained) is None


def test_two_costlier_students_in_a_row_without_a_gain_end_the_ladder() -> None:
    built = exact({"mini/full": (0, 100), "base/full": (0, 99), "smol": (0, 101)})
    reason = skip_reason(candidate("smol-2"), built)
    assert reason is not None and "base/full and smol each gain less than 1 point" in reason
    gaining = exact({"mini/full": (0, 100), "base/full": (0, 99), "smol": (0, 70)})
    assert skip_reason(candidate("smol-2"), gaining) is None


def test_a_small_dev_split_does_not_end_the_ladder() -> None:
    built = correlated({"mini/full": 0.90, "base/full": 0.90, "smol": 0.90}, n=100, seed=3)
    assert skip_reason(candidate("smol-2"), built) is None


def test_the_target_stops_only_by_its_lower_bound() -> None:
    built = exact({"tfidf": (0, 60)})
    assert skip_reason(candidate("mini/head"), built, at_least=0.935) is None  # 94.0 %, bound 92.7 %
    reason = skip_reason(candidate("mini/head"), built, at_least=0.92)
    assert reason is not None and "meets the target of 92.0 % with 95 % confidence" in reason


def test_no_room_above() -> None:
    reason = skip_reason(candidate("mini/head"), exact({"tfidf": (0, 1)}))
    assert reason is not None and "makes 1 errors on 1000 dev rows" in reason
    assert skip_reason(candidate("mini/head"), exact({"tfidf": (0, 4)})) is None
    assert skip_reason(candidate("mini/head"), exact({"tfidf": (0, 30)}), noise_ceiling=0.97) is not None
    assert skip_reason(candidate("mini/head"), exact({"tfidf": (0, 30)}), noise_ceiling=0.98) is None


def test_macro_f1_decides_where_it_is_the_metric() -> None:
    gold = np.array([0] * 950 + [1] * 50)

    def answers(name: str, predicted: np.ndarray) -> Rung:
        return Rung(
            candidate(name),
            SIZE_MB[name],
            scored(Predictions(name, "dev", ("a", "b"), "dev", np.eye(2, dtype=np.float32)[predicted], gold)),
        )

    lazy = answers("tfidf", np.zeros(1000, int))  # 95 % accurate, no use
    fair = answers("smol", np.where(np.arange(1000) % 20 == 0, 1 - gold, gold))
    assert choose([lazy, fair], metric="macro_f1").name == "smol"
    assert choose([lazy, fair], metric="accuracy").name == "tfidf"
    assert skip_reason(candidate("smol-2"), [lazy, fair], metric="macro_f1", at_least=0.5) is not None
    assert skip_reason(candidate("smol-2"), [lazy, fair], metric="macro_f1", at_least=0.95) is None


def test_what_the_choice_gives_away_on_test_is_small() -> None:
    """Dev and test drawn from one population of students half a point apart, the hardest case."""
    share = {"tfidf": 0.90, "mini/full": 0.935, "smol": 0.94}
    lost = []
    for seed in range(100):
        both = correlated(share, n=4000, seed=seed)
        dev = [Rung(r.candidate, r.size_mb, _first(r.dev, 1000)) for r in both]
        test = {r.candidate.name: r.dev.correct[1000:].mean() for r in both}
        lost.append(max(test.values()) - test[choose(dev).name])
    assert np.mean(lost) < 0.006
    assert np.quantile(lost, 0.9) < 0.012


def test_few_dev_rows_do_not_give_a_better_student_away() -> None:
    few = exact({"tfidf": (0, 12), "smol": (6, 14)}, n=100)  # 4 points apart, standard error 3.7
    assert choose(few).name == "smol"
    noisy = exact({"tfidf": (0, 13), "smol": (5, 15)}, n=100)  # 3 points apart, standard error 2.6
    assert choose(noisy).name == "smol"
    within = exact({"tfidf": (0, 12), "smol": (4, 16)}, n=100)  # equal
    assert choose(within).name == "tfidf"


def test_a_smaller_student_with_worse_confidence_is_not_taken() -> None:
    """Equal accuracy on dev, but one is sure of its errors: log loss sees on 400 rows what accuracy cannot."""
    generator = np.random.default_rng(5)
    gold = generator.integers(0, 2, 400)
    right = generator.random(400) < 0.9
    answers: dict[str, Predictions] = {}

    def student(name: str, sure_when_right: np.ndarray, sure_when_wrong: np.ndarray) -> Rung:
        size = np.where(right, sure_when_right, sure_when_wrong)
        logits = np.zeros((400, 2), np.float32)
        logits[np.arange(400), np.where(right, gold, 1 - gold)] = size
        answers[name] = Predictions(name, "dev", ("a", "b"), "dev", logits, gold)
        return Rung(candidate(name), SIZE_MB[name], scored(answers[name]))

    blind = student("tfidf", generator.exponential(2.0, 400), generator.exponential(2.0, 400))
    aware = student("smol", 1 + generator.exponential(2.0, 400), generator.exponential(0.5, 400))
    assert aware.score("accuracy") == blind.score("accuracy")
    better = Rung(aware.candidate, aware.size_mb, scored(_with_one_more_right(answers["smol"])))
    assert choose([blind, better]).name == "smol"
    assert choose([Rung(blind.candidate, blind.size_mb, aware.dev), better]).name == "tfidf"


def _with_one_more_right(p: Predictions) -> Predictions:
    logits = p.logits.copy()
    row = int(np.flatnonzero(~p.correct)[0])
    logits[row] = logits[row, ::-1]
    return Predictions(p.model, p.split, p.labels, p.ids_hash, logits, p.gold)


def _first(p: Scored, n: int) -> Scored:
    right, sure = p.correct[:n], p.confidence[:n]
    likely = None if p.log_likelihood is None else p.log_likelihood[:n]
    metrics = {"accuracy": Mean(right.astype(np.float64))}
    return Scored(p.model, p.split, f"{p.ids_hash} first {n}", right, sure, metrics, likely)


def test_nothing_to_choose_from_and_other_rows() -> None:
    with pytest.raises(ValueError, match="no candidate was built"):
        choose([])
    right = np.ones(10, bool)
    with pytest.raises(CheckFailed):
        choose([planted("tfidf", right), planted("smol", right, ids="other")])
    assert skip_reason(candidate("tfidf"), []) is None
