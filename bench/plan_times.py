"""What ``locum plan`` says each step takes, before anything is built, against what the build then recorded.

    python bench/plan_times.py [--only demo banking77 squad pii] [--minutes 9] [--runs DIR]
                                [--history FILE] [--note TEXT]

For each set: the plan without any history, the plan with the history of the builds before it, then the build, as a user
runs them. The history is a file of its own beside the builds, so that it starts empty and grows from set to set; a
second run has the builds of the first. Steps of 5 s or more count. A folder that holds a build already is not built
again: its recorded plans and seconds are read.

Results go to ``bench/results/plan_times.json`` after each set.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import applications
import tagging
from application_data import write_rows
from public_data import ROOT, data_folder
from public_data import write_task as write_classification

RESULTS = ROOT / "bench" / "results" / "plan_times.json"
SETS = {"demo": 4.0, "banking77": 12.0, "squad": 12.0, "pii": 15.0}
"""With the budgets, in minutes, that the demo and the other tables have."""
LEAST_S, FACTOR = 5.0, 2.0
COLUMNS = ["set", "step", "took", "plan, no history", "plan, with history"]
CAPTION = (
    "Steps that took 5 s or more, in seconds, and what `locum plan` had said of them before the build: by arithmetic"
    " alone, and corrected by earlier builds on this machine (in brackets how many; – where there were none). Bold:"
    " beyond a factor of 2. Of the second training the plan does not know which student it will be for, and takes the"
    " longest."
)


def main() -> None:
    """Measure the sets that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--minutes", type=float, help="budget of each build; default: that of its own table")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "plan-times", help="where builds are kept")
    parser.add_argument("--history", type=Path, help="default: step-times.json in the folder of the builds")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the caption")
    options = parser.parse_args()
    raw: dict[str, Any] = json.loads(RESULTS.read_text())["raw"] if RESULTS.is_file() else {}
    for name in options.only:
        raw[name] = measure(name, options) | {"note": options.note}
        write(raw)
        print(f"{name}: {said(raw[name])}", flush=True)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The plans and the build of one set."""
    folder = options.runs / name
    record = folder / "plans.json"
    if not record.is_file():
        task = task_of(name, folder / "task", options.minutes or SETS[name])
        history = str((options.history or options.runs / "step-times.json").resolve())
        plans = {
            "without": locum("plan", task, folder / "build", "0"),
            "with": locum("plan", task, folder / "build", history),
        }
        built = locum("build", task, folder / "build", history)
        plans["wall_s"] = built["wall_s"]
        record.write_text(json.dumps(plans), encoding="utf-8")
    plans = json.loads(record.read_text(encoding="utf-8"))
    records = [json.loads(path.read_text()) for path in (folder / "build" / "work").glob("*/step.json")]
    return {
        "wall_s": plans["wall_s"],
        "budget_s": plans["without"]["budget_s"],
        "learned_from": plans["with"]["learned_from"],
        "planned_s": plans["without"]["seconds"],
        "planned_with_s": plans["with"]["seconds"],
        "steps": [
            {
                "step": each["name"],
                "took_s": each["seconds"],
                "without_s": planned(each["name"], plans["without"]),
                "with_s": planned(each["name"], plans["with"]) if plans["with"]["learned_from"] else None,
            }
            for each in sorted(records, key=lambda each: each["name"])
        ],
    }


def task_of(name: str, folder: Path, minutes: float) -> Path:
    """The task file of a set, with the files that it names."""
    if name == "demo":
        folder.mkdir(parents=True, exist_ok=True)
        text = (ROOT / "examples" / "prompt-guard" / "task.yaml").read_text(encoding="utf-8")
        text = re.sub(r"build_minutes: [\d.]+", f"build_minutes: {minutes:g}", text)
        (folder / "task.yaml").write_text(text, encoding="utf-8")
        return folder / "task.yaml"
    if name == "banking77":
        return write_classification(name, folder, minutes)
    if name == "pii":
        return tagging.write_task("rows", folder, minutes)
    counts = write_rows(name, data_folder(), folder)
    asked = argparse.Namespace(minutes=minutes, rows=60, coder=None, llm=None)
    return applications.write_task(name, folder, counts, asked)


def locum(command: str, task: Path, out: Path, history: str) -> dict[str, Any]:
    """One command as a user runs it; its JSON."""
    asked = [sys.executable, "-m", "locum.cli.main", command, str(task), "--out", str(out), "--json"]
    told = subprocess.run(asked, stdout=subprocess.PIPE, check=True, env=os.environ | {"LOCUM_HISTORY": history})
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def planned(step: str, plan: Mapping[str, Any]) -> float | None:
    """What a plan says of a step; of the student that is chosen in the end it does not know which that is."""
    seconds = {without_depth(each["name"]): each["seconds"] for each in plan["steps"]}
    later = ("export-refit", "measure-refit", "refit", "answer-calibration")
    names = (without_depth(step), *(name for name in later if step.startswith(f"{name}-")))
    return next((seconds[name] for name in names if name in seconds), None)


def without_depth(step: str) -> str:
    """A step's name whatever the depth, which is decided by a measurement of the machine."""
    return re.sub(r"-\d+L\b", "", step)


def near(took_s: float, planned_s: float | None) -> bool:
    """Whether an estimate is within the factor."""
    return planned_s is not None and took_s / FACTOR <= planned_s <= took_s * FACTOR


def said(found: dict[str, Any]) -> str:
    """How many of the steps that count are within the factor."""
    steps = [each for each in found["steps"] if each["took_s"] >= LEAST_S]
    shares = [f"{sum(near(each['took_s'], each['without_s']) for each in steps)} without history"]
    if found["learned_from"]:
        shares.append(f"{sum(near(each['took_s'], each['with_s']) for each in steps)} with that of earlier builds")
    whole = f"build {found['wall_s']:.0f} s, planned {found['planned_s']:.0f} and {found['planned_with_s']:.0f} s"
    return f"of {len(steps)} steps {', '.join(shares)} within a factor of {FACTOR:g}; {whole}"


def write(raw: dict[str, Any]) -> None:
    """Write the JSON: the table for the documentation, and everything it comes from."""
    import locum as package

    notes = sorted({found["note"] for found in raw.values() if found["note"]})
    sums = [f"{name}: {said(raw[name])}." for name in SETS if name in raw]
    document = {
        "columns": COLUMNS,
        "table": [
            row(name, raw[name], each)
            for name in SETS
            if name in raw
            for each in raw[name]["steps"]
            if each["took_s"] >= LEAST_S
        ],
        "caption": " ".join([CAPTION, *sums, *notes]),
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {"locum": package.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(name: str, found: dict[str, Any], step: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""

    def shown(planned_s: float | None) -> str:
        text = "–" if planned_s is None else f"{planned_s:.0f}"
        return text if planned_s is None or near(step["took_s"], planned_s) else f"**{text}**"

    learned = f" ({found['learned_from']})" if step["with_s"] is not None else ""
    return {
        "set": name,
        "step": step["step"],
        "took": f"{step['took_s']:.0f}",
        "plan, no history": shown(step["without_s"]),
        "plan, with history": shown(step["with_s"]) + learned,
    }


if __name__ == "__main__":
    main()
