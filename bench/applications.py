"""The applications table: prompted, few-shot and tuned students and the LLM on one kind of task after another.

    python bench/applications.py --llm PATH.gguf [--coder PATH.gguf] [--only NAME …] [--minutes 12] [--rows 60]
                                 [--llm-rows 40]

For each public data set one ``locum build`` as a user runs it, with the candidates named in ``STUDENTS``; the LLM (a
local GGUF file) answers a sample of the same test rows through the same scorer. Two cores force samples: how many rows
stands in the table. Results go to ``bench/results/applications.json`` after each data set.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from application_data import APPLICATIONS, write_rows
from public_data import ROOT, data_folder

RESULTS = ROOT / "bench" / "results" / "applications.json"
DECODER, ENCODER = "SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"
PROMPTED = [{"base": DECODER, "method": "prompt"}, {"base": DECODER, "method": "few_shot"}]
STUDENTS: dict[str, list[dict[str, Any]]] = {
    "generate": [*PROMPTED, {"base": DECODER, "method": "full"}],
    "extract": [*PROMPTED, {"base": DECODER, "method": "full"}],
    "classify": [{"method": "linear"}, {"base": ENCODER, "method": "head"}, {"base": ENCODER, "method": "full"}],
    "rank": [{"method": "linear"}, {"base": ENCODER, "method": "head"}, {"base": ENCODER, "method": "full"}],
    "tag": [{"base": ENCODER, "method": "head"}, {"base": ENCODER, "method": "full"}],
}
CODER = {"squad": "few_shot", "tool_calls": "few_shot", "gsm8k": "few_shot", "humaneval": "prompt"}
"""How the second student, a file of Qwen2.5-Coder-0.5B-Instruct, is asked where it fits. Its weights are not in the
package index, so it is not tuned."""

CHECKED_ONLY = ("ifeval",)
"""Sets whose gold answers only check what was written: nothing can be tuned on them."""

COLUMNS = [
    "data set", "kind", "metric", "prompted", "few-shot", "tuned", "coder 0.5B", "LLM 1.5B", "test rows", "served",
    "size", "p50", "local", "build",
]  # fmt: skip
CAPTION = (
    "Scores on the test rows, in brackets the 95 % interval. Prompted and few-shot: SmolLM2-135M-Instruct (Q4_1)."
    " Tuned: the same, all weights, where answers are written; all-MiniLM-L6-v2 for labels, spans and rankings (their"
    " prompted columns are empty). Coder 0.5B: Qwen2.5-Coder-0.5B-Instruct (Q4_K_M), few-shot, on HumanEval prompted."
    " LLM: Qwen2.5-Coder-1.5B-Instruct (Q4_K_M), prompted with the instruction, on the rows in its brackets. Local:"
    " share of calibration rows answered without the LLM under the certificate in force: at most 20 % of the answers"
    " given locally are wrong (5 % for labels and spans, but not of type_errors), proved at 95 % confidence; 0 % where"
    " nothing can be proved from so few rows. On dev: the build had no time left to ask that student on the test rows,"
    " too."
)


def main() -> None:
    """Measure the data sets that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(APPLICATIONS), default=None)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--rows", type=int, default=60, help="most rows of dev, calibration and test, written answers")
    parser.add_argument("--llm", type=Path, help="GGUF file of the LLM to prompt")
    parser.add_argument("--coder", type=Path, help="GGUF file of a second student, prompted where it fits")
    parser.add_argument("--llm-rows", type=int, default=40)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "applications", help="where builds are kept")
    options = parser.parse_args()
    raw: dict[str, Any] = json.loads(RESULTS.read_text())["raw"] if RESULTS.is_file() else {}
    for name in options.only or [name for name in APPLICATIONS if name not in raw]:
        raw[name] = measure(name, options)
        write(raw)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One data set: its files, its task, its build."""
    run = options.runs / name
    counts = write_rows(name, data_folder(), run / "task")
    task = write_task(name, run / "task", counts, options)
    command = [sys.executable, "-m", "locum.cli.main", "build", str(task), "--out", str(run / "build"), "--json"]
    started_s = time.monotonic()
    built = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    report = json.loads((run / "build" / "bundle" / "report.json").read_text(encoding="utf-8"))
    cards = (run / "build" / "work").glob("data-*/splits/card.json")  # one for each size that was ever asked for
    splits = max(cards, key=lambda path: path.stat().st_mtime)
    found = json.loads(built.stdout)
    for path in ("bundle", "report"):
        found.pop(path)  # where it stands on this machine says nothing elsewhere
    return {
        "build": found,
        "process_s": time.monotonic() - started_s,
        "rows": {split: card["rows"] for split, card in json.loads(splits.read_text())["splits"].items()},
        "given": counts,
        "metric": report["metric"],
        "intervals": {rung["candidate"]["name"]: rung["test"]["metrics"] for rung in report["ladder"] if rung["test"]},
        "dev": {rung["candidate"]["name"]: rung["dev"]["metrics"] for rung in report["ladder"] if rung["dev"]},
        "calibration": {
            rung["candidate"]["name"]: rung["test"]["calibration"] for rung in report["ladder"] if rung["test"]
        },
        "comparisons": report["comparisons"],
    }


def write_task(name: str, folder: Path, counts: dict[str, int], options: argparse.Namespace) -> Path:
    """The task file: what the data set says, the same candidates and budget for every set of its kind."""
    said = APPLICATIONS[name].task
    kind = said["kind"]
    written = kind in ("generate", "extract")
    students = [each for each in STUDENTS[kind] if name not in CHECKED_ONLY or each["method"] in ("prompt", "few_shot")]
    if name in CHECKED_ONLY:
        students = students[:1]  # what only checks an answer is no worked example either
    if options.coder and name in CODER:
        students.append({"base": str(options.coder.resolve()), "method": CODER[name]})
    data = {"train": "train.jsonl", **({"test": "test.jsonl"} if "test" in counts else {}), **said["data"]}
    if written:
        data |= {"max_held_out": options.rows, "max_rows": 3000}
    most = 0.05 if kind in ("classify", "tag") else 0.2
    task = {
        "version": 1,
        "name": name.replace("_", "-"),
        "guarantee": {"kind": "selective", "max_error": most, "confidence": 0.95},
        **said,
        "data": data,
        "students": students,
        "budget": {"build_minutes": options.minutes},
    }
    if options.llm:
        task["llm"] = {"model": str(options.llm.resolve()), "examples": options.llm_rows, "timeout_s": 600}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def write(raw: dict[str, Any]) -> None:
    """Write the JSON: the table for the documentation, and everything it comes from."""
    import locum

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "columns": COLUMNS,
        "table": [row(name, raw[name]) for name in APPLICATIONS if name in raw],
        "caption": CAPTION,
        "more": {name: ladder(raw[name]) for name in APPLICATIONS if name in raw},
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {"locum": locum.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(name: str, found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    build, metric = found["build"], found["metric"]
    said = APPLICATIONS[name].task
    candidates = build["candidates"]
    chosen = next(each for each in candidates if each["chosen"])

    def score(*methods: str, coder: bool = False) -> str:
        named = [each["name"] for each in candidates if each["name"].split("/")[-1].startswith(methods)]
        named = [each for each in named if ("coder" in each) == coder]
        for split, mark in (("intervals", ""), ("dev", " on dev")):
            scores = [found[split][each][metric] for each in named if each in found.get(split, {})]
            if scores:
                return shown(max(scores, key=lambda value: value["value"])) + mark
        return "–"

    llm = build["llm"]
    return {
        "data set": name,
        "kind": said.get("profile", said["kind"]),
        "metric": metric.replace("_", " "),
        "prompted": score("prompt"),
        "few-shot": score("few_shot"),
        "tuned": score("full", "head", "lora"),
        "coder 0.5B": score("prompt", "few_shot", coder=True),
        "LLM 1.5B": f"{shown(llm['test']['metrics'][metric])} (n={llm['test']['n']})" if llm else "–",
        "test rows": f"{found['rows']['test']:,}",
        "served": build["chosen"],
        "size": f"{chosen['size_mb']:.0f} MB",
        "p50": p50(chosen),
        "local": f"{100 * build['certificate']['local_share']:.0f} %",
        "build": f"{build['wall_s'] / 60:.0f} min",
    }


def ladder(found: dict[str, Any]) -> dict[str, Any]:
    """What the report of one build says: its candidates, the verdict, the certificate, what it took."""
    build, metric = found["build"], found["metric"]
    rows = []
    for each in build["candidates"]:
        tested = found["intervals"].get(each["name"])
        name = f"**{each['name']}**" if each["chosen"] else each["name"]
        if tested is None:
            dev = found.get("dev", {}).get(each["name"])
            told = f"not built: {each['reason']}" if dev is None else f"{shown(dev[metric])} on dev; {each['reason']}"
            rows.append({"candidate": name, "score": told})
            continue
        trained = each["train_s"]
        rows.append(
            {
                "candidate": name,
                "score": f"{metric.replace('_', ' ')} {shown(tested[metric])}",
                "size": f"{each['size_mb']:.0f} MB",
                "p50": p50(each),
                "training": "–" if trained is None else f"{trained:,.0f} s",
            }
        )
    learned = found["rows"]["train"]
    took = f"The build took {build['wall_s'] / 60:.0f} minutes on two cores, with {learned:,} rows to learn from."
    said = (build["verdict"], build["certificate"]["statement"], took)
    caption = " ".join(text.removesuffix(".") + "." for text in said)
    return {"columns": ["candidate", "score", "size", "p50", "training"], "table": rows, "caption": caption}


def p50(candidate: dict[str, Any]) -> str:
    """Median latency of a candidate; a dash where it was withdrawn."""
    timed = candidate["latency_ms"]
    return f"{timed['p50']:,.0f} ms" if timed else "–"


def shown(interval: dict[str, float]) -> str:
    """A score with its interval, in points."""
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"


if __name__ == "__main__":
    main()
