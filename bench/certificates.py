"""Certificates compared: how much is answered locally, and how often the promise is broken.

Notable: the world is known. Confidence is calibrated and drawn from Beta(5a, 5(1−a)) for a student of
accuracy a, so the true risk of every threshold is an incomplete beta function and a broken promise is a
fact, not an estimate. Every method sees the same calibration splits. α = ε = δ = 5 %. The concentration, 5,
was picked so that MAPIE's default and the naive threshold land on figures known from an earlier simulation,
and Locum's rungs and start (20 %) were picked among about fifteen valid designs on worlds of this family:
read its margin over "every rank" as the best case. A sharper confidence helps every method.

    python bench/certificates.py [--out bench/results/certificates.json] [--draws 2000]

Methods under "selective" (at most 5 % of local answers wrong): Locum; MAPIE's controller as it comes (100
thresholds, Bonferroni–Holm) and with fixed-sequence testing; Locum's sequence over every rank in place of
its rungs; a naive threshold (at most 5 % observed).
Under "marginal" (at most 5 % of all traffic local and wrong): Locum; RCPS with Hoeffding's bound; conformal
risk control, which bounds the expectation only; a naive threshold. Under "regret" (system at most 2 % below
an LLM of accuracy .90): Locum's exact test, betting, Hoeffding–Bentkus, a naive threshold.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mapie
import numpy as np
import scipy
from mapie.risk_control import BinaryClassificationController
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import betainc

from locum import __version__
from locum.core.files import write_json
from locum.stats.inputs import Bools, Floats
from locum.stats.intervals import wilson
from locum.stats.marginal import certify_marginal
from locum.stats.regret import RegretMethod, certify_regret
from locum.stats.risk import distinct_thresholds, prefix_length
from locum.stats.sample_size import allowed_at, labels_needed
from locum.stats.selective import certify_selective
from locum.stats.starts import START_SHARE

ALPHA = DELTA = 0.05
EPSILON_REGRET, LLM_ACCURACY = 0.02, 0.90
CONCENTRATION = 5.0
SETTING = (0.85, 1000)
GRID_ACCURACY = (0.6, 0.75, 0.85, 0.93, 0.97)
GRID_N = (100, 300, 1000)
OUT = Path(__file__).parent / "results" / "certificates.json"

Threshold = float | None


@dataclass(frozen=True)
class World:
    """Calibrated confidence c ~ Beta(a, b); an answer is right with probability c."""

    accuracy: float

    @property
    def shape(self) -> tuple[float, float]:
        """The parameters a and b."""
        return CONCENTRATION * self.accuracy, CONCENTRATION * (1 - self.accuracy)

    def draw(self, generator: np.random.Generator, n: int) -> tuple[Floats, Bools, Bools]:
        """Confidence, whether the student is wrong, whether the LLM is right; each of shape (n,)."""
        confidence = generator.beta(*self.shape, n)
        return confidence, generator.random(n) > confidence, generator.random(n) < LLM_ACCURACY

    def share(self, threshold: float) -> float:
        """P(c ≥ t)."""
        return float(1 - betainc(*self.shape, threshold))

    def local_and_wrong(self, threshold: float) -> float:
        """P(c ≥ t and wrong) = P(c ≥ t) − E[c; c ≥ t]."""
        a, b = self.shape
        return self.share(threshold) - self.accuracy * float(1 - betainc(a + 1, b, threshold))

    def selective_risk(self, threshold: float) -> float:
        """P(wrong | c ≥ t)."""
        return self.local_and_wrong(threshold) / max(self.share(threshold), 1e-300)

    def regret(self, threshold: float) -> float:
        """Expected score of the LLM alone minus that of the system."""
        return self.local_and_wrong(threshold) - (1 - LLM_ACCURACY) * self.share(threshold)


@dataclass(frozen=True)
class Method:
    """A way to choose a threshold, and the promise that it makes."""

    kind: str
    name: str
    choose: Callable[[Floats, Bools, Bools], Threshold]


def _loosest(passed: Bools, thresholds: Floats) -> Threshold:
    return float(thresholds[np.flatnonzero(passed)[-1]]) if passed.any() else None


def ours_selective(confidence: Floats, wrong: Bools, _llm: Bools) -> Threshold:
    """Locum: fixed sequence over rungs, exact binomial."""
    return certify_selective(confidence, wrong, alpha=ALPHA, delta=DELTA).threshold


def dense_selective(confidence: Floats, wrong: Bools, _llm: Bools) -> Threshold:
    """The same test as Locum's, from the same start, at every rank."""
    thresholds, accepted, errors = distinct_thresholds(confidence, wrong.astype(float))
    start = int(np.searchsorted(accepted, max(START_SHARE * len(confidence), labels_needed(ALPHA, DELTA))))
    reach = prefix_length(errors[start:] <= allowed_at(accepted, ALPHA, DELTA)[start:])
    return float(thresholds[start + reach - 1]) if reach else None


def naive_selective(confidence: Floats, wrong: Bools, _llm: Bools) -> Threshold:
    """The loosest threshold with at most 5 % observed error."""
    thresholds, accepted, errors = distinct_thresholds(confidence, wrong.astype(float))
    return _loosest(errors <= ALPHA * accepted, thresholds)


def mapie_selective(fwer_method: str) -> Callable[[Floats, Bools, Bools], Threshold]:
    """MAPIE's controller of precision among answers at or above the threshold."""

    def choose(confidence: Floats, wrong: Bools, _llm: Bools) -> Threshold:
        controller = BinaryClassificationController(
            lambda score: np.column_stack([1 - score, score]),
            risk="precision",
            target_level=1 - ALPHA,
            confidence_level=1 - DELTA,
            fwer_method=fwer_method,  # pyright: ignore[reportArgumentType]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns when no threshold is valid, which we count instead
            controller.calibrate(confidence, (~wrong).astype(int))
        return controller.best_predict_param  # pyright: ignore[reportReturnType]

    return choose


def ours_marginal(confidence: Floats, wrong: Bools, _llm: Bools) -> Threshold:
    """Locum: RCPS with the exact binomial bound."""
    return certify_marginal(confidence, wrong, epsilon=ALPHA, delta=DELTA).threshold


def monotone_marginal(bound: Callable[[Floats, int], Floats]) -> Callable[[Floats, Bools, Bools], Threshold]:
    """The loosest threshold whose bound on the marginal risk is at most 5 %."""

    def choose(confidence: Floats, wrong: Bools, _llm: Bools) -> Threshold:
        thresholds, _, errors = distinct_thresholds(confidence, wrong.astype(float))
        n = len(confidence)
        return _loosest(bound(errors / n, n) <= ALPHA, thresholds)

    return choose


def hoeffding(risk: Floats, n: int) -> Floats:
    """Hoeffding's upper bound (Bates et al. 2021)."""
    return risk + np.sqrt(np.log(1 / DELTA) / (2 * n))


def conformal(risk: Floats, n: int) -> Floats:
    """Conformal risk control's bound on the expectation (Angelopoulos et al. 2022)."""
    return n / (n + 1) * risk + 1 / (n + 1)


def observed(risk: Floats, _n: int) -> Floats:
    """No bound at all."""
    return risk


def ours_regret(method: RegretMethod) -> Callable[[Floats, Bools, Bools], Threshold]:
    """Locum's regret certificate by one of its tests."""

    def choose(confidence: Floats, wrong: Bools, llm: Bools) -> Threshold:
        bound = certify_regret(confidence, ~wrong, llm, epsilon=EPSILON_REGRET, delta=DELTA, method=method)
        return bound.threshold

    return choose


def naive_regret(confidence: Floats, wrong: Bools, llm: Bools) -> Threshold:
    """The loosest threshold with at most 2 % observed regret."""
    thresholds, _, regret = distinct_thresholds(confidence, llm.astype(float) - (~wrong))
    return _loosest(regret <= EPSILON_REGRET * len(confidence), thresholds)


METHODS = (
    Method("selective", "Locum", ours_selective),
    Method("selective", "MAPIE, default (Holm)", mapie_selective("bonferroni_holm")),
    Method("selective", "MAPIE, fixed sequence", mapie_selective("fixed_sequence")),
    Method("selective", "every rank", dense_selective),
    Method("selective", "naive threshold", naive_selective),
    Method("marginal", "Locum", ours_marginal),
    Method("marginal", "RCPS, Hoeffding", monotone_marginal(hoeffding)),
    Method("marginal", "conformal risk control", monotone_marginal(conformal)),
    Method("marginal", "naive threshold", monotone_marginal(observed)),
    Method("regret", "Locum (exact)", ours_regret("trinomial")),
    Method("regret", "Locum (betting)", ours_regret("betting")),
    Method("regret", "Hoeffding–Bentkus", ours_regret("hoeffding-bentkus")),
    Method("regret", "naive threshold", naive_regret),
)


def run(method: Method, accuracy: float, n: int, draws: int, seed: int) -> dict[str, Any]:
    """One method in one world: mean share answered locally, share of draws that break the promise."""
    world = World(accuracy)
    risk, promise = {
        "selective": (world.selective_risk, ALPHA),
        "marginal": (world.local_and_wrong, ALPHA),
        "regret": (world.regret, EPSILON_REGRET),
    }[method.kind]
    shares, broken, nothing = [], 0, 0
    for draw in range(draws):
        threshold = method.choose(*world.draw(np.random.default_rng((seed, int(accuracy * 100), n, draw)), n))
        shares.append(0.0 if threshold is None else world.share(threshold))
        nothing += threshold is None
        broken += threshold is not None and risk(threshold) > promise
    interval = wilson(broken, draws)
    return {
        "kind": method.kind,
        "method": method.name,
        "accuracy": accuracy,
        "n": n,
        "draws": draws,
        "local_share": round(float(np.mean(shares)), 4),
        "local_share_se": round(float(np.std(shares) / np.sqrt(draws)), 4),
        "broken": round(interval.value, 4),
        "broken_low": round(interval.low, 4),
        "broken_high": round(interval.high, 4),
        "nothing_certified": round(nothing / draws, 4),
    }


def best_possible(accuracy: float) -> float:
    """The share that an oracle who knows the world could answer under "selective"."""
    world = World(accuracy)
    shares = [world.share(t) for t in np.linspace(0, 0.9999, 20_000) if world.selective_risk(t) <= ALPHA]
    return round(max(shares, default=0.0), 4)


def print_setting(console: Console, rows: list[dict[str, Any]]) -> None:
    """The reference setting as a table."""
    accuracy, n = SETTING
    table = Table(title=f"student accuracy {accuracy}, n = {n}, promise 5 % (regret 2 %), confidence 95 %")
    for column in ("promise", "method", "answered locally", "promise broken (95 % interval)", "nothing certified"):
        table.add_column(column, justify="left" if column in ("promise", "method") else "right")
    for row in rows:
        broken = f"{row['broken']:.1%} ({row['broken_low']:.1%}–{row['broken_high']:.1%})"
        share = f"{row['local_share']:.1%}"
        table.add_row(row["kind"], row["method"], share, broken, f"{row['nothing_certified']:.1%}")
    console.print(table)


COLUMNS = ["promise", "method", "answered locally", "promise broken"]


def readme_table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows of the README's table: share answered locally, share of broken promises with its 95 % interval."""
    return [
        {
            "promise": row["kind"],
            "method": f"**{row['method']}**" if row["method"] == "Locum" else row["method"],
            "answered locally": f"{row['local_share']:.1%}",
            "promise broken": f"{row['broken']:.1%} [{row['broken_low']:.1%}, {row['broken_high']:.1%}]",
        }
        for row in rows
    ]


def print_grid(console: Console, rows: list[dict[str, Any]]) -> None:
    """Share answered locally / share of broken promises, per accuracy and n."""
    for kind in ("selective", "marginal", "regret"):
        names = list(dict.fromkeys(row["method"] for row in rows if row["kind"] == kind))
        table = Table("accuracy", "n", *names, title=f"{kind}: answered locally / promise broken")
        for accuracy in GRID_ACCURACY:
            for n in GRID_N:
                here = [r for r in rows if (r["kind"], r["accuracy"], r["n"]) == (kind, accuracy, n)]
                cells = [f"{row['local_share']:.0%} / {row['broken']:.1%}" for row in here]
                table.add_row(str(accuracy), str(n), *cells)
        console.print(table)


def provenance(seed: int, wall_s: float) -> dict[str, Any]:
    """What made the figures."""
    return {
        "script": "bench/certificates.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": seed,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(time.process_time(), 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {
            "locum": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "MAPIE": version(mapie.__name__),
        },
    }


def main() -> None:
    """Run the reference setting and the grid, print both, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where the JSON goes")
    parser.add_argument("--draws", type=int, default=2000, help="calibration splits in the reference setting")
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    console, start_s = Console(), time.monotonic()
    jobs = [(method, *SETTING, options.draws) for method in METHODS]
    setting = [run(*job, options.seed) for job in track(jobs, "reference setting", console=Console(stderr=True))]
    print_setting(console, setting)
    few = max(1, options.draws // 10)
    cells = [(method, a, n, few) for method in METHODS for a in GRID_ACCURACY for n in GRID_N]
    grid = [run(*cell, options.seed) for cell in track(cells, "grid", console=Console(stderr=True))]
    print_grid(console, grid)
    result = {
        "columns": COLUMNS,
        "table": readme_table(setting),
        "provenance": provenance(options.seed, time.monotonic() - start_s),
        "world": f"calibrated confidence ~ Beta({CONCENTRATION:g}a, {CONCENTRATION:g}(1-a)), a = accuracy",
        "promise": {"alpha": ALPHA, "epsilon_regret": EPSILON_REGRET, "delta": DELTA, "llm_accuracy": LLM_ACCURACY},
        "oracle_selective": {str(a): best_possible(a) for a in GRID_ACCURACY},
        "setting": setting,
        "grid": grid,
    }
    write_json(options.out, result)
    console.print(f"written: {options.out} ({result['provenance']['wall_s']:.0f} s)")


if __name__ == "__main__":
    main()
