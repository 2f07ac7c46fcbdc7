"""A commit of this repository, installed beside the working tree, and turns that the two take.

Notable: both sides get an environment of the same make, which holds nothing but two kinds of path: the sources of the
side, and the packages. The packages are those of this environment where each has the version that the commit's
``constraints.txt`` names, else pip installs them. Environments stay in ``~/.cache/locum-bench-venvs``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from locum.stats.intervals import Interval

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path.home() / ".cache" / "locum-bench-venvs"
MARKER = "installed.json"
SOURCES = ("src", "pyproject.toml", "constraints.txt")
EXTRA = "train"
"""What a build needs beside the plain dependencies."""


# the commit


def installed(commit: str, *, root: Path = ROOT, cache: Path = CACHE) -> Path:
    """The Python that runs a commit: made when it is not there, made again when it is broken.

    Args:
        commit: a hash, a tag or a branch of the repository at ``root``.
        root: the repository.
        cache: where environments stay, each in a folder named by the hash of the commit and by this environment.

    Returns:
        The executable. Its packages are shared with this environment where the versions agree (see ``packages_of``).

    Raises:
        RuntimeError: there is no such commit here, or pip cannot install what it needs.
    """
    from filelock import FileLock

    full = commit_hash(commit, root)
    folder = cache / f"locum-{full[:12]}-{_here(_package_folders())}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two benchmarks that begin at once make one environment
        if not _is_whole(folder, full):
            shutil.rmtree(folder, ignore_errors=True)
            _install(full, root, folder)
    return _python(folder / "run")


def working_tree(folder: Path, root: Path = ROOT) -> Path:
    """The Python that runs the working tree, in an environment of the same make as a commit's.

    Args:
        folder: where the environment goes, a temporary one; its packages are those of this environment.
        root: the working tree.
    """
    return _environment(folder, root / "src", _package_folders())


def packages_of(python: Path) -> dict[str, Any]:
    """Where the packages of an installed commit are from.

    Returns:
        ``packages``: ``shared`` with this environment, or the commit's ``own``; ``differences``: why they are its own.
    """
    marker = json.loads((python.parents[2] / MARKER).read_text(encoding="utf-8"))
    return {"packages": marker["packages"], "differences": marker["differences"]}


def commit_hash(commit: str, root: Path = ROOT) -> str:
    """The full hash of a commit.

    Raises:
        RuntimeError: the repository does not have it.
    """
    command = ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{root} has no commit {commit!r} to compare with: fetch it (git fetch --unshallow) or name another"
        )
    return done.stdout.strip()


def clean_environment() -> dict[str, str]:
    """The variables of this process without those that could lead a Python to other sources (``PYTHONPATH`` …)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _install(full: str, root: Path, folder: Path) -> None:
    """Sources, environment and packages; the marker that makes them count comes last."""
    from locum.core.files import write_json

    source = folder / "source"
    _unpack(full, root, source)
    python = _environment(folder / "run", source / "src", _package_folders())
    reasons = _ask(python, source)["differences"]
    if reasons:
        python = _environment(folder / "run", source / "src", [_install_packages(source, folder / "packages")])
        if left := _ask(python, source)["differences"]:
            raise RuntimeError(f"pip installed other versions than constraints.txt of {full[:12]} names: {left[0]}")
    packages = {"packages": "own" if reasons else "shared", "differences": reasons}
    write_json(folder / MARKER, {"commit": full, **packages, "sources": _source_hashes(source)})


def _unpack(full: str, root: Path, source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "commit.zip"
        command = ["git", "-C", str(root), "archive", "--format=zip", f"--output={archive}", full, *SOURCES]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(source)


def _environment(folder: Path, source: Path, packages: Iterable[str]) -> Path:
    """A virtual environment without pip whose path ends with the sources and the packages."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    lines = [str(source), *packages]
    (Path(_site(_python(folder))) / "sides.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _python(folder)


def _install_packages(source: Path, folder: Path) -> str:
    """The commit's dependencies by pip, in the versions of its ``constraints.txt``; the folder that holds them."""
    print(f"installing the packages of {source}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", str(source / "constraints.txt"), *_requirements(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip cannot install what the commit needs: {done.stderr.strip().splitlines()[-1]}")
    return _site(_python(folder))


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _site(python: Path) -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _package_folders() -> list[str]:
    """Folders of this environment that hold installed packages."""
    return [path for path in sys.path if path and next(Path(path).glob("*.dist-info"), None)]


def _here(packages: Iterable[str]) -> str:
    """A short name of this Python and its packages: another one needs an environment of its own."""
    from locum.core.files import content_hash

    return content_hash([platform.python_version(), sys.base_prefix, *packages])[:8]


# is it whole?


def _is_whole(folder: Path, full: str) -> bool:
    """Whether an environment runs that commit, unchanged, with packages of the right versions."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        asked = _ask(_python(folder / "run"), folder / "source")
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return (
        marker["commit"] == full
        and marker["sources"] == _source_hashes(folder / "source")
        and Path(asked["locum"]).is_relative_to(folder / "source")
        and not asked["differences"]
    )


def _ask(python: Path, source: Path) -> dict[str, Any]:
    """What an environment says of itself: where its ``locum`` is, and which packages differ from what is pinned."""
    command = [str(python), str(Path(__file__).resolve()), "--differences", str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment(), timeout=120)
    return json.loads(done.stdout)


def _source_hashes(source: Path) -> dict[str, str]:
    """SHA-256 of every source file; what Python compiled of them is none."""
    from locum.core.files import hash_folder

    return {name: digest for name, digest in hash_folder(source).items() if "__pycache__" not in name}


def differences(source: Path) -> list[str]:
    """Packages of this environment that are missing or not of the version that the sources ask for and pin.

    Follows the dependencies from package to package, as far as their markers hold here, and the training extra.

    Args:
        source: a folder with ``pyproject.toml`` and ``constraints.txt``.

    Returns:
        One line a package, in words; empty when all agree.
    """
    lines = (source / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in map(Requirement, filter(str.strip, lines))}
    waiting = [(Requirement(text), {""}) for text in _requirements(source)]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, str] = {}
    while waiting:
        wanted, extras = waiting.pop()
        name = canonicalize_name(wanted.name)
        asked = (name, frozenset(wanted.extras))
        if asked in seen or not _holds(wanted, extras):
            continue
        seen.add(asked)
        allowed = wanted.specifier & pinned.get(name, SpecifierSet())
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = f"{name} is not installed here, {name}{allowed} is asked for"
            continue
        if not allowed.contains(package.version, prereleases=True):
            found[name] = f"{name} is {package.version} here, {name}{allowed} is asked for"
        waiting += [(Requirement(text), {"", *wanted.extras}) for text in package.requires or []]
    return sorted(found.values())


def _holds(wanted: Requirement, extras: set[str]) -> bool:
    return wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)


def _requirements(source: Path) -> list[str]:
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project.get("optional-dependencies", {}).get(EXTRA, [])]


# turns


@dataclass(frozen=True)
class Turns:
    """What both sides measured, round by round.

    Attributes:
        unit: ``s``, where less is better, or ``per s``, where more is.
        before: one figure a round.
        after: one figure a round, of the working tree.
        first: which side began each round.
    """

    unit: Literal["s", "per s"]
    before: tuple[float, ...]
    after: tuple[float, ...]
    first: tuple[str, ...]

    @property
    def ratios(self) -> list[float]:
        """How fast ``after`` is against ``before``, in each round: 2.0 is twice as fast, whatever the unit."""
        pairs = zip(self.before, self.after, strict=True)
        return [before / after if self.unit == "s" else after / before for before, after in pairs]


def take_turns(
    before: Callable[[], float],
    after: Callable[[], float],
    *,
    rounds: int = 12,
    unit: Literal["s", "per s"] = "s",
    warm_ups: int = 1,
) -> Turns:
    """Measure both sides in turns, so that a machine that slows down slows both.

    The side that begins changes from round to round: what the first leaves to the second (caches, heat) is shared out.

    Args:
        before: measures the older side once.
        after: measures the newer side once.
        rounds: how many pairs; an even number gives each side the first place equally often.
        unit: of what they return.
        warm_ups: how often each is run before, uncounted; Python compiles the sources then.
    """
    sides = {"before": before, "after": after}
    for _ in range(warm_ups):
        for measure in sides.values():
            measure()
    found: dict[str, list[float]] = {name: [] for name in sides}
    first: list[str] = []
    for number in range(rounds):
        order = ["before", "after"] if number % 2 == 0 else ["after", "before"]
        first.append(order[0])
        for name in order:
            found[name].append(sides[name]())
    return Turns(unit, tuple(found["before"]), tuple(found["after"]), tuple(first))


def interval(ratios: Iterable[float], level: float = 0.95) -> Interval:
    """The median and its exact interval between two order statistics, by the binomial distribution of the signs.

    The k-th least and the k-th largest of n independent values hold the median of their distribution between them
    with a probability of 1 − 2·P(Binomial(n, ½) < k), whatever the distribution is (Thompson 1936; David & Nagaraja,
    Order Statistics, 3rd edition, section 7.1); k is the largest that reaches the level. A few rounds that other work
    disturbed move it little, unlike Student's interval of the mean.

    Args:
        ratios: at least six for 95 %.
        level: coverage, never undercut.

    Raises:
        ValueError: too few values for any interval at this level.
    """
    import numpy as np

    from locum.stats.distributions import binomial_cdf
    from locum.stats.intervals import Interval

    ordered = sorted(ratios)
    n = len(ordered)
    ranks = np.arange(1, n // 2 + 1)
    reached = ranks[1 - 2 * binomial_cdf(ranks - 1, n, 0.5) >= level]
    if not len(reached):
        raise ValueError(f"{n} rounds are too few for an interval of the median at {level:.0%}: take more")
    k = int(reached[-1])
    return Interval(statistics.median(ordered), ordered[k - 1], ordered[n - k], "median, order statistics")


def verdict(found: Interval) -> str:
    """``no slower`` when the interval of the ratios reaches 1.0, ``faster`` when it lies above, else ``slower``."""
    if found.low > 1.0:
        return "faster"
    return "no slower" if found.high >= 1.0 else "slower"


def main() -> int:
    """Print the Python that runs a commit."""
    parser = argparse.ArgumentParser(description="Install a commit beside the working tree; print its Python.")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("commit", nargs="?")
    asked.add_argument("--differences", type=Path, metavar="SOURCES", help="what this environment lacks for them")
    options = parser.parse_args()
    if options.differences:
        import locum

        print(json.dumps({"locum": locum.__file__, "differences": differences(options.differences)}))
        return 0
    try:
        print(installed(options.commit))
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
