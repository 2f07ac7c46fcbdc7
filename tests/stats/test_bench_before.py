"""A commit and the working tree in turns: what the interval covers, who begins, which way a ratio points."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy import stats

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCH))
    import before

    yield before


@pytest.mark.parametrize("n", [6, 7, 10, 12, 31, 60])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_is_that_of_scipys_test_of_a_median(before: ModuleType, n: int, level: float) -> None:
    draw = random.Random(n)
    ratios = [draw.lognormvariate(0.1, 0.3) for _ in range(n)]
    found = before.interval(ratios, level)
    expected = stats.quantile_test(ratios, p=0.5).confidence_interval(level)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.value == pytest.approx(float(stats.scoreatpercentile(ratios, 50)))


@pytest.mark.parametrize("n", [10, 12, 60])
def test_the_interval_holds_the_median_as_often_as_it_says(before: ModuleType, n: int) -> None:
    draw = random.Random(1)
    found = [before.interval([draw.gauss(1.0, 0.1) ** 3 for _ in range(n)]) for _ in range(2000)]
    missed = sum(not each.low <= 1.0 <= each.high for each in found)
    assert stats.binomtest(missed, 2000, 0.05, alternative="greater").pvalue > 0.001
    assert missed > 2000 * 0.01  # and it is no wider than it must be


def test_too_few_rounds_have_no_interval(before: ModuleType) -> None:
    with pytest.raises(ValueError, match="5 rounds are too few"):
        before.interval([1.0] * 5)


def test_each_side_begins_every_other_round(before: ModuleType) -> None:
    seen: list[str] = []
    turns = before.take_turns(
        lambda: seen.append("before") or 2.0, lambda: seen.append("after") or 1.0, rounds=4, warm_ups=2
    )
    assert seen[:4] == ["before", "after"] * 2
    assert seen[4:] == ["before", "after", "after", "before", "before", "after", "after", "before"]
    assert turns.first == ("before", "after", "before", "after")
    assert (turns.before, turns.after) == ((2.0,) * 4, (1.0,) * 4)


def test_a_pair_is_of_one_round(before: ModuleType) -> None:
    clock = iter([1.0, 10.0, 20.0, 2.0, 3.0, 30.0])  # the second round begins with the other side
    turns = before.take_turns(lambda: next(clock), lambda: next(clock), rounds=3, warm_ups=0, unit="per s")
    assert turns.before == (1.0, 2.0, 3.0) and turns.ratios == [10.0, 10.0, 10.0]


@pytest.mark.parametrize(("unit", "old", "new"), [("s", 3.0, 2.0), ("per s", 200.0, 300.0)])
def test_a_ratio_above_one_is_faster_whatever_the_unit(before: ModuleType, unit: str, old: float, new: float) -> None:
    turns = before.take_turns(lambda: old, lambda: new, rounds=10, unit=unit)
    assert turns.ratios == pytest.approx([1.5] * 10)
    assert before.verdict(before.interval(turns.ratios)) == "faster"
    back = before.take_turns(lambda: new, lambda: old, rounds=10, unit=unit)
    assert before.verdict(before.interval(back.ratios)) == "slower"


def test_no_slower_is_an_interval_that_reaches_one(before: ModuleType) -> None:
    assert before.verdict(before.interval([0.9] * 9 + [1.0])) == "slower"  # the highest of ten is left out
    assert before.verdict(before.interval([0.9] * 8 + [1.0] * 2)) == "no slower"


def sources(folder: Path, *, needs: list[str], pins: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(f"[project]\nname = 'toy'\ndependencies = {json.dumps(needs)}\n")
    (folder / "constraints.txt").write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    return folder


def test_differences_follow_what_a_package_needs(before: ModuleType, tmp_path: Path) -> None:
    here = {name: metadata.version(name) for name in ("httpx", "h11", "idna")}
    assert before.differences(sources(tmp_path, needs=["httpx"], pins=here)) == []
    (found,) = before.differences(sources(tmp_path, needs=["httpx>=0.1"], pins=here | {"H11": "0.0.1"}))
    assert found.startswith(f"h11 is {here['h11']} here, h11==0.0.1")  # httpx needs httpcore, which needs it
    assert before.differences(sources(tmp_path, needs=["idna"], pins=here | {"h11": "0.0.1"})) == []
    needs = ["no-such-package-here", 'other; sys_platform == "none"']
    (missing,) = before.differences(sources(tmp_path, needs=needs, pins=here))
    assert missing.startswith("no-such-package-here is not installed here")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_keeps_its_sources_and_is_made_again_when_broken(before: ModuleType, tmp_path: Path) -> None:
    repository = sources(tmp_path / "repository", needs=["idna"], pins={"idna": metadata.version("idna")})
    module = repository / "src" / "locum" / "__init__.py"
    module.parent.mkdir(parents=True)

    def git(*arguments: str) -> None:
        name = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *name, "-C", str(repository), *arguments], check=True, capture_output=True)

    git("init")
    for said in ("old", "new"):
        module.write_text(f"said = {said!r}\n")
        git("add", ".")
        git("commit", "-m", said)
    module.write_text("said = 'working tree'\n")

    def said_by(python: Path) -> Any:
        code = "import locum, idna; print(locum.said)"
        return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    python = before.installed("HEAD~1", root=repository, cache=tmp_path / "cache")
    assert (said_by(python), before.packages_of(python)["packages"]) == ("old", "shared")
    assert said_by(before.working_tree(tmp_path / "now", root=repository)) == "working tree"
    made = (python.parents[2] / before.MARKER).stat().st_mtime_ns
    before.installed("HEAD~1", root=repository, cache=tmp_path / "cache")
    assert (python.parents[2] / before.MARKER).stat().st_mtime_ns == made  # nothing was made again
    (python.parents[2] / "source" / "src" / "locum" / "__init__.py").write_text("said = 'changed'\n")
    assert said_by(before.installed("HEAD~1", root=repository, cache=tmp_path / "cache")) == "old"
    python.unlink()
    assert said_by(before.installed("HEAD~1", root=repository, cache=tmp_path / "cache")) == "old"
    with pytest.raises(RuntimeError, match="no commit 'HEAD~7'"):
        before.installed("HEAD~7", root=repository, cache=tmp_path / "cache")
