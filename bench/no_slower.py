"""Is the working tree no slower than a commit before it? Both in turns: gateway, opening a bundle, start-up, a build.

    python bench/no_slower.py [--before f794c4e] [--rounds 12] [--seconds 3] [--only NAME …] [--demo BUILDS]

Notable: every figure comes from processes that have just been started, so that no round hangs on the luck of another.
The commit is installed by ``before.py``, which also says what the interval is. Results: ``results/no_slower.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import before
import gateway
import gateway_load

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "no_slower.json"
COMMIT = "f794c4e"
CONNECTIONS = 16
SHORT = 5  # rounds of what takes less than a second, for one of the gateway
LEAST_ROUNDS = 10
DEMO = ROOT / "examples" / "prompt-guard" / "task.yaml"
COLUMNS = ["measured", "rounds", "before", "now", "speed", "95 % interval", "verdict"]

BUNDLES = """
import sys
from pathlib import Path
from locum.testing.bundles import pico_bundle, pico_task
folder, upstream = Path(sys.argv[1]), sys.argv[2]
pico_bundle(folder / "linear")
pico_bundle(folder / "onnx", engine="onnx", threshold=0.4)
pico_bundle(folder / "proxy", task_text=pico_task(base_url=upstream, model="mock"))
"""
ANSWER = """
import sys
import locum
answer = locum.open(sys.argv[1])("my card is lost in the mail")
if answer.output != "card":
    sys.exit(f"a wrong answer: {answer}")
"""
DOWNLOADS = """
import sys
import torch, transformers
from pathlib import Path
from locum.pipeline.plan import make_plan
from locum.pipeline.workspace import split_addresses
from locum.schema.taskfile import parse_task
from locum.sources.bases import ensure_base
from locum.sources.fetch import Request, fetch_all
file = Path(sys.argv[1])
task = parse_task(file.read_text(encoding="utf-8"))
fetch_all({split: Request(at, task.data.sha256.get(split)) for split, at in split_addresses(task).items()})
for base in {candidate.base for candidate in make_plan(file).ladder if candidate.base and not candidate.skipped}:
    ensure_base(base)
"""


@dataclass(frozen=True)
class Side:
    """One of the two: the Python that runs it, and a folder with bundles that it wrote itself."""

    python: Path
    folder: Path


@dataclass(frozen=True)
class Measure:
    """What is measured once a round and side.

    Attributes:
        name: on the command line and in the JSON.
        shown: in the table.
        unit: of the figure.
        figure: measures one side once.
        often: rounds for each that was asked for.
    """

    name: str
    shown: str
    unit: Literal["s", "per s"]
    figure: Callable[[Side], float]
    often: int = 1


def main() -> int:
    """Install, measure in turns, write the JSON."""
    options = arguments()
    signal.signal(signal.SIGTERM, ended)
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]  # PYTHONPATH would lead both sides to the same sources
    try:
        old = before.installed(options.before)
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return 1
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        mock = running.enter_context(gateway.asgi("mock"))
        pythons = {"before": old, "now": before.working_tree(folder / "working-tree")}
        sides = [side(name, python, folder, mock.url) for name, python in pythons.items()]
        found = {
            measure.name: (measure, taken(measure, sides, options.rounds * measure.often, warm_ups=1))
            for measure in measures(options.seconds)
            if options.only is None or measure.name in options.only
        }
        if options.demo:
            call(sides[1].python, "-c", DOWNLOADS, str(DEMO))
            demo = Measure("demo", "`locum build examples/prompt-guard`", "s", build)
            found["demo"] = (demo, taken(demo, sides, options.demo, warm_ups=0))
    write(found, before.packages_of(old), options)
    return 0


def ended(*_: object) -> None:
    """Leave by an exception, so that whoever ends this process ends its servers, too."""
    sys.exit(143)


def arguments() -> argparse.Namespace:
    """The command line, refused before anything is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=COMMIT, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=12, help=f"at least {LEAST_ROUNDS}")
    parser.add_argument("--seconds", type=float, default=3, help="of the gateway's load in one round")
    parser.add_argument("--only", nargs="*", choices=[measure.name for measure in measures(1)])
    parser.add_argument("--demo", type=int, default=0, metavar="BUILDS", help="rounds of ten minutes a side and more")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {options.rounds}: an interval needs at least {LEAST_ROUNDS} rounds")
    return options


def side(name: str, python: Path, folder: Path, upstream: str) -> Side:
    """A side with the bundles that its own code writes."""
    bundles = folder / name
    bundles.mkdir()
    call(python, "-c", BUNDLES, str(bundles), f"{upstream}/v1")
    return Side(python, bundles)


def taken(measure: Measure, sides: list[Side], rounds: int, warm_ups: int) -> before.Turns:
    """Turns of one measure; each figure is told when it is there."""

    def told(name: str, of: Side) -> float:
        figure = measure.figure(of)
        print(f"{measure.name:<8} {name:<7} {figure:12.4f} {measure.unit}", file=sys.stderr, flush=True)
        return figure

    old, new = (partial(told, name, of) for name, of in zip(("before", "now"), sides, strict=True))
    return before.take_turns(old, new, rounds=rounds, unit=measure.unit, warm_ups=warm_ups)


# what is measured


def measures(seconds: float) -> list[Measure]:
    """All but the build, which takes long."""
    shown = f"gateway before a mock LLM, {CONNECTIONS} connections"
    short = {
        "open": ("`locum.open` of a linear bundle and one answer", partial(answer_s, bundle="linear")),
        "onnx": ("`locum.open` of an ONNX bundle and one answer", partial(answer_s, bundle="onnx")),
        "import": ("`import locum`", partial(command_s, arguments=("-c", "import locum"))),
        "help": ("`locum --help`", partial(command_s, arguments=("-m", "locum.cli.main", "--help"))),
    }
    return [
        Measure("gateway", shown, "per s", partial(requests_per_s, seconds=seconds)),
        *(Measure(name, words, "s", figure, SHORT) for name, (words, figure) in short.items()),
    ]


def requests_per_s(of: Side, seconds: float) -> float:
    """Requests a second that a gateway of its own process passes on, every connection asking again at once."""
    with gateway.served(of.python, of.folder / "proxy") as server:
        gateway_load.saturated(server.url, server.model, CONNECTIONS, 1.0)  # imports, connections, caches
        load = gateway_load.saturated(server.url, server.model, CONNECTIONS, seconds)
    if load["errors"]:
        raise RuntimeError(f"{load['errors']} of {load['requests']} requests failed")
    return load["requests"] / load["wall_s"]


def answer_s(of: Side, bundle: str) -> float:
    """A fresh process that opens a bundle and answers once, from its start to its end."""
    return call(of.python, "-c", ANSWER, str(of.folder / bundle))


def command_s(of: Side, arguments: tuple[str, ...]) -> float:
    """A fresh process, from its start to its end."""
    return call(of.python, *arguments)


def build(of: Side) -> float:
    """A whole build in a folder of its own; nothing is downloaded meanwhile."""
    with tempfile.TemporaryDirectory() as out:
        return call(of.python, "-m", "locum.cli.main", "build", str(DEMO), "--out", out, "--offline", "--json")


def call(python: Path, *arguments: str) -> float:
    """Run a Python to its end; wall seconds.

    Raises:
        RuntimeError: it failed; the message ends with the last line that it said.
    """
    start_s = time.perf_counter()
    done = subprocess.run([str(python), *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    wall_s = time.perf_counter() - start_s
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["(nothing)"]
        raise RuntimeError(f"{python} ended with {done.returncode}: {said[-1]}")
    return wall_s


# the result


def write(
    found: dict[str, tuple[Measure, before.Turns]], packages: dict[str, Any], options: argparse.Namespace
) -> None:
    """The file, and the table for whoever waits."""
    table = [row(measure, turns) for measure, turns in found.values()]
    commit = before.commit_hash(options.before)
    document = {
        "columns": COLUMNS,
        "table": table,
        "caption": caption(commit, packages, options.seconds),
        "before": commit,
        "now": tree(),
        **packages,
        "load": gateway_load.generator(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version()},
        "raw": {
            name: {"unit": turns.unit, "before": turns.before, "now": turns.after, "first": turns.first}
            for name, (_, turns) in found.items()
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for line in table:
        print("  ".join(f"{line[column]:>12}" for column in COLUMNS))


def row(measure: Measure, turns: before.Turns) -> dict[str, str]:
    """One line of the table; too few rounds for an interval have none, and no verdict."""
    line = {
        "measured": measure.shown,
        "rounds": str(len(turns.ratios)),
        "before": amount(statistics.median(turns.before), turns.unit),
        "now": amount(statistics.median(turns.after), turns.unit),
        "speed": f"{statistics.median(turns.ratios):.3f}×",
        "95 % interval": "–",
        "verdict": "–",
    }
    with contextlib.suppress(ValueError):
        found = before.interval(turns.ratios)
        line["95 % interval"] = f"{found.low:.3f} to {found.high:.3f}"
        line["verdict"] = before.verdict(found)
    return line


def amount(value: float, unit: str) -> str:
    """A figure for people."""
    if unit == "per s":
        return f"{value:,.0f}/s"
    return f"{1000 * value:,.1f} ms" if value < 10 else f"{value:,.0f} s"


def caption(commit: str, packages: dict[str, Any], seconds: float) -> str:
    """How to read the table."""
    loader = "wrk" if gateway_load.generator() == "wrk" else "the project's own loader"
    same = "with the same packages" if packages["packages"] == "shared" else "with packages of its own versions"
    return (
        f"Before: {commit[:7]}, {same}. Medians over rounds in which both sides run, each beginning every other one. "
        "Speed: now against before in the same round, above 1 is faster; the median of the ratios, with the exact "
        f"binomial interval of a median. No slower: the interval reaches 1. Gateway: {seconds:g} s of {loader} in each "
        "round, on the same cores as mock LLM and gateway. Every figure is from a process of its own, start included "
        "where it is a time."
    )


def tree() -> str:
    """The commit of the working tree, and whether more has changed since."""
    head = before.commit_hash("HEAD")
    changed = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return f"{head} with changes" if changed.strip() else head


if __name__ == "__main__":
    sys.exit(main())
