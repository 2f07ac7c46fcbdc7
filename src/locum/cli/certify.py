"""``locum certify``: a bundle's guarantee proved anew on fresh calibration rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locum.cli.llm_options import FromBundle, LlmKeyEnv, LlmModel, LlmUrl, NoLlm, llm_choice
from locum.cli.output import JsonOption, print_json
from locum.cli.view import live_view
from locum.core.errors import CheckFailed, UserError
from locum.core.registry import nearest
from locum.schema.task import Guarantee

app = typer.Typer(add_completion=False, rich_markup_mode=None)

KINDS = ("selective", "marginal", "regret")


@app.command()
def certify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; its policy and certificate are replaced.")],
    data: Annotated[Path, typer.Option(help="Fresh labelled rows, none of which the bundle was built on.")],
    kind: Annotated[str, typer.Option(help="selective, marginal or regret.")] = "selective",
    max_error: Annotated[float, typer.Option(help="The α (or ε) of the statement.", min=0.0001, max=0.9999)] = 0.05,
    confidence: Annotated[float, typer.Option(help="Its confidence 1−δ.", min=0.5001, max=0.9999)] = 0.95,
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
    """Prove the hand-over policy on fresh rows. Exit 3 when nothing certifies; then every input is handed over."""
    from locum.pipeline.examine import certify_bundle

    if kind not in KINDS:
        close = nearest(kind, KINDS)
        fix = f"did you mean {close}?" if close else f"known: {', '.join(KINDS)}"
        raise UserError("cli-usage", f"unknown kind {kind!r}", fix=fix)
    guarantee = Guarantee(kind=kind, max_error=max_error, confidence=confidence)
    llm = llm_choice(llm_from_bundle, no_llm, llm_url, llm_model, llm_key_env)
    with live_view():
        certificate = certify_bundle(bundle, data, guarantee, max_cost=max_cost, llm=llm, llm_key_env=llm_key_env)
    if as_json:
        print_json(certificate.to_json())
    else:
        typer.echo(certificate.statement)
    if certificate.threshold is None:
        need = certificate.labels_missing
        more = f"label about {need} more rows" if need else "build a better student"
        failed = CheckFailed("cascade-not-certified", "nothing certifies, so every input is handed over", fix=more)
        if not as_json:
            raise failed
        typer.echo(f"error: {failed}", err=True)  # standard output has its one document, the certificate
        raise typer.Exit(failed.exit_code)
