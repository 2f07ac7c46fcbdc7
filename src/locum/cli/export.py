"""``locum export``: a built student in another form, checked like the first one."""

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
    build: Annotated[Path, typer.Argument(help="The folder of a build (its --out), not the bundle in it.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    format: Annotated[str, typer.Option(help="onnx-int8, onnx-fp32, gguf-q8_0 or gguf-f16 (GGUF: decoders).")],
    candidate: Annotated[str | None, typer.Option(help="A rung of the ladder; default: the one chosen.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a built student as ONNX or GGUF. Exit 3 when it does not answer as the trained weights did."""
    from locum.pipeline.export import export_student

    if format not in FORMATS:
        close = nearest(format, FORMATS)
        fix = f"did you mean {close}?" if close else f"known: {', '.join(FORMATS)}"
        raise UserError("cli-usage", f"unknown format {format!r}", fix=fix)
    with live_view():
        parity = export_student(build, out, cast(ExportFormat, format), candidate)
    if as_json:
        print_json({"out": str(out), "parity": parity.to_json()})
        return
    typer.echo(
        f"{out}: {parity.engine} {parity.precision}, labels agree on {parity.label_agreement:.1%} of {parity.n} rows"
    )
