"""``locum plan``: what a build would do, cost and need; validates everything and downloads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from locum.cli.output import JsonOption, plain, print_json
from locum.schema.plan import Plan

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def plan(
    task: Annotated[
        Path | None, typer.Argument(help="The task file, or a folder with a task.yaml; default: the current folder.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the build, to see which steps are done.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the steps, time, downloads, cost and labels of a build. Nothing is downloaded or written."""
    from locum.pipeline.plan import make_plan

    document = make_plan(task or Path(), out=out)
    if as_json:
        print_json(document.to_json())
    else:
        _print(document)


def _print(plan: Plan) -> None:
    console = Console(highlight=False, emoji=False)
    steps = Table("step", "what", "time", title=f"Plan for {plan.task}", title_justify="left")
    for step in plan.steps:
        steps.add_row(plain(step.name), plain(step.what), "done" if step.done else _seconds(step.seconds))
    console.print(steps)
    ruled_out = any(candidate.skipped for candidate in plan.ladder)
    columns = ["candidate", "size", "memory", "latency", "training", *(["left out, because"] if ruled_out else [])]
    ladder = Table(*columns, title="Ladder, cheapest first", title_justify="left")
    for candidate in plan.ladder:
        guess = candidate.estimate
        ladder.add_row(
            plain(candidate.name),
            _mb(guess.size_mb),
            _mb(guess.memory_mb),
            _ms(guess.latency_ms),
            _seconds(guess.train_s),
            *([plain(candidate.skipped or "")] if ruled_out else []),
        )
    console.print(ladder)
    for candidate in plan.ladder:
        if candidate.estimate.inputs:
            figures = ", ".join(f"{name} {_figure(value)}" for name, value in candidate.estimate.inputs.items())
            console.print(f"[dim]{plain(candidate.name)} from: {plain(figures)}[/dim]")
    for download in plan.downloads:
        state = "cached" if download.cached else _mb(download.size_mb)
        console.print(f"download  {plain(download.what)}: {state}  [dim]{plain(download.address)}[/dim]")
    console.print(
        f"\nTime      at most {plan.budget_s / 60:.0f} minutes (estimate {plan.seconds / 60:.1f}) after downloads"
        + (f", from {plan.learned_from} earlier builds here" if plan.learned_from else "")
    )
    console.print(f"Download  {plan.download_mb:.0f} MB")
    if plan.multitask:
        mix = ", ".join(f"{each.task} {each.share:.0%} of an epoch ({each.rows:,} rows)" for each in plan.multitask)
        console.print(f"Multitask {plain(mix)}", soft_wrap=True)
    if plan.llm_calls:
        price = "price unknown" if plan.llm_cost is None else f"about {plan.llm_cost:.4f} in your currency"
        console.print(f"LLM       {plan.llm_calls:,} calls, {price}")
    if plan.answers is not None:
        console.print(f"Answers   at most {plan.answers.max_tokens} tokens: {plan.answers.why}")
    from locum.cascade.labels import proof_sentence

    need = plan.labels
    than = " more than by the LLM" if need.kind == "regret" else ""
    promise = f"at most {need.max_error:.1%} wrong{than}"
    reach = proof_sentence(need)
    told = any(warning.startswith(reach.rstrip(".")) for warning in plan.warnings)  # a warning says it, with what helps
    console.print(f"Promise   {promise}, {need.confidence:.0%} sure.{'' if told else f' {reach}'}", soft_wrap=True)
    console.print("[dim]What the words mean: locum words[/dim]")
    for warning in plan.warnings:
        console.print(f"[yellow]![/yellow] {plain(warning)}", soft_wrap=True)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "?"
    return f"{milliseconds:,.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _figure(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _mb(size: float | None) -> str:
    return "?" if size is None else f"{size:.1f} MB" if size < 10 else f"{size:.0f} MB"
