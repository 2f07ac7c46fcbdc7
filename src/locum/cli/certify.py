"""``locum certify``: a bundle's guarantee proved anew on fresh calibration rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.llm_options import FromBundle, LlmKeyEnv, LlmModel, LlmUrl, NoLlm, llm_choice
from locum.cli.output import JsonOption, SkipBad, plain_line, print_json
from locum.cli.view import live_view
from locum.core.errors import CheckFailed, UserError
from locum.core.registry import nearest

app = typer.Typer(add_completion=False, rich_markup_mode=None)

KINDS = ("selective", "marginal", "regret")


@app.command()
def certify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; policy, certificate and report are replaced.")],
    data: Annotated[Path, typer.Option(help="Fresh labelled rows, none of which the bundle was built on.")],
    kind: Annotated[
        str | None, typer.Option(help="selective, marginal or regret; default: the task's own.", show_default=False)
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(help="The α (or ε) of the statement; default: the task's own.", min=0.0001, max=0.9999),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Its confidence 1−δ; default: the task's own.", min=0.5001, max=0.9999)
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Where nothing certifies, end the certificate in force: hand everything over."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Prove, say what would be, and change nothing.")] = False,
    skip_bad: SkipBad = False,
    max_cost: Annotated[
        float | None, typer.Option(help="Most that the LLM may cost; default: llm.max_cost of the task.")
    ] = None,
    llm_from_bundle: FromBundle = False,
    no_llm: NoLlm = False,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    as_json: JsonOption = False,
) -> None:
    """Prove the hand-over policy on fresh rows; what is proved replaces the certificate in force, which is kept.

    Exit 3 when nothing certifies; then the certificate in force stays, unless --replace is given.
    """
    from locum.pipeline.given import certify as prove

    if kind is not None and kind not in KINDS:
        close = nearest(kind, KINDS)
        fix = f"did you mean {close}?" if close else f"known: {', '.join(KINDS)}"
        raise UserError("cli-usage", f"unknown kind {kind!r}", fix=fix)
    llm = llm_choice(llm_from_bundle, no_llm, llm_url, llm_model, llm_key_env)
    with live_view():
        found = prove(
            bundle,
            data,
            kind=kind,
            max_error=max_error,
            confidence=confidence,
            max_cost=max_cost,
            llm=llm,
            llm_key_env=llm_key_env,
            replace=replace,
            dry_run=dry_run,
            skip_bad=skip_bad,
        )
    certificate = found.certificate
    if as_json:
        print_json(certificate.to_json())
    for line in found.sentences(dry_run=dry_run):
        typer.echo(plain_line(line), err=as_json)  # standard output has its one document, the certificate
    if certificate.threshold is None:
        need = certificate.labels_missing
        more = "build a better student" if need is None else "give as many fresh rows, which may be enough"
        more = f"label about {need} more rows" if need else more
        stays = not found.replaced and found.before.threshold is not None
        became = "so the certificate in force stays" if stays else "so every input goes to the LLM, or to nobody"
        failed = CheckFailed("cascade-not-certified", f"nothing certifies, {became}", fix=more)
        if not as_json:
            raise failed
        typer.echo(f"error: {failed}", err=True)
        raise typer.Exit(failed.exit_code)
