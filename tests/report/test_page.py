"""The page: self-contained, escaped, the same figures everywhere, and whole in a real browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from locum.core.errors import DeviceError
from locum.report import facts, plots, text
from locum.report.page import render, write_report
from locum.schema.evaluation import Interval, LabelScore, WrongExample
from locum.schema.report import BuildReport, CandidateReport
from locum.testing.reports import example_report, judged_report

_VOID = {"meta", "br", "hr", "img", "input", "link"}


class _Balance(HTMLParser):
    """Fails on a tag that is closed wrongly; collects ids and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if values.get("href"):
            self.links.append(str(values["href"]))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def _parsed(page: str) -> _Balance:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.mark.parametrize(("labels", "certified", "llm"), [(77, True, True), (2, True, False), (20, False, False)])
def test_page_is_well_formed_and_asks_nothing_of_the_network(labels: int, certified: bool, llm: bool):
    page = render(example_report(labels, certified=certified, llm=llm))
    parsed = _parsed(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert not parsed.names & {"script", "img", "link", "iframe", "object", "form"}
    assert not re.search(r"src\s*=|href=\"[^#]|url\(|@import|https?://|javascript:", page.split("</style>")[1])
    assert "default-src 'none'" in page
    assert "None" not in page.replace("None is recorded", "")
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_equal_reports_give_equal_bytes():
    assert render(example_report(20)) == render(example_report(20))


def test_verdict_and_key_figures_stand_first(report_77: BuildReport, words):
    said = words(render(report_77))
    served = next(rung for rung in report_77.ladder if rung.chosen)
    accuracy = served.test.metrics["accuracy"]
    head = said[: said.index("The ladder")]
    assert report_77.verdict in head
    assert f"{accuracy.value:.1%}".replace("%", " %") in head
    assert f"{100 * accuracy.low:.1f}–{100 * accuracy.high:.1f} %" in head
    assert "at most 5 % of the answers given locally are wrong" in head
    assert "23.1 MB" in head and "1.9 ms" in head and "84 %" in head


def test_uncertified_is_said_loudly(words):
    said = words(render(example_report(2, certified=False)))
    assert "nothing is certified: every input goes to the LLM, or to nobody" in said
    assert "about 420 more calibration labels" in said
    assert "the diamond" not in said


def test_every_candidate_and_why_one_was_skipped(report_77: BuildReport, words):
    said = words(render(report_77))
    for rung in report_77.ladder:
        assert rung.candidate.name in said
    assert "skipped: training would take 41 minutes" in said
    assert "LLM: Qwen2.5-Coder-1.5B-Instruct" in said


def test_a_candidate_that_was_not_asked_on_test_has_its_dev_score_and_why(report_77: BuildReport, words):
    why = "not asked on test: that takes 50 s, and 16 s of the build are left"
    served = next(rung for rung in report_77.ladder if rung.chosen)
    other = next(rung for rung in report_77.ladder if rung.test and not rung.chosen)
    untested = other.model_copy(update={"test": None, "reason": why})
    report = report_77.model_copy(update={"ladder": (served, untested)})
    page = render(report)
    assert why in words(page)
    dev = other.dev.metrics[report.metric] if other.dev else None
    assert dev is not None and text.percent(dev.value) in words(page)
    drawn = plots.ladder(report, "size")
    assert drawn is not None and served.candidate.name in drawn
    assert other.candidate.name not in drawn  # a dev score is no neighbour of test scores


def test_heat_map_for_few_labels_and_pairs_for_many(report_77: BuildReport, report_2: BuildReport):
    few, many = render(report_2), render(report_77)
    assert 'id="confusion"' in few and 'id="confusion"' not in many
    assert "Most confused pairs" in many


def test_extra_lines_of_the_data_card(report_2: BuildReport, words):
    assert "near-duplicate threshold 0.9" in words(render(report_2, {"near-duplicate threshold": "0.9"}))


def _hostile(report: BuildReport) -> BuildReport:
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    example = WrongExample(
        id=f"test.csv:{evil}", input=f"\x1b[31m{evil}\u202egpj", gold="=1+1", predicted=evil, confidence=0.99
    )
    return report.model_copy(
        update={
            "task": f"t{evil}",
            "instruction": evil,
            "verdict": f"{{{{ 7*7 }}}} {evil}",
            "wrong": (example,),
            "data": report.data.model_copy(update={"labels": (evil, "=cmd|' /C calc'!A0"), "warnings": (evil,)}),
            "provenance": {evil: evil},
        }
    )


def test_fault_15_markup_and_formulas_from_the_data_are_inert(report_2: BuildReport):
    page = render(_hostile(report_2))
    parsed = _parsed(page)
    assert not parsed.names & {"script", "img"}
    assert "onerror=&#34;" in page
    assert "&#39;=1+1" in page, "a cell must not start a spreadsheet formula"
    assert "{{ 7*7 }}" in page, "user text is never a template"


def test_fault_83_control_and_bidi_characters_become_visible(report_2: BuildReport):
    page = render(_hostile(report_2))
    assert "\x1b" not in page and "\u202e" not in page
    assert "⟨U+001B⟩" in page and "⟨U+202E⟩" in page


def test_report_json_is_the_document(tmp_path: Path, report_2: BuildReport):
    page = write_report(report_2, tmp_path)
    assert page == tmp_path / "report.html"
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert BuildReport.from_json(text, "report.json") == report_2
    assert json.loads(text)["schema_version"] == 1


def test_fault_37_disk_full_leaves_the_last_report(tmp_path: Path, report_2: BuildReport, monkeypatch):
    page = write_report(report_2, tmp_path)
    before = page.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("locum.core.files.os.fsync", full)
    with pytest.raises(DeviceError, match="no space left") as caught:
        write_report(report_2.model_copy(update={"verdict": "other"}), tmp_path)
    assert caught.value.code == "core-disk-full"
    assert page.read_bytes() == before


@pytest.mark.engines
@pytest.mark.parametrize("labels", [77, 2])
def test_a_browser_shows_all_of_it_without_a_complaint(tmp_path: Path, browse, labels: int):
    page = write_report(example_report(labels), tmp_path)
    shown = browse(page, "--dump-dom")
    assert shown.stdout.count("<svg") >= 6
    for name in ("ladder-size", "ladder-latency", "risk-coverage", "reliability", "label-counts"):
        assert f'id="{name}"' in shown.stdout
    assert "Refused to" not in shown.stderr and "CONSOLE" not in shown.stderr


@pytest.mark.engines
def test_no_sideways_scrolling_at_380_px(tmp_path: Path, browse):
    write_report(example_report(77), tmp_path)
    # The frame's script measures; the report itself has none.
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<iframe id=f src='report.html' width=380 height=800></iframe><p id=said></p><script>"
        "onload = () => { const d = f.contentDocument.documentElement;"
        "said.textContent = `wide ${d.scrollWidth} of ${d.clientWidth}`; }</script>",
        encoding="utf-8",
    )
    shown = browse(frame, "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom").stdout
    measured = re.search(r"wide (\d+) of (\d+)", shown)
    assert measured and int(measured[1]) == int(measured[2]) == 380


@pytest.mark.engines
@pytest.mark.parametrize("size", ["1280,2000", "500,2000"])
def test_screenshots_hold_colour(tmp_path: Path, browse, size: str):
    page = write_report(example_report(77), tmp_path)
    picture = tmp_path / "page.png"
    browse(page, f"--window-size={size}", f"--screenshot={picture}")
    image = pytest.importorskip("PIL.Image").open(picture).convert("RGB")
    assert image.width == int(size.split(",")[0])
    assert len(image.getcolors(1 << 24)) > 300


def test_a_signature_stands_under_the_scores() -> None:
    report = judged_report()
    signed = {"bleu": "nrefs:1|tok:13a"}

    def sign(rung: CandidateReport) -> CandidateReport:
        test = rung.test
        return rung.model_copy(update={"test": test.model_copy(update={"signatures": signed})}) if test else rung

    page = render(report.model_copy(update={"ladder": tuple(sign(rung) for rung in report.ladder)}))
    assert "<code>nrefs:1|tok:13a</code>" in page
    assert "sacreBLEU" not in render(report)


def test_why_a_student_is_served_is_told_in_whole_sentences() -> None:
    said = {
        "why_chosen": "mini/head is the smallest at the target",
        "stopped_early": "tuning all of mini gains less than 1 point, so a larger body is not tuned",
        "refit": "It was then trained again.",
    }
    report = example_report(3).model_copy(update=said)
    assert facts.why_served(report) == (
        "Mini/head is the smallest at the target. Tuning all of mini gains less than 1 point, so a larger body is not"
        " tuned. It was then trained again."
    )
    name = report.ladder[0].candidate.name
    assert facts.why_served(report.model_copy(update={"why_chosen": f"{name} is best."})).startswith(
        f"{name} is best. "
    )


def test_the_first_screen_has_one_figure_for_the_share_that_is_answered_locally() -> None:
    report = example_report(3)
    system = {**report.system, "local_share": 0.123}  # what the test rows showed stands with the test rows
    page = render(report.model_copy(update={"system": system}))
    first, rest = page.split("<nav", 1)
    assert "12.3" not in first and "12.3" in rest
    assert f"{100 * report.certificate.local_share:.1f}" in first


@pytest.mark.parametrize(("kind", "name"), [("tag", "type"), ("extract", "field")])
def test_spans_and_fields_have_figures_with_intervals_and_counts(kind: str, name: str) -> None:
    def score(label: str, right: int, predicted: int, support: int) -> LabelScore:
        within = {"f1": Interval(value=0.5, low=0.311, high=0.722, method="wilson")}
        return LabelScore(
            label=label,
            support=support,
            predicted=predicted,
            right=right,
            precision=0.4,
            recall=0.6,
            f1=0.5,
            within=within,
        )

    def graded(rung: CandidateReport) -> CandidateReport:
        test = rung.test and rung.test.model_copy(update={"per_label": (score("iban <b>", 317, 411, 523),)})
        return rung.model_copy(update={"test": test})

    report = judged_report()
    page = render(report.model_copy(update={"kind": kind, "ladder": tuple(map(graded, report.ladder))}))
    assert f"The 1 {name}, the hardest first" in page
    row = page[page.index("iban &lt;b&gt;") :].partition("</tr>")[0]
    assert all(f">{figure}<" in row for figure in ("317", "411", "523"))
    assert "31.1–72.2" in row


def test_what_scrolls_sideways_can_be_reached_by_keyboard_and_has_a_name_of_its_own() -> None:
    for report in (example_report(30), judged_report()):
        page = render(report)
        regions = re.findall(r'<div class="scroll"([^>]*)>', page)
        assert len(regions) == page.count('<div class="scroll"') == page.count("<table") > 3
        assert all('tabindex="0"' in region and 'role="region"' in region for region in regions)
        names = re.findall(r'class="scroll"[^>]*aria-label="([^"]+)"', page)
        assert len(set(names)) == len(regions)
        assert not re.search(r"<th[^>]*></th>", page)
