"""``locum init``: looks at a data file, proposes a task file, asks what it cannot know, and writes it.

Notable: kind, profile and columns are proposed with their reason, and each can be overruled by a flag; without a
terminal, or with ``--yes``, nothing is asked. What is written is read back through the same parser as any task file,
and its JSON Schema is put beside it in ``.locum/`` so that editors complete and check it.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from locum.cli.output import JsonOption, plain, print_json
from locum.core.errors import DataError, TaskFileError, UserError
from locum.core.files import write_json, write_text
from locum.core.registry import nearest
from locum.schema.kinds import METRICS, Kind, Profile, form
from locum.schema.task import Task
from locum.schema.taskfile import parse_task

if TYPE_CHECKING:
    from locum.data.inspect import Inspection
    from locum.data.propose import Wish

app = typer.Typer(add_completion=False, rich_markup_mode=None)

SCHEMA = ".locum/task.schema.json"


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="Your examples or logs: CSV, TSV, JSON Lines, JSON or Parquet.")],
    out: Annotated[Path, typer.Option(help="The task file to write.")] = Path("task.yaml"),
    name: Annotated[str | None, typer.Option(help="Short name of the task; default: the data file's name.")] = None,
    instruction: Annotated[str | None, typer.Option(help="The question that each input answers.")] = None,
    input_column: Annotated[list[str] | None, typer.Option("--input", help="Input column; may be repeated.")] = None,
    output_column: Annotated[
        list[str] | None, typer.Option("--output", help="Column with the right answer; may be repeated.")
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="What is to be done; default: what the data look like.")] = None,
    profile: Annotated[Profile | None, typer.Option(help="What is to be written, for --kind generate.")] = None,
    encoding: Annotated[str | None, typer.Option(help="The file's text encoding, where it cannot be told.")] = None,
    test: Annotated[Path | None, typer.Option(help="A file with test rows, when you have one.")] = None,
    at_least: Annotated[float | None, typer.Option(help="Good enough: score to reach, e.g. 0.93.")] = None,
    max_error: Annotated[float, typer.Option(help="At most this share of local answers may be wrong.")] = 0.05,
    llm_url: Annotated[str | None, typer.Option(help="OpenAI-compatible URL of your LLM.")] = None,
    llm_model: Annotated[str | None, typer.Option(help="Its model name there, or a local GGUF file.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable that holds the key.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is proposed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a task file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a task file for your data."""
    from locum.data.inspect import inspect
    from locum.data.readers import open_table

    if out.exists() and not force:
        raise TaskFileError("task-exists", f"{out} is there already", fix="give another --out, or --force")
    wish = _wish(kind, profile, input_column, output_column)
    seen = inspect(data, encoding=encoding, wish=wish)
    console = Console(stderr=True, highlight=False, emoji=False)
    if not as_json:
        _show(seen, console)
    if sys.stdin.isatty() and not yes and not as_json:
        seen, instruction = _ask(data, seen, wish, instruction, encoding)
    _require_columns(seen, wish)
    open_table(
        data, encoding=encoding, wanted=(*seen.input, *_outputs(seen))
    )  # members that a column's objects do not have
    answers: dict[str, Any] = {
        "name": name or _slug(data.name.split(".")[0]),
        "instruction": instruction or _instruction(seen),
        "data": _relative(data, out),
        "test": _relative(test, out) if test else None,
        "encoding": encoding,
        "seen": seen,
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
        if seen.others and not wish.output and (yes or not sys.stdin.isatty()):
            taken, others = plain(_outputs(seen)[0]), ", ".join(map(plain, seen.others))
            again = plain(f"locum init {data} --output {seen.others[0]} --force")
            console.print(f"! {taken} was taken as the output; it could also be {others}:\n  {again}", soft_wrap=True)


_JUDGED = (
    "scorer: judge   # or the name of a scorer of your own",
    '# judge: {criterion: "Is the answer …?", grades: 5, human: judged.csv}   # answers that people graded: columns',
    "#   answer and grade; without them the judge's agreement with people is not measured",
)


def task_text(answers: dict[str, Any]) -> str:
    """The text of a task file, with comments for what was left at its default."""
    seen: Inspection = answers["seen"]
    metric = METRICS[form(seen.kind or "", seen.profile)][0]
    schema = [f"answer_schema: {_quoted(seen.answer_schema)}"] if seen.answer_schema else []
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "version: 1",
        f"name: {_quoted(answers['name'])}",
        f"kind: {seen.kind}",
        *([f"profile: {seen.profile}"] if seen.profile else []),
        *(_JUDGED if seen.profile == "custom" else []),
        f"instruction: {_quoted(answers['instruction'])}",
        *schema,
        "data:",
        f"  train: {_quoted(answers['data'])}",
        f"  test: {_quoted(answers['test'])}"
        if answers["test"]
        else "  # test: a file of its own; else 20 % is set aside",
        f"  input: {_quoted(seen.input[0] if len(seen.input) == 1 else seen.input)}",
        f"  output: {_quoted(seen.output)}",
        *([f"  encoding: {_quoted(answers['encoding'])}"] if answers["encoding"] else []),
        *_skipped(seen),
        f"target: {{metric: {metric}, at_least: {answers['at_least']}}}"
        if answers["at_least"]
        else f"# target: {{metric: {metric}, at_least: 0.93}}   # the smallest student at or above it is taken",
        f"budget: {{build_minutes: {60 if seen.kind in ('extract', 'generate') else 15}}}",
    ]
    llm = {key: value for key, value in answers["llm"].items() if value}
    if llm:
        lines += ["llm:", *(f"  {key}: {json.dumps(value)}" for key, value in llm.items())]
    else:
        lines.append("# llm: {base_url: https://api.example.com/v1, model: NAME, api_key_env: OPENAI_API_KEY}")
    lines.append(f"guarantee: {{kind: selective, max_error: {answers['max_error']}, confidence: 0.95}}")
    return "\n".join(lines) + "\n"


def _skipped(seen: Inspection) -> list[str]:
    """Leave out rows without an answer, where there are some: nobody can learn from them."""
    lacking = [c.missing for c in seen.columns if c.name in _outputs(seen)[:1] and c.missing]
    return ["  skip_bad: true   # some rows have no answer; they are counted, and left out"] if lacking else []


def _quoted(value: Any) -> str:
    """A value as JSON, which YAML reads."""
    return json.dumps(value, ensure_ascii=False)


def _wish(kind: Kind | None, profile: Profile | None, inputs: list[str] | None, outputs: list[str] | None) -> Wish:
    """What the flags say.

    Raises:
        UserError: a profile of another kind.
    """
    if profile and kind not in (None, "generate"):
        raise UserError("task-invalid", f"--profile {profile} is for --kind generate, not {kind}", fix="leave one out")
    from locum.data.propose import Wish

    return Wish(kind, profile, tuple(inputs or ()), tuple(outputs or ()))


def _ask(
    data: Path, seen: Inspection, wish: Wish, instruction: str | None, encoding: str | None
) -> tuple[Inspection, str]:
    """Ask for what cannot be known: kind, columns, the question; what is proposed is the default."""
    proposed = form(seen.kind, seen.profile) if seen.kind else None
    from locum.data.inspect import inspect
    from locum.data.propose import Wish

    known = [name for name in METRICS if name != "custom"]  # which needs a scorer that no question can write
    said = typer.prompt(f"Kind of task ({', '.join(known)})", default=proposed, err=True)
    if said not in known:
        close = nearest(said, known)
        raise UserError(
            "task-invalid", f"no kind {said!r}", fix=f"did you mean {close}?" if close else "take one of these"
        )
    if said != proposed:
        wish = replace(wish, kind=None, profile=said) if said in get_args(Profile) else replace(wish, kind=said)
        seen = inspect(data, encoding=encoding, wish=wish)
    inputs = _columns(typer.prompt("Input column(s)", default=", ".join(seen.input) or None, err=True))
    outputs = _columns(typer.prompt("Output column(s)", default=", ".join(_outputs(seen)) or None, err=True))
    if (inputs, outputs) != (seen.input, _outputs(seen)):
        wish = Wish(seen.kind or wish.kind, seen.profile or wish.profile, inputs, outputs)
        seen = inspect(data, encoding=encoding, wish=wish)
    return seen, instruction or typer.prompt("What each input asks for", default=_instruction(seen), err=True)


def _columns(said: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in said.split(",") if part.strip())


def _outputs(seen: Inspection) -> tuple[str, ...]:
    return () if seen.output is None else (seen.output,) if isinstance(seen.output, str) else seen.output


_INSTRUCTIONS = {
    "tag": "Mark all spans of the types that the examples show.",
    "extract": "Take the fields out of the text.",
    "rank": "Which candidate fits the query best?",
    "maths": "Solve the problem step by step.",
    "summarise": "Summarise the text.",
    "code": "Write the Python function.",
    "chat": "Answer the message.",
    "custom": "Answer the input.",
}


def _instruction(seen: Inspection) -> str:
    """What each input asks for: what a log's system turn says, else general words, which the user can better."""
    if seen.instruction:
        return seen.instruction
    name = form(seen.kind or "", seen.profile)
    output = (_outputs(seen) or ("answer",))[0]
    if name == "qa":
        return "Answer the question from the passage." if len(seen.input) > 1 else "Answer the question."
    if name == "translate":
        return f"Translate the text into {output}."
    picked = "." in output  # a turn of a log
    return _INSTRUCTIONS.get(name, "Which label fits the text?" if picked else f"Which {output} fits the text?")


def _show(seen: Inspection, console: Console) -> None:
    table = Table(
        "column", "type", "different", "looks like", "why", title=f"{plain(seen.path)}: {seen.rows:,} rows read"
    )
    for column in seen.columns:
        table.add_row(plain(column.name), column.type, f"{column.distinct:,}", column.looks_like, plain(column.why))
    console.print(table)
    if seen.kind:
        console.print(f"looks like {plain(form(seen.kind, seen.profile))}: {plain(seen.why)}")
    for warning in seen.warnings:
        console.print(f"! {plain(warning)}")
    if seen.labels:
        shown = ", ".join(f"{plain(label)} ({count})" for label, count in list(seen.labels.items())[:8])
        console.print(f"{len(seen.labels)} labels: {shown}{', …' if len(seen.labels) > 8 else ''}")


def _require_columns(seen: Inspection, wish: Wish) -> None:
    names = [column.name for column in seen.columns]
    for wanted in (*wish.input, *wish.output, *seen.input, *_outputs(seen)):
        if wanted not in names and wanted.split(".")[0] not in names:
            raise DataError("data-columns", f"there is no column {wanted!r}", fix=f"columns: {', '.join(names)}")
    if seen.kind is None or not seen.input or seen.output is None:
        raise DataError(
            "data-columns",
            f"{seen.why}; columns: {', '.join(names)}",
            fix="name them with --input and --output, and the task with --kind or --profile",
        )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "task"


def _relative(path: Path, out: Path) -> str:
    """The data file's path as seen from the task file's folder."""
    try:
        return path.resolve().relative_to(out.resolve().parent).as_posix()
    except ValueError:
        return path.resolve().as_posix()
