"""What messages advise exists: every switch, command, key of a task file and extra that a sentence of them names."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

from locum.cli.main import COMMANDS
from locum.schema.task import Task

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "locum"
SWITCH = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
COMMAND = re.compile(r"\blocum ([a-z]+)((?: [^`\s]+)*)")
OTHERS = re.compile(r"(llama-gguf-split|pip)\b.*")
"""Programs with switches of their own; what follows their name in a sentence is theirs."""


def sentences() -> Iterator[tuple[str, str]]:
    """Texts of several words in the source, docstrings left out, each with its place."""
    for path in sorted(set(SOURCE.rglob("*.py")) - {SOURCE / "core" / "extras.py"}):  # which writes commands of pip
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        alone |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                text = "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                text = node.value
            else:
                continue
            if " " in text.strip():
                yield f"{path.relative_to(SOURCE).as_posix()}:{node.lineno}", text


def switches() -> dict[str, set[str]]:
    """The switches of each command, those of its parts among them."""

    def of(command: Any) -> set[str]:
        own = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        return own.union({"--help", "--debug"}, *(of(part) for part in getattr(command, "commands", {}).values()))

    return {name: of(get_command(importlib.import_module(f"locum.cli.{name}").app)) for name in COMMANDS}


def keys(document: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The keys of a task file with their dots."""
    for name, field in document.model_fields.items():
        yield prefix + name
        pending = [field.annotation]
        while pending:
            kind = pending.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{prefix}{name}.")
            pending += get_args(kind)


SWITCHES, KEYS = switches(), frozenset(keys(Task))


def faults(text: str, place: str = "") -> list[str]:
    """What a sentence names and nobody has."""
    known, task = SWITCHES, KEYS
    roots = "|".join(sorted({key.split(".")[0] for key in task if "." in key}))
    anywhere = {"--version"}.union(*known.values())
    own = known.get(place.removeprefix("cli/").split(".py")[0], anywhere) if place.startswith("cli/") else anywhere
    found = [switch for switch in SWITCH.findall(COMMAND.sub("", OTHERS.sub("", text))) if switch not in own]
    for command, rest in COMMAND.findall(text):
        if command not in known:
            found.append(f"locum {command}")
        else:
            found += [f"locum {command} {switch}" for switch in SWITCH.findall(rest) if switch not in known[command]]
    named = re.findall(rf"(?<![\w./-])(?:{roots})\.[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*", text)
    return found + [key for key in named if key not in task]


def test_what_the_source_advises_exists() -> None:
    wrong = [f"{place}: {each}" for place, text in sentences() for each in faults(text, place)]
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        "skip them with --skip-worst",
        "see `locum mend`",
        "run `locum eval --replace` again",
        "set data.skip_worst: true in the task",
    ],
)
def test_advice_that_does_not_exist_would_be_seen(text: str) -> None:
    assert faults(text)


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {
        name
        for _, text in sentences()
        for found in re.findall(r"locum\[([a-z,]+)\]", text)
        for name in found.split(",")
    }
    assert named <= extras.keys()
