"""What commands share: their common options, the one JSON document on standard output, and text made harmless."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.markup import escape

from locum.core.errors import UserError
from locum.core.text import visible

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count and skip rows that cannot be used, and go on.")]


def refuse_given(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Refuse options on the command line that would change nothing: whoever wrote one expects something of it.

    Args:
        context: of the command.
        names: of its parameters.
        why: what they are for, as the end of a sentence that begins with the option.

    Raises:
        UserError: ``cli-usage``: one of them was given.
    """
    flags = {each.name: each.opts[0] for each in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        raise UserError("cli-usage", f"{flags[given[0]]} {why}", fix="leave it out")


def print_json(document: Any) -> None:
    """Print a document as the only thing on standard output."""
    typer.echo(json_text(document, indent=2))


def json_text(document: Any, indent: int | None = None) -> str:
    """JSON in letters where standard output can carry them all, else with ASCII escapes."""
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, indent=indent, allow_nan=False)
    return text


def plain_line(text: str) -> str:
    """Text for one line of a terminal, its control characters spelled out."""
    return " ".join(visible(text).split())


def plain(text: str) -> str:
    """Text of the user's for rich: its markup escaped, its control characters spelled out."""
    return escape(visible(text))
