"""What the terminal says of a finished build: ladder, verdict, judge, certificate."""

from __future__ import annotations

from rich.console import Console

from locum.core.text import one_line, visible
from locum.report.facts import above_promise, headline, in_force, promise_sentence, why_served
from locum.report.terminal import judge_line, ladder_table, multitask_table
from locum.schema.evaluation import ShownExample
from locum.schema.report import BuildReport

_ANSWER_CHARACTERS = 80


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
    if report.promise is not None and above_promise(report.promise):
        style = "bold red" if report.promise.broken else "yellow"
        console.print(promise_sentence(report.promise, report.data), style=style, markup=False)
    console.print()
    console.print(visible(headline(report)), style="bold", markup=False)
    for line in report.cautions:
        console.print(visible(f"! {line}"), style="yellow", markup=False)
    console.print()


def shown_sentence(shown: ShownExample) -> str:
    """What the bundle answers to the test row that it is to be tried with, and what is right."""
    sure = "" if shown.confidence is None else f" with confidence {shown.confidence:.2f}"
    right = one_line(shown.gold, _ANSWER_CHARACTERS)
    if not shown.local:
        return visible(f"This test row is handed over{sure}; right is {right}.")
    said = one_line(shown.output or "", _ANSWER_CHARACTERS)
    return visible(f"This test row is answered locally: {said}{sure}; right is {right}.")
