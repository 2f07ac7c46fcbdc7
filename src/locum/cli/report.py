"""``locum report``: what a build found out, in the terminal or as the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from locum.cli.output import JsonOption, print_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def report(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    html: Annotated[Path | None, typer.Option(help="Write the page here, drawn anew by this version.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the ladder, the verdict and the certificate of a build."""
    from locum.bundle.report import read_report
    from locum.cli.summary import print_report

    document = read_report(bundle)
    if html is not None:
        from locum.core.files import write_text
        from locum.report.page import render

        write_text(html, render(document))
    if as_json:
        print_json(document.to_json())
        return
    print_report(document, Console(highlight=False, emoji=False))
    typer.echo(f"Report  {html or bundle / 'report.html'}")
