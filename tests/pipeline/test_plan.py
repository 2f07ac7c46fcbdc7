"""The plan: everything is validated, nothing is downloaded or written, and it says what a build would cost."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from locum.cli.plan import plan as plan_command
from locum.core.errors import DataError, DeviceError, SourceError, TaskFileError
from locum.fit.devices import find_device
from locum.pipeline import plan as planning
from locum.pipeline.forecast import ASSUMED
from locum.pipeline.judge import VERDICT_TOKENS
from locum.pipeline.plan import make_plan
from locum.schema.plan import Plan


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_args: Any) -> None:
        raise AssertionError("a plan reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_local_data_are_counted(tickets: Any, tmp_path: Path) -> None:
    before = files(tmp_path)
    plan = make_plan(tickets.task, out=tmp_path / "out")
    assert files(tmp_path) == before
    assert [step.name for step in plan.steps] == [
        "data",
        "ladder",
        "train-tfidf",
        "export-tfidf",
        "measure-tfidf",
        "refit",
        "export-refit",
        "measure-refit",
        "certify",
    ]
    assert not any(step.done for step in plan.steps)
    assert plan.seconds == sum(step.seconds or 0 for step in plan.steps)
    assert (plan.budget_s, plan.download_mb, plan.llm_calls, plan.llm_cost) == (900, 0, 0, None)
    assert plan.labels.available == 120
    assert plan.warnings == ()
    (data,) = plan.downloads
    assert (data.cached, data.address) == (True, "tickets.csv")
    assert Plan.from_json(json.dumps(plan.to_json()), "plan") == plan


def test_the_bases_of_auto_are_listed_and_not_fetched(tickets: Any, tmp_path: Path) -> None:
    before = files(tmp_path)
    plan = make_plan(tickets.change(students="auto"))
    bases = [download for download in plan.downloads if download.what != "train data"]
    assert len(bases) == 2
    assert not any(base.cached for base in bases)
    assert plan.download_mb == pytest.approx(sum(base.size_mb or 0 for base in bases))
    assert plan.download_mb > 80
    assert len(plan.ladder) == 4
    assert files(tmp_path) == before


def test_remote_data_are_assumed_and_the_plan_says_so(tickets: Any) -> None:
    address = "https://data.example/train.csv"
    plan = make_plan(tickets.change(data={"train": address, "input": "text", "output": "team"}))
    assert plan.labels.available is None
    (warning,) = plan.warnings
    assert f"{ASSUMED.train_rows:,} rows" in warning
    assert [(item.address, item.cached) for item in plan.downloads] == [(address, False)]


def test_finished_steps_are_marked(built: Any) -> None:
    plan = make_plan(built.tickets.task, out=built.out)
    assert [step.name for step in plan.steps if step.done] == [
        "data",
        "ladder",
        "train-tfidf",
        "export-tfidf",
        "measure-tfidf",
        "refit",
        "export-refit",
        "measure-refit",
    ]


MINI = {"base": "all-MiniLM-L6-v2", "method": "head"}


@pytest.mark.parametrize(
    ("changed", "rungs", "all_done"),
    [
        ({"instruction": "Who takes it?"}, True, True),
        ({"budget": {"build_minutes": 40}}, True, True),
        ({"students": [{"method": "linear"}, MINI]}, True, False),
        ({"students": [MINI, {"method": "linear"}], "budget": {"build_minutes": 3}}, True, False),
        ({"seed": 1}, False, False),
    ],
    ids=["words", "more time", "another student", "another student first, less time", "seed"],
)
def test_done_is_what_a_build_would_take_as_it_is(
    copied: Any, changed: dict[str, Any], rungs: bool, all_done: bool
) -> None:
    before = files(copied.out)
    plan = make_plan(copied.tickets.change(**changed), out=copied.out)
    assert files(copied.out) == before
    done = {step.name: step.done for step in plan.steps}
    assert {name: found for name, found in done.items() if name.endswith("tfidf")} == dict.fromkeys(
        ("train-tfidf", "export-tfidf", "measure-tfidf"), rungs
    )
    assert (done["refit"], done["certify"]) == (all_done, False)
    assert not any(found for name, found in done.items() if "MiniLM" in name)


def test_what_the_llm_will_cost_is_said(tickets: Any) -> None:
    llm = {"base_url": "https://api.example/v1", "model": "m", "examples": 100, "price": {"input": 1, "output": 10}}
    plan = make_plan(tickets.change(llm=llm))
    assert plan.llm_calls == 100
    assert plan.llm_cost == pytest.approx(100 * (400 * 1 + 12 * 10) / 1e6)
    del llm["price"]
    assert make_plan(tickets.change(llm=llm)).llm_cost is None


def test_the_labels_of_the_guarantee(tickets: Any) -> None:
    need = make_plan(tickets.change(guarantee={"max_error": 0.05, "confidence": 0.95})).labels
    assert (need.without_errors, need.with_five_errors) == (59, 208)


def test_every_missing_file_is_named_at_once(tickets: Any) -> None:
    data = {"train": "gone.csv", "dev": "tickets.csv", "test": "also-gone.csv", "input": "text", "output": "team"}
    with pytest.raises(SourceError, match=r"data\.train: there is no .*gone\.csv; data\.test: .*also-gone"):
        make_plan(tickets.change(data=data))


def test_one_of_several_addresses_is_enough(tickets: Any) -> None:
    data = {"train": ["gone.csv", "tickets.csv"], "input": "text", "output": "team"}
    assert make_plan(tickets.change(data=data)).labels.available == 120


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"kind": "clasify", "budget": {"build_minutes": -1}}, TaskFileError, "2 faults"),
        ({"students": [{"base": "all-MiniLM-L6-v22", "method": "head"}]}, SourceError, "did you mean"),
        ({"budget": {"device": "laptob"}}, DeviceError, "did you mean 'laptop'"),
        ({"data": {"train": "gopher://x/y", "input": "text", "output": "team"}}, SourceError, "gopher"),
    ],
    ids=["faults", "base", "device", "address"],
)
def test_what_cannot_be_built_cannot_be_planned(
    tickets: Any, changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_plan(tickets.change(**changed))


def test_a_column_that_is_not_there_is_found_by_the_plan(tickets: Any) -> None:
    with pytest.raises(DataError, match="did you mean 'team'"):
        make_plan(tickets.change(data={"train": "tickets.csv", "input": "text", "output": "teams"}))


def test_a_member_that_is_not_there_is_found_by_the_plan(tickets: Any) -> None:
    rows = [{"q": f"which {n}", "ctx": {"text": f"that {n}"}, "team": "ab"[n % 2]} for n in range(100)]
    (tickets.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": "rows.jsonl", "input": ["q", "ctx.txet"], "output": "team"}
    with pytest.raises(DataError, match=r"did you mean 'ctx\.text'"):
        make_plan(tickets.change(data=data))
    assert make_plan(tickets.change(data=data | {"input": ["q", "ctx.text"]})).warnings == ()


PROMPTED = [{"base": "SmolLM2-135M-Instruct", "method": method} for method in ("prompt", "few_shot")]
WRITTEN: dict[str, Any] = {
    "kind": "generate",
    "profile": "chat",
    "data": {"train": "talk.jsonl", "input": "said", "output": "reply"},
    "students": [*PROMPTED, {"base": "SmolLM2-135M-Instruct", "method": "full"}],
    "guarantee": {"kind": "selective", "max_error": 0.05, "confidence": 0.95},
}


@pytest.fixture
def talk(tickets: Any) -> Any:
    """A task of written answers, 2,000 rows of them."""
    rows = [{"said": f"how is number {n} today", "reply": f"{n} is well and sends its regards"} for n in range(2000)]
    (tickets.folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tickets


def seconds(plan: Plan) -> dict[str, float]:
    return {step.name: step.seconds or 0.0 for step in plan.steps}


def test_written_answers_are_planned_as_they_are_made(talk: Any) -> None:
    plan = make_plan(talk.change(**WRITTEN))
    names = [f"SmolLM2-135M-Instruct/{method}" for method in ("prompt", "few_shot", "full")]
    assert [step.name for step in plan.steps][3:-1] == [
        *(f"{step}-{name}" for name in names[:2] for step in ("prompt", "measure")),
        *(f"{step}-{names[2]}" for step in ("train", "export", "measure")),
        "answer-calibration",
        *(f"answer-test-{name}" for name in names),
    ]
    told = {step.name: step.what for step in plan.steps}
    assert "200 dev rows" in told[f"measure-{names[0]}"]
    assert "200 test rows" in told[f"answer-test-{names[0]}"]
    assert "answer 200 rows put aside for the proof" in told["answer-calibration"]
    took = seconds(plan)
    assert took[f"measure-{names[0]}"] > 4  # 200 answers
    assert took[f"measure-{names[1]}"] > took[f"measure-{names[0]}"]  # examples are read once, and attended to by each
    assert plan.labels.available == 200
    assert plan.warnings == ()
    inputs = [candidate.estimate.inputs for candidate in plan.ladder]
    assert [each["tokens written"] for each in inputs] == [7, 7, 7]  # of 32 characters
    assert int(inputs[1]["tokens read"]) > int(inputs[0]["tokens read"]) == int(inputs[2]["tokens read"])


def test_the_table_shows_what_latency_comes_from(
    talk: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    plan_command(talk.change(**WRITTEN), None, False)
    shown = capsys.readouterr().out.splitlines()
    line = next(line for line in shown if line.startswith("SmolLM2-135M-Instruct/prompt from:"))
    assert "tokens written 7" in line and "tokens of cache 8,192" in line and "memory GB/s" in line
    assert any(line.startswith("Answers   at most 512 tokens: 99 in 100") for line in shown)  # chat's least


def test_time_to_answer_goes_by_rows_and_samples_and_searching_by_its_calls(
    talk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = find_device("laptop")  # one machine for all plans: a busy one is never measured twice alike
    monkeypatch.setattr(planning, "profile_device", lambda **_: laptop)
    name = "SmolLM2-135M-Instruct/prompt"
    task = WRITTEN | {"students": PROMPTED[:1], "budget": {"build_minutes": 600}}
    whole = seconds(make_plan(talk.change(**task)))
    sampled = seconds(make_plan(talk.change(**task, generation={"samples": 8})))
    few = {"data": WRITTEN["data"] | {"max_held_out": 50}}
    fewer = seconds(make_plan(talk.change(**task | few, generation={"samples": 8})))
    calm, busy, busier = (
        seconds(make_plan(talk.change(**task, generation={"search_calls": calls})))[f"prompt-{name}"]
        for calls in (0, 50, 100)
    )
    assert fewer[f"measure-{name}"] < 0.5 * sampled[f"measure-{name}"]
    assert sampled[f"measure-{name}"] > 1.4 * whole[f"measure-{name}"]
    assert busier - calm == pytest.approx(2 * (busy - calm)) and busy > calm


def test_rows_that_cannot_prove_the_guarantee_are_told(talk: Any) -> None:
    few = WRITTEN | {"data": WRITTEN["data"] | {"max_held_out": 40}}
    (warning,) = make_plan(talk.change(**few)).warnings
    assert "40 rows to test the promise with" in warning
    assert "fewer than 59 nothing can be promised" in warning
    assert "data.max_held_out" in warning


@pytest.mark.parametrize(
    ("guarantee", "rows", "reach"),
    [
        ({"kind": "selective", "max_error": 0.05, "confidence": 0.95}, 58, "however good the student is"),
        ({"kind": "selective", "max_error": 0.05, "confidence": 0.95}, 120, "2 times in 10 if it answers all of them"),
        ({"kind": "selective", "max_error": 0.05, "confidence": 0.95}, 300, None),
        ({"kind": "marginal", "max_error": 0.02, "confidence": 0.9}, 110, "however good the student is"),
        ({"kind": "marginal", "max_error": 0.02, "confidence": 0.9}, 400, None),
    ],
)
def test_a_promise_beyond_the_rows_of_a_calibration_file_is_told_in_plain_words(
    tickets: Any, guarantee: dict[str, Any], rows: int, reach: str | None
) -> None:
    lines = (tickets.folder / "tickets.csv").read_text(encoding="utf-8").splitlines()
    (tickets.folder / "proof.csv").write_text("\n".join([lines[0], *lines[1 : rows + 1]]) + "\n", encoding="utf-8")
    data = {"train": "tickets.csv", "calibration": "proof.csv", "input": "text", "output": "team"}
    plan = make_plan(tickets.change(guarantee=guarantee, data=data))
    assert plan.labels.available == rows
    told = [warning for warning in plan.warnings if "to test the promise with" in warning]
    assert len(told) == (reach is not None)
    assert all(f"{rows} rows" in warning and str(reach) in warning for warning in told)


def test_rows_that_belong_together_are_counted_as_groups_for_the_promise(tickets: Any) -> None:
    lines = (tickets.folder / "tickets.csv").read_text(encoding="utf-8").splitlines()
    named = [f"{line},case {number // 20}" for number, line in enumerate(lines[1:])]
    (tickets.folder / "cases.csv").write_text("\n".join([f"{lines[0]},case", *named]) + "\n", encoding="utf-8")
    data = {"train": "cases.csv", "input": "text", "output": "team", "group": "case"}
    plan = make_plan(tickets.change(data=data))
    assert plan.labels.unit == "groups" and plan.labels.available is not None
    assert plan.labels.available <= len(named) / 20
    assert any("groups to test the promise with" in warning for warning in plan.warnings)


def test_an_llm_answers_no_more_rows_than_there_are_and_a_judge_reads_all_answers(talk: Any) -> None:
    llm = {"base_url": "https://api.example/v1", "model": "m", "examples": 500, "price": {"input": 1, "output": 1}}
    task = WRITTEN | {"llm": llm, "students": PROMPTED[:1]}
    plan = make_plan(talk.change(**task))
    assert plan.llm_calls == 200
    assert plan.llm_cost is not None
    regret = {"kind": "regret", "max_error": 0.05, "confidence": 0.95}
    assert make_plan(talk.change(**task | {"guarantee": regret})).llm_calls == 400
    judged = make_plan(talk.change(**task | {"profile": "custom", "scorer": "judge"}))
    assert judged.llm_calls == 200 + 200 + 600 + 200  # the last while the prompt is searched
    (warning,) = judged.warnings
    assert "agreement with people will not be measured" in warning


def judged_task(**judge: Any) -> dict[str, Any]:
    llm = {"base_url": "https://api.example/v1", "model": "m", "price": {"input": 1, "output": 1}}
    scored = {"profile": "custom", "scorer": "judge", "judge": judge, "llm": llm, "students": PROMPTED[:1]}
    return WRITTEN | scored


def test_answers_that_people_graded_are_calls_of_the_judge(talk: Any) -> None:
    rows = [{"said": f"say {n}", "reply": "Well.", "marks": 1 + n % 5} for n in range(30)]
    file = talk.folder / "judged.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    named = {"answer": "reply", "grade": "marks"}
    without_judge = judged_task(grades=5)
    without = make_plan(talk.change(**without_judge))
    plan = make_plan(talk.change(**judged_task(human="judged.jsonl", **named)))
    assert plan.llm_calls == without.llm_calls + 30
    assert plan.llm_cost is not None and without.llm_cost is not None
    alone = make_plan(talk.change(**WRITTEN | {"llm": without_judge["llm"], "students": PROMPTED[:1]}))
    assert alone.llm_cost is not None
    answer, verdict = alone.llm_cost / alone.llm_calls, (plan.llm_cost - without.llm_cost) / 30
    assert verdict > answer + VERDICT_TOKENS / 1e6  # it reads a rubric and two answers more, and may write so much
    assert plan.warnings == ()
    assert [item.what for item in plan.downloads][:2] == ["train data", "answers that people graded"]
    remote = make_plan(talk.change(**judged_task(human="https://data.example/judged.jsonl", **named)))
    assert remote.llm_calls == without.llm_calls + 200
    assert any("200 are assumed" in line for line in remote.warnings)


def test_faults_of_answers_that_people_graded_are_found_by_the_plan(talk: Any) -> None:
    (talk.folder / "judged.csv").write_text("said,answer,grade\na,b,9\nc,,1\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        make_plan(talk.change(**judged_task(human="judged.csv")))
    assert "judged.csv:2: no grade" in str(caught.value)
    assert "judged.csv:3: an empty answer" in str(caught.value)
    with pytest.raises(DataError, match="did you mean 'grade' for 'grades'"):
        make_plan(talk.change(**judged_task(human="judged.csv", grade="grades")))
    task = judged_task(human="gone.csv")
    with pytest.raises(SourceError) as missing:
        make_plan(talk.change(**task | {"data": task["data"] | {"test": "gone-too.jsonl"}}))
    assert "gone-too.jsonl; judge.human: there is no" in str(missing.value)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        (
            {"kind": "tag", "data": {"train": "rows.jsonl", "input": "text", "output": "spans"}},
            ["train-all-MiniLM-L6-v2/head", "export-all-MiniLM-L6-v2/head", "measure-all-MiniLM-L6-v2/head"],
        ),
        (
            {
                "kind": "rank",
                "data": {"train": "rows.jsonl", "input": ["text", "found.texts"], "output": "found.grades"},
            },
            ["train-bm25", "export-bm25", "measure-bm25"],
        ),
    ],
)
def test_other_kinds_are_planned_too(tickets: Any, fields: dict[str, Any], steps: list[str]) -> None:
    rows = [
        {"text": f"word{n} here", "spans": [[0, 4, "w"]], "found": {"texts": ["one text", "two"], "grades": [0, 1]}}
        for n in range(100)
    ]
    (tickets.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plan = make_plan(tickets.change(**fields, students="auto"))
    assert [step.name for step in plan.steps][2:5] == steps
    assert all(step.seconds is not None for step in plan.steps)
