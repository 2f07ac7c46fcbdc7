"""What the documentation shows is what the program does: task files parse, commands and error codes exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from locum.cli.main import COMMANDS
from locum.core.codes import CODES
from locum.schema.taskfile import parse_task

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
ERRORS = re.compile(r"(Error|CheckFailed|Interrupted)$")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").rglob("task.yaml")), ids=lambda file: file.parent.name)
def test_examples_parse(file: Path) -> None:
    task = parse_task(file.read_text(encoding="utf-8"), str(file))
    assert task.name == file.parent.name


def test_task_files_on_pages_parse() -> None:
    shown = [
        block for page in PAGES for block in blocks(page, "yaml") if re.search(r"^version: 1$", block, re.MULTILINE)
    ]
    assert shown
    for block in shown:
        parse_task(block)


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
