"""Python's own ways in: frames for building, measuring, proving and answering; tasks as dictionaries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ticket_rows

import locum
from locum.bundle.report import read_report
from locum.core.errors import DataError, TaskFileError, UserError
from locum.core.files import sha256_file
from locum.schema.taskfile import parse_task
from locum.testing.bundles import pico_bundle

TASK = {
    "version": 1,
    "name": "tickets",
    "kind": "classify",
    "instruction": "Which team should answer the message?",
    "data": {"input": "text", "output": "team", "format": "csv", "encoding": "latin-1"},
    "guarantee": {"max_error": 0.2},
    "students": [{"method": "linear"}],
}


def tickets(count: int, seed: int) -> list[dict[str, str]]:
    return [{"text": text, "team": team} for text, team in ticket_rows(count, seed)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pandas = pytest.importorskip("pandas")
    out = tmp_path_factory.mktemp("given") / "out"
    data = {"train": pandas.DataFrame(tickets(1200, 1)), "test": tickets(300, 2)}
    return locum.build(TASK, out=out, data=data)


def test_a_frame_is_a_file_of_the_build_and_is_named_with_its_hash(run: Any) -> None:
    folder = run.bundle.parent
    files = {each.split: each for each in run.report.data.files}
    assert {split: each.address for split, each in files.items()} == {
        "train": "data/train.rows.jsonl",
        "test": "data/test.rows.jsonl",
    }
    for each in files.values():
        assert each.sha256 == sha256_file(folder / each.address)
    assert files["train"].rows == 1200 and run.report.certificate.threshold is not None
    assert str(folder) not in (run.bundle / "task.yaml").read_text()
    kept = yaml.safe_load((run.bundle / "task.yaml").read_text())
    assert kept == {**TASK, "data": {**TASK["data"], "train": "data/train.rows.jsonl", "test": "data/test.rows.jsonl"}}  # type: ignore[dict-item]


def test_the_same_rows_go_on_from_what_is_done_and_others_do_not(run: Any, jobs: list[str]) -> None:
    out = run.bundle.parent
    again = locum.build(TASK, out=out, data={"train": iter(tickets(1200, 1)), "test": tickets(300, 2)})
    assert jobs == [] and again.report.data == run.report.data
    data_steps = {each.name for each in (out / "work").glob("data-*")}
    locum.build(TASK, out=out, data={"train": tickets(1100, 1), "test": tickets(300, 2)})
    assert {each.name for each in (out / "work").glob("data-*")} > data_steps
    locum.build(TASK, out=out, data={"train": tickets(1200, 1), "test": tickets(300, 2)})


def test_a_run_shows_what_came_of_it_without_markup_of_its_own(run: Any) -> None:
    shown = run._repr_html_()
    assert "tickets" in shown and str(run.bundle) in shown
    statement = run.report.certificate.statement
    assert statement.split("<")[0][:40] in shown and shown.count("<table") == 1
    named = run.report.model_copy(update={"chosen": "<b>x</b>"})
    assert "<b>x" not in type(run)(run.bundle, named)._repr_html_()


def test_a_split_that_is_given_takes_the_place_of_the_task_files_own(run: Any, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,team\n" + "".join(f"{r['text']},{r['team']}\n" for r in tickets(300, 5)))
    fields = {**TASK, "data": {"train": "gone.csv", "test": "test.csv", "input": "text", "output": "team"}}
    fields["data"]["sha256"] = {"train": "0" * 64}  # type: ignore[index]
    text = yaml.safe_dump(fields)
    (tmp_path / "task.yaml").write_text(text)
    built = locum.build(tmp_path / "task.yaml", out=tmp_path / "out", data=tickets(1200, 1))
    addresses = {each.split: each.address for each in built.report.data.files}
    assert addresses == {"train": "data/train.rows.jsonl", "test": "test.csv"}
    assert (built.bundle / "task.yaml").read_text() == text
    task = parse_task(yaml.safe_dump({**fields, "data": {**TASK["data"], "train": "x.csv"}}))  # type: ignore[dict-item]
    with pytest.raises(DataError, match="team"):
        locum.build(task, out=tmp_path / "other", data=[{"text": "a", "tam": "b"}])


def test_fresh_rows_measure_and_prove_and_seen_ones_are_refused(run: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    found = locum.eval(run.bundle, pyarrow.Table.from_pylist(tickets(300, 7)))
    assert found["n"] == 300 and found["metrics"]["accuracy"] > 0.7
    assert len(Path(found["predictions"]).read_text().splitlines()) == 300
    assert Path(found["predictions"]).parent == run.bundle.parent / "bundle-data"
    proved = locum.certify(run.bundle, tickets(400, 8), max_error=0.25, dry_run=True)
    file = run.bundle.parent / "bundle-data" / proved.proof.file
    assert proved.proof.sha256 == sha256_file(file) and proved.certificate.threshold is not None
    assert proved.proof.weaker is not None and not proved.replaced
    with pytest.raises(DataError) as caught:
        locum.certify(run.bundle, tickets(1200, 1))
    assert caught.value.code == "data-calibration-leak"
    with pytest.raises(UserError, match="max_error"):
        locum.certify(run.bundle, tickets(400, 8), max_error=2.0)
    proved = locum.certify(run.bundle, tickets(400, 8))
    assert read_report(run.bundle).proof == proved.proof


SURE, UNSURE = "my card did not arrive, delivery was due", "good morning"


@pytest.mark.parametrize("kind", ["pandas", "arrow", "polars", "list"])
def test_rows_come_back_as_what_they_were_with_three_columns_more(tmp_path: Path, kind: str) -> None:
    pico_bundle(tmp_path / "b")
    columns = {"text": [SURE, UNSURE, None], "id": [7, 8, 9]}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    given: Any = rows
    if kind == "pandas":
        given = pytest.importorskip("pandas").DataFrame(columns, index=["x", "y", "z"])
    elif kind == "polars":
        given = pytest.importorskip("polars").DataFrame(columns)
    elif kind == "arrow":
        given = pytest.importorskip("pyarrow").table(columns)
    answered = locum.predict(tmp_path / "b", given, reasons=True)
    assert type(answered) is type(given)
    route = {"list": lambda: [row["route"] for row in answered], "arrow": lambda: answered["route"].to_pylist()}
    assert route.get(kind, lambda: list(answered["route"]))() == ["local", "handed over", "no input"]
    label_next = locum.predict(tmp_path / "b", given, only_handed_over=True)
    if kind == "pandas":
        assert list(answered.columns) == ["text", "id", "answer", "confidence", "route", "reason"]
        assert list(label_next.index) == ["y"] and list(given.columns) == ["text", "id"]
    if kind == "list":
        assert [(row["id"], row["answer"]) for row in label_next] == [(8, None)]
    assert len(label_next) == 1
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith("b-data")) == []


def test_rows_and_files_may_go_to_a_file(tmp_path: Path) -> None:
    pico_bundle(tmp_path / "b")
    found = locum.predict(tmp_path / "b", [{"text": SURE}], tmp_path / "out.jsonl")
    assert found["routes"] == {"local": 1}
    (row,) = locum.predict(tmp_path / "b", tmp_path / "out.jsonl")
    assert row["answer"] == row["locum_answer"] == "card"
    assert json.loads((tmp_path / "out.jsonl").read_text())["answer"] == "card"


@pytest.mark.parametrize(
    ("task", "data", "error"),
    [
        (TASK, {"trian": []}, DataError),
        (TASK, "rows.csv", DataError),
        (TASK, {"train": Path("rows.csv")}, DataError),
        (TASK, None, TaskFileError),  # data.train is missing
        ({**TASK, "kind": "clasify"}, [{"text": "a", "team": "b"}], TaskFileError),
        ({**TASK, "name": object()}, [{"text": "a", "team": "b"}], TaskFileError),
        (TASK, [], DataError),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is_made(
    tmp_path: Path, task: Any, data: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        locum.build(task, out=tmp_path / "out", data=data)
    assert not (tmp_path / "out" / "work").exists()


def test_names_come_without_their_libraries() -> None:
    code = (
        "import sys, locum; [getattr(locum, name) for name in locum.__all__];"
        "print([name for name in ('torch', 'onnxruntime', 'pandas', 'pyarrow', 'polars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
