"""The classification table: one command, no setting changed between data sets, against the usual alternatives.

    python bench/classify.py [--only NAME …] [--minutes 12] [--llm PATH.gguf] [--llm-rows 100]

For each public data set: ``locum build`` as a user runs it (a process of its own), then on the very same test rows
- TF-IDF (1–2 words) with a linear SVM, C = 1, all training rows;
- frozen all-MiniLM-L6-v2 (mean pooling) with logistic regression, C picked on dev, all training rows;
- a prompted LLM from a GGUF file on a sample of the test rows, when ``--llm`` is given.
Peers are trained on every row that Locum had: train, dev and calibration together.

Results go to ``bench/results/classify.json`` after each data set, so a stopped run keeps what it has; a data set that
is there already is measured again only when named with ``--only``.
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

from public_data import DATASETS, ROOT, write_task

RESULTS = ROOT / "bench" / "results" / "classify.json"
COLUMNS = [
    "data set", "labels", "rows", "TF-IDF + SVC", "frozen MiniLM + LR", "Locum's choice", "accuracy", "LLM 1.5B",
    "size", "p50", "answers/s", "local ≤ 5 % wrong", "build",
]  # fmt: skip


CAPTION = (
    "Test accuracy; in brackets the 95 % interval. Peers see every training row. LLM 1.5B: Qwen2.5-Coder-1.5B-Instruct"
    " (Q4_K_M), prompted, on a sample; – is not measured. p50: one message through the served engine; answers/s: in"
    " batches of 32. Local: share of calibration rows answered locally under the certificate; it speaks of rows like"
    " those, and clinc150's test rows hold ten times their share of out-of-scope messages. Build: the sum of the steps'"
    " recorded seconds, over resumed runs where there were any; the budget was 12 minutes each. Other"
    " work ran beside the training of banking77, clinc150, trec6 and legal_unfair_tos at lower priority, so fewer"
    " epochs fitted there."
)


def main() -> None:
    """Measure the data sets that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(DATASETS), default=None)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--llm", type=Path, help="GGUF file of the LLM to prompt")
    parser.add_argument("--llm-rows", type=int, default=100)
    parser.add_argument("--llm-only", action="store_true", help="keep the builds of --runs, and only ask the LLM")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench", help="where builds are kept")
    options = parser.parse_args()
    raw: dict[str, Any] = json.loads(RESULTS.read_text())["raw"] if RESULTS.is_file() else {}
    for name in options.only or [name for name in DATASETS if name not in raw]:
        found = {"llm": ask_llm(name, options)} if options.llm_only else measure(name, options)
        raw[name] = {**raw.get(name, {}), **found}
        write(raw)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One data set: the build, the peers, the LLM."""
    run = options.runs / name
    task = write_task(name, run / "task", options.minutes)
    started_s = time.monotonic()
    command = [sys.executable, "-m", "locum.cli.main", "build", str(task), "--out", str(run / "build"), "--json"]
    built = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = {"build": json.loads(built.stdout), "process_s": time.monotonic() - started_s}
    for path in ("bundle", "report"):
        found["build"].pop(path)  # where it stands on this machine says nothing elsewhere
    (splits,) = (run / "build" / "work").glob("data-*/splits")
    rows = {split: read_rows(splits / f"{split}.jsonl") for split in ("train", "dev", "calibration", "test")}
    found["rows"] = {split: len(texts) for split, (texts, _) in rows.items()}
    found["labels"] = len(set(rows["train"][1]))
    known = rows["train"][0] + rows["dev"][0] + rows["calibration"][0]
    labels = rows["train"][1] + rows["dev"][1] + rows["calibration"][1]
    found["tfidf_svc"] = tfidf_svc(known, labels, *rows["test"])
    found["frozen_minilm_lr"] = frozen_minilm(rows)
    if options.llm:
        found["llm"] = ask_llm(name, options)
    return found


def read_rows(path: Path) -> tuple[list[str], list[str]]:
    """Inputs and outputs of a prepared split."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["input"] for row in rows], [row["output"] for row in rows]


def tfidf_svc(texts: list[str], labels: list[str], test_texts: list[str], test_labels: list[str]) -> float:
    """Test accuracy of TF-IDF with a linear support vector machine."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC(C=1.0, random_state=0))
    return float(np.mean(model.fit(texts, labels).predict(test_texts) == np.array(test_labels)))


def frozen_minilm(rows: dict[str, tuple[list[str], list[str]]]) -> float:
    """Test accuracy of logistic regression on frozen sentence embeddings; C picked on dev, then fitted on all rows."""
    from sklearn.linear_model import LogisticRegression

    vectors = {split: embed(texts) for split, (texts, _) in rows.items()}

    def fit(splits: list[str], strength: float) -> LogisticRegression:
        features = np.concatenate([vectors[split] for split in splits])
        gold = np.concatenate([rows[split][1] for split in splits])
        return LogisticRegression(C=strength, max_iter=300).fit(features, gold)

    best = max((1.0, 10.0, 100.0), key=lambda c: fit(["train"], c).score(vectors["dev"], rows["dev"][1]))
    return float(fit(["train", "dev", "calibration"], best).score(vectors["test"], rows["test"][1]))


def embed(texts: list[str]) -> np.ndarray:
    """Mean-pooled, normalised sentence vectors of all-MiniLM-L6-v2, as its authors compute them, ``[n, 384]``."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    from locum.sources.bases import ensure_base

    folder = ensure_base("all-MiniLM-L6-v2")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    body = AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = np.zeros((len(texts), body.config.hidden_size), dtype=np.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            encoded = tokenizer.encode_batch([texts[row] for row in rows])
            ids = torch.tensor([row.ids for row in encoded])
            mask = torch.tensor([row.attention_mask for row in encoded])
            states = body(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            pooled = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            vectors[rows] = torch.nn.functional.normalize(pooled).numpy()
    return vectors


def ask_llm(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The prompted LLM on a sample of the test rows of a build, through Locum's own prompt and scorer."""
    from locum.data.load import iterate, label_names
    from locum.evaluate.llm import evaluate_llm, sample_positions
    from locum.pipeline.workspace import read_task
    from locum.runtime.open import open_generator
    from locum.schema.task import LlmSpec
    from locum.tasks import open_kind

    run = options.runs / name
    (splits,) = (run / "build" / "work").glob("data-*/splits")
    task, _ = read_task(run / "task" / "task.yaml")
    rows = list(iterate(splits, "test"))
    sample = [rows[position] for position in sample_positions(rows, options.llm_rows)]
    labels = tuple(label_names(splits))
    generator = open_generator(LlmSpec(model=str(options.llm), timeout_s=300))
    try:
        kind = open_kind(task, labels)
        answers = evaluate_llm(generator, kind, sample, labels, "test", run / "llm-answers.jsonl")
    finally:
        generator.close()
    accuracy = answers.evaluation().metrics["accuracy"]
    return {"n": len(sample), "accuracy": accuracy.to_json(), "failures": answers.failures, "model": options.llm.name}


def write(raw: dict[str, Any]) -> None:
    """Write the JSON: the table for the README, and everything it comes from."""
    import locum

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "columns": COLUMNS,
        "table": [row(name, raw[name]) for name in DATASETS if name in raw],
        "caption": CAPTION,
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {"locum": locum.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(name: str, found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    build = found["build"]
    chosen = next(c for c in build["candidates"] if c["chosen"])
    low, high = found_interval(build, found)
    llm = found.get("llm")
    best = max(c["test"]["accuracy"] for c in build["candidates"] if c["test"])
    mark = "" if chosen["test"]["accuracy"] == best else f" (best rung {100 * best:.1f})"
    return {
        "data set": name,
        "labels": str(found["labels"]),
        "rows": f"{found['rows']['train']:,} / {found['rows']['test']:,}",
        "TF-IDF + SVC": f"{100 * found['tfidf_svc']:.1f} %",
        "frozen MiniLM + LR": f"{100 * found['frozen_minilm_lr']:.1f} %",
        "Locum's choice": build["chosen"],
        "accuracy": f"**{100 * chosen['test']['accuracy']:.1f} %** [{100 * low:.1f}, {100 * high:.1f}]{mark}",
        "LLM 1.5B": f"{100 * llm['accuracy']['value']:.0f} % (n={llm['n']})" if llm else "–",
        "size": f"{chosen['size_mb']:.1f} MB",
        "p50": f"{chosen['latency_ms']['p50']:.1f} ms",
        "answers/s": f"{chosen['answers_per_s']:.0f}",
        "local ≤ 5 % wrong": f"{100 * build['certificate']['local_share']:.0f} %",
        "build": f"{build['wall_s'] / 60:.1f} min",
    }


def found_interval(build: dict[str, Any], found: dict[str, Any]) -> tuple[float, float]:
    """95 % Wilson interval of the chosen student's test accuracy."""
    from locum.stats.intervals import wilson

    chosen = next(c for c in build["candidates"] if c["chosen"])
    n = found["rows"]["test"]
    interval = wilson(round(chosen["test"]["accuracy"] * n), n)
    return interval.low, interval.high


if __name__ == "__main__":
    main()
