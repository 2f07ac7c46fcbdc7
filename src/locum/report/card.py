"""The model card: a README in the Hugging Face form, so that the model's limits travel with the model.

Notable: figures and limits come from the build's report alone; what was not measured is said to be so.
Names from the data are escaped for Markdown and HTML. Not here: upload to a hub.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from locum.core.text import visible
from locum.report import facts, judge, text
from locum.schema.report import BuildReport, CandidateReport

_SPECIAL = re.compile(r"([\\`*{}\[\]<>#|~$]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word is harmless

_PIPELINES = {"classify": "text-classification", "tag": "token-classification", "rank": "text-ranking"}
"""Kind of task to Hugging Face's name of the pipeline; the kinds that write are ``text-generation``."""


def markdown(value: str) -> str:
    """User text for a line of Markdown: hidden characters spelled, markup and HTML inert, one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.cell(value).split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def model_card(report: BuildReport, licence: str) -> str:
    """The README of a bundle.

    Args:
        report: the build.
        licence: SPDX name of the licence of the base the student comes from.

    Returns:
        Markdown with YAML front matter that Hugging Face reads.
    """
    rung = facts.chosen(report)
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(report, rung, licence), sort_keys=False, allow_unicode=True)}---\n",
        f"# {markdown(report.task)}\n\n{markdown(facts.headline(report))}\n",
        *(["\n".join(f"- {markdown(line)}" for line in report.cautions) + "\n"] if report.cautions else []),
        _intended_use(report),
        _figures(report, rung),
        *_judge(report),
        _certificate(report),
        _limits(report, rung),
        _data(report),
        *([_tasks(report)] if report.multitask else []),
        _making(report, rung, licence),
        _serving(report),
    ]
    return "\n".join(parts)


def _front_matter(report: BuildReport, rung: CandidateReport | None, licence: str) -> dict[str, Any]:
    evaluation = (rung.test or rung.dev) if rung else None
    pipeline = _PIPELINES.get(report.kind, "text-generation")
    results = [
        {
            "task": {"type": pipeline},
            "dataset": {"name": visible(report.task), "type": "custom", "split": evaluation.split},
            "metrics": [{"type": name, "value": round(v.value, 4)} for name, v in evaluation.metrics.items()],
        }
        for evaluation in [evaluation]
        if evaluation is not None
    ]
    matter: dict[str, Any] = {
        "license": licence.lower(),
        "library_name": "locum",
        "pipeline_tag": pipeline,
        "tags": ["locum", pipeline, rung.candidate.family if rung else report.kind],
    }
    base = rung.candidate.base if rung else None
    if base is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        matter["base_model"] = base
    if results:
        matter["model-index"] = [{"name": visible(report.task), "results": results}]
    return matter


def _intended_use(report: BuildReport) -> str:
    labels = report.data.labels
    shown = ", ".join(markdown(name) for name in labels[:40])
    more = f" and {len(labels) - 40} more" if len(labels) > 40 else ""
    answers = f"It answers with one of {len(labels)} labels: {shown}{more}. " if report.kind == "classify" else ""
    right = f"An answer counts as right when {markdown(report.right_means)}. " if report.right_means else ""
    return (
        f"## Intended use\n\nThis model does one task: {markdown(report.instruction)}\n\n"
        f"{answers}{right}It stands in for a large language model on "
        "inputs like those it was calibrated on, and hands over what it is not sure of. It is not meant for other "
        "tasks, languages or kinds of text than its data, nor for decisions about people without human review.\n"
    )


def _figures(report: BuildReport, rung: CandidateReport | None) -> str:
    lines = [
        f"| {figure.name} | **{markdown(figure.value)}** | {markdown(figure.note)} |"
        for figure in facts.key_figures(report)
    ]
    calibration = rung.test.calibration if rung and rung.test else None
    if calibration is not None:
        lines.append(f"| calibration error (ECE) | **{text.percent(calibration.ece, 2)}** | claimed against true |")
    fields = rung.test.field_calibration if rung and rung.test else None
    if fields is not None:
        order = "" if fields.auroc is None else f"; AUROC {text.percent(fields.auroc, 2)}"
        lines.append(
            f"| calibration error of fields (ECE) | **{text.percent(fields.ece, 2)}** | each by itself{order} |"
        )
    return "## Figures\n\n| | | |\n|---|---|---|\n" + "\n".join(lines) + "\n"


def _judge(report: BuildReport) -> list[str]:
    """The section on the judge, where an LLM judged."""
    sentences = "\n\n".join(markdown(line) for line in judge.judge_sentences(report))
    lines = "\n".join(
        f"| {markdown(name)} | **{markdown(value)}** | {markdown(within)} |"
        for name, value, within in judge.judge_figures(report)
    )
    table = f"\n\n| | | 95 % interval |\n|---|---|---|\n{lines}" if lines else ""
    return [f"## The judge\n\n{sentences}{table}\n"] if sentences else []


def _certificate(report: BuildReport) -> str:
    certificate = report.certificate
    assumptions = "\n".join(f"- {markdown(line)}" for line in certificate.assumptions)
    ends = "\n".join(f"- {markdown(line)}" for line in certificate.voided_by)
    kept = f"{markdown(facts.promise_sentence(report.promise, report.data))}\n\n" if report.promise else ""
    return (
        f"## Certificate\n\n{facts.certificate_sentence(certificate)}\n\n{markdown(facts.in_force(report))}\n\n{kept}"
        f"It holds if:\n\n{assumptions}\n\nIt ends when any of these changes or happens:\n\n{ends}\n\n"
        f"Issued {certificate.issued_at[:10]}, valid until {certificate.expires_at[:10]}. "
        f"Method: {markdown(certificate.method)}.\n"
    )


def _limits(report: BuildReport, rung: CandidateReport | None) -> str:
    lines: list[str] = []
    worst = [s for s in facts.worst_first(rung.test if rung else None) if s.support and s.f1 is not None][:5]
    if worst:
        named = ", ".join(f"{markdown(score.label)} ({text.percent(score.f1)})" for score in worst)
        what = facts.part_name(report.kind, many=True)
        lines.append(f"Its weakest {what} by F1 on test: {named}.")
    if report.data.rare_labels:
        names = ", ".join(markdown(name) for name in list(report.data.rare_labels)[:20])
        lines.append(f"Too rare in the data for a statement of their own: {names}.")
    if rung is not None and rung.trained is not None and (limit := _reads(report, rung.trained.max_tokens, rung)):
        lines.append(limit)
    if report.answers is not None:
        lines.append(f"It writes at most {report.answers.max_tokens} tokens: {report.answers.why}.")
    if report.data.noise_ceiling < 1:
        ceiling = text.percent(report.data.noise_ceiling, 2)
        lines.append(f"The data contradicts itself: no model could exceed {ceiling} accuracy on it.")
    lines.append("Robustness to attacks, fairness between groups and behaviour in other languages were not measured.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _reads(report: BuildReport, most: int, rung: CandidateReport) -> str | None:
    """What is read of a long input; None for BM25, which reads everything."""
    if rung.candidate.family == "linear":
        return None if report.kind == "rank" else f"It reads the first {most:,} words of an input; what follows is cut."
    if report.kind == "tag":
        return f"It reads the first 64 windows of {most:,} tokens of an input; what follows is cut."
    if report.kind in ("extract", "generate"):
        return f"A prompt that does not fit its context of {most:,} tokens is not answered."
    return f"It reads the first {most:,} tokens of an input; what follows is cut."


def _data(report: BuildReport) -> str:
    rows = "\n".join(
        f"| {name} | {text.count(split.rows)} | {len(split.labels)} |" for name, split in report.data.splits.items()
    )
    notes = "\n".join(f"- {markdown(line)}" for line in report.data.warnings)
    return f"## Data\n\n| split | rows | labels |\n|---|---|---|\n{rows}\n\n{notes}\n"


def _tasks(report: BuildReport) -> str:
    """What was learned together, and whether the task at hand gained or was harmed."""
    parts = ["## Tasks learned together\n"]
    for each in report.multitask:
        rows = "\n".join(
            f"| {markdown(learned.task)} | {text.count(learned.rows)} | {text.percent(learned.share)} | "
            f"{text.count(learned.mixed.leaked)} | {text.number(learned.dev_loss_base)} | "
            f"{text.number(learned.dev_loss)} |"
            for learned in each.tasks
        )
        served = "This is the model served here." if each.student == report.chosen else "It is not the one served here."
        parts.append(
            f"{markdown(facts.transfer_sentence(each))} {served}\n\n"
            "| task | rows | of an epoch | left out, held out elsewhere | dev loss, base | dev loss, tuned |\n"
            f"|---|---|---|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _making(report: BuildReport, rung: CandidateReport | None, licence: str) -> str:
    base = rung.candidate.base if rung and rung.candidate.base else "none (a linear model over n-grams)"
    method = rung.candidate.method if rung else text.UNKNOWN
    took = text.seconds(rung.trained.train_s) if rung and rung.trained else text.UNKNOWN
    versions = ", ".join(f"{markdown(name)} {markdown(version)}" for name, version in report.versions.items())
    return (
        "## How it was made\n\n"
        f"- base: {markdown(base)}, licence of the base: {markdown(licence)}\n"
        f"- method: {method}; training took {took}, the whole build {text.seconds(report.wall_s)}\n"
        "- energy: not measured; the times above are its bound together with the device's power\n"
        f"- versions: {versions}\n- built: {report.created_at}\n"
    )


def _serving(report: BuildReport) -> str:
    return (
        "## Use\n\n```console\nlocum serve .\n```\n\n"
        f'```python\nimport locum\n\nstudent = locum.open(".")\nprint(student("..."))\n```\n\n'
        f"`report.html` shows the whole build of {markdown(report.task)}; "
        "`manifest.json` has the SHA-256 of every file.\n"
    )
