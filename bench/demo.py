"""The demo as a newcomer runs it: `make demo` in a fresh clone, small talk to what it built, its promise on test rows.

    python bench/demo.py [--keep FOLDER]

The clone holds what is committed, and gets a virtual environment of its own; pip and the downloads may find what
earlier runs left in their caches. The bundle is asked without an LLM. Results go to ``bench/results/demo.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from before import ROOT
from gateway import circumstances
from unlike import SMALL_TALK

RESULTS = ROOT / "bench" / "results" / "demo.json"
EMPTY = ["", " ", "\n", "…", "?", "...", "!!", "asdf", "🙂", "12345"]
TEN = ["hello", "Hi", "Thanks!", "Ok", "test", "…", "", " ", "?", "asdf"]
"""Ten greetings and empty inputs, none of which may be answered locally."""
ASK = """
import json, sys, locum
student = locum.open(sys.argv[1], llm="none")
texts = json.load(sys.stdin)
print(json.dumps([[each.route, each.output] for each in student.many(texts)]))
"""
COLUMNS = ["measured", "value"]


def main() -> None:
    """Clone, build, ask, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the clone; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        write(measure(options.keep or Path(temporary) / "locum"))


def measure(clone: Path) -> dict[str, Any]:
    """The seconds of `make demo`, who answers small talk, and what the report says of the promise."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    started = time.monotonic()
    subprocess.run(["make", "demo"], check=True, cwd=clone)
    seconds = time.monotonic() - started
    bundle = clone / "runs" / "prompt-guard" / "bundle"
    talk = [line.strip() for line in SMALL_TALK if line.strip()]
    answers = {name: ask(clone, bundle, texts) for name, texts in (("ten", TEN), ("empty", EMPTY), ("talk", talk))}
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    keys = ("threshold", "local_share", "max_error", "errors", "n")
    certificate = {name: report["certificate"].get(name) for name in keys}
    return {
        "seconds": seconds,
        "build_s": report["wall_s"],
        "answers": {name: {"n": len(found), "local": sum(route == "local" for route, _ in found)} | {
            "as_injection": sum(route == "local" and output == "1" for route, output in found)
        } for name, found in answers.items()},
        "certificate": certificate,
        "promise": report["promise"],
    }  # fmt: skip


def ask(clone: Path, bundle: Path, texts: list[str]) -> list[list[str | None]]:
    """Route and answer of each text, by the clone's own environment."""
    command = [str(clone / ".venv" / "bin" / "python"), "-c", ASK, str(bundle)]
    done = subprocess.run(command, input=json.dumps(texts), text=True, capture_output=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write(found: dict[str, Any]) -> None:
    """The JSON with the table that ``docs/results.md`` shows."""
    answers, promise = found["answers"], found["promise"]
    kept = "broken" if promise["broken"] else "not broken"
    wrong = f"{promise['errors']} of {promise['rows']:,}: {100 * promise['low']:.2f} to {100 * promise['high']:.2f} %"
    table = [
        ("`make demo` in a fresh clone, install included", f"{found['seconds']:.0f} s"),
        ("the build alone", f"{found['build_s']:.0f} s"),
        ("ten greetings and empty inputs: answered locally", f"{answers['ten']['local']} of {answers['ten']['n']}"),
        ("further empty inputs: answered locally", f"{answers['empty']['local']} of {answers['empty']['n']}"),
        ("small talk: answered locally", f"{answers['talk']['local']} of {answers['talk']['n']}"),
        (
            "small talk: answered locally as an injection",
            f"{answers['talk']['as_injection']} of {answers['talk']['n']}",
        ),
        ("calibration rows answered locally", f"{100 * found['certificate']['local_share']:.1f} %"),
        (f"wrong of test rows answered locally, {100 * promise['max_error']:.0f} % promised", f"{wrong}, {kept}"),
    ]
    document = {
        "circumstances": circumstances(),
        "columns": COLUMNS,
        "table": [dict(zip(COLUMNS, row, strict=True)) for row in table],
        "caption": "Small talk: the inputs of `bench/unlike.py`, of one to six words. The interval is of 95 %.",
        "raw": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(f"{name}: {value}" for name, value in table), file=sys.stderr)


if __name__ == "__main__":
    main()
