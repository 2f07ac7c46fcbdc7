"""``locum build``: from a task file to a bundle, with a live view; ends with the ladder and the certificate."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from locum.cli.output import JsonOption, print_json
from locum.cli.view import live_view

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def build(
    task: Annotated[
        Path | None, typer.Argument(help="The task file, or a folder with a task.yaml; default: the current folder.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the build; default: runs/NAME in the current folder.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; use what is cached.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build, prove and bundle the smallest student for a task.

    Run the same command again after a stop: finished steps are found, training goes on from its last checkpoint.
    """
    from locum.pipeline.build import build as run_build

    with live_view():
        run = run_build(task or Path(), out=out, offline=offline)
    if as_json:
        print_json(run.to_json())
        return
    _print_summary(run.bundle)


def _print_summary(bundle: Path) -> None:
    from locum.bundle.report import read_report
    from locum.cli.summary import print_report, shown_sentence

    report = read_report(bundle)
    print_report(report, Console(highlight=False, emoji=False))
    shown = report.shown
    content = shown.input if shown else "…"
    body = {"model": report.task, "messages": [{"role": "user", "content": content}]}
    typer.echo(f"Report  {bundle / 'report.html'}")
    typer.echo(f"Serve   locum serve {bundle}")
    typer.echo(
        "Call    curl -s http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' "
        f"-d {shlex.quote(json.dumps(body, ensure_ascii=not content.isprintable()))}"
    )
    if shown:
        typer.echo(f"        {shown_sentence(shown)}")
