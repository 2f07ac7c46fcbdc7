"""``locum init``: what it proposes, what flags overrule, and that what it writes parses, plans and builds."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from locum.schema.task import Task
from locum.schema.taskfile import parse_task


@pytest.fixture
def folder(tickets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tickets.task.unlink()
    monkeypatch.chdir(tickets.folder)
    return tickets.folder


def read(path: Path = Path("task.yaml")) -> Task:
    return parse_task(path.read_text(encoding="utf-8"), str(path))


def test_a_csv_file(run: Any, folder: Path) -> None:
    done = run("init", "tickets.csv", "--yes")
    assert (done.status, done.stdout) == (0, "")
    task = read()
    assert (task.name, task.data.train, task.data.input, task.data.output) == ("tickets", "tickets.csv", "text", "team")
    assert "600 rows read" in done.stderr
    assert "3 labels: " in done.stderr
    schema = json.loads((folder / ".locum" / "task.schema.json").read_text())
    assert schema["properties"]["kind"]
    assert run("plan", "task.yaml", "--json").status == 0


def test_json_lines_with_json(run: Any, folder: Path) -> None:
    rows = [{"note": f"the {word} number {n} is here", "kind": word} for n in range(40) for word in ("cat", "dog")]
    Path("pets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("init", "pets.jsonl", "--json", "--out", "pets/task.yaml")
    assert done.status == 0
    assert done.document["task"] == "pets/task.yaml"
    assert done.document["inspection"]["output"] == "kind"
    task = read(Path("pets/task.yaml"))
    assert (task.data.input, task.data.output) == ("note", "kind")
    assert task.data.train == str(folder / "pets.jsonl")  # not below the task file's folder


def test_flags_overrule(run: Any, folder: Path) -> None:
    words = ["--name", "desk", "--instruction", 'Who: "a" or #b?', "--input", "team", "--output", "text"]
    more = ["--at-least", "0.93", "--max-error", "0.02", "--test", "tickets.csv", "--llm-url", "https://x.example/v1"]
    done = run("init", "tickets.csv", *words, *more, "--llm-model", "big", "--api-key-env", "KEY", "--yes")
    assert done.status == 0, done.stderr
    task = read()
    assert (task.name, task.instruction) == ("desk", 'Who: "a" or #b?')
    assert (task.data.input, task.data.output, task.data.test) == ("team", "text", "tickets.csv")
    assert (task.target.at_least, task.guarantee.max_error) == (0.93, 0.02)
    assert task.llm is not None
    assert (task.llm.base_url, task.llm.model, task.llm.api_key_env) == ("https://x.example/v1", "big", "KEY")


@pytest.mark.parametrize("name", ["2024", "null", "yes", "1e5", "Große Daten!", "a: b", "...", "x" * 200])
def test_any_name_of_a_data_file_gives_a_task_that_parses(run: Any, folder: Path, name: str) -> None:
    (folder / "tickets.csv").rename(folder / f"{name}.csv")
    done = run("init", f"{name}.csv", "--yes")
    assert done.status == 0, done.stderr
    assert isinstance(yaml.safe_load(Path("task.yaml").read_text())["name"], str)
    assert read().data.train == f"{name}.csv"


def test_a_task_file_is_not_written_over_unless_told(run: Any, folder: Path) -> None:
    Path("task.yaml").write_text("mine")
    done = run("init", "tickets.csv", "--yes")
    assert (done.status, Path("task.yaml").read_text()) == (2, "mine")
    assert "[task-exists]" in done.stderr
    assert run("init", "tickets.csv", "--yes", "--force").status == 0
    assert read().name == "tickets"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.csv"], "data-missing"),
        (["tickets.csv", "--output", "tema"], "there is no column 'tema'"),
        (["tickets.csv", "--name", "Not A Name"], "name"),
        (["tickets.csv", "--api-key-env", "sk-abcdefghijklmnopqrstuv", "--llm-model", "m"], "secret"),
        (["tickets.csv", "--max-error", "7"], "max_error"),
    ],
)
def test_what_cannot_be_a_task_writes_nothing(run: Any, folder: Path, words: list[str], said: str) -> None:
    done = run("init", *words, "--yes")
    assert done.status == 2
    assert said in done.stderr
    assert not Path("task.yaml").exists()
    assert "sk-abc" not in done.stderr


def test_a_file_without_labels_says_so(run: Any, folder: Path) -> None:
    Path("free.csv").write_text("id,body\n" + "".join(f"{n},words of row {n} and {n * 7}\n" for n in range(100)))
    done = run("init", "free.csv", "--yes")
    assert done.status == 2
    assert "--output" in done.stderr


def test_fault_83_columns_with_markup_and_escapes_are_shown_as_they_are(run: Any, folder: Path) -> None:
    rows = "".join(f"words of row {n} about {n % 3},l{n % 3}\n" for n in range(60))
    Path("odd.csv").write_text("[/x] \x1b[31mtext,[bold]label\n" + rows)
    done = run("init", "odd.csv", "--yes", "--input", "[/x] \x1b[31mtext", "--output", "[bold]label")
    assert "\x1b[31m" not in done.stderr
    assert "core-internal" not in done.stderr
    if done.status == 0:
        assert read().data.output == "[bold]label"


def lines(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


ORDERS = [{"mail": f"Please send {n} lamps to town {n % 7}, thanks", "order": {"count": n}} for n in range(40)]
QUESTIONS = [
    {
        "context": f"In {1800 + n} a house was built by the river. It has {n} rooms.",
        "question": f"When, {n}?",
        "gold": str(1800 + n),
    }
    for n in range(40)
]


def test_a_kind_with_its_columns_and_schema_is_proposed(run: Any, folder: Path) -> None:
    lines("orders.jsonl", ORDERS)
    done = run("init", "orders.jsonl", "--yes")
    assert done.status == 0, done.stderr
    assert "looks like extract: order holds objects" in done.stderr
    task = read()
    assert (task.kind, task.data.input, task.data.output) == ("extract", "mail", "order")
    assert task.answer_schema is not None and task.answer_schema["properties"] == {"count": {"type": "integer"}}
    assert task.budget.build_minutes == 60
    assert run("plan", "task.yaml", "--json").status == 0


def test_a_profile_and_two_inputs_are_proposed_and_can_be_overruled(run: Any, folder: Path) -> None:
    lines("house.jsonl", QUESTIONS)
    assert run("init", "house.jsonl", "--yes", "--output", "gold", "--profile", "qa").status == 0
    task = read()
    assert (task.form, task.data.input, task.data.output) == ("qa", ("question", "context"), "gold")
    assert task.instruction == "Answer the question from the passage."
    words = [
        "--kind",
        "generate",
        "--profile",
        "chat",
        "--input",
        "question",
        "--output",
        "context",
        "--at-least",
        "0.5",
    ]
    assert run("init", "house.jsonl", "--yes", "--force", *words).status == 0
    task = read()
    assert (task.form, task.data.input, task.data.output) == ("chat", "question", "context")
    assert (task.target.metric, task.target.at_least) == ("instruction", 0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "clasify"], "'clasify' is not one of"),
        (["--kind", "tag", "--profile", "qa"], "--profile qa is for --kind generate"),
        (["--kind", "tag"], "name them with --input and --output"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(run: Any, folder: Path, words: list[str], said: str) -> None:
    done = run("init", "tickets.csv", "--yes", *words)
    assert done.status == 2
    assert said in done.stderr
    assert not Path("task.yaml").exists()


def test_a_custom_task_is_scored_by_a_judge_which_needs_an_llm(run: Any, folder: Path) -> None:
    words = ["tickets.csv", "--yes", "--profile", "custom", "--input", "text", "--output", "team"]
    done = run("init", *words)
    assert done.status == 2
    assert "llm must be given" in done.stderr
    assert run("init", *words, "--llm-model", "big", "--llm-url", "https://x.example/v1").status == 0
    assert (read().form, read().scorer) == ("custom", "judge")
    written = Path("task.yaml").read_text(encoding="utf-8")
    assert "# judge: {" in written
    Path("task.yaml").write_text(written.replace("# judge: {", "judge: {"), encoding="utf-8")
    assert (spec := read().judge) is not None
    assert spec.human == "judged.csv"  # what is proposed can be read


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_asked_at_a_terminal(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines("orders.jsonl", ORDERS)
    monkeypatch.setattr(sys, "stdin", Terminal("\n\n\nWhat is ordered?\n"))  # what is proposed, and a question
    assert run("init", "orders.jsonl").status == 0
    assert (read().kind, read().instruction) == ("extract", "What is ordered?")
    monkeypatch.setattr(sys, "stdin", Terminal("classify\ntext\nteam\nWhich team?\n"))
    assert run("init", "tickets.csv", "--force").status == 0
    assert (read().kind, read().data.output, read().instruction) == ("classify", "team", "Which team?")
    monkeypatch.setattr(sys, "stdin", Terminal("clasify\n"))
    done = run("init", "tickets.csv", "--force")
    assert done.status == 2
    assert "did you mean classify?" in done.stderr
