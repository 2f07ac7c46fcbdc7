"""The chart kit and the plots: scales against arithmetic, labels that do not cover, honest edges."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.report import plots, svg
from locum.schema.report import BuildReport
from locum.testing.reports import example_certificate, example_report


@given(st.floats(0, 1), st.floats(0.01, 100))
def test_ticks_lie_inside_and_are_even(low: float, width: float):
    scale = svg.Scale(low, low + width, 0, 100)
    ticks = scale.ticks()
    assert ticks and all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(abs(step - steps[0]) < 1e-6 * max(1, width) for step in steps)


def test_log_scale_maps_decades_evenly():
    scale = svg.Scale(1, 100, 0, 200, log=True)
    assert scale(10) == pytest.approx(100)
    assert scale.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert svg.Scale(0.1, 1e6, 0, 1, log=True).ticks() == [0.1, 1, 10, 100, 1000, 10000, 100000, 1e6]


def test_values_outside_are_kept_at_the_edge():
    assert svg.Scale(0, 1, 10, 20)(5) == 20
    assert svg.Scale(3, 3, 10, 20)(3) == 15


def test_fault_15_text_in_a_drawing_is_escaped():
    drawn = svg.label(0, 0, "<script>\x1b</script>", class_='"x"')
    root = ElementTree.fromstring(drawn)
    assert root.text == "<script>⟨U+001B⟩</script>" and root.get("class") == '"x"'


def test_labels_avoid_marks_and_each_other():
    labels = svg.Labels((0, 0, 400, 300))
    for x in (200, 205, 210):
        labels.block(x, 150)
    marks = list(labels.taken)
    for x in (200, 205, 210):
        labels.place(x, 150, "a candidate", "mark-label")
    boxes = labels.taken[len(marks) :]
    for i, box in enumerate(boxes):
        others = [*marks, *boxes[:i]]
        assert not any(min(box[2], o[2]) > max(box[0], o[0]) and min(box[3], o[3]) > max(box[1], o[1]) for o in others)


def test_ladder_draws_every_built_candidate_with_its_shape(report_77: BuildReport):
    drawn = plots.ladder(report_77, "size")
    assert drawn.count("<title>") == 4
    assert drawn.count("chosen-ring") == 1
    for family in ("linear", "encoder", "decoder"):
        assert f'class="mark {family}"' in drawn
    assert 'class="llm-line"' in drawn


def test_an_llm_far_below_is_named_at_the_edge(report_77: BuildReport):
    poor = report_77.llm.test.metrics["accuracy"].model_copy(update={"value": 0.41, "low": 0.34, "high": 0.48})
    test = report_77.llm.test.model_copy(update={"metrics": {"accuracy": poor}})
    report = report_77.model_copy(update={"llm": report_77.llm.model_copy(update={"test": test})})
    drawn = plots.ladder(report, "size")
    assert "▼ LLM 41.0 %, off this axis" in drawn and "llm-line" not in drawn


def test_nothing_to_draw_is_none(report_77: BuildReport):
    empty = report_77.model_copy(update={"ladder": tuple(r for r in report_77.ladder if r.status != "built")})
    assert plots.ladder(empty, "size") is None
    assert plots.reliability(None) is None
    assert plots.risk_coverage(None, example_certificate(), {}) is None
    assert plots.confusion(None) is None


def _heights(drawn: str) -> list[float]:
    curve = re.search(r'<path d="([^"]+)" class="curve"', drawn)
    assert curve
    return [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", curve[1])]


def test_marginal_risk_is_of_all_answers(report_77: BuildReport):
    evaluation = next(r for r in report_77.ladder if r.chosen).test
    drawn = plots.risk_coverage(evaluation, example_certificate(kind="marginal"), report_77.system)
    assert "wrong, of all answers" in drawn and "promised: at most 5 %" in drawn
    heights = _heights(drawn)
    assert heights == sorted(heights, reverse=True), "wrong answers only accumulate"


def test_regret_promises_no_level_on_this_axis(report_77: BuildReport):
    evaluation = next(r for r in report_77.ladder if r.chosen).test
    drawn = plots.risk_coverage(evaluation, example_certificate(kind="regret"), report_77.system)
    assert "promised" not in drawn and "certified-line" in drawn


def test_confusion_counts_are_those_measured():
    evaluation = next(r for r in example_report(5).ladder if r.chosen).test
    drawn = plots.confusion(evaluation)
    shown = sorted(int(v) for v in re.findall(r'class="cell-text[^"]*"[^>]*>(\d+)<', drawn))
    assert shown == sorted(v for row in evaluation.confusion for v in row if v)
