"""A million malformed inputs through every parser that strangers reach: no crash, no hang, no foreign exception.

    python bench/fuzz.py                               all targets, 1,050,000 inputs
    python bench/fuzz.py --inputs 10000 --only gguf    less
    python bench/fuzz.py --replay gguf:0:4711          one input again, with its traceback
    python bench/fuzz.py --atheris json                guided by coverage until stopped (needs atheris)

Notable: input number i of a target is a function of target, seed and i. Inputs run in batches, each in a process of its
own: a batch that dies names the input it died of and goes on behind it. An input may take one second of processor time,
a process grow by 300 MB.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import queue
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_targets import TARGETS, Target

RESULTS = Path(__file__).resolve().parent / "results" / "fuzz.json"
INPUTS = 1_050_000
BATCH = 10_000
SLOW_S = 1.0
HANG_S = 20
GROWTH_MB = 300
_KEPT_FAILURES = 50


class _Hang(BaseException):
    """The alarm rang: not an Exception, so that nothing under test can swallow it."""


def make_input(name: str, seed: int, index: int) -> bytes:
    """Input number ``index`` of a target."""
    return TARGETS[name].make(random.Random((seed << 40) + index))


def run_batch(name: str, seed: int, start: int, count: int, progress: mmap.mmap | None = None) -> dict[str, Any]:
    """Run a batch in this process.

    Returns:
        ``outcomes`` (a count for each), ``failures``, ``seconds`` within the target, and ``growth_mb``.
    """
    target = TARGETS[name]
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    before_mb, spent_s = _peak_mb(), 0.0
    for index in range(start, start + count):
        if progress is not None:
            progress[:8] = index.to_bytes(8, "little")
        content = make_input(name, seed, index)
        begin_s = time.thread_time()
        try:
            outcomes[target.run(content)] += 1
            problem = ""
        except (Exception, _Hang) as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            problem = f"{type(error).__name__}: {error}"[:300]
        taken_s = time.thread_time() - begin_s
        spent_s += taken_s
        if not problem and taken_s > SLOW_S:
            problem = f"slow: {taken_s:.1f} s"
        if problem and len(failures) < _KEPT_FAILURES:
            failures.append({"input": f"{name}:{seed}:{index}", "problem": problem, "content": content[:2000].hex()})
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
    signal.setitimer(signal.ITIMER_REAL, 0)
    growth_mb = _peak_mb() - before_mb
    if growth_mb > GROWTH_MB:
        problem = f"memory grew by {growth_mb:.0f} MB"
        failures.append({"input": f"{name}:{seed}:{start}", "problem": problem, "content": ""})
    return {"outcomes": dict(outcomes), "failures": failures, "seconds": spent_s, "growth_mb": growth_mb}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ring(_signal: int, _frame: object) -> None:
    raise _Hang(f"over {HANG_S} s")


def work(name: str, seed: int, start: int, count: int, progress_file: Path) -> None:
    """A batch in a child process: its result is one line on standard output."""
    signal.signal(signal.SIGALRM, _ring)
    with progress_file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as progress:
        print(json.dumps(run_batch(name, seed, start, count, progress)))


def run_child(name: str, seed: int, start: int, count: int) -> dict[str, Any]:
    """A batch in a child, and what it was at when it died, if it did."""
    with tempfile.NamedTemporaryFile() as progress:
        progress.write(b"\0" * 8)
        progress.flush()
        command = [sys.executable, __file__, "--work", name, str(seed), str(start), str(count), progress.name]
        child = subprocess.run(command, stdout=subprocess.PIPE, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if child.returncode == 0:
            return json.loads(child.stdout)
        at = int.from_bytes(Path(progress.name).read_bytes()[:8], "little")
    failure = {"input": f"{name}:{seed}:{at}", "problem": f"the process ended with {child.returncode}", "content": ""}
    first = run_child(name, seed, start, at - start) if at > start else _NOTHING
    rest = run_child(name, seed, at + 1, start + count - at - 1) if at + 1 < start + count else _NOTHING
    joined = _joined([first, rest])
    joined["failures"].append(failure)
    return joined


_NOTHING: dict[str, Any] = {"outcomes": {}, "failures": [], "seconds": 0.0, "growth_mb": 0.0}


def _joined(results: list[dict[str, Any]]) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    for each in results:
        outcomes.update(each["outcomes"])
    return {
        "outcomes": dict(outcomes.most_common()),
        "failures": [failure for each in results for failure in each["failures"]],
        "seconds": sum(each["seconds"] for each in results),
        "growth_mb": max((each["growth_mb"] for each in results), default=0.0),
    }


def run_all(names: list[str], inputs: int, seed: int, workers: int) -> dict[str, dict[str, Any]]:
    """Every target in batches, several at a time.

    Returns:
        The joined result of each target, with its count of ``inputs``.
    """
    total = sum(TARGETS[name].share for name in names)
    counts = {name: inputs * TARGETS[name].share // total for name in names}
    waiting: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()
    n_batches = 0
    for name, count in counts.items():
        for start in range(0, count, BATCH):
            waiting.put((name, start, min(BATCH, count - start)))
            n_batches += 1
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    printing = threading.Lock()

    def take() -> None:
        while True:
            try:
                name, start, count = waiting.get_nowait()
            except queue.Empty:
                return
            result = run_child(name, seed, start, count)
            with printing:
                results[name].append(result)
                done = sum(len(each) for each in results.values())
                print(f"\r{done}/{n_batches} batches, {name:<12}", end="", file=sys.stderr, flush=True)
                for failure in result["failures"]:
                    print(f"\n{failure['input']}: {failure['problem']}", file=sys.stderr)

    threads = [threading.Thread(target=take) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(file=sys.stderr)
    return {name: {**_joined(found), "inputs": counts[name]} for name, found in results.items()}


def document(results: dict[str, dict[str, Any]], wall_s: float, seed: int, workers: int) -> dict[str, Any]:
    """What is written beside the other benchmarks."""
    table = []
    for name, found in results.items():
        accepted = found["outcomes"].get("ok", 0)
        table.append(
            {
                "input": TARGETS[name].title,
                "inputs": f"{found['inputs']:,}",
                "refused": f"{found['inputs'] - accepted - len(found['failures']):,}",
                "error codes": len(set(found["outcomes"]) - {"ok"}),
                "failures": len(found["failures"]),
                "inputs a second": f"{found['inputs'] / max(found['seconds'], 1e-9):,.0f}",
            }
        )
    inputs, failures = (
        sum(x) for x in zip(*((f["inputs"], len(f["failures"])) for f in results.values()), strict=True)
    )
    return {
        "columns": ["input", "inputs", "refused", "error codes", "failures", "inputs a second"],
        "table": table,
        "caption": f"{inputs:,} malformed inputs in {wall_s:.0f} s with {workers} processes, seed {seed}: "
        f"{failures} failures (a foreign exception, a second of processor time, a dead process, 300 MB more memory).",
        "inputs": inputs,
        "failures": [failure for found in results.values() for failure in found["failures"]][:_KEPT_FAILURES],
        "seconds": round(wall_s, 1),
        "seed": seed,
        "workers": workers,
        "outcomes": {name: found["outcomes"] for name, found in results.items()},
        "growth_mb": {name: round(found["growth_mb"], 1) for name, found in results.items()},
        "date": time.strftime("%Y-%m-%d"),
    }


def replay(which: str) -> None:
    """Run one input again and show what comes of it."""
    name, seed, index = which.split(":")
    content = make_input(name, int(seed), int(index))
    print(content[:2000])
    try:
        print(TARGETS[name].run(content))
    except Exception:  # noqa: BLE001  (shown, which is the purpose)
        traceback.print_exc()


def guided(target: Target) -> None:
    """Hand the target to atheris, which follows coverage until it is stopped."""
    import atheris  # pyright: ignore[reportMissingImports]

    atheris.instrument_all()
    atheris.Setup([sys.argv[0]], lambda data: target.run(data) if data else None)
    atheris.Fuzz()


def main() -> int:
    """Fuzz, print the table and write the JSON; 1 when something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=list(TARGETS), action="append")
    parser.add_argument("--replay", metavar="TARGET:SEED:NUMBER")
    parser.add_argument("--atheris", choices=list(TARGETS))
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, seed, start, count, progress = options.work
        work(name, int(seed), int(start), int(count), Path(progress))
        return 0
    if options.replay:
        replay(options.replay)
        return 0
    if options.atheris:
        guided(TARGETS[options.atheris])
        return 0
    begin_s = time.monotonic()
    results = run_all(options.only or list(TARGETS), options.inputs, options.seed, options.workers)
    made = document(results, time.monotonic() - begin_s, options.seed, options.workers)
    for row in made["table"]:
        print("  ".join(f"{column}: {row[column]}" for column in made["columns"]))
    print(made["caption"])
    if options.only is None and options.inputs >= INPUTS:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return 1 if made["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
