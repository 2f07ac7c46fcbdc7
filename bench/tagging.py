"""Spans of personal data: Locum's taggers against what one would otherwise use, on the very same test rows.

    python bench/tagging.py [--only rows templates] [--minutes 15]

The data are the synthetic sentences of presidio-research, each once, made from 113 templates with 17 types of spans.
They are split twice: by ``rows``, where test sentences are new fillings of known templates, and by ``templates``, where
no template of test, dev or calibration stands in training, which is what a new source of texts would be. For each split
one ``locum build`` as a user runs it, and on its test rows
- a gazetteer: every span of the training rows, found again as it was written, and expressions for what has a form;
- spaCy's entity recogniser, trained from a blank model on the same rows;
- Presidio's own recognisers of patterns and checksums. Its default also asks a spaCy model of English, which is not on
  the package index, so names, places and organisations are beyond it here; it is scored on all types all the same.
Peers see train, dev and calibration rows. How tags become spans is compared on dev, from the stored scores.

Results go to ``bench/results/tagging.json`` after each split.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gateway import environment
from public_data import ROOT, data_folder

RESULTS = ROOT / "bench" / "results" / "tagging.json"
PEERS = Path(__file__).resolve().parent / "tagging_peers.py"
SPLITS = ("rows", "templates")
BASE = "all-MiniLM-L6-v2"
STUDENTS = [{"base": BASE, "method": "head"}, {"base": BASE, "method": "full"}]
COLUMNS = [
    "test rows are", "rows", "gazetteer", "Presidio's patterns", "spaCy, trained", "head", "full", "size", "p50",
    "all spans right", "local ≤ 10 % wrong", "build",
]  # fmt: skip
CAPTION = (
    "Micro F1 of strict spans (start, end and type; 17 types) on the test rows, in brackets the 95 % bootstrap"
    " interval. Head and full: all-MiniLM-L6-v2, as served. spaCy: its entity recogniser from a blank English model,"
    " 20 epochs."
    " Presidio without a model of English, which the package index does not have: patterns and checksums alone. Size,"
    " p50 of one text and the share of rows with all spans right are those of Locum's choice; local: share of"
    " calibration rows answered without an LLM under its certificate (at most 10 % of them wrong, at 90 % confidence)."
    " Peers see dev and calibration rows as well as the training rows, which are counted before the stroke."
)


def main() -> None:
    """Measure the splits that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SPLITS, default=None)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "tagging", help="where builds are kept")
    options = parser.parse_args()
    raw: dict[str, Any] = json.loads(RESULTS.read_text())["raw"] if RESULTS.is_file() else {}
    for name in options.only or [name for name in SPLITS if name not in raw]:
        raw[name] = measure(name, options)
        write(raw)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One split: the build, the peers, the ways to read tags."""
    run = options.runs / name
    task = write_task(name, run / "task", options.minutes)
    command = [sys.executable, "-m", "locum.cli.main", "build", str(task), "--out", str(run / "build"), "--json"]
    built = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    for path in ("bundle", "report"):
        built.pop(path)  # where it stands on this machine says nothing elsewhere
    report = json.loads((run / "build" / "bundle" / "report.json").read_text(encoding="utf-8"))
    (splits,) = (run / "build" / "work").glob("data-*/splits")
    rows = {split: read_rows(splits / f"{split}.jsonl") for split in ("train", "dev", "calibration", "test")}
    return {
        "build": built,
        "rows": {split: len(some) for split, some in rows.items()},
        "intervals": {rung["candidate"]["name"]: rung["test"]["metrics"] for rung in report["ladder"] if rung["test"]},
        "peers": ask_peers([*rows["train"], *rows["dev"], *rows["calibration"]], rows["test"], run),
        "reading": compare_readings(run / "build" / "work", splits / "dev.jsonl"),
    }


def write_task(name: str, folder: Path, minutes: float) -> Path:
    """The data of a split and its task file."""
    path = data_folder() / "pii_presidio" / "synth_dataset_v2.json"
    found = list({row["full_text"].strip(): row for row in json.loads(path.read_text(encoding="utf-8"))}.values())
    groups = sorted({row["template_id"] for row in found}) if name == "templates" else list(range(len(found)))
    random.Random(0).shuffle(groups)
    shares = (("test", 0.2), ("calibration", 0.4), ("dev", 0.5), ("train", 1.0))
    part = {
        group: next(split for split, until in shares if (place + 0.5) / len(groups) <= until)
        for place, group in enumerate(groups)
    }
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[str]] = {split: [] for split, _ in shares}
    for number, row in enumerate(found):
        split = part[row["template_id"] if name == "templates" else number]
        files[split].append(json.dumps({"text": row["full_text"], "spans": row["spans"]}, ensure_ascii=False) + "\n")
    for split, lines in files.items():
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    task = {
        "version": 1,
        "name": f"pii-{name}",
        "kind": "tag",
        "instruction": "Mark all personal data.",
        "data": {
            **{split: f"{split}.jsonl" for split in files},
            "input": "text",
            "output": "spans",
        },
        "students": STUDENTS,
        "budget": {"build_minutes": minutes},
        "guarantee": {"kind": "selective", "max_error": 0.1, "confidence": 0.9},
    }
    target = folder / "task.yaml"
    target.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    return target


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Texts and spans of a prepared split."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"text": line["input"], "spans": json.loads(line["output"])} for line in lines]


def ask_peers(known: list[dict[str, Any]], test: list[dict[str, Any]], run: Path) -> dict[str, Any]:
    """Every peer's spans of the test rows, scored; each in an environment that has what it needs."""
    python = environment("presidio", ["presidio-analyzer"])
    (run / "peers.json").write_text(json.dumps({"known": known, "test": [row["text"] for row in test]}))
    found: dict[str, Any] = {}
    for peer, interpreter in (("gazetteer", Path(sys.executable)), ("presidio", python), ("spacy", python)):
        out = run / f"{peer}.json"
        subprocess.run([str(interpreter), str(PEERS), peer, str(run / "peers.json"), str(out)], check=True)
        told = json.loads(out.read_text(encoding="utf-8"))
        found[peer] = {**score(told.pop("spans"), [row["spans"] for row in test]), **told}
    return found


def score(spans: list[Any], gold: list[Any]) -> dict[str, Any]:
    """Micro F1 with its interval, and by type; and the share of rows with all spans right."""
    from locum.scoring.spans import per_type, span_rows
    from locum.stats.rowwise import interval

    said, wanted = ([[tuple(span) for span in row] for row in rows] for rows in (spans, gold))
    f1 = interval(span_rows(said, wanted))
    exact = np.mean([set(a) == set(b) for a, b in zip(said, wanted, strict=True)])
    by_type = {each.label: round(each.f1, 4) for each in per_type(said, wanted)}
    return {"span_f1": {"value": f1.value, "low": f1.low, "high": f1.high}, "accuracy": float(exact), "types": by_type}


def compare_readings(work: Path, dev: Path) -> dict[str, dict[str, float]]:
    """F1 on dev of ways to make spans of the same scores, by candidate."""
    from locum.runtime.tokenize import TextTokenizer
    from locum.scoring.spans import bio_spans, span_rows
    from locum.stats.rowwise import value
    from locum.tasks.bio import BioTags
    from locum.train.tagged import read_tagged

    types = json.loads((dev.parent / "labels.json").read_text(encoding="utf-8"))
    tags = BioTags.of_types(types)
    found: dict[str, dict[str, float]] = {}
    for folder in sorted(work.glob("train-*")):
        trained = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
        split = read_tagged(dev, tags, TextTokenizer(folder / "tokenizer.json", trained["max_tokens"]))
        scores, bounds = np.load(folder / "dev_logits.npy"), split.bounds
        said: dict[str, list[Any]] = {"best sequence, whole words": [], "best sequence": [], "repaired best tags": []}
        for row, text in enumerate(split.texts):
            part = slice(bounds[row], bounds[row + 1])
            offsets = [(int(start), int(end)) for start, end in split.offsets[part]]
            reading = tags.read(text, split.offsets[part], scores[part])
            said["best sequence, whole words"].append([each.span for each in reading.spans])
            said["best sequence"].append(bio_spans([tags.names[tag] for tag in reading.tags], offsets))
            greedy = [tags.names[tag] for tag in scores[part].argmax(axis=1)]
            said["repaired best tags"].append(bio_spans(greedy, offsets))
        found[trained["candidate"]["name"]] = {
            way: round(value(span_rows(spans, split.spans)), 4) for way, spans in said.items()
        }
    return found


def write(raw: dict[str, Any]) -> None:
    """Write the JSON: the table for the documentation, and everything it comes from."""
    import locum
    from locum.core.cpu import usable_cores

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "columns": COLUMNS,
        "table": [row(name, raw[name]) for name in SPLITS if name in raw],
        "caption": CAPTION,
        "machine": {"cores": usable_cores(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {"locum": locum.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(name: str, found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    build = found["build"]
    chosen = next(each for each in build["candidates"] if each["chosen"])
    peers = {peer: told["span_f1"] for peer, told in found["peers"].items()}
    own = {each.split("/")[-1]: metrics["span_f1"] for each, metrics in found["intervals"].items()}
    return {
        "test rows are": {"rows": "of known templates", "templates": "of new templates"}[name],
        "rows": f"{found['rows']['train']:,} / {found['rows']['test']:,}",
        "gazetteer": percent(peers["gazetteer"]),
        "Presidio's patterns": percent(peers["presidio"]),
        "spaCy, trained": percent(peers["spacy"]),
        **{method: percent(own.get(method)) for method in ("head", "full")},
        "size": f"{chosen['size_mb']:.0f} MB",
        "p50": f"{chosen['latency_ms']['p50']:.1f} ms",
        "all spans right": f"{100 * chosen['test']['accuracy']:.1f} %",
        "local ≤ 10 % wrong": f"{100 * (build['certificate']['local_share'] or 0):.0f} %",
        "build": f"{build['wall_s'] / 60:.1f} min",
    }


def percent(interval: dict[str, float] | None) -> str:
    """A score with its interval."""
    if interval is None:
        return "–"
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


if __name__ == "__main__":
    main()
