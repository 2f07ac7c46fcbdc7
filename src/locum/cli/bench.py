"""``locum bench``: models on public benchmarks, and which of them is better, tested on the same documents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from locum.cli.output import JsonOption, print_json, refuse_given
from locum.cli.view import live_view
from locum.core.errors import UserError
from locum.core.text import visible
from locum.schema.bench import BenchReport, BenchScore
from locum.schema.task import LlmSpec, Price

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_KEY = "OPENAI_API_KEY"
_TIMEOUT_S = 600.0


@app.command()
def bench(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            help="GGUF files, catalogue names, bundle folders whose model writes, or one OpenAI API's URL (…/v1)."
        ),
    ],
    tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, separated by commas: arc_easy,piqa.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of local files (see docs/benchmarks.md); default: from the hub.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Documents of each task, drawn by lot.", min=1)] = None,
    few_shot: Annotated[
        int | None, typer.Option(help="Worked examples in each prompt; default: as the task says.", min=0, max=100)
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Prompts as conversations; default: when one model is behind a URL."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="For a URL: the model to ask.")] = None,
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="For a URL: price of a million tokens, read and written.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="For a URL: never spend more than this in one run; needs --price.", min=0)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for answers, which are never asked for twice, and bench.json.")] = (
        Path("runs/bench")
    ),
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all usable cores.", min=1)] = None,
    ctx: Annotated[int, typer.Option(help="Context of one request to a local model, in tokens.", min=64)] = 4096,
    as_json: JsonOption = False,
) -> None:
    """Run benchmarks on models, and compare the models in pairs on the same documents."""
    from locum.pipeline.bench import BenchSettings
    from locum.pipeline.bench import bench as run

    settings = BenchSettings(
        data=data, limit=limit, few_shot=few_shot, chat=chat, max_cost=max_cost, threads=threads, n_ctx=ctx
    )
    asked = [_target(target, model, price) for target in targets]
    if not any(isinstance(each, LlmSpec) for each in asked):
        refuse_given(context, ("model", "price", "max_cost"), "is for a URL, and there is none")
    names = [name for name in (part.strip() for part in tasks.split(",")) if name]
    with live_view():
        report = run(asked, names, out=out, settings=settings)
    if as_json:
        print_json(report.to_json())
    else:
        print_bench(report, Console(highlight=False, emoji=False))


def _target(target: str, model: str | None, price: tuple[float, float] | None) -> str | LlmSpec:
    if not target.startswith(("http://", "https://")):
        return target
    if model is None:
        raise UserError("cli-usage", "a URL needs the model to ask", fix="add --model NAME")
    return LlmSpec(
        base_url=target,
        model=model,
        api_key_env=_KEY if os.environ.get(_KEY) else None,
        price=None if price is None else Price(input=price[0], output=price[1]),
        timeout_s=_TIMEOUT_S,
    )


def print_bench(report: BenchReport, console: Console) -> None:
    """Print scores with intervals, a column a model, and every comparison in one sentence."""
    table = Table(box=None, pad_edge=False)
    for name in ("task", "metric"):
        table.add_column(name, overflow="fold")
    for model in report.models:
        table.add_column(Text(visible(model.name)), justify="right", no_wrap=True)
    for task in report.tasks:
        scores = [score for score in report.scores if score.task == task.name]
        for metric in dict.fromkeys(score.metric for score in scores):
            by_model = {score.model: score for score in scores if score.metric == metric}
            cells = [_cell(by_model[model.name]) for model in report.models]
            head = metric == task.headline
            table.add_row(Text(f"{task.name} ({task.n:,})"), metric, *cells, style="bold" if head else "dim")
    table.caption = "In brackets: documents, and 95 % intervals. Bold: what models are compared by."
    table.caption_justify = "left"
    console.print(table)
    for comparison in report.comparisons:
        holm = "" if comparison.p_holm is None else f" Over all tasks (Holm): p = {comparison.p_holm:.3f}."
        console.print(f"{comparison.task}: {comparison.comparison.verdict}{holm}", markup=False, soft_wrap=True)
    for task in report.tasks:
        if task.remark:
            console.print(f"! {task.name}: {task.remark}", markup=False, soft_wrap=True)
    for model in report.models:
        if model.spent is not None:
            console.print(f"{visible(model.name)} cost {model.spent:.4g}", markup=False)


def _cell(score: BenchScore) -> str:
    value, low, high = score.score.value, score.score.low, score.score.high
    if low >= 0 and high <= 1:
        return f"{100 * value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"
    return f"{value:.4g} ({low:.4g}–{high:.4g})"
