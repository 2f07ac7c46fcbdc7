"""``locum words``: what certificate, calibration, student and the other words mean."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from locum.cli.output import JsonOption, print_json
from locum.report.words import WORDS

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def words(as_json: JsonOption = False) -> None:
    """Say in plain words what a plan, a report and an error speak of."""
    if as_json:
        print_json(WORDS)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for word, meaning in WORDS.items():
        table.add_row(word, meaning)
    Console(highlight=False, emoji=False).print(table)
