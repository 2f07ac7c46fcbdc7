"""``locum models``: the catalogue of bases, and fetching one ahead of a build."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from locum.cli.output import JsonOption, print_json
from locum.cli.view import live_view

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def models(
    fetch: Annotated[str | None, typer.Option(help="Fetch and verify this base; print where it is.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the bases that students can start from, with size, licence, sources and whether they are here."""
    from locum.sources.bases import ensure_base, plan_base
    from locum.sources.catalogue import catalogue

    if fetch is not None:
        with live_view():
            path = ensure_base(fetch)
        print_json({"base": fetch, "path": str(path)}) if as_json else typer.echo(str(path))
        return
    rows = [(base, plan_base(base.name)) for base in catalogue().bases]
    if as_json:
        print_json([{**base.to_json(), "cached": plan.cached} for base, plan in rows])
        return
    table = Table("base", "family", "size", "download", "licence", "from", "checked", "here")
    for base, plan in rows:
        table.add_row(
            base.name,
            base.facts.family,
            f"{base.facts.parameters / 1e6:.0f} M",
            f"{plan.size_mb or 0:.0f} MB",
            base.licence,
            "pypi" if "pypi" in plan.address else "hf",
            "yes" if base.artefact().verified else "on first use",
            "yes" if plan.cached else "",
        )
    Console(highlight=False, emoji=False).print(table)
