"""``render``: a build report as one self-contained HTML page; ``write_report``: page and JSON into a folder.

Notable: no script, no font, no image from elsewhere; the page's own content policy forbids all of them.
Every expression of the template is escaped by jinja and passes through ``visible``, so neither markup
nor hidden characters from a data set reach the reader. Equal reports give equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from locum.core.files import write_json, write_text
from locum.core.text import visible
from locum.report import facts, judge, plots, text
from locum.report.words import WORDS
from locum.schema.report import BuildReport

_FILTERS = {
    "percent": text.percent,
    "number": text.number,
    "count": text.count,
    "ms": text.milliseconds,
    "mb": text.megabytes,
    "seconds": text.seconds,
    "parameters": text.parameters,
    "interval": text.interval,
    "points": text.points,
    "p_value": text.p_value,
    "money": text.money,
    "level": text.level,
    "cell": text.cell,
    "excerpt": text.excerpt,
    "metric": text.metric_name,
    "rows_of": text.rows_of,
    "llm_note": facts.llm_note,
    "rows_compared": text.rows_compared,
}


_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|s|min|h|kB|MB|GB|[kMB])(?![^\W_]))")


def _finalize(value: Any) -> Any:
    """Spell hidden characters in every expression, keep a figure and its unit on one line; markup passes through."""
    if value is None:
        return text.UNKNOWN
    if isinstance(value, str) and not isinstance(value, Markup):
        return _BEFORE_UNIT.sub("\u00a0", visible(value))
    return value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("locum.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def render(report: BuildReport, data_extra: Mapping[str, str] | None = None) -> str:
    """The report as one HTML page.

    Args:
        report: the build.
        data_extra: further lines for the data card, by name.

    Returns:
        A complete HTML document that asks nothing of the network.
    """
    rung = facts.chosen(report)
    evaluation = (rung.test or rung.dev) if rung else None
    reach = max([0.01, *(abs(e) for c in report.comparisons for e in (c.difference.low, c.difference.high))])
    drawings = {
        "ladder_size": plots.ladder(report, "size"),
        "ladder_latency": plots.ladder(report, "latency"),
        "risk": plots.risk_coverage(evaluation, report.certificate, report.system),
        "reliability": plots.reliability(evaluation.calibration if evaluation else None),
        "confusion": plots.confusion(evaluation),
        "label_counts": plots.label_counts(report.data.splits["train"].labels if "train" in report.data.splits else {}),
    }
    loader = _environment()
    source = loader.loader
    style = source.get_source(loader, "style.css")[0] if source is not None else ""
    return loader.get_template("page.html.j2").render(
        report=report,
        words=WORDS,
        chosen=rung,
        evaluation=evaluation,
        headline=facts.headline(report),
        figures=facts.key_figures(report),
        sentence=facts.certificate_sentence(report.certificate),
        promise=facts.promise(report.certificate),
        in_force=facts.in_force(report),
        kept=facts.promise_sentence(report.promise, report.data) if report.promise else None,
        confused=facts.most_confused(evaluation),
        worst=facts.worst_first(evaluation),
        part=facts.part_name(report.kind),
        why=facts.why_served(report),
        wrong=[(example, facts.is_local(report, example)) for example in facts.most_certain_wrong(report)],
        multitask=[(each, facts.transfer_sentence(each)) for each in report.multitask],
        comparisons=[(c, plots.difference(c, reach, i)) for i, c in enumerate(report.comparisons)],
        judge_sentences=judge.judge_sentences(report),
        judge_figures=judge.judge_figures(report),
        plots=drawings,
        device=_flat(report.device.to_json()),
        data_extra=dict(data_extra or {}),
        style=Markup(style),  # noqa: S704 - our own file, not user text
    )


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    """A document's fields as short texts, for a list of names and values."""
    shown: dict[str, str] = {}
    for name, value in values.items():
        if name == "schema_version":
            continue
        if isinstance(value, float):
            words = text.number(value)
        elif isinstance(value, list):
            words = ", ".join(str(item) for item in value)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, dict):
            words = ", ".join(f"{key} {item}" for key, item in value.items())  # pyright: ignore[reportUnknownVariableType]
        else:
            words = text.UNKNOWN if value is None else str(value)
        if words:
            shown[name.replace("_", " ")] = words
    return shown


def write_report(report: BuildReport, folder: Path, data_extra: Mapping[str, str] | None = None) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder, each whole or not at all.

    Returns:
        The path of the page.

    Raises:
        DeviceError: the disk is full or the folder cannot be written.
    """
    write_json(folder / "report.json", report.to_json())
    page = folder / "report.html"
    write_text(page, render(report, data_extra))
    return page
