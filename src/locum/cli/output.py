"""What commands share: their common options, the one JSON document on standard output, and text made harmless."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape

from locum.core.text import visible

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count and skip rows that cannot be used, and go on.")]


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
