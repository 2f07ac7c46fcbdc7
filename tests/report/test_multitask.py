"""Tasks learned together, told alike on the page, in the card and in the terminal; absent where there are none."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from locum.cli.summary import print_report
from locum.report.card import model_card
from locum.report.facts import transfer_sentence
from locum.report.page import render
from locum.schema.report import BuildReport
from locum.testing.multitask import example_multitask
from locum.testing.reports import example_report

SAID = {
    "gain": "A gain from learning receipts, too: SmolLM2-135M-Instruct/full-multitask is better.",
    "harm": "Harm from learning receipts, too: SmolLM2-135M-Instruct/full is better.",
    "no difference shown": "No difference shown from learning receipts, too: No difference was shown.",
    "not compared": "Gain or harm was not compared: the same student tuned alone was not built.",
}


def reported(verdict: str) -> BuildReport:
    return example_report(2).model_copy(update={"multitask": (example_multitask(verdict),)})


def printed(report: BuildReport) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    print_report(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("verdict", SAID)
def test_every_verdict_is_said_alike_everywhere(verdict: str, words: Callable[[str], str]) -> None:
    report = reported(verdict)
    assert SAID[verdict] in transfer_sentence(report.multitask[0])
    for text in (words(render(report)), model_card(report, "Apache-2.0"), printed(report)):
        assert SAID[verdict] in " ".join(text.split())


def test_rows_share_losses_and_what_was_left_out_are_told_per_task(words: Callable[[str], str]) -> None:
    report = reported("gain")
    page = words(render(report))
    assert "invoices 900 60.0 % 0 0 120 2.11 0.310" in page
    assert "receipts 400 40.0 % 7 0 120 1.94 0.420" in page
    assert "tuned alone 81.0 %" in page and "full-multitask: accuracy on test 85.0 %" in page
    card = model_card(report, "Apache-2.0")
    assert "| receipts | 400 | 40.0 % | 7 | 1.94 | 0.420 |" in card
    assert "It is not the one served here." in card
    assert re.search(r"receipts +400 +40\.0 % +7 +1\.94 +0\.420", printed(report))
    served = report.model_copy(update={"chosen": report.multitask[0].student})
    assert "This is the model served here." in model_card(served, "Apache-2.0")


def test_names_of_tasks_are_inert() -> None:
    evil = example_multitask().model_copy(
        update={"tasks": tuple(t.model_copy(update={"task": "<b>|x\x1b[31m"}) for t in example_multitask().tasks)}
    )
    report = example_report(2).model_copy(update={"multitask": (evil,)})
    assert "<b>|x" not in render(report) and "<b>" not in model_card(report, "mit")
    assert "\x1b" not in render(report) + model_card(report, "mit") + printed(report)


def test_a_task_learned_alone_has_no_such_section(words: Callable[[str], str]) -> None:
    report = example_report(2)
    for text in (words(render(report)), model_card(report, "mit"), printed(report)):
        assert "learned together" not in text and "multitask" not in text


def test_the_report_is_read_back_as_it_was_written() -> None:
    report = reported("harm")
    assert BuildReport.model_validate_json(report.model_dump_json()) == report
    older = report.to_json()
    del older["multitask"]
    assert BuildReport.model_validate(older).multitask == ()
