"""Three recipes built from end to end on a few dozen rows of one's own, which go before the hub's as their pages say.

Notable: the task files are the recipes' own, but for students, budgets and sizes; no network is reached.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml

import locum

ROOT = Path(__file__).resolve().parents[2]
PROMPTED = [{"base": "SmolLM2-135M-Instruct", "method": "prompt"}]
MOODS = {
    "0": "falls drops warns loses cuts",
    "1": "jumps gains beats rises wins",
    "2": "meets reports opens names holds",
}
THINGS = "lamp river engine garden violin market bridge ladder mirror castle window forest".split()  # noqa: SIM905


def script(name: str) -> Any:
    """A recipe's ``prepare.py`` as a module."""
    spec = spec_from_file_location("prepare", ROOT / "examples" / name / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(folder: Path, name: str, rows: str, **changed: Any) -> dict[str, Any]:
    """Build a recipe on its own rows in a process without network; what the command prints."""
    task = yaml.safe_load((ROOT / "examples" / name / "task.yaml").read_text(encoding="utf-8"))
    data = task["data"]
    data.pop("test", None)  # as the page says: without test rows of one's own
    own = folder / (data["train"] if isinstance(data["train"], str) else data["train"][0])
    own.parent.mkdir()
    own.write_text(rows, encoding="utf-8")
    (folder / "task.yaml").write_text(json.dumps(task | changed), encoding="utf-8")
    command = [sys.executable, "-m", "locum.cli.main", "build", "task.yaml", "--out", "build", "--json"]
    environment = os.environ | {"LOCUM_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_finance(tmp_path: Path) -> None:
    lots = random.Random(3)
    rows = [
        f"{lots.choice(THINGS)} {lots.choice(MOODS[str(n % 3)].split())} {lots.random()},{n % 3}" for n in range(90)
    ]
    found = build(tmp_path, "finance", "text,label\n" + "\n".join(rows) + "\n", students=[{"method": "linear"}])
    assert found["chosen"] == "tfidf"
    student = locum.open(tmp_path / "build" / "bundle")
    assert student.task.name == "finance"
    assert student("castle jumps today", "local").output == "1"


@pytest.mark.models
@pytest.mark.slow
def test_question_answering(tmp_path: Path) -> None:
    lots = random.Random(5)
    rows: list[dict[str, Any]] = []
    for n in range(30):
        who, what = f"{lots.choice(['Ada', 'Bo', 'Cleo', 'Dan'])} {chr(65 + n % 26)}.", lots.choice(THINGS)
        passage = f"In {1800 + n}, {who} sold the old {what} in {lots.choice(['Rome', 'Oslo', 'Lima'])}."
        rows.append({"question": f"Who sold the {what}?", "context": passage, "answers": {"text": [who]}})
    small = {"max_tokens": 6, "context": 256, "search_calls": 0}
    found = build(tmp_path, "question-answering", lines(rows), students=PROMPTED, generation=small)
    (rung,) = found["candidates"]
    assert set(rung["test"]) >= {"f1", "accuracy"}
    assert rung["latency_ms"]["p50"] > 0
    assert "equals a right answer" in found["certificate"]["statement"]


@pytest.mark.models
@pytest.mark.slow
def test_personal_data(tmp_path: Path) -> None:
    lots = random.Random(7)
    rows: list[dict[str, Any]] = []
    for n in range(90):
        who = f"{lots.choice(['Ada', 'Bo', 'Cleo', 'Dan', 'Eve'])} {lots.choice(['Stone', 'Rivers', 'Wood', 'Hill'])}"
        text = f"The {lots.choice(THINGS)} of order {n} was paid by {who} on Monday."
        span = {"start": text.index(who), "end": text.index(who) + len(who), "label": "name"}
        rows.append({"generated_text": text, "pii_spans": json.dumps([span])})
    head = [{"base": "all-MiniLM-L6-v2", "method": "head"}]
    no_time = {"build_minutes": 0.75}  # to train again on train and dev, on slow machines
    found = build(tmp_path, "personal-data", lines(rows), students=head, budget=no_time)
    (rung,) = found["candidates"]
    assert rung["test"]["span_f1"] > 0.8
    student = locum.open(tmp_path / "build" / "bundle")
    text = "The mirror of order 7 was paid by Cleo Wood on Monday."
    assert student(text, "local").output == json.dumps([[34, 43, "name"]], separators=(",", ":"))


def test_a_call_is_cut_out_of_its_conversation() -> None:
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    turns = [("human", "How is the weather in Rome?"), ("function_call", json.dumps(call)), ("gpt", "Sunny.")]
    talk = [{"from": who, "value": said} for who, said in turns]
    conversations = [
        {"tools": "[]", "conversations": talk},
        {"tools": "[]", "conversations": [{"from": "human", "value": "Hello"}]},
    ]
    (row,) = script("tool-calls").first_calls(conversations)
    assert row == {"conversation": "human: How is the weather in Rome?", "tools": "[]", "call": call}


def test_films_that_came_next(tmp_path: Path) -> None:
    prepare = script("recommendation")
    lots = random.Random(1)
    titles = {str(film): f"Film {film} (1999), Drama" for film in range(60)}
    ratings = [
        {"user_id": str(user), "item_id": str(film), "rating": lots.choice(["4.5", "2.0"]), "timestamp": str(order)}
        for user in range(4)
        for order, film in enumerate(lots.sample(range(60), 30))
    ]
    rows = prepare.next_films(ratings, titles, random.Random(0))
    liked: dict[str, list[str]] = {}
    for rating in ratings:
        if rating["rating"] == "4.5":
            liked.setdefault(rating["user_id"], []).append(titles[rating["item_id"]])
    assert len(rows) == sum(max(0, min(20, len(films) - 5)) for films in liked.values())
    for row in rows:
        came_next = row["candidates"][row["next"][0]]
        assert len(set(row["candidates"])) == 10
        assert len(row["history"]) == 5
        assert any(
            [*row["history"], came_next] == films[i : i + 6] for films in liked.values() for i in range(len(films))
        )
    assert len({row["next"][0] for row in rows}) > 5  # where the right one stands tells nothing
