"""``locum export``: a built student in another form, or a base as an embedding model; checked before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from locum.cli.output import JsonOption, print_json
from locum.cli.view import live_view
from locum.core.errors import UserError
from locum.core.registry import nearest
from locum.schema.training import ExportFormat

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FORMATS: tuple[str, ...] = get_args(ExportFormat)


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(help="The folder of a build (its --out); with --as embedder, an encoder's name.")
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    format: Annotated[
        str | None, typer.Option(help=f"A student's (GGUF: decoders only): {', '.join(FORMATS)}.")
    ] = None,
    candidate: Annotated[str | None, typer.Option(help="A rung of the ladder; default: the one chosen.")] = None,
    purpose: Annotated[
        str, typer.Option("--as", help="student, or embedder: a base as an embedding model to serve.")
    ] = "student",
    as_json: JsonOption = False,
) -> None:
    """Write a built student as ONNX or GGUF, or a base as an embedding model.

    Exit 3 when it does not answer as the weights that it was made from; then nothing is written.
    """
    if purpose == "embedder":
        _embedder(source, out, as_json)
        return
    if purpose != "student":
        raise UserError("cli-usage", f"unknown --as {purpose!r}", fix="known: student, embedder")
    if format is None:
        raise UserError("cli-usage", "a student needs --format", fix=f"known: {', '.join(FORMATS)}")
    if format not in FORMATS:
        close = nearest(format, FORMATS)
        fix = f"did you mean {close}?" if close else f"known: {', '.join(FORMATS)}"
        raise UserError("cli-usage", f"unknown format {format!r}", fix=fix)
    from locum.pipeline.export import export_student

    with live_view():
        parity = export_student(Path(source), out, cast(ExportFormat, format), candidate)
    if as_json:
        print_json({"out": str(out), "parity": parity.to_json()})
        return
    typer.echo(
        f"{out}: {parity.engine} {parity.precision}, labels agree on {parity.label_agreement:.1%} of {parity.n} rows"
    )


def _embedder(name: str, out: Path, as_json: bool) -> None:
    from locum.pipeline.export import export_embedder

    with live_view():
        parity = export_embedder(name, out)
    if as_json:
        print_json({"out": str(out), "parity": parity.to_json()})
        return
    typer.echo(f"{out}: {parity.precision}, cosine at least {parity.cosine_min:.4f} on {parity.n} texts")
    typer.echo(f"Serve   locum serve {out}")
