"""A task whose rows belong together: what is reported of it counts conversations, and so does ``eval``."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.pipeline.examine import evaluate_bundle
from locum.report.card import model_card
from locum.schema.evaluation import Evaluation
from locum.testing import FakeUpstream

WORDS = {"billing": "invoice charge refund", "technical": "crash login screen", "delivery": "parcel courier late"}
FILLERS = ["please", "help", "my", "the", "again", "today", "with", "since", "yesterday", "still"]
CHATS = {"train": 80, "dev": 25, "calibration": 40, "test": 40}
EACH = 6


def write_chats(path: Path, split: str, seed: int) -> None:
    """Conversations of six rows about one thing; in one of five all rows are filed under another team."""
    rng = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["chat", "text", "team"])
        for chat in range(CHATS[split]):
            team = about = rng.choice(list(WORDS))
            if rng.random() < 0.2:
                team = rng.choice([other for other in WORDS if other != about])
            for row in range(EACH):
                text = [*rng.sample(WORDS[about].split(), 2), *rng.choices(FILLERS, k=5), f"ref{seed}{chat:03}{row}"]
                table.writerow([f"{split} {chat}", " ".join(text), team])


def width(found: Evaluation, metric: str) -> float:
    return found.metrics[metric].high - found.metrics[metric].low


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Any]:
    """The same rows built with their conversations named, and without."""
    folder = tmp_path_factory.mktemp("chats")
    for seed, split in enumerate(CHATS):
        write_chats(folder / f"{split}.csv", split, seed)
    made: dict[str | None, Any] = {}
    with FakeUpstream(["billing"]) as upstream:
        for group in ("chat", None):
            data = {split: f"{split}.csv" for split in CHATS} | {
                "input": "text",
                "output": "team",
                "duplicates": "keep",
            }
            task = {
                "version": 1,
                "name": "chats",
                "kind": "classify",
                "instruction": "Which team?",
                "data": data | ({"group": group} if group else {}),
                "students": [{"method": "linear"}],
                "llm": {"base_url": upstream.base_url, "model": "large", "examples": 120},
            }
            (folder / f"{group}.yaml").write_text(json.dumps(task), encoding="utf-8")
            made[group] = locum.build(folder / f"{group}.yaml", out=folder / f"out-{group}")
    return made


def test_a_report_on_conversations_has_wider_intervals_than_one_on_their_rows(builds: dict[str | None, Any]) -> None:
    grouped, single = (builds[group].report for group in ("chat", None))
    for split in ("dev", "test"):
        ours, rows = (getattr(report.ladder[0], split) for report in (grouped, single))
        assert (ours.n, ours.groups, rows.n, rows.groups) == (EACH * CHATS[split], CHATS[split], ours.n, None)
        for metric in ("accuracy", "macro_f1"):
            assert ours.metrics[metric].value == rows.metrics[metric].value
            assert width(ours, metric) > 1.5 * width(rows, metric)
    assert grouped.llm.test.n == single.llm.test.n == 120
    assert 20 <= grouped.llm.test.groups <= 40 and single.llm.test.groups is None
    assert width(grouped.llm.test, "accuracy") > 1.2 * width(single.llm.test, "accuracy")


def test_a_comparison_on_conversations_flips_conversations(builds: dict[str | None, Any]) -> None:
    (ours,), (rows,) = (builds[group].report.comparisons for group in ("chat", None))
    assert (ours.difference.value, ours.groups) == (rows.difference.value, builds["chat"].report.llm.test.groups)
    assert (ours.test, rows.test) == ("sign-flip-drawn", "mcnemar-midp")
    assert ours.difference.high - ours.difference.low > 1.2 * (rows.difference.high - rows.difference.low)
    assert f"on 120 rows of {ours.groups} groups" in ours.verdict
    assert "on 120 rows (" in rows.verdict


def test_page_and_card_say_how_many_groups_the_rows_are_of(builds: dict[str | None, Any]) -> None:
    for group, said in (("chat", True), (None, False)):
        page = (builds[group].bundle / "report.html").read_text(encoding="utf-8")
        card = model_card(builds[group].report, "mit")
        assert [("240 test rows (40 groups)" in text) for text in (page, card)] == [said, said]
        assert (f"120 rows ({builds['chat'].report.llm.test.groups} groups)" in page) == said


def test_eval_of_conversations_has_the_intervals_of_the_report(builds: dict[str | None, Any], tmp_path: Path) -> None:
    for group, run in builds.items():
        test = run.bundle.parents[1] / "test.csv"
        found = evaluate_bundle(run.bundle, test, predictions=tmp_path / "p.jsonl")
        theirs = run.report.ladder[0].test.metrics
        for metric, ends in found["intervals"].items():
            assert ends == pytest.approx([theirs[metric].low, theirs[metric].high], abs=0.01), group


def test_rankings_of_conversations_have_wider_intervals_too(tmp_path: Path) -> None:
    rng, rows = random.Random(3), list[dict[str, Any]]()
    for chat in range(150):
        found = rng.random() < 0.7  # in the other conversations no query shares a word with its note
        for row in range(4):
            words = rng.sample([f"word{n}" for n in range(40)], 4)
            notes = [f"a {word} again" for word in words]
            right = rng.randrange(4)
            query = f"where is {words[right] if found else 'it'} {chat} {row}"
            rows.append({"chat": f"c{chat}", "query": query, "notes": notes, "right": [right]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": "rows.jsonl", "input": ["query", "notes"], "output": "right", "group": "chat"}
    task = {"version": 1, "name": "notes", "kind": "rank", "instruction": "Which?", "students": [{"method": "linear"}]}
    (tmp_path / "task.yaml").write_text(json.dumps({**task, "data": data}), encoding="utf-8")
    said = locum.build(tmp_path / "task.yaml", out=tmp_path / "out").report.ladder[0].test
    assert said.groups is not None and said.n == 4 * said.groups
    p, n = said.metrics["accuracy"].value, said.n
    assert 0.4 < p < 0.95
    assert width(said, "accuracy") > 1.4 * 2 * 1.96 * (p * (1 - p) / n) ** 0.5
    assert {value.method for value in said.metrics.values()} == {"wilson-groups", "bootstrap-groups"}
