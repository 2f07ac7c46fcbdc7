"""``locum export``: a student in another form, a base as an embedding model, a tuned decoder as GGUF or for Ollama.

Notable: ``--as`` says what comes out. What is converted is checked before it is written; what is only laid out anew
is the very file that was checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from locum.cli.output import JsonOption, print_json, refuse_given
from locum.cli.view import live_view
from locum.core.errors import UserError
from locum.core.registry import nearest
from locum.schema.training import ExportFormat, GeneratorFormat

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FORMATS: tuple[str, ...] = get_args(ExportFormat)
TEXT_FORMATS: tuple[str, ...] = get_args(GeneratorFormat)
FORMS: dict[str, tuple[str, ...]] = {
    "student": ("format", "candidate"),
    "embedder": (),
    "gguf": ("format", "dev"),
    "adapter": ("base",),
    "ollama": (),
    "huggingface": (),
}
"""What can come out, and the options that are for it."""
_OPTIONS = ("format", "candidate", "dev", "base")


@app.command()
def export(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="The folder of a build (its --out); of a bundle, a model or a tuned decoder; or a base's name."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; with --as adapter, a file.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="A student's: onnx-int8, onnx-fp32, gguf-q8_0 or gguf-f16 (GGUF: decoders; a TF-IDF or BM25 student "
            "has one form only); default: the student's own. With --as gguf: q8_0, f16, q4_0, q4_1 or q4_k; default: "
            "q8_0, or f16 where that is not near enough."
        ),
    ] = None,
    candidate: Annotated[str | None, typer.Option(help="A rung of the ladder; default: the one chosen.")] = None,
    purpose: Annotated[
        str,
        typer.Option(
            "--as",
            help="student; embedder: a base as an embedding model to serve; gguf: a tuned decoder that writes; "
            "adapter: a LoRA adapter as GGUF; ollama or huggingface: a decoder that writes, laid out for them.",
        ),
    ] = "student",
    dev: Annotated[
        Path | None,
        typer.Option(
            help="With --as gguf: conversations to check it on; default: SOURCE/dev.jsonl, as tuning wrote it."
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="With --as adapter: GGUF file of the base it was trained on.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a student, an embedding model, a tuned decoder or an adapter in a form that others serve.

    Exit 3 when it does not answer as the weights that it was made from; then nothing is written.
    """
    if purpose not in FORMS:
        close = nearest(purpose, FORMS)
        raise UserError(
            "cli-usage",
            f"unknown --as {purpose!r}",
            fix=f"did you mean {close}?" if close else f"known: {', '.join(FORMS)}",
        )
    refuse_given(context, [name for name in _OPTIONS if name not in FORMS[purpose]], f"is not for --as {purpose}")
    if purpose == "embedder":
        _embedder(source, out, as_json)
    elif purpose == "gguf":
        _gguf(context, source, out, dev, format, as_json)
    elif purpose == "adapter":
        _adapter(source, out, base, as_json)
    elif purpose == "student":
        _student(source, out, format, candidate, as_json)
    else:
        _layout(source, out, purpose, as_json)


def _student(source: str, out: Path, format: str | None, candidate: str | None, as_json: bool) -> None:
    from locum.pipeline.export import export_student

    if format is not None:
        _require_known(format, FORMATS)
    with live_view():
        parity = export_student(Path(source), out, cast("ExportFormat | None", format), candidate)
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


def _gguf(context: typer.Context, source: str, out: Path, dev: Path | None, format: str | None, as_json: bool) -> None:
    if any((Path(source) / name).is_file() for name in ("manifest.json", "model.json")):
        refuse_given(
            context, FORMS["gguf"], f"is for a tuned decoder, and {source} was exported already: it is taken as it is"
        )
        _layout(source, out, "gguf", as_json)  # exported and checked already
        return
    from locum.pipeline.export import export_decoder

    if format is not None:
        _require_known(format, TEXT_FORMATS)
    formats = None if format is None else (cast(GeneratorFormat, format),)
    with live_view():
        parity = export_decoder(source, out, dev=dev, formats=formats)
    if as_json:
        print_json({"out": str(out), "parity": parity.to_json()})
        return
    typer.echo(
        f"{out}: {parity.precision}, {parity.size_mb:g} MB; a token's log-probability differs by {parity.mean_gap:.3f} "
        f"nats, {parity.equal_answers:.0%} of {parity.n} greedy answers are the same"
    )
    typer.echo(f"Serve   locum serve {out}")


def _adapter(source: str, out: Path, base: Path | None, as_json: bool) -> None:
    from locum.pipeline.export import export_lora

    if base is None:
        raise UserError("cli-usage", "an adapter needs --base", fix="the GGUF file of the base that it was trained on")
    with live_view():
        export_lora(Path(source), base, out)
    if as_json:
        print_json({"out": str(out)})
        return
    typer.echo(f"Serve   locum serve {base} --adapter {out.stem}={out}")


def _layout(source: str, out: Path, layout: str, as_json: bool) -> None:
    from locum.bundle.layouts import find_writer, write_huggingface, write_model_folder, write_ollama

    write = {"gguf": write_model_folder, "ollama": write_ollama, "huggingface": write_huggingface}[layout]
    with live_view():
        write(find_writer(Path(source)), out)
    files = sorted(path.name for path in out.iterdir())
    if as_json:
        print_json({"out": str(out), "files": files})
        return
    typer.echo(f"{out}: {', '.join(files)}")
    if layout == "ollama":
        typer.echo(f"Create  cd {out} && ollama create NAME -f Modelfile")


def _require_known(format: str, known: tuple[str, ...]) -> None:
    if format not in known:
        close = nearest(format, known)
        fix = f"did you mean {close}?" if close else f"known: {', '.join(known)}"
        raise UserError("cli-usage", f"unknown format {format!r}", fix=fix)
