"""``locum init``: looks at a data file, proposes a task file, asks what it cannot know, and writes it.

Notable: every proposal comes with its reason and can be overruled by a flag; without a terminal, or with
``--yes``, nothing is asked. What is written is read back through the same parser as any task file, and its
JSON Schema is put beside it in ``.locum/`` so that editors complete and check it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from locum.cli.output import JsonOption, plain, print_json
from locum.core.errors import DataError, TaskFileError
from locum.core.files import write_json, write_text
from locum.data.inspect import Inspection, inspect
from locum.schema.task import Task
from locum.schema.taskfile import parse_task

app = typer.Typer(add_completion=False, rich_markup_mode=None)

SCHEMA = ".locum/task.schema.json"


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="Your examples: CSV, TSV, JSON Lines or Parquet.")],
    out: Annotated[Path, typer.Option(help="The task file to write.")] = Path("task.yaml"),
    name: Annotated[str | None, typer.Option(help="Short name of the task; default: the data file's name.")] = None,
    instruction: Annotated[str | None, typer.Option(help="The question that each input answers.")] = None,
    input_column: Annotated[list[str] | None, typer.Option("--input", help="Input column; may be repeated.")] = None,
    output_column: Annotated[str | None, typer.Option("--output", help="Column with the right answer.")] = None,
    test: Annotated[Path | None, typer.Option(help="A file with test rows, when you have one.")] = None,
    at_least: Annotated[float | None, typer.Option(help="Good enough: accuracy to reach, e.g. 0.93.")] = None,
    max_error: Annotated[float, typer.Option(help="At most this share of local answers may be wrong.")] = 0.05,
    llm_url: Annotated[str | None, typer.Option(help="OpenAI-compatible URL of your LLM.")] = None,
    llm_model: Annotated[str | None, typer.Option(help="Its model name there, or a local GGUF file.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the key.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is proposed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a task file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a task file for your data."""
    if out.exists() and not force:
        raise TaskFileError("task-exists", f"{out} is there already", fix="give another --out, or --force")
    seen = inspect(data)
    console = Console(stderr=True, highlight=False, emoji=False)
    ask = sys.stdin.isatty() and not yes and not as_json
    if not as_json:
        _show(seen, console)
    inputs = tuple(input_column or seen.input[:1])
    output = output_column or seen.output
    if ask:
        inputs = (typer.prompt("Input column", default=inputs[0] if inputs else None, err=True),)
        output = typer.prompt("Output column", default=output, err=True)
        instruction = instruction or typer.prompt("The question that each input answers", err=True)
    _require_columns(seen, inputs, output)
    answers: dict[str, Any] = {
        "name": name or _slug(data.name.split(".")[0]),
        "instruction": instruction or f"Which {output} does the text have?",
        "data": _relative(data, out),
        "test": _relative(test, out) if test else None,
        "inputs": inputs,
        "output": output,
        "at_least": at_least,
        "max_error": max_error,
        "llm": {"base_url": llm_url, "model": llm_model, "api_key_env": api_key_env},
    }
    text = task_text(answers)
    parse_task(text, str(out))
    write_text(out, text)
    write_json(out.parent / SCHEMA, Task.model_json_schema())
    if as_json:
        print_json({"task": str(out), "inspection": seen.to_json()})
    else:
        console.print(f"\nwrote {plain(str(out))}; next: locum plan {plain(str(out))}")


def task_text(answers: dict[str, Any]) -> str:
    """The text of a task file, with comments for what was left at its default."""
    quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in answers.items() if isinstance(value, str)}
    inputs = answers["inputs"]
    columns = json.dumps(inputs[0] if len(inputs) == 1 else list(inputs), ensure_ascii=False)
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "version: 1",
        f"name: {quoted['name']}",
        "kind: classify",
        f"instruction: {quoted['instruction']}",
        "data:",
        f"  train: {quoted['data']}",
        *(
            [f"  test: {quoted['test']}"]
            if answers["test"]
            else ["  # test: a file of its own; else 20 % is set aside"]
        ),
        f"  input: {columns}",
        f"  output: {quoted['output']}",
        f"target: {{metric: accuracy, at_least: {answers['at_least']}}}"
        if answers["at_least"]
        else "# target: {metric: accuracy, at_least: 0.93}   # the smallest student at or above it is taken",
        "budget: {build_minutes: 15}",
    ]
    llm = {key: value for key, value in answers["llm"].items() if value}
    if llm:
        lines += ["llm:", *(f"  {key}: {json.dumps(value)}" for key, value in llm.items())]
    else:
        lines.append("# llm: {base_url: https://api.example.com/v1, model: NAME, api_key_env: OPENAI_API_KEY}")
    lines.append(f"guarantee: {{kind: selective, max_error: {answers['max_error']}, confidence: 0.95}}")
    return "\n".join(lines) + "\n"


def _show(seen: Inspection, console: Console) -> None:
    table = Table(
        "column", "type", "different", "looks like", "why", title=f"{plain(seen.path)}: {seen.rows:,} rows read"
    )
    for column in seen.columns:
        table.add_row(plain(column.name), column.type, f"{column.distinct:,}", column.looks_like, plain(column.why))
    console.print(table)
    for warning in seen.warnings:
        console.print(f"! {plain(warning)}")
    if seen.labels:
        shown = ", ".join(f"{plain(label)} ({count})" for label, count in list(seen.labels.items())[:8])
        console.print(f"{len(seen.labels)} labels: {shown}{', …' if len(seen.labels) > 8 else ''}")


def _require_columns(seen: Inspection, inputs: tuple[str, ...], output: str | None) -> None:
    names = [column.name for column in seen.columns]
    if not inputs or output is None:
        raise DataError(
            "data-columns", f"{seen.why}; columns: {', '.join(names)}", fix="name them with --input and --output"
        )
    for wanted in (*inputs, output):
        if wanted not in names:
            raise DataError("data-columns", f"there is no column {wanted!r}", fix=f"columns: {', '.join(names)}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "task"


def _relative(path: Path, out: Path) -> str:
    """The data file's path as seen from the task file's folder."""
    try:
        return path.resolve().relative_to(out.resolve().parent).as_posix()
    except ValueError:
        return path.resolve().as_posix()
