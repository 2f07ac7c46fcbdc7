"""Drafts on a split: kept, scored, and made sure of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import ModelFileError
from locum.evaluate.answers import Answers, answer_rows, answer_timed, right
from locum.evaluate.metrics import scored_evaluation
from locum.evaluate.predictions import ids_hash
from locum.runtime.completion import CompletionRequest
from locum.runtime.fake import FakeGenerator, fake_spec
from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.schema.taskfile import parse_task
from locum.stats.rowwise import Coded, Mean
from locum.students.confidence import fit_confidence
from locum.students.protocol import Draft
from locum.students.writing import WritingStudent
from locum.tasks import open_kind

TASK = parse_task("""\
version: 1
name: q
kind: generate
profile: qa
instruction: Answer.
data: {train: t.jsonl, input: text, output: answer}
""")
KIND = open_kind(TASK)
ROWS = [Row(id=f"r{n}", input=f"{'long ' * (n % 3)}question {n}", output=f"answer {n}") for n in range(40)]


def answers(split: str = "dev") -> Answers:
    """Right on even rows, and surer there; row 7 has no answer."""
    drafts = [
        Draft(None if n == 7 else f"answer {n if n % 2 == 0 else 0}", {"sure": float(n % 2 == 0) + 0.01 * n})
        for n in range(40)
    ]
    return Answers("m", split, ids_hash(ROWS), tuple(drafts))  # pyright: ignore[reportArgumentType]


def test_answers_are_made_shortest_first_and_kept_in_the_rows_order(tmp_path: Path) -> None:
    generator = FakeGenerator(
        lambda request: request.messages[-1].content.replace("question", "answer").split("long ")[-1]
    )
    prompt = Prompt(instruction="Answer.")
    drafter = WritingStudent(fake_spec(()), generator, KIND, prompt, concurrency=1)
    made = answer_rows(drafter, ROWS, "test")
    assert made.outputs == [row.output for row in ROWS]
    asked = [len(request.messages[-1].content) for request in generator.requests]
    assert asked == sorted(asked)
    made.save(tmp_path / "test.jsonl")
    again = Answers.load(tmp_path / "test.jsonl")
    assert again == made or (again.drafts, again.ids_hash) == (made.drafts, made.ids_hash)


def test_the_rate_of_answers_is_that_of_the_split() -> None:
    drafter = WritingStudent(
        fake_spec(()),
        FakeGenerator(lambda _: "yes", latency_s=0.01),
        KIND,
        Prompt(instruction="Answer."),
        concurrency=1,
    )
    made, answers_per_s = answer_timed(drafter, ROWS[:5], "test")
    assert made.outputs == 5 * ["yes"]
    assert 10 < answers_per_s < 100


def test_scored_answers_know_what_is_right_and_how_sure() -> None:
    made = answers()
    model = made.fit_confidence(KIND, ROWS)
    scored = made.scored(KIND, ROWS, model)
    assert scored.correct.tolist() == [n % 2 == 0 for n in range(40)]
    assert scored.score("accuracy") == 0.5
    assert 0.5 < scored.score("f1") < 1  # "answer" alone is half of it
    assert np.isnan(scored.confidence[7])
    others = np.delete(np.arange(40), 7)
    assert (
        scored.confidence[others][scored.correct[others]].min()
        > scored.confidence[others][~scored.correct[others]].max()
    )


def test_wrong_answers_come_the_surest_first_and_none_is_made_up() -> None:
    made = answers()
    scored = made.scored(KIND, ROWS, made.fit_confidence(KIND, ROWS))
    wrong = made.wrong(scored, ROWS, limit=5)
    assert [example.confidence for example in wrong] == sorted((e.confidence for e in wrong), reverse=True)
    assert "r7" not in {example.id for example in made.wrong(scored, ROWS, limit=100)}
    assert wrong[0].gold != wrong[0].predicted


def test_the_confidence_is_fitted_on_dev_alone_and_rows_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="on dev"):
        answers("test").fit_confidence(KIND, ROWS)
    with pytest.raises(ValueError, match="another split"):
        answers().fit_confidence(KIND, ROWS[::-1])


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not json\n", b'{"model":"m","split":"dev","ids_hash":"x"}\n{"huh":1}\n']
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dev.jsonl").write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        Answers.load(tmp_path / "dev.jsonl")
    assert caught.value.code == "evaluate-predictions"
    with pytest.raises(ModelFileError):
        Answers.load(tmp_path / "absent.jsonl")


def test_a_kind_must_score_accuracy_row_by_row() -> None:
    assert right({"accuracy": Mean(np.array([1.0, 0.0]))}).tolist() == [True, False]
    with pytest.raises(TypeError):
        right({"accuracy": Coded(lambda rows: rows.mean(axis=-1), 2)})


def test_fields_are_fitted_scored_and_kept(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    task = TASK.model_copy(update={"kind": "extract", "profile": None, "answer_schema": schema, "metric": "field_f1"})
    kind = open_kind(task)
    rows = [Row(id=f"r{n}", input=f"{n}", output=f'{{"city":"Rome","days":{n}}}') for n in range(40)]
    drafts = [
        Draft(
            f'{{"city":"Rome","days":{n if n % 2 else 99}}}',
            {"sure": 0.0},
            fields={"city": {"logprob_mean": -0.1}, "days": {"logprob_mean": -0.1 if n % 2 else -3.0}},
        )
        for n in range(40)
    ]
    drafts[5] = Draft(None)
    made = Answers("m", "dev", ids_hash(rows), tuple(drafts))
    made.save(tmp_path / "dev.jsonl")
    made = Answers.load(tmp_path / "dev.jsonl")
    model = made.fit_confidence(kind, rows)
    assert model.fields is not None
    assert model.fields.rows == 78
    scored = made.scored(kind, rows, model)
    assert scored.fields is not None
    sure, right_ones = scored.fields
    assert right_ones.sum() == 58  # every city, and odd days but the fifth
    assert sure[right_ones].min() > sure[~right_ones].max()
    found = scored_evaluation(
        "m", "dev", scored.metrics, scored.n, confidence=scored.confidence, correct=scored.correct, fields=scored.fields
    ).field_calibration
    assert found is not None
    assert found.auroc == 1.0
    assert found.ece < 0.1


def test_sampled_programs_are_kept_and_scored_for_code_alone(tmp_path: Path) -> None:
    def reply(request: CompletionRequest) -> str:
        if request.temperature == 0:
            return ""  # no answer, and its samples are drawn all the same
        return f"    return {request.seed}"

    task = TASK.model_copy(update={"profile": "code", "metric": "accuracy"})
    gold = json.dumps({"test": "def check(one):\n    assert one() == 1", "entry_point": "one"})
    rows = [Row(id="r", input='def one():\n    """One."""', output=gold)]
    prompt = Prompt(instruction="Write it.")
    kind = open_kind(task, (), prompt)
    made = answer_rows(WritingStudent(fake_spec(()), FakeGenerator(reply), kind, prompt, samples=5), rows, "test")
    made.save(tmp_path / "test.jsonl")
    made = Answers.load(tmp_path / "test.jsonl")
    assert made.outputs == [None]
    assert [len(draft.samples) for draft in made.drafts] == [5]
    scored = made.scored(kind, rows, fit_confidence((), np.empty(0, dtype=bool)))
    assert {name: scored.score(name) for name in scored.metrics} == pytest.approx(
        {"accuracy": 0.0, "pass_at_1": 0.2, "pass_at_5": 1.0}
    )
    other = WritingStudent(fake_spec(()), FakeGenerator(["fine"] * 6), KIND, prompt, samples=5)
    assert [draft.samples for draft in answer_rows(other, ROWS[:1], "test").drafts] == [()]
