"""Figures in words: formats, sentences, the model card and the terminal's table."""

from __future__ import annotations

import io

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from locum.cascade.summary import check_promise
from locum.cli.summary import print_report, shown_sentence
from locum.report import facts, text
from locum.report.card import markdown, model_card
from locum.report.page import render
from locum.report.terminal import ladder_table
from locum.schema.data import SourceFile
from locum.schema.evaluation import ShownExample
from locum.schema.report import BuildReport
from locum.testing.reports import example_certificate, example_report


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, "–"), (0.0, "0 %"), (1.0, "100 %"), (0.9996, "99.9 %"), (0.0001, "<0.1 %"), (0.9372, "93.7 %")],
)
def test_percent_never_rounds_to_certainty(share: float | None, shown: str):
    assert text.percent(share) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0, "0"), (1234.5, "1,234"), (0.01234, "0.0123"), (-2.5, "−2.50")]
)
def test_number(value: float | None, shown: str):
    assert text.number(value) == shown


def test_units():
    assert text.milliseconds(1.93) == "1.9 ms"
    assert text.milliseconds(12_000) == "12.0 s"
    assert text.megabytes(0.31) == "0.310 MB"
    assert text.megabytes(1100) == "1.10 GB"
    assert text.seconds(3725) == "1 h 2 min"
    assert text.seconds(65) == "1 min 5 s"
    assert text.parameters(22_713_216) == "22.7 M"
    assert text.points(-0.0031) == "−0.3"
    assert text.level(0.05) == "5 %" and text.level(0.025) == "2.5 %"


@given(st.floats(0, 1))
def test_percent_is_within_its_rounding(share: float):
    shown = text.percent(share)
    value = float(shown.strip("<% ")) / 100
    assert abs(value - share) <= 0.00101


def test_certificate_sentence_names_promise_confidence_and_counts():
    said = facts.certificate_sentence(example_certificate())
    assert "95 % confidence" in said and "at most 5 %" in said and "29 of 842 wrong" in said
    agreed = example_certificate().model_copy(update={"labels_from": "llm"})
    assert "differs from the LLM" in facts.certificate_sentence(agreed)


@pytest.mark.parametrize("kind", ["selective", "marginal", "regret"])
def test_each_guarantee_has_its_own_promise(kind: str):
    said = {facts.promise(example_certificate(kind=other)) for other in ("selective", "marginal", "regret")}
    assert len(said) == 3 and facts.promise(example_certificate(kind=kind)) in said


def test_most_confused_and_worst_come_first(report_77: BuildReport):
    evaluation = facts.chosen(report_77).test
    pairs = facts.most_confused(evaluation)
    assert pairs[0].count == max(
        value for i, row in enumerate(evaluation.confusion) for j, value in enumerate(row) if i != j
    )
    f1 = [score.f1 for score in facts.worst_first(evaluation) if score.support]
    assert f1 == sorted(f1)


def test_model_card_front_matter_and_figures(report_77: BuildReport):
    card = model_card(report_77, "Apache-2.0")
    _, front, body = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == "apache-2.0"
    assert matter["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
    for heading in ("Intended use", "Figures", "Certificate", "Limits", "Data", "How it was made", "Use"):
        assert f"## {heading}" in body
    assert facts.certificate_sentence(report_77.certificate) in body
    assert "energy: not measured" in body


@pytest.mark.parametrize("evil", ["<b>x</b>", "a | b", "[x](javascript:1)", "`x`", "line\n# heading", "\x1b[31m"])
def test_fault_15_card_text_is_inert(evil: str):
    shown = markdown(evil)
    assert "\n" not in shown and "<" not in shown and "\x1b" not in shown
    assert not any(shown[i] in "|[`" and shown[i - 1] != "\\" for i in range(1, len(shown)))


def _printed(report: BuildReport, *, whole: bool = False) -> str:
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    if whole:
        print_report(report, console)
    else:
        console.print(ladder_table(report))
    return console.file.getvalue()


def test_ladder_table_marks_what_is_served(report_77: BuildReport):
    lines = _printed(report_77).splitlines()
    served = [line for line in lines if "✓" in line]
    assert len(served) == 1 and report_77.chosen in served[0]
    assert any("skipped: training would take" in line for line in lines)


def test_fault_83_terminal_shows_no_escape_sequences():
    report = example_report(2)
    rung = report.ladder[0]
    hostile = rung.model_copy(
        update={"candidate": rung.candidate.model_copy(update={"name": "\x1b]0;owned\x07[red]x"})}
    )
    shown = _printed(report.model_copy(update={"ladder": (hostile, *report.ladder[1:])}))
    assert "\x1b" not in shown and "⟨U+001B⟩" in shown and "[red]x" in shown


def test_a_verdict_says_when_the_test_rows_break_what_calibration_proved() -> None:
    report = example_report(2)
    test = next(rung.test for rung in report.ladder if rung.chosen)
    assert test is not None
    wrong = np.arange(400) >= 300
    for right, broken in ((wrong, True), (~wrong, True), (np.arange(400) >= 10, False)):
        promise = check_promise(report.certificate, np.full(400, 0.99), right, report.certificate.threshold)
        assert promise is not None and promise.broken == broken
        said = facts.verdict("tfidf", 1.9, "accuracy", test, report.certificate, 0.9, promise, report.data)
        assert ("promise is broken on the test rows" in said) == broken
        told = report.model_copy(update={"promise": promise, "verdict": said})
        for page in (render(told), model_card(told, "MIT")):
            assert ("promise is broken" in page) == broken
            assert text.percent(promise.low) in page.replace("\u00a0", " ")


def test_more_wrong_than_promised_is_told_with_interval_and_likely_reason_even_where_it_may_be_chance() -> None:
    report = example_report(2)
    alpha, threshold = report.certificate.max_error, report.certificate.threshold
    errors = int(400 * alpha) + 1  # above, and far from significant
    promise = check_promise(report.certificate, np.full(400, 0.99), np.arange(400) >= errors, threshold)
    assert promise is not None and not promise.broken
    apart = SourceFile(
        split="test", address="other.csv", sha256="0" * 64, bytes=1, rows=400, format="csv", encoding="utf-8"
    )
    one = tuple(file for file in report.data.files if file.split != "test")
    for files, reason in (((*one, apart), "file of their own"), (one, "drawn from the same rows")):
        told = report.model_copy(update={"promise": promise, "data": report.data.model_copy(update={"files": files})})
        said = facts.promise_sentence(promise, told.data)
        test = next(rung.test for rung in report.ladder if rung.chosen)
        assert test is not None
        assert reason in said and f"{text.percent(promise.low)} to {text.percent(promise.high)}" in said
        assert said in facts.verdict("tfidf", 1.9, "accuracy", test, report.certificate, None, promise, told.data)
        for shown in (render(told), model_card(told, "MIT"), " ".join(_printed(told, whole=True).split())):
            assert reason in shown.replace("\u00a0", " ")


def test_the_row_to_try_says_what_is_answered_and_what_is_right() -> None:
    row = ShownExample(input="a\x1b[31m", gold="b", output="c", confidence=0.987, local=True)
    assert shown_sentence(row) == "This test row is answered locally: c with confidence 0.99; right is b."
    handed = row.model_copy(update={"local": False, "confidence": None, "gold": "b\x1b[2J"})
    assert "handed over; right is b⟨U+001B⟩" in shown_sentence(handed)


def test_groups_stand_beside_the_rows_where_rows_belong_together(report_2: BuildReport):
    assert "groups" not in _printed(report_2)
    ladder = tuple(
        rung.model_copy(update={"test": rung.test.model_copy(update={"groups": 90})}) if rung.test else rung
        for rung in report_2.ladder
    )
    assert report_2.llm is not None
    llm = report_2.llm.model_copy(update={"test": report_2.llm.test.model_copy(update={"groups": 1})})
    grouped = report_2.model_copy(update={"ladder": ladder, "llm": llm})
    printed = _printed(grouped)
    assert "2,000 test rows (90 groups)" in printed and "LLM, 200 rows (1 group)" in printed
    assert "2,000 test rows (90 groups)" in facts.key_figures(grouped)[0].note
