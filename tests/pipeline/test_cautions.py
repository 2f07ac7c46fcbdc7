"""What an accuracy hides, on builds of rows made for it: labels never given, constant answers, rows lost, long rows."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import locum
from locum.cli.summary import print_report
from locum.evaluate.answers import right
from locum.evaluate.metrics import evaluation, per_type
from locum.pipeline.build import Run
from locum.pipeline.cautions import baseline, cautions
from locum.schema.data import DataCard, Row
from locum.schema.taskfile import parse_task
from locum.tasks import open_kind
from locum.tasks.tag import write_spans


def build(folder: Path, rows: list[tuple[str, str]], extra: dict[str, Any] | None = None, bad: int = 0) -> Run:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
        file.write("too,many,columns,here\n" * bad)
    data = {"train": "rows.csv", "input": "text", "output": "label", "duplicates": "exact", "skip_bad": bool(bad)}
    task = {
        **{"version": 1, "name": "t", "kind": "classify", "instruction": "Which?", "data": data},
        **{"students": [{"method": "linear"}], "guarantee": {"kind": "selective", "max_error": 0.1}},
        **(extra or {}),
    }
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return locum.build(folder / "task.yaml", out=folder / "out")


def noise(count: int, label: Callable[[int], str], words: int = 6) -> list[tuple[str, str]]:
    """Texts that say nothing about their labels."""
    rng = random.Random(5)
    return [(" ".join(f"w{rng.randrange(60)}" for _ in range(words)) + f" n{k}", label(k)) for k in range(count)]


def terminal(run: Run) -> list[str]:
    console = Console(file=io.StringIO(), width=400, color_system=None)
    print_report(run.report, console)
    return [line for line in console.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]


def test_a_student_that_gives_one_label_only_is_said_to_before_all_else(tmp_path: Path) -> None:
    run = build(tmp_path, noise(400, lambda k: "refund" if k % 40 == 0 else "fine"), bad=3)
    report = run.report
    rung = next(rung for rung in report.ladder if rung.chosen)
    assert rung.test is not None
    refund = next(score for score in rung.test.per_label if score.label == "refund")
    assert (refund.predicted, refund.support > 0) == (0, True)  # so it is as the sentences say
    constant = 1 - refund.support / rung.test.n
    assert report.baseline is not None and report.baseline.metrics["accuracy"] == pytest.approx(constant)
    never = f"It never gives the label “refund” (0 of {refund.support} found)."
    as_good = f"Answering “fine” every time would be right on {constant:.1%} of the same rows, which is as good."
    lost = "3 of 403 rows were lost in reading."
    assert report.cautions[:2] == (never, as_good)
    assert lost in report.cautions
    assert "target.metric: macro_f1" in report.cautions[-1] and "more rows of “refund”" in report.cautions[-1]
    shown = terminal(run)
    assert [line.removeprefix("! ") for line in shown[-len(report.cautions) :]] == list(report.cautions)
    assert run.to_json()["verdict"].endswith(" ".join(report.cautions))
    page = (run.bundle / "report.html").read_text(encoding="utf-8")
    assert page.index(never) < page.index('aria-label="Key figures"')
    card = (run.bundle / "README.md").read_text(encoding="utf-8")
    assert card.index(never) < card.index("## Intended use")
    local = report.certificate.local_labels
    assert report.certificate.threshold is None or (local["refund"] == 0 and "none “refund”" in page)


def test_a_student_that_learned_nothing_is_not_shown_to_beat_the_constant_answer(tmp_path: Path) -> None:
    run = build(tmp_path, noise(400, lambda k: ("a", "b")[k % 2]))
    (said,) = [line for line in run.report.cautions if line.startswith("Answering")]
    assert said.endswith("is not shown to be better than that.") or said.endswith("which is as good.")
    assert run.report.baseline is not None and run.report.baseline.p >= 0.05


def test_a_student_that_finds_every_label_gets_the_comparison_and_no_warning(built: Any) -> None:
    report = json.loads((built.bundle / "report.json").read_text())
    (said,) = report["cautions"]
    assert said.startswith("Answering “") and said.endswith("% of the same rows.")
    assert report["baseline"]["p"] < 0.001
    assert built.document["verdict"].endswith(said)


def test_with_macro_f1_as_the_metric_the_constant_answer_is_measured_by_it(tmp_path: Path) -> None:
    extra = {"target": {"metric": "macro_f1"}}
    run = build(tmp_path, noise(400, lambda k: "rare" if k % 20 == 0 else "usual"), extra)
    assert run.report.baseline is not None
    share = run.report.baseline.metrics["accuracy"]
    assert run.report.baseline.metrics["macro_f1"] == pytest.approx(share / (1 + share))  # F1 of one label, 0 of one
    assert not any("set target.metric" in line for line in run.report.cautions)


def test_the_data_card_says_how_many_rows_are_longer_than_a_student_reads(tmp_path: Path) -> None:
    def text(k: int) -> str:
        return " ".join(["refund" if k % 2 else "parcel"] + [f"n{k}"] + ["word"] * (5000 if k % 10 == 0 else 5))

    run = build(tmp_path, [(text(k), "ab"[k % 2]) for k in range(120)])
    (said,) = [line for line in run.report.data.warnings if "longer than" in line]
    split = run.report.data.splits
    rows = [json.loads(line) for name in ("train", "dev") for line in splits_of(tmp_path, name)]
    longer = sum(len(row["input"].split()) > 4096 for row in rows)
    assert longer > 0 and split["train"].rows + split["dev"].rows == len(rows)
    assert said.startswith(f"{longer} of {len(rows)} train and dev rows are longer than tfidf reads (4,096 words)")
    assert said in (run.bundle / "report.html").read_text(encoding="utf-8")
    parity = run.to_json()["parity"]
    assert parity["label_agreement"] == 1.0 and parity["max_gap"] < 1e-4


def splits_of(folder: Path, name: str) -> list[str]:
    (path,) = (folder / "out" / "work").glob(f"data-*/splits/{name}.jsonl")
    return path.read_text(encoding="utf-8").splitlines()


def student_of(kind: str, rows: list[Row], outputs: list[str], types: tuple[str, ...] = ()) -> Any:
    """What cautions ask of a student, with these answers to the test rows."""
    columns = "[query, notes]" if kind == "rank" else "text"
    task = parse_task(
        f"version: 1\nname: t\nkind: {kind}\ninstruction: Which?\n"
        f"data: {{train: t.jsonl, input: {columns}, output: out}}\n"
    )
    judged = open_kind(task, types)
    correct = right(judged.score(outputs, rows))
    found = SimpleNamespace(
        per_label=per_type(outputs, rows, types) if kind == "tag" else (),
        metrics={"accuracy": SimpleNamespace(value=float(correct.mean()))},
    )
    return SimpleNamespace(
        task=task,
        kind=judged,
        rows=lambda _split: rows,
        scored=lambda _split: SimpleNamespace(correct=correct),
        evaluation=lambda _split: found,
    )


CARD = DataCard.model_construct(rare_labels={}, dropped=(), files=())


def test_a_tagger_that_never_finds_a_type_is_said_to() -> None:
    golds = [[(0, 4, "PERSON")] if k % 2 else [(5, 10, "CITY"), (0, 4, "PERSON")] for k in range(40)]
    rows = [Row(id=str(k), input="anna paris", output=write_spans(gold)) for k, gold in enumerate(golds)]
    outputs = [write_spans([span for span in gold if span[2] == "PERSON"]) for gold in golds]
    student = student_of("tag", rows, outputs, ("CITY", "PERSON", "FIRM"))
    nothing = baseline(student)
    assert nothing is not None and nothing.metrics["accuracy"] == 0 and nothing.only_student == 20
    said = cautions(student, CARD, nothing)
    assert said == (
        "It never gives the type “CITY” (0 of 20 found).",
        "Finding nothing in any text would be right on 0.0% of the same rows (span F1 0.0%).",
        "No test row has “FIRM”: how well that is found is not known.",
    )


def test_a_ranker_no_better_than_chance_is_said_to() -> None:
    rng = random.Random(2)
    rows = []
    for k in range(60):
        asked = {"query": f"q{k}", "candidates": [f"note {k} {n}" for n in range(4)]}
        rows.append(Row(id=str(k), input=json.dumps(asked), output=json.dumps([rng.randrange(4)])))
    by_chance = [json.dumps(rng.sample(range(4), 4)) for _ in rows]
    perfect = [json.dumps([int(row.output[1]), *(n for n in range(4) if n != int(row.output[1]))]) for row in rows]
    (bad,), (good,) = (
        cautions(s, CARD, baseline(s)) for s in (student_of("rank", rows, o) for o in (by_chance, perfect))
    )
    assert bad.startswith("An order drawn at random would be right on ") and bad.endswith("better than that.")
    assert good.startswith("An order drawn at random would be right on ") and "nDCG@10" in good
    assert not good.endswith("better than that.")


def test_a_label_given_only_where_it_is_wrong_is_named() -> None:
    golds = ["a"] * 30 + ["b"] * 4
    given = ["b"] + ["a"] * 33
    scores = evaluation("m", "test", ("a", "b"), *(np.array([g == "b" for g in some], int) for some in (golds, given)))
    task = SimpleNamespace(kind="classify", metric="accuracy")
    student: Any = SimpleNamespace(task=task, evaluation=lambda _split: scores)
    card = CARD.model_copy(update={"rare_labels": {"b": 7}})
    assert cautions(student, card, None)[:2] == (
        "It never gives “b” (0 of 4 found) where that is right.",
        "Labels with few rows in all the data: “b” 7; nothing is promised about these alone.",
    )
