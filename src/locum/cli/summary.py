"""What the terminal says of a finished build: ladder, verdict, judge, certificate."""

from __future__ import annotations

from rich.console import Console

from locum.core.text import visible
from locum.report.facts import headline, in_force, promise_sentence, why_served
from locum.report.terminal import judge_line, ladder_table, multitask_table
from locum.schema.report import BuildReport


def print_report(report: BuildReport, console: Console) -> None:
    """Print the ladder, what several tasks did, why this student and engine, judge, certificate; the verdict last.

    What the verdict's figure hides stands in the last lines, which are the ones that a terminal shows.
    """
    console.print()
    console.print(ladder_table(report))
    console.print()
    for multitask in report.multitask:
        console.print(multitask_table(multitask))
        console.print()
    console.print(why_served(report), markup=False)
    engines = next((rung.engines for rung in report.ladder if rung.chosen), None)
    if engines is not None and engines.n:
        console.print(f"Engine: {engines.why}", markup=False)
    if (judged := judge_line(report)) is not None:
        console.print(f"Judge: {judged}", markup=False)
    console.print(f"Certificate: {report.certificate.statement}", markup=False)
    console.print(in_force(report), markup=False)
    if report.promise is not None and report.promise.broken:
        console.print(f"On test rows: {promise_sentence(report.promise)}", style="bold red", markup=False)
    console.print()
    console.print(visible(headline(report)), style="bold", markup=False)
    for line in report.cautions:
        console.print(visible(f"! {line}"), style="yellow", markup=False)
    console.print()
