"""The report's plots: ladder, risk and coverage, reliability, confusion, label counts, differences.

Notable: each function takes measured documents and returns finished SVG, or None when there is nothing
to draw. The two axes that promise something are honest: an LLM far outside the students' range is
named at the edge instead of squeezing them, and the certified point carries its proven bound.
Not here: drawing primitives (``svg``), words about the figures (``facts``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from locum.report import svg, text
from locum.schema.certificate import Certificate
from locum.schema.evaluation import Calibration, Comparison, Evaluation, Interval
from locum.schema.report import BuildReport, CandidateReport

SHAPES = {"linear": "square", "encoder": "circle", "decoder": "triangle"}
MAX_HEAT_LABELS = 30


def ladder(report: BuildReport, axis: str) -> Markup | None:
    """Quality with 95 % intervals against ``axis`` (size or latency, logarithmic); the LLM as a line.

    Args:
        report: the build.
        axis: ``size`` (MB served) or ``latency`` (p50, ms).

    Returns:
        The plot, or None when no candidate has both figures.
    """
    marks = [(rung, score, x) for rung, score, x in _ladder_points(report, axis) if x > 0]
    if not marks:
        return None
    unit, name, shown = (
        ("MB served (log)", "size", text.megabytes)
        if axis == "size"
        else ("ms, p50 (log)", "latency", text.milliseconds)
    )
    llm = text.headline(report.llm.test, report.metric) if report.llm else None
    low, high, llm_inside = _quality_range(report, [score for _, score, _ in marks], llm)
    plot = svg.Chart(
        f"ladder-{axis}",
        f"{text.metric_name(report.metric)} with 95 % intervals against {name}: "
        + "; ".join(f"{rung.candidate.name} {text.percent(s.value)} at {shown(x)}" for rung, s, x in marks),
        top=30,
        height=310,
    )
    xs = [x for _, _, x in marks]
    x_scale = svg.Scale(min(xs) / 1.8, max(xs) * 2.4, *plot.x_range, log=True)
    y_scale = svg.Scale(low, high, *plot.y_range)
    y_ticks = _shares(y_scale)
    plot.axes(x_scale, y_scale, unit, text.metric_name(report.metric), [f"{v:,g}" for v in x_scale.ticks()], y_ticks)
    labels = svg.Labels((plot.left, plot.top - 14, plot.width - 2, plot.height - plot.bottom))
    for rung, score, x in marks:
        labels.block(x_scale(x), y_scale(score.value), 14 if rung.chosen else 8)
        labels.taken.append((x_scale(x) - 2, y_scale(score.high), x_scale(x) + 2, y_scale(score.low)))
    _reference_lines(plot, y_scale, report.target, llm if llm_inside else None, labels)
    if llm is not None and not llm_inside:
        _off_scale(plot, y_scale, llm, labels)
    for rung, score, x in sorted(marks, key=lambda mark: not mark[0].chosen):
        kind = "mark-label chosen" if rung.chosen else "mark-label"
        shown_name = text.short_name(rung.candidate.name, 21)
        plot.add(labels.place(x_scale(x), y_scale(score.value), shown_name, kind))
    for rung, score, x in marks:
        plot.add(*_rung(rung, score, (x_scale(x), y_scale(score.value)), y_scale))
    return plot.markup()


def _shares(scale: svg.Scale) -> list[str]:
    """Tick labels of an axis of shares, with as many decimals as its steps need."""
    ticks = scale.ticks()
    places = 0 if all(abs(100 * v - round(100 * v)) < 1e-6 for v in ticks) else 1
    return [text.percent(v, places) if v else "0 %" for v in ticks]


def _ladder_points(report: BuildReport, axis: str) -> list[tuple[CandidateReport, Interval, float]]:
    found: list[tuple[CandidateReport, Interval, float]] = []
    tested = any(rung.test for rung in report.ladder)  # dev scores are no neighbours of these
    for rung in report.ladder:
        score = text.headline(rung.test if tested else rung.dev, report.metric)
        x = rung.size_mb if axis == "size" else rung.latency.p50_ms if rung.latency else None
        if rung.status == "built" and score is not None and x is not None:
            found.append((rung, score, x))
    return found


def _quality_range(report: BuildReport, scores: list[Interval], llm: Interval | None) -> tuple[float, float, bool]:
    """The y range, and whether the LLM's line lies inside it."""
    values = [end for score in scores for end in (score.low, score.high)]
    values += [report.target] if report.target is not None else []
    low, high = min(values), max(values)
    inside = llm is not None
    if llm is not None:
        wide_low, wide_high = min(low, llm.value), max(high, llm.value)
        inside = wide_high - wide_low <= 2.5 * max(high - low, 0.02)
        low, high = (wide_low, wide_high) if inside else (low, high)
    pad = max(0.1 * (high - low), 0.005)
    return max(0.0, low - pad), min(1.0, high + 1.5 * pad), inside


def _reference_lines(
    plot: svg.Chart, y: svg.Scale, target: float | None, llm: Interval | None, labels: svg.Labels
) -> None:
    left, right = plot.x_range
    if llm is not None:
        top, bottom = y(llm.high), y(llm.low)
        plot.add(svg.tag("rect", x=left, y=top, width=right - left, height=max(bottom - top, 1), class_="llm-band"))
        plot.add(svg.line(left, y(llm.value), right, y(llm.value), "llm-line"))
        labels.taken.append((left, y(llm.value) - 1, right, y(llm.value) + 1))
        plot.add(labels.on_line(left, right, y(llm.value), f"LLM {text.percent(llm.value)}", "llm-label"))
    if target is not None:
        plot.add(svg.line(left, y(target), right, y(target), "target-line"))
        labels.taken.append((left, y(target) - 1, right, y(target) + 1))
        plot.add(labels.on_line(left, right, y(target), f"target {text.percent(target)}", "target-label"))


def _off_scale(plot: svg.Chart, y: svg.Scale, llm: Interval, labels: svg.Labels) -> None:
    """Name the LLM at the edge where its line would be, when drawing it would squeeze the students."""
    below = llm.value < y.low
    left, right = plot.x_range
    at = plot.y_range[0] if below else plot.y_range[1]
    plot.add(
        labels.on_line(
            left, right, at, f"{'▼' if below else '▲'} LLM {text.percent(llm.value)}, off this axis", "llm-label"
        )
    )


def _rung(rung: CandidateReport, score: Interval, at: tuple[float, float], y: svg.Scale) -> list[str]:
    x, middle = at
    kind = f"mark {rung.candidate.family}"
    parts = [svg.line(x, y(score.low), x, y(score.high), f"whisker {rung.candidate.family}")]
    if rung.chosen:
        parts.append(svg.tag("circle", cx=x, cy=middle, r=11, class_="chosen-ring"))
    hover = svg.title(f"{rung.candidate.name}: {text.percent(score.value)} ({text.interval(score)})")
    shape = SHAPES[rung.candidate.family]
    parts.append(svg.tag("g", hover + svg.marker(x, middle, shape, kind)))
    return parts


def risk_coverage(
    evaluation: Evaluation | None, certificate: Certificate, system: dict[str, float | None]
) -> Markup | None:
    """The share of wrong local answers at every share answered locally, with the certified point.

    Under a marginal guarantee the risk is of all traffic (wrong local answers over all answers), under the
    others of the local answers; the promised level is drawn where it is a level of this axis (not regret).
    """
    if evaluation is None or not evaluation.risk_coverage:
        return None
    marginal = certificate.kind == "marginal"
    curve = sorted((p.coverage, p.risk * p.coverage if marginal else p.risk) for p in evaluation.risk_coverage)
    promised = None if certificate.kind == "regret" else certificate.max_error
    whose = "of all answers" if marginal else "of local answers"
    plot = svg.Chart("risk-coverage", _risk_caption(curve, certificate, whose), top=30)
    seen = [risk for coverage, risk in curve if coverage >= 0.05] + [certificate.upper_bound or 0.0, promised or 0.0]
    high = min(1.0, max(0.02, 1.15 * max(seen)))
    x = svg.Scale(0, 1, *plot.x_range)
    y = svg.Scale(0, high, *plot.y_range)
    plot.axes(
        x,
        y,
        "share answered locally",
        f"wrong, {whose}",
        _shares(x),
        _shares(y),
    )
    if promised is not None:
        left, right = plot.x_range
        floor = plot.y_range[0]
        plot.add(svg.tag("rect", x=left, y=y(promised), width=right - left, height=floor - y(promised), class_="safe"))
        plot.add(svg.line(left, y(promised), right, y(promised), "promise-line"))
        plot.add(
            svg.label(left + 5, y(promised) - 5, f"promised: at most {text.level(promised)}", class_="promise-label")
        )
    plot.add(svg.path([(x(coverage), y(risk)) for coverage, risk in curve], "curve"))
    _certified_point(plot, x, y, certificate)
    _test_point(plot, x, y, system, marginal=marginal)
    return plot.markup()


def _risk_caption(curve: list[tuple[float, float]], certificate: Certificate, whose: str) -> str:
    full = curve[-1]
    words = f"Risk against coverage: {text.percent(full[1])} {whose} wrong when {text.percent(full[0])} is local"
    if certificate.threshold is None:
        return words + "; no threshold was certified"
    bound = text.percent(certificate.upper_bound)
    return f"{words}; certified at {text.percent(certificate.local_share)} local, proven bound {bound}"


def _certified_point(plot: svg.Chart, x: svg.Scale, y: svg.Scale, certificate: Certificate) -> None:
    if certificate.threshold is None:
        return
    at = x(certificate.local_share)
    plot.add(svg.line(at, plot.y_range[0], at, plot.y_range[1], "certified-line"))
    if certificate.observed is None or certificate.kind == "regret":
        return
    observed = y(certificate.observed)
    bound = y(certificate.upper_bound if certificate.upper_bound is not None else certificate.observed)
    hover = svg.title(
        f"certified: {text.percent(certificate.local_share)} local, observed {text.percent(certificate.observed)}, "
        f"proven bound {text.percent(certificate.upper_bound)}"
    )
    bar = svg.line(at, observed, at, bound, "whisker certified") + svg.line(
        at - 5, bound, at + 5, bound, "whisker certified"
    )
    plot.add(svg.tag("g", hover + bar + svg.marker(at, observed, "diamond", "mark certified", 6)))
    side = "end" if at > (plot.x_range[0] + plot.x_range[1]) / 2 else "start"
    nudge = -10 if side == "end" else 10
    words = f"certified: {text.percent(certificate.local_share)} local"
    plot.add(svg.label(at + nudge, plot.y_range[1] + 12, words, class_="mark-label chosen", text_anchor=side))


def _test_point(
    plot: svg.Chart, x: svg.Scale, y: svg.Scale, system: dict[str, float | None], *, marginal: bool
) -> None:
    share, error = system.get("local_share"), system.get("error_local")
    if share is None or error is None:
        return
    risk = error * share if marginal else error
    hover = svg.title(f"on test: {text.percent(share)} local, {text.percent(risk)} wrong")
    plot.add(svg.tag("g", hover + svg.marker(x(share), y(risk), "circle", "mark test", 4.5)))


def reliability(calibration: Calibration | None) -> Markup | None:
    """What the student claimed against what came true, with 95 % intervals and counts below."""
    if calibration is None or not calibration.reliability:
        return None
    bins = [b for b in calibration.reliability if b.n > 0]
    told = f"Reliability: expected calibration error {text.percent(calibration.ece)} over {len(bins)} bins"
    plot = svg.Chart("reliability", told, top=30)
    x = svg.Scale(0, 1, *plot.x_range)
    y = svg.Scale(0, 1, *plot.y_range)
    plot.axes(x, y, "claimed confidence", "came true", _shares(x), _shares(y))
    plot.add(svg.line(x(0), y(0), x(1), y(1), "diagonal"))
    most = max((b.n for b in bins), default=1)
    for b in bins:
        high = 34 * b.n / most
        left, right = x(b.low), x(b.high)
        hover = svg.title(f"{b.n} answers claimed {text.percent(b.confidence)}, {text.percent(b.accuracy)} right")
        bar = svg.tag(
            "rect", x=left + 1, y=y(0) - high, width=max(right - left - 2, 1), height=high, class_="count-bar"
        )
        plot.add(svg.tag("g", hover + bar))
    for b in bins:
        plot.add(svg.line(x(b.confidence), y(b.accuracy_low), x(b.confidence), y(b.accuracy_high), "whisker encoder"))
    plot.add(svg.path([(x(b.confidence), y(b.accuracy)) for b in bins], "curve thin"))
    for b in bins:
        hover = svg.title(f"claimed {text.percent(b.confidence)}, came true {text.percent(b.accuracy)} (n = {b.n})")
        plot.add(svg.tag("g", hover + svg.marker(x(b.confidence), y(b.accuracy), "circle", "mark encoder", 4.5)))
    return plot.markup()


def confusion(evaluation: Evaluation | None) -> Markup | None:
    """A heat map, rows gold and columns predicted, each row as shares; None beyond 30 labels."""
    if evaluation is None or not 2 <= len(evaluation.labels) <= MAX_HEAT_LABELS:
        return None
    labels = evaluation.labels
    numbered = len(labels) > 4
    names = [text.short_name(text.cell(name), 22) for name in labels]
    margin = min(190.0, 16 + 6.6 * max(len(name) for name in names) + (22 if numbered else 0))
    width = 440.0 if len(labels) <= 12 else 640.0
    side = min(72.0, (width - margin - 10) / len(labels))
    height = 40 + side * len(labels) + 8
    plot = svg.Chart("confusion", _confusion_caption(evaluation), width=margin + side * len(labels) + 10, height=height)
    plot.add(svg.label(margin, 12, "predicted →", class_="axis-name"))
    for row, counts in enumerate(evaluation.confusion):
        middle = 40 + side * (row + 0.5)
        name = f"{names[row]}  {row + 1}" if numbered else names[row]
        plot.add(svg.label(margin - 7, middle + 4, name, class_="tick", text_anchor="end"))
        head = str(row + 1) if numbered else names[row]
        plot.add(svg.label(margin + side * (row + 0.5), 32, head, class_="tick", text_anchor="middle"))
        plot.add(*_confusion_row(labels, row, counts, (margin, 40 + side * row), side))
    return plot.markup()


def _confusion_row(
    labels: Sequence[str], row: int, counts: Sequence[int], corner: tuple[float, float], side: float
) -> list[str]:
    total = max(1, sum(counts))
    parts: list[str] = []
    for column, value in enumerate(counts):
        share = value / total
        kind = "cell right" if row == column else "cell wrong"
        # Square root, so that one confusion in a hundred can still be seen.
        opacity = round(math.sqrt(share), 3)
        x, y = corner[0] + side * column, corner[1]
        hover = svg.title(f"{labels[row]} → {labels[column]}: {value} of {sum(counts)}")
        square = svg.tag("rect", x=x, y=y, width=side - 1, height=side - 1, class_="cell empty")
        if value:
            square += svg.tag(
                "rect", x=x, y=y, width=side - 1, height=side - 1, class_=kind, fill_opacity=f"{opacity:.3f}"
            )
        if value and side >= 22:
            tone = "cell-text strong" if opacity > 0.62 else "cell-text"
            square += svg.label(x + side / 2, y + side / 2 + 4, str(value), class_=tone, text_anchor="middle")
        parts.append(svg.tag("g", hover + square))
    return parts


def _confusion_caption(evaluation: Evaluation) -> str:
    right = sum(evaluation.confusion[i][i] for i in range(len(evaluation.labels)))
    return f"Confusion of {len(evaluation.labels)} labels: {right} of {evaluation.n} answers on the diagonal"


def label_counts(counts: dict[str, int]) -> Markup | None:
    """Training rows by label, most frequent first."""
    if not counts:
        return None
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    most, least = ordered[0], ordered[-1]
    told = f"{len(ordered)} labels, from {most[1]} rows ({most[0]}) to {least[1]} rows ({least[0]})"
    plot = svg.Chart("label-counts", told, height=150, top=30, bottom=24)
    y = svg.Scale(0, max(1, most[1]), *plot.y_range)
    left, right = plot.x_range
    wide = (right - left) / len(ordered)
    ticks = y.ticks(3)
    for value in ticks:
        plot.add(svg.line(left, y(value), right, y(value), "grid"))
        plot.add(svg.label(left - 7, y(value) + 4, text.number(value), class_="tick", text_anchor="end"))
    for index, (name, value) in enumerate(ordered):
        hover = svg.title(f"{name}: {value}")
        bar = svg.tag(
            "rect",
            x=left + wide * index + wide * 0.08,
            y=y(value),
            width=max(wide * 0.84, 0.8),
            height=max(plot.y_range[0] - y(value), 0.8),
            class_="bar",
        )
        plot.add(svg.tag("g", hover + bar))
    plot.add(svg.label(0, 12, "training rows", class_="axis-name"))
    plot.add(svg.label(left, plot.height - 6, text.short_name(text.cell(most[0])), class_="tick"))
    last = text.short_name(text.cell(least[0]))
    plot.add(svg.label(right, plot.height - 6, last, class_="tick", text_anchor="end"))
    return plot.markup()


def difference(comparison: Comparison, reach: float, index: int) -> Markup:
    """One row of a forest plot: the difference and its interval around zero, on ±``reach``."""
    told = f"{text.points(comparison.difference.value)} points"
    plot = svg.Chart(f"difference-{index}", told, width=180, height=26, left=4, right=4, top=2, bottom=2)
    x = svg.Scale(-reach, reach, *plot.x_range)
    interval = comparison.difference
    clear = interval.low > 0 or interval.high < 0
    plot.add(svg.line(x(0), 2, x(0), 24, "axis"))
    plot.add(svg.line(x(interval.low), 13, x(interval.high), 13, "whisker encoder" if clear else "whisker muted"))
    plot.add(svg.marker(x(interval.value), 13, "square", "mark encoder" if clear else "mark muted", 4.5))
    return plot.markup()
