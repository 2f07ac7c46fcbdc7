"""What the documentation shows is what the program does: task files parse, commands and error codes exist."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from locum.cli.main import COMMANDS
from locum.core.codes import CODES
from locum.data.examples import ExampleReader
from locum.data.readers import read_rows
from locum.data.rows import Faults
from locum.schema.kinds import CORRECT_AT, METRICS
from locum.schema.task import Task
from locum.schema.taskfile import parse_task
from locum.sources.address import HubAddress, PathAddress, parse_address

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
RECIPES = sorted(folder.parent for folder in (ROOT / "examples").glob("*/README.md"))
APPLICATIONS = (
    "conversation summarisation code-generation code-analysis translation question-answering health law finance "
    "extraction tool-calls search recommendation"
)
ERRORS = re.compile(r"(Error|CheckFailed|Interrupted)$")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").rglob("task.yaml")), ids=lambda file: file.parent.name)
def test_examples_parse(file: Path) -> None:
    task = parse_task(file.read_text(encoding="utf-8"), str(file))
    assert task.name == file.parent.name


def recipe(folder: Path) -> Task:
    return parse_task((folder / "task.yaml").read_text(encoding="utf-8"), str(folder))


def test_there_is_a_recipe_for_every_application() -> None:
    assert set(APPLICATIONS.split()) <= {folder.name for folder in RECIPES}


@pytest.mark.parametrize("folder", RECIPES, ids=lambda folder: folder.name)
def test_data_of_a_recipe_are_local_files_first_and_then_the_hub(folder: Path) -> None:
    spec = recipe(folder).data
    for split, given in (("train", spec.train), ("test", spec.test)):
        addresses = [parse_address(each) for each in ((given,) if isinstance(given, str) else given or ())]
        assert [isinstance(each, PathAddress) for each in addresses] == [True, False][: len(addresses)]
        if addresses:
            assert re.fullmatch(rf"data/{split}\.(jsonl|csv)", addresses[0].text)
        if len(addresses) == 2:
            assert isinstance(addresses[1], HubAddress)
            assert addresses[1].kind == "dataset" and not addresses[1].is_folder
    script = folder / "prepare.py"
    if spec.train == "data/train.jsonl":  # only a script knows where its rows come from
        (source,) = re.findall(r'^SOURCE = "(.*)"$', script.read_text(encoding="utf-8"), re.MULTILINE)
        assert urlsplit(source).scheme in ("hf", "https", "pypi")
    else:
        assert not script.exists()


@pytest.mark.parametrize("folder", RECIPES, ids=lambda folder: folder.name)
def test_the_row_that_a_recipe_shows_is_one_that_its_task_reads(folder: Path, tmp_path: Path) -> None:
    task = recipe(folder)
    (language, row), *_ = re.findall(
        r"^```(json|csv)\n(.*?)^```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    file = tmp_path / f"train.{'jsonl' if language == 'json' else 'csv'}"
    file.write_text(row, encoding="utf-8")
    faults = Faults(folder.name)
    reader = ExampleReader(task, faults, Counter())
    read = [reader.take(raw) for raw in read_rows(file, task.data)]
    assert faults.places == []
    assert len(read) == 1
    assert read[0] is not None and read[0].input and read[0].output


@pytest.mark.parametrize("folder", RECIPES, ids=lambda folder: folder.name)
def test_a_recipe_names_its_own_files_in_its_commands(folder: Path) -> None:
    (commands,) = blocks(folder / "README.md", "bash")
    named = re.findall(r"(?:examples|runs)/([a-z-]+)", commands)
    assert len(named) >= 4
    assert set(named) == {folder.name}


def test_task_files_on_pages_parse() -> None:
    shown = [
        block for page in PAGES for block in blocks(page, "yaml") if re.search(r"^version: 1$", block, re.MULTILINE)
    ]
    assert shown
    for block in shown:
        parse_task(block)


def test_the_page_on_tasks_names_every_form_metric_and_default() -> None:
    lines = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8").splitlines()
    for name, metrics in METRICS.items():
        (row, *graded) = [line for line in lines if re.match(rf"\| .*`{name}`", line)]
        assert [metric for metric in metrics if f"`{metric}`" not in row] == []
        if name in CORRECT_AT:
            assert f"| {CORRECT_AT[name]:g}" in graded[0]


def test_links_on_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target, _, anchor in (
            link.partition("#")
            for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
            if "://" not in link
        ):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_commands_on_pages_exist() -> None:
    called = {
        (page.name, word)
        for page in PAGES
        for block in blocks(page, "bash")
        for word in re.findall(r"^(?:\S+/)?locum ([a-z]+)", block, re.MULTILINE)
    }
    assert called
    assert {(page, word) for page, word in called if word not in COMMANDS} == set()


def test_python_on_pages_is_python() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            assert ast.parse(block).body


def raised_codes() -> set[str]:
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                value = node.args[0].value
                if ERRORS.search(name) and isinstance(value, str) and re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", value):
                    found.add(value)
    return found


def test_every_error_code_that_is_raised_is_listed() -> None:
    found = raised_codes()
    assert len(found) > 50
    assert found - set(CODES) == set()


def test_every_listed_error_code_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name != "codes.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []


def test_every_code_has_a_sentence_and_names_its_room() -> None:
    rooms = {path.name for path in (ROOT / "src" / "locum").iterdir() if path.is_dir()}
    for code, meaning in CODES.items():
        assert code.split("-")[0] in rooms | {"task", "source", "upstream"}, code
        assert meaning.endswith("."), code


def test_the_broken_promises_that_the_readme_tells_are_those_measured() -> None:
    table = json.loads((ROOT / "bench" / "results" / "certificates.json").read_text(encoding="utf-8"))["table"]
    broken = {
        row["method"].strip("*"): float(row["promise broken"].split("%")[0])
        for row in table
        if row["promise"] == "selective"
    }
    told = (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert f"broken for {broken['Locum']:.1f} % of them" in told
    assert f"the usual threshold broke it for {broken['naive threshold']:.0f} %" in told
