"""What the terminal says of a finished build: ladder, verdict, certificate."""

from __future__ import annotations

from rich.console import Console

from locum.report.terminal import ladder_table, multitask_table
from locum.schema.report import BuildReport


def print_report(report: BuildReport, console: Console) -> None:
    """Print the ladder, what learning several tasks did, the verdict, why this student and engine, the certificate."""
    console.print()
    console.print(ladder_table(report))
    console.print()
    for multitask in report.multitask:
        console.print(multitask_table(multitask))
        console.print()
    console.print(report.verdict, style="bold", markup=False)
    console.print(f"{report.why_chosen} {report.refit}".rstrip(), markup=False)
    engines = next((rung.engines for rung in report.ladder if rung.chosen), None)
    if engines is not None and engines.n:
        console.print(f"Engine: {engines.why}", markup=False)
    console.print(f"Certificate: {report.certificate.statement}", markup=False)
    console.print()
