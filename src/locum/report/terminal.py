"""The ladder as a table for the terminal, in the same words and figures as the page.

Notable: texts are ``rich.Text``, never markup, and hidden characters are spelled out, so a label from a
data set can neither colour the terminal nor move its cursor.
"""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from locum.core.text import visible
from locum.report import text
from locum.report.facts import certificate_sentence, llm_note, transfer_sentence
from locum.report.judge import judge_line
from locum.schema.evaluation import Evaluation
from locum.schema.multitask import MultitaskReport
from locum.schema.report import BuildReport, CandidateReport

__all__ = ["certificate_sentence", "judge_line", "ladder_table", "multitask_table"]


def ladder_table(report: BuildReport) -> Table:
    """One row a candidate, the LLM last; the served one is bold with a mark."""
    table = Table(title=Text(visible(report.task)), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", width=1)
    table.add_column("candidate", overflow="fold")
    for name in (text.metric_name(report.metric), "95 % interval", "size", "p50", "training"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, style="dim")
    for rung in report.ladder:
        style = "bold green" if rung.chosen else "" if rung.status == "built" else "dim"
        table.add_row(
            "✓" if rung.chosen else "", Text(visible(rung.candidate.name)), *_cells(report, rung), style=style
        )
    if report.llm is not None:
        score = text.headline(report.llm.test, report.metric)
        p50 = text.milliseconds(report.llm.latency.p50_ms if report.llm.latency else None)
        shown = text.percent(score.value if score else None)
        note = "LLM, no figure" if report.llm.test is None else f"LLM, {visible(llm_note(report.llm))}"
        table.add_row("", Text(visible(report.llm.model)), shown, text.interval(score), "", p50, "", note, style="red")
    reasons = [_reason(rung) for rung in report.ladder if rung.status != "built" or rung.reason]
    if report.llm is not None and report.llm.missing is not None:
        reasons.append(visible(f"{report.llm.model}: {llm_note(report.llm)}"))
    table.caption, table.caption_justify, table.caption_style = Text("\n".join(reasons)), "left", "dim"
    return table


def multitask_table(multitask: MultitaskReport) -> Table:
    """One row a task that a student was tuned on, and below it what that did to the task at hand."""
    title = Text(visible(f"Tasks that {multitask.student} learned"))
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in ("rows", "of an epoch", "left out", "dev loss, base", "dev loss, tuned"):
        table.add_column(name, justify="right", no_wrap=True)
    for learned in multitask.tasks:
        table.add_row(
            Text(visible(learned.task)),
            text.count(learned.rows),
            text.percent(learned.share),
            text.count(learned.mixed.leaked),
            text.number(learned.dev_loss_base),
            text.number(learned.dev_loss),
        )
    table.caption, table.caption_justify = Text(visible(transfer_sentence(multitask))), "left"
    table.caption_style = {"gain": "green", "harm": "red"}.get(multitask.verdict, "dim")
    return table


def _reason(rung: CandidateReport) -> str:
    """Why a candidate was not built, or not tested; below the table, where a sentence does not squeeze the figures."""
    why = rung.reason or rung.candidate.skipped or "no reason was given"
    return f"{visible(rung.candidate.name)} {rung.status}: {visible(why)}"


def _cells(report: BuildReport, rung: CandidateReport) -> tuple[str | Text, ...]:
    if rung.status != "built":
        return ("", "", "", "", "", rung.status)
    evaluation = rung.test or rung.dev
    score = text.headline(evaluation, report.metric)
    return (
        text.percent(score.value if score else None),
        text.interval(score),
        text.megabytes(rung.size_mb),
        text.milliseconds(rung.latency.p50_ms if rung.latency else None),
        text.seconds(rung.trained.train_s if rung.trained else None),
        _measured_on(evaluation),
    )


def _measured_on(evaluation: Evaluation | None) -> str:
    """Rows and groups where rows belong together; else nothing but a split that is not test."""
    if evaluation is None:
        return ""
    if evaluation.groups is not None:
        return text.rows_of(evaluation)
    return "" if evaluation.split == "test" else f"on {evaluation.split}"
