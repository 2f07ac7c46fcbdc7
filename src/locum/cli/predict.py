"""``locum predict``: a bundle's answers to rows that nobody has labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from locum.cli.llm_options import FromBundle, LlmKeyEnv, LlmModel, LlmUrl, llm_choice
from locum.cli.output import JsonOption, print_json
from locum.cli.view import live_view

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    data: Annotated[Path, typer.Option(help="Rows with the input columns of the bundle's task; no labels needed.")],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .tsv, .jsonl or .parquet.")],
    only_handed_over: Annotated[
        bool, typer.Option("--only-handed-over", help="Write only the rows that are handed over: label these next.")
    ] = False,
    all_answers: Annotated[
        bool, typer.Option("--all-answers", help="Give the student's answer also where no certificate covers it.")
    ] = False,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Write a column more, reason: why each row took its route.")
    ] = False,
    ask_llm: Annotated[
        bool, typer.Option("--llm", help="Ask the LLM what the student hands over; default: nothing leaves here.")
    ] = False,
    llm_from_bundle: FromBundle = False,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    max_cost: Annotated[float | None, typer.Option(help="Most that the LLM may cost; default: the task's own.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Who runs the student; default: the engine that the build chose.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count and leave out lines that are no rows.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer every row of a file: it is written again with the columns answer, confidence and route."""
    from locum.pipeline.predict import predict_bundle

    chosen = llm_choice(llm_from_bundle, False, llm_url, llm_model, llm_key_env)
    with live_view():
        found = predict_bundle(
            bundle,
            data,
            out,
            llm=chosen if chosen is not None or ask_llm else "none",
            llm_key_env=llm_key_env,
            engine=engine,
            only_handed_over=only_handed_over,
            all_answers=all_answers,
            reasons=reasons,
            skip_bad=skip_bad,
            max_cost=max_cost,
        )
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    """How many rows went where, for people."""
    typer.echo(f"rows          {found['n']:,}")
    for route, count in found["routes"].items():
        typer.echo(f"{route:<13} {count:,} ({count / max(1, found['n']):.0%})")
    if found["void"]:
        typer.echo(f"! no answer is covered: {found['void']}")
    if found["llm_failed"]:
        typer.echo(f"! the LLM failed on {found['llm_failed']:,} of them")
    typer.echo(f"written       {found['out']} ({found['written']:,} rows; columns {', '.join(found['columns'])})")
