"""``locum predict``: every row of a file again, with answer, confidence and route; and how the command is found."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.cli.completion import candidates
from locum.cli.main import COMMANDS
from locum.core.errors import DataError, UserError
from locum.pipeline.predict import predict_bundle
from locum.testing import FakeUpstream, Scripted
from locum.testing.bundles import pico_bundle, pico_task

SURE, UNSURE = "my card did not arrive, delivery was due", 'good\nmorning, "you"'
ROWS = [{"id": "7", "text": SURE, "note": "a"}, {"id": "8", "text": "", "note": "b"}, {"id": "9", "text": UNSURE}]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pico_bundle(tmp_path / "b")
    return tmp_path / "b"


def given(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    if path.suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def told(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("source", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_row_and_column_is_kept_in_every_format(bundle: Path, tmp_path: Path, source: str, suffix: str) -> None:
    data, out = given(tmp_path / f"new{source}", ROWS), tmp_path / f"answered{suffix}"
    found = predict_bundle(bundle, data, out)
    rows = told(out)
    assert [row["route"] for row in rows] == ["local", "no input", "handed over"]
    assert [row["answer"] or None for row in rows] == ["card", None, None]
    assert [(row["id"], row["text"], row["note"] or None) for row in rows] == [
        ("7", SURE, "a"), ("8", "", "b"), ("9", UNSURE, None)
    ]  # fmt: skip
    assert float(rows[0]["confidence"]) > 0.9 > float(rows[2]["confidence"])
    assert (found["n"], found["routes"]) == (3, {"local": 1, "no input": 1, "handed over": 1})


def test_answers_are_those_of_the_open_bundle(bundle: Path, tmp_path: Path) -> None:
    texts = [
        f"{word} {number} card"[: 3 + number % 30] for number, word in enumerate(["card", "cash", "pin", "x"] * 200)
    ]
    data = given(tmp_path / "new.jsonl", [{"text": text} for text in texts])
    predict_bundle(bundle, data, tmp_path / "out.jsonl", all_answers=True)
    with locum.open(bundle) as student:
        singles = [student(text.strip(), "local") for text in texts]
        assert [each.output for each in student.many(iter(texts), "local")] == [each.output for each in singles]
    rows = told(tmp_path / "out.jsonl")
    assert [row["answer"] for row in rows] == [each.output for each in singles]
    covered = ["local" if each.certificate else "handed over" for each in singles]
    assert [row["route"] for row in rows] == covered and len(set(covered)) == 2


def test_what_is_handed_over_can_be_had_alone_and_is_not_answered_unasked(bundle: Path, tmp_path: Path) -> None:
    data, out = given(tmp_path / "new.csv", ROWS), tmp_path / "label.csv"
    found = predict_bundle(bundle, data, out, only_handed_over=True)
    assert [(row["id"], row["answer"]) for row in told(out)] == [("9", "")]
    assert (found["n"], found["written"]) == (3, 1)
    predict_bundle(bundle, data, out, all_answers=True)
    assert told(out)[2]["answer"] != "" and told(out)[2]["route"] == "handed over"


def test_why_a_row_took_its_route_is_a_column_that_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    data, out = given(tmp_path / "new.jsonl", ROWS), tmp_path / "out.jsonl"
    predict_bundle(bundle, data, out)
    assert "reason" not in told(out)[0]
    found = predict_bundle(bundle, data, out, reasons=True)
    local, without, handed_over = told(out)
    assert found["columns"] == ["answer", "confidence", "route", "reason"]
    assert "input" in without["reason"] and local["reason"] != handed_over["reason"]
    assert "0.8" in handed_over["reason"] and "asked" not in handed_over["reason"]  # its certified confidence
    pico_bundle(tmp_path / "void", hashes={"model": "1" * 64})
    predict_bundle(tmp_path / "void", data, out, reasons=True)
    assert "another model" in told(out)[0]["reason"] and told(out)[0]["route"] == "handed over"


def test_columns_of_parquet_keep_one_type_over_all_batches(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": SURE, "late": None if number < 5000 else number, "n": number if number < 4500 else number + 0.5}
            for number in range(5100)]  # fmt: skip
    predict_bundle(bundle, given(tmp_path / "new.jsonl", rows), tmp_path / "out.parquet")
    answered = told(tmp_path / "out.parquet")
    assert [(row["late"], row["n"]) for row in answered] == [(row["late"], row["n"]) for row in rows]
    predict_bundle(bundle, given(tmp_path / "new.jsonl", rows[:1]), tmp_path / "out.parquet", only_handed_over=True)
    assert told(tmp_path / "out.parquet") == []
    mixed = given(tmp_path / "new.jsonl", [*rows, {"text": SURE, "late": "text", "n": 0}])
    with pytest.raises(UserError, match="jsonl"):
        predict_bundle(bundle, mixed, tmp_path / "out.parquet")


def test_no_column_of_the_file_is_overwritten(bundle: Path, tmp_path: Path) -> None:
    data = given(tmp_path / "new.csv", [{"text": SURE, "answer": "mine", "locum_route": "r"}])
    found = predict_bundle(bundle, data, tmp_path / "out.csv")
    (row,) = told(tmp_path / "out.csv")
    assert (row["answer"], row["locum_route"]) == ("mine", "r")
    assert row[found["columns"][0]] == "card" and found["columns"][0] == "locum__answer"


def test_the_llm_is_asked_only_when_it_is_asked_for_and_its_failure_loses_nothing(tmp_path: Path) -> None:
    def script(body: Any) -> Scripted:
        return Scripted("cash") if "good" in body["messages"][-1]["content"] else Scripted(status=401, body=b"{}")

    with FakeUpstream(script) as upstream:
        pico_bundle(tmp_path / "b", task_text=pico_task(base_url=upstream.base_url, model="m"))
        data = given(tmp_path / "new.jsonl", ROWS)
        predict_bundle(tmp_path / "b", data, tmp_path / "out.jsonl")
        assert upstream.received == []
        predict_bundle(tmp_path / "b", data, tmp_path / "out.jsonl", llm=None)
        rows = told(tmp_path / "out.jsonl")
        assert [(row["answer"], row["route"]) for row in rows] == [
            ("card", "local"),
            (None, "no input"),
            ("cash", "llm"),
        ]
        given(data, [{"text": SURE}, {"text": "hello"}])
        found = predict_bundle(tmp_path / "b", data, tmp_path / "out.jsonl", llm=None)
    assert [row["route"] for row in told(tmp_path / "out.jsonl")] == ["local", "handed over"]
    assert found["llm_failed"] == 1


def test_a_file_that_cannot_be_used_leaves_what_was(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("kept")
    broken = tmp_path / "new.jsonl"
    broken.write_text(json.dumps({"text": SURE}) + "\nnot json\n")
    with pytest.raises(DataError, match="new.jsonl:2"):
        predict_bundle(bundle, broken, out)
    with pytest.raises(DataError, match="text"):
        predict_bundle(bundle, given(tmp_path / "other.csv", [{"words": "x", "n": "1"}]), out)
    with pytest.raises(UserError, match="xlsx"):
        predict_bundle(bundle, broken, tmp_path / "out.xlsx")
    with pytest.raises(UserError, match="itself"):
        predict_bundle(bundle, broken, broken)
    assert out.read_text() == "kept"
    assert predict_bundle(bundle, broken, out, skip_bad=True)["n"] == 1


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "locum", *words], capture_output=True, text=True, check=False, cwd=cwd)


def test_the_module_is_the_command_and_prints_one_document(bundle: Path, tmp_path: Path) -> None:
    given(tmp_path / "new.csv", ROWS)
    done = run("predict", str(bundle), "--data", "new.csv", "--out", "answered.csv", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["routes"]["local"] == 1, done.stderr
    assert told(tmp_path / "answered.csv")[0]["answer"] == "card"


@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_task_file_is_looked_for_in_the_current_folder(tmp_path: Path, command: str) -> None:
    (tmp_path / "spam.yaml").write_text("version: 1\n")
    done = run(command, cwd=tmp_path)
    assert done.returncode == 2 and str(tmp_path) in done.stderr and "spam.yaml" in done.stderr
    (tmp_path / "task.yaml").write_text(pico_task())
    assert "train.csv" in run(command, cwd=tmp_path).stderr  # found: now its data are missing


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (["pre"], {"predict"}),
        (["predict", "b", "--only"], {"--only-handed-over"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["models", "pu"], {"pull"}),
        (["nonsense", "--"], set()),
    ],
)
def test_a_shell_is_told_what_may_stand_there(words: list[str], some: set[str]) -> None:
    assert {name for name, _ in candidates(words, COMMANDS)} == some


def test_bash_completes_by_its_script(tmp_path: Path) -> None:
    folder = Path(sys.executable).parent
    script = (
        f'PATH="{folder}:$PATH"; eval "$(locum completion bash)"; COMP_WORDS=(locum predict b --all); COMP_CWORD=3; '
        '_locum; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "--all-answers", done.stderr
