"""How long an answer may be: counted in train, one number for students and LLM, kept in the bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from locum.bundle.student import open_bundle
from locum.bundle.task import read_task
from locum.core.errors import SourceError
from locum.evaluate.llm import decoding_hash
from locum.models.pico import pico_base
from locum.pipeline import answer_limit
from locum.pipeline.answer_limit import guess_limit, limit_answers, long_of
from locum.pipeline.build import build
from locum.pipeline.ladder import decide_ladder
from locum.pipeline.plan import make_plan
from locum.pipeline.prepare import prepare_data
from locum.pipeline.steps import StepCache
from locum.pipeline.workspace import Workspace
from locum.pipeline.workspace import read_task as read_task_file
from locum.schema.candidate import Candidate
from locum.schema.task import Task
from locum.students.writing import ask
from locum.tasks import open_kind
from locum.tasks.extract import Extract
from locum.tasks.maths import Maths
from locum.tasks.written import Written
from locum.testing.pico_gguf import pico_gguf

LONG = "a good deal longer than the others are"
FIELDS: dict[str, Any] = {
    "kind": "generate",
    "profile": "translate",
    "instruction": "Say it in French.",
    "data": {"train": "talk.jsonl", "input": "said", "output": "reply", "max_held_out": 20},
    "students": [{"base": "./pico.gguf", "method": "prompt"}],
    "generation": {"search_calls": 0, "context": 2048},
    "guarantee": {"kind": "selective", "max_error": 0.2, "confidence": 0.9},
}


@pytest.fixture
def talk(tickets: Any) -> Any:
    """150 rows: right answers of ten characters, and three of 38."""
    rows = [
        {"said": f"number {n} of the rows that are here", "reply": LONG if n % 50 == 49 else f"{n:>3} répond"}
        for n in range(150)
    ]
    (tickets.folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pico_gguf(tickets.folder / "pico.gguf", n_ctx=2048)
    return tickets


def written_by(talk: Any) -> dict[str, Any]:
    return {"students": [{"base": str(talk.folder / "pico.gguf"), "method": "prompt"}]}


def workspace(talk: Any, out: Path, **fields: Any) -> Workspace:
    path = talk.change(**FIELDS | fields)
    task, text = read_task_file(path)
    return Workspace(task, text, path.parent, out, StepCache(out / "work"), 1)


CHECKED = json.dumps({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})


@pytest.mark.parametrize(
    ("taught", "reason"),
    [
        (0, "no training row says what to write, so there is nothing to learn from"),
        (5, "of the 10 training rows that are needed say what to write, so there is nothing to learn from"),
        (150, None),
    ],
)
def test_a_student_that_the_rows_teach_nothing_is_ruled_out_before_the_climb(
    talk: Any, tmp_path: Path, taught: int, reason: str | None
) -> None:
    rows = [{"said": f"say {n} of it", "reply": "Well." if n < taught else CHECKED} for n in range(150)]
    (talk.folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = str(talk.folder / "pico.gguf")
    students = [{"base": base, "method": method} for method in ("prompt", "lora")]
    work = workspace(talk, tmp_path / "out", profile="chat", students=students)
    data, card = prepare_data(work)
    _, ladder = decide_ladder(work, data, card)
    assert ladder[0].skipped is None
    assert (ladder[1].skipped or "").endswith(reason or "")
    assert (ladder[1].skipped is None) == (reason is None)
    assert [each.skipped is None for each in make_plan(talk.task).ladder] == [True, reason is None]


def candidate(base: str, method: Any = "prompt", skipped: str | None = None) -> Candidate:
    return Candidate(name=f"{base}/{method}", family="decoder", base=base, method=method, skipped=skipped)


def limited(work: Workspace, *ladder: Candidate) -> Workspace:
    data, _ = prepare_data(work)
    return limit_answers(work, data, ladder)


def test_a_long_answer_is_as_long_as_99_in_100() -> None:
    assert long_of([7]) == 7
    assert long_of(range(1, 101)) == 99
    assert long_of([*range(1, 102)]) == 100


@pytest.mark.engines
def test_tokens_are_counted_by_the_engine_that_will_write(talk: Any, tmp_path: Path) -> None:
    work = limited(workspace(talk, tmp_path), candidate("./pico.gguf"))
    assert work.answers is not None
    assert work.answers.source == "train" and work.answers.tokenizers == ("./pico.gguf",)
    assert work.answers.long_tokens == len(LONG)  # a byte, a token
    assert work.task.generation.max_tokens == work.answers.max_tokens == 48 + 8
    assert "at most 38" in work.answers.why


def test_the_longest_tokenizer_counts_and_what_cannot_be_had_does_not(talk: Any, tmp_path: Path) -> None:
    work = workspace(talk, tmp_path)
    for name, words in (("spelled", []), ("known", ["répond", *LONG.split()])):
        pico_base(talk.folder / name, words, "llama")
    ladder = [candidate(f"./{name}", "full") for name in ("spelled", "known")]
    both = limited(work, *ladder, candidate("./gone", "full"), candidate("./absent", "full", skipped="too large"))
    known = limited(work, ladder[1])
    assert both.answers is not None and known.answers is not None
    assert both.answers.tokenizers == ("./known", "./spelled")
    assert both.answers.long_tokens == max(
        each.answers.long_tokens or 0 for each in (known, limited(work, ladder[0])) if each.answers
    )


def test_an_explicit_number_wins_and_nothing_is_counted(
    talk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_limit, "ensure_base", None)
    work = limited(workspace(talk, tmp_path, generation={"max_tokens": 7}), candidate("./pico.gguf"))
    assert work.answers is not None
    assert (work.answers.max_tokens, work.answers.source) == (7, "task")


def test_where_nothing_can_be_counted_the_kinds_own_number_holds(
    talk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Path:
        raise SourceError("source-offline", "it is not here")

    monkeypatch.setattr(answer_limit, "ensure_base", gone)
    work = limited(workspace(talk, tmp_path), candidate("./pico.gguf"))
    assert work.answers is not None
    assert (work.answers.max_tokens, work.answers.source) == (256, "kind")


def test_kinds_that_write_nothing_have_no_limit(tickets: Any, tmp_path: Path) -> None:
    task, text = read_task_file(tickets.task)
    work = Workspace(task, text, tickets.folder, tmp_path, StepCache(tmp_path / "work"), 1)
    assert limited(work, candidate("./pico.gguf")) is work


def kind(form: str, **generation: Any) -> Written:
    top: dict[str, Any] = (
        {"kind": "extract", "answer_schema": {"type": "object"}}
        if form == "extract"
        else {
            "kind": "generate",
            "profile": form,
        }
    )
    fields = {"version": 1, "name": "t", "instruction": "Do it.", "data": FIELDS["data"], "generation": generation}
    opened = open_kind(Task.model_validate(fields | top))
    assert isinstance(opened, Written)
    return opened


@pytest.mark.parametrize(
    ("form", "long", "most"),
    [
        ("summarise", 100, 133),
        ("summarise", 1, 16),
        ("qa", 200, 258),  # longer than the kind's own 48
        ("extract", 100, 208),  # an LLM lays JSON out over lines
        ("maths", 2, Maths.tokens),  # the number alone is given, the working is not
        ("maths", 400, 508),
        ("summarise", 5000, 1024),  # half of the context is the prompt's
    ],
)
def test_the_room_that_a_kind_leaves(form: str, long: int, most: int) -> None:
    assert kind(form).allowed_tokens(long) == most


def test_the_room_is_never_more_than_half_of_the_context() -> None:
    assert kind("maths", context=256).allowed_tokens(2) == 128


def test_a_plan_guesses_and_says_so(talk: Any) -> None:
    plan = make_plan(talk.change(**FIELDS | written_by(talk)))
    assert plan.answers is not None
    assert plan.answers.long_tokens == round(len(LONG) / 4.4) and plan.answers.tokenizers == ()
    assert "at most about 9" in plan.answers.why
    assert "answers" in [step.name for step in plan.steps]
    explicit = make_plan(talk.change(**FIELDS | written_by(talk) | {"generation": {"max_tokens": 7}}))
    assert explicit.answers is not None and explicit.answers.why == "as the task file says"
    assert "answers" not in [step.name for step in explicit.steps]
    task, _ = read_task_file(talk.task)
    assert guess_limit(task.model_copy(update={"generation": task.generation}), None).max_tokens == 7


def test_the_limit_is_part_of_how_an_answer_is_decoded(talk: Any) -> None:
    task, _ = read_task_file(talk.change(**FIELDS))
    kinds = [open_kind(task.with_answers_of(tokens)) for tokens in (None, 20, 30)]
    assert len({decoding_hash(each) for each in kinds}) == 3
    assert ask(kinds[1], "a").max_tokens == 20
    assert isinstance(kind("extract"), Extract) and kind("extract").decoding.max_tokens == Extract.tokens


@pytest.mark.engines
def test_a_bundle_answers_with_the_limit_it_was_measured_with(talk: Any, tmp_path: Path) -> None:
    run = build(talk.change(**FIELDS | written_by(talk)), out=tmp_path / "out", offline=True)
    assert run.report.answers is not None
    most = run.report.answers.max_tokens
    task = read_task(run.bundle)
    assert (most, task.generation.max_tokens) == (56, 56)
    with open_bundle(run.bundle) as student:
        assert student.task.generation.max_tokens == most
        assert student.certificate.hashes["decoding"] == decoding_hash(open_kind(task))
    assert "It may have 56 tokens" in (run.bundle / "report.html").read_text(encoding="utf-8")
    assert "at most 56 tokens" in (run.bundle / "README.md").read_text(encoding="utf-8")
