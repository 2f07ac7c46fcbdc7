"""``locum models``: the bases that students start from; fetch, verify and remove them.

Notable: listing reads no weights, so it is quick however much is cached; ``verify`` reads them all. Only Locum's own
cache is ever changed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from locum.cli.output import JsonOption, plain, print_json
from locum.cli.view import live_view
from locum.core.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from locum.sources.catalogue import Base

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_NameArgument = Annotated[str, typer.Argument(help="A base's name or alias, as `locum models` lists it.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """The bases that students can start from: list them, or pull, verify or remove one."""
    if context.invoked_subcommand is None:
        list_models(as_json)


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the catalogue, with what is here, since when it is verified, and the disk it takes."""
    from locum.sources.cache import cache_folder
    from locum.sources.catalogue import catalogue
    from locum.sources.inventory import kept

    rows = [(base, kept(base)) for base in catalogue().bases]
    if as_json:
        print_json([_as_json(base, here) for base, here in rows])
        return
    base_column = Column("base", no_wrap=True)
    table = Table(base_column, "family", "size", "download", "licence", "from", "here", box=None, pad_edge=False)
    for base, here in rows:
        artefact = base.artefact()
        table.add_row(
            base.name,
            base.facts.family,
            f"{base.facts.parameters / 1e6:.0f} M",
            f"{artefact.size_mb:.0f} MB",
            base.licence,
            "pypi" if "pypi" in artefact.places()[0].text else "hf",
            ", ".join(f"{one.format}, verified {(one.verified_at or 'never')[:10]}" for one in here),
        )
    console = Console(highlight=False, emoji=False)
    console.print(table)
    total_mb = sum(one.size_mb for _, here in rows for one in here)
    console.print(f"{total_mb:,.0f} MB in {plain(str(cache_folder()))}", soft_wrap=True)


@app.command()
def pull(name: _NameArgument, as_json: JsonOption = False) -> None:
    """Fetch and verify a base; print where it is."""
    from locum.sources.bases import ensure_base

    with live_view():
        path = ensure_base(name)
    print_json({"base": name, "path": str(path)}) if as_json else typer.echo(str(path))


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="A base's name; default: all that are here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every cached file again. Exit 3 when one is not what it must be."""
    from locum.sources.inventory import kept
    from locum.sources.inventory import verify as check

    report: list[dict[str, Any]] = []
    for base in _bases(name):
        for one in kept(base):
            files = [
                {"file": each.name, "right": each.right, "expected": each.expected, "found": each.found}
                for each in check(one)
            ]
            report.append({"base": base.name, "format": one.format, "path": str(one.slot.path), "files": files})
    if name is not None and not report:
        raise _not_here(name)
    wrong = [f"{row['base']}: {each['file']}" for row in report for each in row["files"] if not each["right"]]
    if as_json:
        print_json(report)
    else:
        _print_checks(report)
    if wrong:
        failed = CheckFailed(
            "source-checksum",
            f"{len(wrong)} files are not what they must be: {', '.join(wrong[:5])}",
            fix="run `locum models remove NAME`, then `locum models pull NAME`",
        )
        if not as_json:
            raise failed
        typer.echo(f"error: {failed}", err=True)  # standard output has its one document
        raise typer.Exit(failed.exit_code)


@app.command()
def remove(
    name: _NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a base out of Locum's cache; nothing else is touched."""
    from locum.sources.inventory import kept
    from locum.sources.inventory import remove as take_out

    here = [one for base in _bases(name) for one in kept(base)]
    if not here:
        raise _not_here(name)
    size_mb = sum(one.size_mb for one in here)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise UserError("cli-usage", f"{name} is only removed on request", fix="add --yes")
        typer.confirm(f"Remove {here[0].base} ({size_mb:,.0f} MB) from the cache?", abort=True)
    for one in here:
        take_out(one)
    document = {"base": here[0].base, "removed": [str(one.slot.path) for one in here], "freed_mb": round(size_mb, 1)}
    print_json(document) if as_json else typer.echo(f"removed {here[0].base}, {size_mb:,.0f} MB are free again")


def _bases(name: str | None) -> list[Base]:
    from locum.sources.catalogue import catalogue

    return list(catalogue().bases) if name is None else [catalogue().find(name)]


def _not_here(name: str) -> UserError:
    return UserError("source-missing", f"{name} is not in the cache", fix=f"locum models pull {name}")


def _as_json(base: Base, here: list[Any]) -> dict[str, Any]:
    copies = [
        {"format": one.format, "path": str(one.slot.path), "size_mb": one.size_mb, "verified_at": one.verified_at}
        for one in here
    ]
    return {**base.to_json(), "cached": bool(here), "here": copies}


def _print_checks(report: list[dict[str, Any]]) -> None:
    for row in report:
        typer.echo(f"{row['base']} ({row['format']})")
        for each in row["files"]:
            if each["right"]:
                typer.echo(f"  ok     {each['file']}")
            else:
                found = "missing" if each["found"] is None else f"SHA-256 {each['found'][:16]}…"
                wanted = "nothing vouches for it" if each["expected"] is None else f"must be {each['expected'][:16]}…"
                typer.echo(f"  WRONG  {each['file']}: {found}, {wanted}")
    if not report:
        typer.echo("nothing is in the cache")
