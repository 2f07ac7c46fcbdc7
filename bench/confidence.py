"""How well a confidence tells right answers from wrong ones: ours against the two usual ones, on written answers.

    python bench/confidence.py [--base NAME|PATH.gguf] [--method few_shot] [--only squad …] [--rows 100] [--samples 5]
                               [--minutes 20]

For each data set one ``locum build`` of a prompted student that also draws further answers; then, on the test rows, the
AUROC of right against wrong of
- ours: token log-probabilities, entropy, agreement and the kind's own features, combined by weights fitted on dev;
- the mean log-probability of the answer's tokens (length-normalised sequence probability);
- the share of sampled answers that say the same (self-consistency).
Intervals are bootstrapped over rows. Results go to ``bench/results/confidence.json`` after each data set.
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

import numpy as np
import yaml

from application_data import APPLICATIONS, write_rows
from applications import DECODER
from public_data import ROOT, data_folder

RESULTS = ROOT / "bench" / "results" / "confidence.json"
DATASETS = ("squad", "tool_calls", "gsm8k")
COLUMNS = [
    "data set",
    "student",
    "rows",
    "right",
    "ours",
    "mean log-probability",
    "agreement of samples",
    "calibration error",
]
CAPTION = (
    "AUROC of right against wrong answers of a prompted or few-shot student on test rows, in brackets the 95 %"
    " interval; – where no answer, or every one, is right. Ours is fitted on as many dev rows."
)


def main() -> None:
    """Measure the data sets that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=DECODER, help="the student: a name of the catalogue, or a GGUF file")
    parser.add_argument("--method", choices=("prompt", "few_shot"), default="few_shot")
    parser.add_argument("--only", nargs="*", choices=DATASETS, default=None)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "confidence", help="where builds are kept")
    options = parser.parse_args()
    raw: dict[str, Any] = json.loads(RESULTS.read_text())["raw"] if RESULTS.is_file() else {}
    if Path(options.base).is_file():
        options.base = str(Path(options.base).resolve())
    student = f"{Path(options.base).name.removesuffix('.gguf')}/{options.method}"
    measured = raw.setdefault(student, {})
    for name in options.only or [name for name in DATASETS if name not in measured]:
        measured[name] = measure(name, options, options.runs / student / name)
        write(raw)


def measure(name: str, options: argparse.Namespace, run: Path) -> dict[str, Any]:
    """One data set: the build, then the three confidences on its test rows."""
    counts = write_rows(name, data_folder(), run / "task")
    task = write_task(name, run / "task", counts, options)
    command = [sys.executable, "-m", "locum.cli.main", "build", str(task), "--out", str(run / "build"), "--json"]
    subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return compare(run / "build", task)


def write_task(name: str, folder: Path, counts: dict[str, int], options: argparse.Namespace) -> Path:
    """The task file: a prompted student, further answers drawn for the agreement."""
    said = APPLICATIONS[name].task
    data = {"train": "train.jsonl", **({"test": "test.jsonl"} if "test" in counts else {}), **said["data"]}
    task = {
        "version": 1,
        "name": name.replace("_", "-"),
        **{key: value for key, value in said.items() if key not in ("data", "generation")},
        "data": data | {"max_held_out": options.rows, "max_rows": 3000},
        "generation": {**said.get("generation", {}), "samples": options.samples, "search_calls": 0},
        "students": [{"base": options.base, "method": options.method}],
        "budget": {"build_minutes": options.minutes},
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def compare(build: Path, task_file: Path) -> dict[str, Any]:
    """The three confidences of a build's student on its test rows."""
    from locum.data.load import iterate, label_names
    from locum.evaluate.answers import Answers
    from locum.pipeline.workspace import read_task
    from locum.schema.confidence import ConfidenceModel
    from locum.stats.calibration import ece
    from locum.tasks import open_kind

    (splits,) = (build / "work").glob("data-*/splits")
    (answers,) = (build / "work").glob("answer-test-*/test.jsonl")
    (fitted,) = (build / "work").glob("measure-*/model/confidence.json")
    model = ConfidenceModel.from_json(fitted.read_bytes(), "confidence.json")
    task, _ = read_task(task_file)
    rows = list(iterate(splits, "test"))
    drafted = Answers.load(answers)
    scored = drafted.scored(open_kind(task, label_names(splits)), rows, model)
    kept = np.array([draft.output is not None for draft in drafted.drafts])
    right = scored.correct[kept]

    def feature(key: str) -> np.ndarray:
        return np.array([draft.features.get(key, np.nan) for draft in drafted.drafts])[kept]

    sure = scored.confidence[kept]
    return {
        "rows": len(rows),
        "answered": int(kept.sum()),
        "right": float(scored.correct.mean()),
        "ours": auroc(sure, right),
        "logprob_mean": auroc(feature("logprob_mean"), right),
        "agreement": auroc(feature("agreement"), right),
        "ece": ece(sure, right) if len(sure) else None,
        "weights": dict(zip(model.features, model.weights, strict=True)),
    }


def auroc(confidence: np.ndarray, right: np.ndarray) -> dict[str, float] | None:
    """AUROC with its bootstrapped interval; None where it is not defined."""
    from locum.stats import ranking
    from locum.stats.bootstrap import bootstrap_interval

    if right.all() or not right.any():
        return None

    def statistic(draws: np.ndarray) -> np.ndarray:
        values = [ranking.auroc(confidence[each], right[each]) for each in draws]
        return np.array([np.nan if found is None else found for found in values])

    found = bootstrap_interval(statistic, len(right), method="percentile", resamples=1000)
    return {"value": found.value, "low": found.low, "high": found.high}


def write(raw: dict[str, Any]) -> None:
    """Write the JSON: the table for the documentation, and everything it comes from."""
    import locum

    document = {
        "columns": COLUMNS,
        "table": [
            row(name, student, raw[student][name]) for name in DATASETS for student in raw if name in raw[student]
        ],
        "caption": CAPTION,
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {"locum": locum.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(name: str, student: str, found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""

    def shown(value: dict[str, float] | None) -> str:
        return "–" if value is None else f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"

    return {
        "data set": name,
        "student": student,
        "rows": str(found["rows"]),
        "right": f"{100 * found['right']:.0f} %",
        "ours": shown(found["ours"]),
        "mean log-probability": shown(found["logprob_mean"]),
        "agreement of samples": shown(found["agreement"]),
        "calibration error": "–" if found["ece"] is None else f"{100 * found['ece']:.0f} %",
    }


if __name__ == "__main__":
    main()
