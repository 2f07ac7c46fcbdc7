"""What a report says of a judge: the same on page, card and terminal, or that nothing was measured."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from locum.cli.summary import print_report
from locum.report.card import model_card
from locum.report.judge import NOT_MEASURED, judge_figures, judge_line, judge_sentences
from locum.report.page import render
from locum.schema.judging import JudgeAgreement
from locum.schema.report import BuildReport
from locum.testing.reports import example_report, judged_report


def terminal(report: BuildReport) -> str:
    console = Console(file=io.StringIO(), width=1000, force_terminal=False)
    print_report(report, console)
    return console.file.getvalue()


def agreeing(report: BuildReport, **changed: object) -> BuildReport:
    """The report with other figures of agreement."""
    assert report.judge is not None and report.judge.agreement is not None
    agreement = JudgeAgreement.model_validate(report.judge.agreement.to_json() | changed)
    return report.model_copy(update={"judge": report.judge.model_copy(update={"agreement": agreement})})


def test_the_agreement_stands_on_page_card_and_terminal(words):
    report = judged_report()
    page, card, shown = words(render(report)), model_card(report, "Apache-2.0"), terminal(report)
    for said in (page, card.replace("\\", ""), shown):
        assert "On 200 answers that people graded, the judge said right or wrong as they did for 85.0 % (95 %" in said
        assert "79.4–89.3 %" in said
        assert "kinder than people, by 0.31 grades on average (95 % interval +0.18 to +0.44 grades)" in said
        assert "Of 130 answers that it takes as right, people take 20 as wrong." in said
        assert "3 of its verdicts cannot be read" in said
        assert "not measured" not in said.replace("energy: not measured", "").replace("were not measured", "")
    for said in (page, card):
        for figure in ("0.69", "0.48", "0.66", "60.0 %", "judged.csv", "130, 120"):
            assert figure in said
    assert "Kappa 0.48, quadratic 0.66." in shown
    scores = page.index("Scores", page.index("Can the confidence"))
    assert scores < page.index("The judge against people") < page.index("Examples that went wrong")


def test_what_was_done_with_the_answers_is_said():
    said = " ".join(judge_sentences(judged_report()))
    assert "large-model, an LLM, which was asked: Is the answer right and polite?" in said
    assert "it judged its own answers" in said
    assert "2 rows that say the same once more were left out." in said
    assert "It saw a reference answer for 150 of them. In the build it sees one wherever the data has one." in said
    assert (
        "no student learns from them; inputs that also stand in the task's rows: 40 in train, 7 in calibration," in said
    )
    assert "its own answers" not in " ".join(judge_sentences(judged_report(llm=False)))


def test_without_answers_of_people_everything_says_that_nothing_was_measured(words):
    report = judged_report(measured=False)
    assert judge_figures(report) == []
    assert NOT_MEASURED in words(render(report))
    assert "agrees with people was not measured" in model_card(report, "Apache-2.0")
    assert f"Judge: {NOT_MEASURED}" in terminal(report)


def test_a_task_that_nobody_judges_has_no_word_of_it(words):
    report = example_report(2)
    assert (judge_sentences(report), judge_figures(report), judge_line(report)) == ([], [], None)
    assert "The judge" not in words(render(report))
    assert "judge" not in model_card(report, "Apache-2.0")
    assert "Judge" not in terminal(report)


@pytest.mark.parametrize(
    ("kinder", "said"),
    [
        ({"value": -0.5, "low": -0.75, "high": -0.25, "method": "student"}, "stricter than people, by 0.50 grades"),
        ({"value": 0.1, "low": -0.2, "high": 0.4, "method": "student"}, "not shown to be kinder or stricter"),
        ({"value": 0.0, "low": 0.0, "high": 0.0, "method": "student"}, "(0.00 on average, 95 % interval 0.00 to 0.00"),
        (None, "not known from so few verdicts"),
    ],
)
def test_whether_the_judge_is_kind(kinder: dict[str, object] | None, said: str):
    assert said in (judge_line(agreeing(judged_report(), kinder_by=kinder)) or "")


def test_no_readable_verdict_leaves_unknown_figures_unknown(words):
    nothing = {"value": 0.0, "low": 0.0, "high": 0.02, "method": "wilson"}
    unread = {"unreadable": 200, "kappa": None, "kappa_quadratic": None, "kappa_right": None, "kinder_by": None}
    report = agreeing(judged_report(), **unread, equal=nothing, judged_right=0, judged_right_only=0)
    line = judge_line(report) or ""
    assert "200 of its verdicts cannot be read." in line
    assert "Kappa –, quadratic –." in line
    assert "takes as right, people" not in line
    assert "None" not in words(render(report)).replace("None is recorded", "")


def test_the_certificate_says_by_whose_verdict(words):
    assert "(wrong means: by the judge's verdict)" in words(render(judged_report())).replace("&#39;", "'")


def test_hostile_names_are_inert():
    report = judged_report()
    assert report.judge is not None
    evil = "<script>x</script>|\x1b[31m\u202e"
    report = report.model_copy(
        update={"judge": report.judge.model_copy(update={"model": evil, "criterion": evil}), "right_means": evil}
    )
    page, card, shown = render(report), model_card(report, "Apache-2.0"), terminal(report)
    assert "<script>" not in page
    assert "<script>" not in card
    assert not any(hidden in said for said in (page, card, shown) for hidden in ("\x1b", "\u202e"))
