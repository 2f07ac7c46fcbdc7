"""How far a local judge agrees with people: small LLMs as ``scorer: judge`` on answers that have a verdict already.

    python bench/judge.py [--llm PATH.gguf …] [--only halueval …] [--rows 100]

Each answer is put to the judge as a build puts it, with two grades (wrong, right), and its verdicts are compared with
- halueval: people's labels, whether a chat model's answer to a user holds a made-up claim (HaluEval, general);
- factual_summary_pairs: constructed labels, a faithful shortening of a sentence and one that changes what it says.
Neither gives the judge a reference. SmolLM2-135M-Instruct judges always, other GGUF files as named. Verdicts are kept
under ``runs/judge``, so a stopped run goes on. Results go to ``bench/results/judge.json`` after each judge and set.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from applications import DECODER
from public_data import ROOT, data_folder

RESULTS = ROOT / "bench" / "results" / "judge.json"
SEED = 0
TASKS = {
    "halueval": (
        "Answer the user.",
        "Is everything in the answer true, with nothing that is made up or cannot be verified?",
        "people",
    ),
    "factual_summary_pairs": (
        "Say the sentence in fewer words without changing what it says.",
        "Does the answer say only what the sentence says, and nothing that the sentence does not say?",
        "construction",
    ),
}
"""Instruction and criterion of each data set, and where its verdicts come from."""

COLUMNS = [
    "data set", "verdicts from", "judge", "answers", "right", "right to the judge", "same verdict",
    "always the commoner", "kappa", "kinder by", "unreadable", "s a verdict",
]  # fmt: skip
CAPTION = (
    "A judge's verdict, right or wrong, against the one that the data set holds, in brackets the 95 % interval"
    " (Wilson; Student's for the difference). Right: share of answers that the data set, or the judge, takes as"
    " right. Always the commoner: agreement of a judge that gives every answer the verdict that most of them have."
    " Kappa: Cohen's, 0 is chance; – where all verdicts are the same one. Kinder by: mean of the judge's grade (1"
    " wrong, 2 right) less the data set's. An unreadable verdict counts as wrong."
)


def main() -> None:
    """Measure the judges and data sets that are asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, nargs="*", default=[], help="GGUF files that judge too")
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rows", type=int, default=100, help="answers of each data set, drawn with a fixed seed")
    parser.add_argument("--threads", type=int, default=None, help="of a judge; default: the cores there are")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "judge", help="where verdicts are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    raw: dict[str, Any] = json.loads(options.results.read_text())["raw"] if options.results.is_file() else {}
    for name in options.only:
        for model in (DECODER, *map(str, options.llm)):
            key = f"{name} {Path(model).name}"
            raw[key] = measure(name, model, options, raw.get(key, {}))
            write(raw, options.results)


def measure(name: str, model: str, options: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """One judge on one data set, through what a build calls."""
    from locum.core.appended import read_lines
    from locum.data.graded import read_graded
    from locum.evaluate.spending import Spending
    from locum.pipeline.judge import lent_judge
    from locum.scoring.judge import agreement
    from locum.tasks.judging import grade_answers, rubric

    folder = options.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "judged.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in sample(name, options.rows)), encoding="utf-8")
    task = judged_task(name, model)
    assert task.judged is not None
    graded = read_graded(file, task, task.judged)
    verdicts = folder / f"{Path(model).stem}.jsonl"
    known, started_s = len(list(read_lines(verdicts))), time.monotonic()
    with lent_judge(task, task.llm, verdicts, Spending(), threads=options.threads):
        grades = grade_answers(task, graded.answers)
    took_s, asked = time.monotonic() - started_s, len(list(read_lines(verdicts))) - known
    found = agreement(grades, [answer.grade for answer in graded.answers], rubric(task))
    return {
        "data set": name,
        "judge": Path(model).name,
        "criterion": task.judged.criterion,
        "agreement": known_figures(asdict(found)),
        "s_a_verdict": took_s / asked if asked else before.get("s_a_verdict"),
    }


def judged_task(name: str, model: str) -> Any:
    """The task whose judge is measured; nothing is built, so it has no training rows."""
    from locum.schema.task import Task

    instruction, criterion, _ = TASKS[name]
    return Task.model_validate(
        {
            "version": 1,
            "name": name.replace("_", "-"),
            "kind": "generate",
            "profile": "custom",
            "scorer": "judge",
            "judge": {"criterion": criterion, "grades": 2, "human": "judged.jsonl", "grade": "right"},
            "instruction": instruction,
            "data": {"train": "none.jsonl", "input": "text", "output": "answer"},
            "llm": {"model": model, "timeout_s": 600},
        }
    )


def sample(name: str, rows: int) -> list[dict[str, Any]]:
    """Answers of a data set with their verdicts, the same ones for the same number of rows."""
    whole = list(_halueval() if name == "halueval" else _summaries())
    return random.Random(SEED).sample(whole, min(rows, len(whole)))


def _halueval() -> Iterator[dict[str, Any]]:
    with (data_folder() / "halueval" / "general_data.json").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            yield {"text": row["user_query"], "answer": row["chatgpt_response"], "right": row["hallucination"] == "no"}


def _summaries() -> Iterator[dict[str, Any]]:
    with (data_folder() / "factual_summary_pairs" / "test.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["correct_sent"].split() == row["incorrect_sent"].split():
                continue  # a few pairs hold one sentence twice, so neither is the wrong one
            for key, right in (("correct_sent", True), ("incorrect_sent", False)):
                yield {"text": row["article_sent"], "answer": row[key], "right": right}


def known_figures(values: dict[str, Any]) -> dict[str, Any]:
    """The figures with NaN, which JSON does not have, as None."""
    return {key: None if value != value else value for key, value in values.items()}


def write(raw: dict[str, Any], results: Path) -> None:
    """Write the JSON: the table for the documentation, and everything it comes from."""
    import locum

    ordered = sorted(raw.values(), key=lambda found: list(TASKS).index(found["data set"]))
    document = {
        "columns": COLUMNS,
        "table": [row(found) for found in ordered],
        "caption": CAPTION,
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {"locum": locum.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    results.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row(found: dict[str, Any]) -> dict[str, str]:
    """One line of the table."""
    figures = found["agreement"]
    n, kinder, kappa = figures["n"], figures["kinder_by"], figures["kappa_right"]
    right = figures["people_right"] / n

    def percent(share: float) -> str:
        return f"{100 * share:.0f} %"

    same = figures["right"]
    return {
        "data set": found["data set"],
        "verdicts from": TASKS[found["data set"]][2],
        "judge": found["judge"].removesuffix(".gguf"),
        "answers": str(n),
        "right": percent(right),
        "right to the judge": percent(figures["judged_right"] / n),
        "same verdict": f"{percent(same['value'])} [{100 * same['low']:.0f}, {100 * same['high']:.0f}]",
        "always the commoner": percent(max(right, 1 - right)),
        "kappa": "–" if kappa is None else f"{kappa:.2f}",
        "kinder by": "–" if kinder is None else f"{kinder['value']:+.2f} [{kinder['low']:+.2f}, {kinder['high']:+.2f}]",
        "unreadable": percent(figures["unreadable"] / n),
        "s a verdict": "–" if found["s_a_verdict"] is None else f"{found['s_a_verdict']:.1f}",
    }


if __name__ == "__main__":
    main()
