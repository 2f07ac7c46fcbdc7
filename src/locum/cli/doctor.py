"""``locum doctor``: what works here, what does not and why, in one table."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from locum.cli.output import JsonOption, print_json
from locum.core.errors import CheckFailed
from locum.core.text import visible

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "broken": ("✗", "bold red")}


@app.command()
def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Also ask the package index and the model hub whether they answer.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show processor, memory, engines, training extra and cache. Exit 3 when something that Locum needs is broken."""
    from locum.pipeline.doctor import examine_installation

    found = examine_installation(online=online)
    broken = [finding["name"] for finding in found["findings"] if finding["state"] == "broken"]
    if as_json:
        print_json(found)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in found["findings"]:
            mark, style = _MARKS[finding["state"]]
            text = Text(visible(finding["value"]))
            if finding["advice"]:
                text.append(f"\n{visible(finding['advice'])}", style="dim" if finding["state"] == "note" else style)
            table.add_row(Text(mark, style=style), Text(finding["name"]), text)
        Console(highlight=False, emoji=False).print(table)
    if broken:
        failed = CheckFailed("cli-broken", f"Locum cannot work here: {', '.join(broken)}", fix="see the lines marked ✗")
        if not as_json:
            raise failed
        typer.echo(f"error: {failed}", err=True)  # standard output has its one document
        raise typer.Exit(failed.exit_code)
