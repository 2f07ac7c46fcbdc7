"""The ranking table: BM25, a frozen encoder and a tuned one on search among the passages of an article.

    python bench/ranking.py [--minutes 4] [--rows 400] [--train 3000]

From SQuAD's articles: which of twenty passages of the same article answers the question. Articles are split, so that no
passage of dev, calibration or test stands in training; passages of one article share their words and names, which makes
the task hard for BM25 and vectors alike. One ``locum build`` as a user runs it. Results go to
``bench/results/ranking.json``. Not here: recommendation, one of the sets of ``applications.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from public_data import ROOT, data_folder

RESULTS = ROOT / "bench" / "results" / "ranking.json"
ENCODER = "all-MiniLM-L6-v2"
CANDIDATES = 20
SHARES = {"test": 0.15, "calibration": 0.15, "dev": 0.12}  # of the articles; the others are for training
COLUMNS = ["student", "nDCG@10", "MRR@10", "first is right", "signals", "size", "p50", "training", "local"]
CAPTION = (
    "SQuAD v1.1 (dev): which of 20 passages of the same article answers the question; articles of the test stand in no"
    " other split. In brackets the 95 % interval. BM25: k1 and b chosen on dev. Frozen and tuned: all-MiniLM-L6-v2, its"
    " cosine weighed together with BM25 by weights fitted on dev. p50: one question, its passages new or met before as"
    " they come. Local: share of calibration rows answered without the LLM when at most 20 % of these answers may be"
    " wrong, at 95 % confidence; proved for the student that is chosen."
)


def main() -> None:
    """Build, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--rows", type=int, default=400, help="most rows of dev, calibration and test")
    parser.add_argument("--train", type=int, default=3000, help="most rows to train on: more do not fit the time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ranking", help="where the build is kept")
    options = parser.parse_args()
    task = write_task(options)
    command = [sys.executable, "-m", "locum.cli.main", "build", str(task), "--out", str(options.runs / "build")]
    started_s = time.monotonic()
    subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True)
    report = json.loads((options.runs / "build" / "bundle" / "report.json").read_text(encoding="utf-8"))
    write(report, time.monotonic() - started_s)


def write_task(options: argparse.Namespace) -> Path:
    """The rows and the task file."""
    folder = options.runs / "task"
    folder.mkdir(parents=True, exist_ok=True)
    splits = squad_rows(data_folder(), options.train, options.rows)
    for split, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    task = {
        "version": 1,
        "name": "squad-search",
        "kind": "rank",
        "instruction": "Which of the passages answers the question?",
        "data": {
            **{split: f"{split}.jsonl" for split in splits},
            "input": ["question", "passages"],
            "output": "answers",
        },
        "students": [
            {"method": "linear"},
            {"base": ENCODER, "method": "head"},
            {"base": ENCODER, "method": "full"},
        ],
        "budget": {"build_minutes": options.minutes},
        "guarantee": {"kind": "selective", "max_error": 0.2, "confidence": 0.95},
    }
    path = folder / "task.yaml"
    path.write_text(json.dumps(task, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def squad_rows(data: Path, train: int, held_out: int) -> dict[str, list[dict[str, Any]]]:
    """Questions with twenty passages of their article, by split, each article in one split."""
    articles = json.loads((data / "squad_v1.1_dev" / "dev-v1.1.json").read_text(encoding="utf-8"))["data"]
    generator = random.Random(0)
    articles.sort(key=lambda article: article["title"])
    generator.shuffle(articles)
    names = [name for name, share in SHARES.items() for _ in range(round(share * len(articles)))]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("train", *SHARES)}
    for place, article in enumerate(articles):
        passages = [paragraph["context"] for paragraph in article["paragraphs"]]
        if len(passages) < CANDIDATES:
            continue
        rows = found[names[place] if place < len(names) else "train"]
        for right, paragraph in enumerate(article["paragraphs"]):
            others = [number for number in range(len(passages)) if number != right]
            for question in paragraph["qas"]:
                chosen = [right, *generator.sample(others, CANDIDATES - 1)]
                generator.shuffle(chosen)
                listed = [passages[number] for number in chosen]
                rows.append({"question": question["question"], "passages": listed, "answers": [chosen.index(right)]})
    for split, rows in found.items():
        generator.shuffle(rows)
        del rows[train if split == "train" else held_out :]
    return found


def write(report: dict[str, Any], wall_s: float) -> None:
    """Write the JSON: the table for the documentation, and what it comes from."""
    import locum

    raw = {
        "wall_s": round(wall_s, 1),
        "rows": {name: split["rows"] for name, split in report["data"]["splits"].items()},
        "certificate": report["certificate"],
        "comparisons": report["comparisons"],
        "ladder": [
            {
                **{key: rung[key] for key in ("parameters", "size_mb", "memory_mb", "latency", "parity")},
                "name": rung["candidate"]["name"],
                "skipped": rung["reason"],
                "trained": rung["trained"],
                **{split: rung[split] and figures(rung[split]) for split in ("dev", "test")},
            }
            for rung in report["ladder"]
        ],
    }
    table = [row(rung, report) for rung in report["ladder"] if rung["test"]]
    document = {
        "columns": COLUMNS,
        "table": table,
        "caption": CAPTION,
        "more": {"search": page(table, raw)},
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {"locum": locum.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def page(table: list[dict[str, str]], raw: dict[str, Any]) -> dict[str, Any]:
    """What the recipe's page shows of the build: its ladder, the certificate, what it took."""
    took = f"The build took {raw['wall_s'] / 60:.0f} minutes on two cores, with {raw['rows']['train']:,} rows to learn"
    return {
        "columns": [column for column in COLUMNS if column != "signals"],
        "table": table,
        "caption": f"{raw['certificate']['statement']} {took} from.",
    }


def figures(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation says in numbers, without its curves."""
    calibration = evaluation["calibration"]
    return {
        "n": evaluation["n"],
        "metrics": evaluation["metrics"],
        "calibration": calibration and {key: calibration[key] for key in ("ece", "auroc")},
    }


def row(rung: dict[str, Any], report: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    metrics = rung["test"]["metrics"]
    name = rung["candidate"]["name"]
    chosen = name == report["chosen"]
    method = rung["candidate"]["method"]
    return {
        "student": {"linear": "BM25", "head": "frozen MiniLM", "full": "tuned MiniLM"}[method],
        "nDCG@10": shown(metrics["ndcg_at_10"]),
        "MRR@10": shown(metrics["mrr_at_10"]),
        "first is right": shown(metrics["accuracy"]),
        "signals": "words" if method == "linear" else "words and vectors",
        "size": f"{rung['size_mb']:.1f} MB",
        "p50": f"{rung['latency']['p50_ms']:.1f} ms",
        "training": f"{rung['trained']['train_s']:.0f} s",
        "local": f"{100 * report['certificate']['local_share']:.0f} %" if chosen else "–",
    }


def shown(interval: dict[str, float]) -> str:
    """A score with its interval, in points."""
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"


if __name__ == "__main__":
    main()
