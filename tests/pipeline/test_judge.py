"""The task's LLM as the judge: lent only where it is asked for, paid for once, and compared with people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

import locum
from locum.bundle.report import read_report
from locum.core.errors import SourceError, UpstreamError, UserError
from locum.core.files import sha256_file
from locum.core.progress import Event, listening
from locum.evaluate.spending import Spending
from locum.pipeline.judge import VERDICT_TOKENS, examine_judge, lent_judge, read_human, unmeasured
from locum.pipeline.plan import make_plan
from locum.pipeline.preflight import require_scorers
from locum.pipeline.prepare import prepare_data
from locum.pipeline.recertify import certify_bundle
from locum.pipeline.steps import StepCache
from locum.pipeline.workspace import Workspace, read_task
from locum.schema.data import Row
from locum.schema.judging import GradedAnswer, JudgeReport
from locum.schema.task import LlmSpec
from locum.schema.taskfile import parse_task
from locum.sources.bases import ensure_base
from locum.stats.rowwise import Mean
from locum.tasks import open_kind
from locum.tasks.judging import grade_answers
from locum.testing import FakeUpstream, Scripted
from locum.testing.pico_gguf import CHATML, pico_gguf

ROWS = [Row(id=str(n), input=f"question {n}", output=f"answer {n}") for n in range(4)]


def task(url: str, scorer: str = "judge"):
    return parse_task(f"""\
version: 1
name: judged
kind: generate
profile: custom
scorer: {scorer}
instruction: Answer.
data: {{train: t.jsonl, input: text, output: answer}}
llm: {{base_url: "{url}", model: judge}}
""")


def test_the_llm_judges_and_is_asked_once_for_an_answer(tmp_path: Path) -> None:
    with FakeUpstream([Scripted(text="Grade: 5")]) as upstream:
        asked = task(upstream.base_url)
        kind = open_kind(asked)
        for _ in range(2):
            with lent_judge(asked, asked.llm, tmp_path / "judge.jsonl", Spending()):
                scores = kind.score(["answer 0", "answer 1", None, "answer 3"], ROWS)
        assert len(upstream.received) == 3
    found = scores["score"]
    assert isinstance(found, Mean)
    assert found.values.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_without_a_judge_to_lend_such_a_task_cannot_be_scored(tmp_path: Path) -> None:
    asked = task("http://127.0.0.1:9/v1")
    with lent_judge(asked, None, tmp_path / "judge.jsonl", Spending()), pytest.raises(UserError) as caught:
        open_kind(asked).score(["x"], ROWS[:1])
    assert caught.value.code == "tasks-judge"
    assert not (tmp_path / "judge.jsonl").exists()


@pytest.mark.models
def test_a_small_model_in_a_file_always_ends_with_a_grade(tmp_path: Path) -> None:
    gguf = ensure_base("SmolLM2-135M-Instruct", format="gguf")  # by itself it grades none of these
    asked = parse_task(f"""\
version: 1
name: judged
kind: generate
profile: custom
scorer: judge
instruction: Answer.
data: {{train: t.jsonl, input: text, output: answer}}
llm: {{model: "{gguf}"}}
""")
    answers = [
        GradedAnswer(id=row.id, input=row.input, reference=row.output, answer="yes", grade=1) for row in ROWS[:2]
    ]
    with lent_judge(asked, asked.llm, tmp_path / "judge.jsonl", Spending()):
        grades = grade_answers(asked, answers)
    assert all(grade in range(1, 6) for grade in grades)


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def by_length(body: Mapping[str, Any]) -> str:
    """Judges by how much is said: grade 2 for more than one word, and none for what asks for none."""
    answer = body["messages"][-1]["content"].partition("Answer to grade: ")[2]
    return "I cannot say." if "refuse" in answer else f"So.\nGrade: {1 + (' ' in answer)}"


class Folder:
    """A judged task in a folder of its own, with answers that people graded."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        root.mkdir()
        lines(root / "t.jsonl", [{"text": f"question {n}", "answer": f"answer {n}"} for n in range(120)])
        said = ["one", "two words", "three words now", "refuse"] * 5
        grades = [1, 2, 1, 1] * 5
        rows = zip(said, grades, strict=True)
        graded = [{"text": f"question {n}", "said": a, "mark": g} for n, (a, g) in enumerate(rows)]
        lines(root / "judged.jsonl", graded)

    def write(self, judge: dict[str, Any] | None, **changed: Any) -> Path:
        whole = {
            "version": 1,
            "name": "judged",
            "kind": "generate",
            "profile": "custom",
            "scorer": "judge",
            "judge": judge,
            "instruction": "Answer.",
            "data": {"train": "t.jsonl", "input": "text", "output": "answer", "max_held_out": 12},
            "llm": {"base_url": self.url, "model": "big", "examples": 5},
        }
        path = self.root / "task.yaml"
        path.write_text(json.dumps({k: v for k, v in (whole | changed).items() if v is not None}), encoding="utf-8")
        return path

    def work(self, judge: dict[str, Any] | None, **changed: Any) -> Workspace:
        read, text = read_task(self.write(judge, **changed))
        out = self.root / "out"
        return Workspace(read, text, self.root, out, StepCache(out / "work"), 1, offline=True)


HUMAN = {"grades": 2, "human": "judged.jsonl", "answer": "said", "grade": "mark"}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(by_length) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, upstream: FakeUpstream) -> Folder:
    return Folder(tmp_path / "task", upstream.base_url)


def examined(work: Workspace) -> JudgeReport:
    graded = read_human(work)
    data, _ = prepare_data(work)
    with lent_judge(work.task, work.task.llm, work.out / "judge-answers.jsonl", work.purse):
        report = examine_judge(work, data, graded)
    assert report is not None
    return report


def test_the_judge_grades_what_people_graded_once(folder: Folder, upstream: FakeUpstream) -> None:
    events: list[Event] = []
    with listening(events.append):
        report = examined(folder.work(HUMAN))
    assert len(upstream.received) == 20
    assert (report.model, report.grades, report.right_from) == ("big", 2, 2)
    found, graded = report.agreement, report.graded
    assert found is not None and graded is not None
    assert (found.n, found.unreadable, found.judged_right, found.judged_right_only) == (20, 5, 10, 5)
    assert (found.equal.value, found.right.value) == (0.5, 0.75)  # no verdict has no grade, and counts as wrong
    assert found.kappa == pytest.approx(cohen_kappa_score([1, 2, 2] * 5, [1, 2, 1] * 5))
    assert found.kinder_by is not None
    assert found.kinder_by.value == pytest.approx(1 / 3)
    assert graded.address == "judged.jsonl"
    assert sum(graded.also_in.values()) >= 12  # the rows beyond max_held_out stand nowhere
    notes = [event.label for event in events if event.kind == "note"]
    assert any("also stand in the task's rows" in line for line in notes)
    assert examined(folder.work(HUMAN)) == report
    assert len(upstream.received) == 20
    examined(folder.work(HUMAN | {"criterion": "Is it short?"}))
    assert len(upstream.received) == 40  # another question


def test_without_answers_of_people_it_is_told_that_nothing_is_measured(folder: Folder) -> None:
    events: list[Event] = []
    with listening(events.append):
        report = examined(folder.work({"grades": 3}))
    assert (report.agreement, report.graded, report.grades) == (None, None, 3)
    assert [e.label for e in events if e.kind == "warning" and "judge" in e.label] == [
        "the judge's agreement with people is not measured: judge.human names no answers that people graded"
    ]
    scored = folder.work(None, scorer="exact")
    assert read_human(scored) is None
    assert unmeasured(scored.task) is None


def test_no_readable_verdict_is_reported_and_no_error(folder: Folder) -> None:
    lines(folder.root / "judged.jsonl", [{"text": f"q {n}", "said": "refuse", "mark": 1} for n in range(3)])
    found = examined(folder.work(HUMAN)).agreement
    assert found is not None
    assert (found.n, found.unreadable) == (3, 3)
    assert (found.kappa, found.kappa_quadratic, found.kappa_right, found.kinder_by) == (None, None, None, None)
    assert (found.equal.value, found.right.value) == (0.0, 1.0)


def test_the_file_is_verified_like_other_data(folder: Folder) -> None:
    with pytest.raises(SourceError) as caught:
        read_human(folder.work(HUMAN | {"sha256": "0" * 64}))
    assert caught.value.code == "source-checksum"
    right = sha256_file(folder.root / "judged.jsonl")
    assert read_human(folder.work(HUMAN | {"sha256": right})) is not None
    with pytest.raises(SourceError) as caught:
        read_human(folder.work(HUMAN | {"human": "gone.jsonl"}))
    assert "gone.jsonl" in str(caught.value)


def test_a_local_judge_is_named_by_its_file_and_not_by_its_folder() -> None:
    named = unmeasured(task("https://x.example/v1").model_copy(update={"llm": LlmSpec(model="/home/me/judge.gguf")}))
    assert named is not None
    assert named.model == "judge.gguf"


def test_a_build_tells_its_forecast_and_stops_at_the_cap(folder: Folder, upstream: FakeUpstream) -> None:
    """A verdict could cost 1 and costs 0.015: within 1.05 there is room for four, however many are asked at once."""
    price = {"input": 0, "output": 1e6 / VERDICT_TOKENS}
    llm = {"base_url": folder.url, "model": "big", "examples": 5, "price": price, "max_cost": 1.05}
    students = [{"base": str(pico_gguf(folder.root / "pico.gguf", template=CHATML).path), "method": "prompt"}]
    path = folder.write(HUMAN, llm=llm, students=students, generation={"search_calls": 7, "max_tokens": 8})
    planned = make_plan(path)
    assert planned.llm_calls == 5 + 5 + 36 + 7 + 20
    assert planned.llm_cost == pytest.approx(5 * planned_answer_cost(8) + (5 + 36 + 7 + 20) * 1)
    assert any("llm.max_cost is 1.05" in warning for warning in planned.warnings)
    events: list[Event] = []
    with listening(events.append), pytest.raises(UpstreamError, match=r"of 1\.05 is spent") as caught:
        locum.build(path, out=folder.root / "out", offline=True)
    assert caught.value.code == "evaluate-llm-cap"
    assert caught.value.fix is not None and "raise llm.max_cost in the task file" in caught.value.fix
    asked = len(upstream.received)
    assert 1 <= asked <= 4
    assert len((folder.root / "out" / "judge-answers.jsonl").read_text().splitlines()) == asked
    told = [event.label for event in events if event.kind in ("note", "warning") and "LLM" in event.label]
    assert told[0].startswith("LLM: 73 calls, about 68")
    assert "llm.max_cost is 1.05" in told[1]


def planned_answer_cost(tokens: int) -> float:
    """Price of an answer of the LLM that is no longer than a middling right one."""
    return min(tokens, 4) / VERDICT_TOKENS


@pytest.mark.engines
@pytest.mark.slow
def test_a_whole_build_says_it_in_report_certificate_and_bundle(
    folder: Folder, upstream: FakeUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student is a pico decoder, whose answers mean nothing: what is said of the judge does not depend on them."""
    base = pico_gguf(folder.root / "pico.gguf", template=CHATML).path
    path = folder.write(
        HUMAN,
        students=[{"base": str(base), "method": "prompt"}],
        generation={"search_calls": 0, "max_tokens": 8, "context": 256},
        guarantee={"kind": "selective", "max_error": 0.4, "confidence": 0.8},
    )
    planned = make_plan(path)
    run = locum.build(path, out=folder.root / "out", offline=True)
    judged = sum("Answer to grade" in received.body["messages"][-1]["content"] for received in upstream.received)
    assert len(upstream.received) <= planned.llm_calls == 5 + 5 + 36 + 20  # an empty answer, or one again, is not asked
    asked = len(upstream.received)
    again = locum.build(path, out=folder.root / "out", offline=True)
    assert len(upstream.received) == asked
    assert judged > 20

    report = run.report
    assert report.judge is not None
    assert again.report.judge == report.judge
    assert run.to_json()["judge"]["agreement"]["n"] == 20
    assert report.right_means == "the judge, big, gives it the best grade, 2"
    said = "on 20 answers that people graded, it agreed with them on right or wrong for 75 %"
    assert said in report.certificate.statement
    assert any(said in line for line in report.certificate.assumptions)
    assert report.certificate.labels_from == "judge"
    assert report.certificate.llm is not None and report.certificate.llm.names == ("big",)
    assert report.certificate.llm.base_url == upstream.base_url
    assert read_report(run.bundle).judge == report.judge
    for name in ("report.html", "README.md"):
        assert "On 20 answers that people graded" in (run.bundle / name).read_text(encoding="utf-8")

    fresh = lines(folder.root / "fresh.jsonl", [{"text": f"fresh {n}", "answer": f"answer {n}"} for n in range(12)])
    again = certify_bundle(run.bundle, fresh, dry_run=True).certificate
    assert said in again.statement  # measured at the build, and still the same judge
    assert again.llm == report.certificate.llm


def test_scorers_that_are_not_installed_are_told_before_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = parse_task("""\
version: 1
name: s
kind: generate
profile: summarise
instruction: Summarise.
data: {train: t.jsonl, input: text, output: answer}
""")
    require_scorers(asked)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError) as caught:
        require_scorers(asked)
    assert caught.value.code == "core-missing-extra"
    assert "rouge_score" in caught.value.cause
