"""``locum eval``: a bundle measured on a file with right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from locum.cli.llm_options import FromBundle, LlmKeyEnv, LlmModel, LlmUrl, NoLlm, llm_choice
from locum.cli.output import JsonOption, SkipBad, print_json
from locum.cli.view import live_view
from locum.core.errors import CheckFailed, UserError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("eval")
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    data: Annotated[Path, typer.Option(help="Rows with the columns of the bundle's task.")],
    predictions: Annotated[
        Path | None, typer.Option(help="Where to write every answer; default: DATA with .predictions.jsonl.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Who runs the student; default: the engine that the build chose.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Most that the LLM may cost as a judge; default: llm.max_cost of the task.")
    ] = None,
    llm_from_bundle: FromBundle = False,
    no_llm: NoLlm = False,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 3 when these rows break what the certificate promises.")
    ] = False,
    skip_bad: SkipBad = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a bundle: accuracy and macro-F1 with 95 % intervals, share kept local, its promise tested, latency."""
    from locum.pipeline.examine import evaluate_bundle

    target = predictions or Path(f"{data.stem}.predictions.jsonl")
    llm = llm_choice(llm_from_bundle, no_llm, llm_url, llm_model, llm_key_env)
    with live_view():
        found = evaluate_bundle(
            bundle,
            data,
            predictions=target,
            engine=engine,
            max_cost=max_cost,
            llm=llm,
            llm_key_env=llm_key_env,
            skip_bad=skip_bad,
        )
    if as_json:
        print_json(found)
    else:
        _print(found)
    promise = found["promise"]
    if check and promise is None and found["void"] is None and found["local_share"]:
        raise UserError("cli-usage", "--check cannot test a regret promise: the LLM is not asked")
    if check and promise is not None and promise["broken"]:
        failed = CheckFailed("cascade-promise-broken", promise["statement"], fix="certify on these rows' traffic anew")
        typer.echo(f"error: {failed}", err=True)
        raise typer.Exit(failed.exit_code)


def _print(found: dict[str, Any]) -> None:
    """The figures, for people."""
    typer.echo(f"rows          {found['n']:,}")
    if found["skipped"]:
        typer.echo(f"! skipped     {', '.join(f'{reason}: {n:,}' for reason, n in found['skipped'].items())}")
    for name, value in found["metrics"].items():
        low, high = found["intervals"][name]
        typer.echo(f"{name:<13} {value:.1%}  (95 % interval {low:.1%} to {high:.1%})")
    wrong = "" if found["error_local"] is None else f", {found['error_local']:.1%} of them wrong"
    typer.echo(f"local         {found['local_share']:.1%}{wrong}" + (f"  ({found['void']})" if found["void"] else ""))
    if found["promise"] is not None:
        mark = "! " if found["promise"]["broken"] else ""
        typer.echo(f"promise       {mark}{found['promise']['statement']}")
    seen = found["seen"]
    if seen is None:
        typer.echo("seen          unknown: the bundle does not record what its student learned from")
    elif seen["rows"] or seen["near"]:
        typer.echo(
            f"! seen        the student learned from the text of {seen['rows']:,} of these {seen['of']:,} rows, "
            f"and from near copies of {seen['near']:,}: figures may flatter it"
        )
    if found["reviewed"]:
        typer.echo(
            f"! reviewed    a person picked {found['reviewed']:,} of these rows on the page and saw the answer first: "
            "figures say nothing about your traffic"
        )
    typer.echo(f"latency       p50 {found['latency_ms']['p50']:.1f} ms, p95 {found['latency_ms']['p95']:.1f} ms")
    typer.echo(f"engine        {found['engine']}")
    if found["unknown_labels"]:
        typer.echo(f"! labels it cannot answer, counted as wrong: {', '.join(found['unknown_labels'][:10])}")
    typer.echo(f"predictions   {found['predictions']}")
