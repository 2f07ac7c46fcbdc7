"""A task file of every kind is read; what does not go together is refused with its line and the reason."""

from __future__ import annotations

from typing import get_args

import pytest

from locum.core.errors import TaskFileError
from locum.schema.kinds import CORRECT_AT, METRICS, Method
from locum.schema.taskfile import parse_task

SCHEMA = "answer_schema: {type: object, properties: {name: {type: string}}, required: [name]}\n"
BETWEEN = {"extract": SCHEMA, "custom": "scorer: exact\n"}


def text(form: str, *, between: str | None = None, inputs: str = "text", outputs: str = "answer", end: str = "") -> str:
    whole = form in ("classify", "tag", "extract", "rank")
    kind = f"kind: {form}\n" if whole else f"kind: generate\nprofile: {form}\n"
    columns = "[query, candidates]" if form == "rank" and inputs == "text" else inputs
    return (
        f"version: 1\nname: toy\n{kind}{BETWEEN.get(form, '') if between is None else between}"
        f"instruction: Do it.\ndata:\n  train: train.jsonl\n  input: {columns}\n  output: {outputs}\n{end}"
    )


def faults(source: str) -> str:
    with pytest.raises(TaskFileError) as caught:
        parse_task(source, "task.yaml")
    assert caught.value.code == "task-invalid"
    return str(caught.value)


@pytest.mark.parametrize("form", METRICS)
def test_a_task_file_of_every_kind_is_read(form: str) -> None:
    task = parse_task(text(form))
    assert task.form == form
    assert task.metric == METRICS[form][0]
    assert task.correct_at == CORRECT_AT.get(form, 1.0)
    assert task.duplicates == ("near" if form == "classify" else "exact")
    for metric in METRICS[form]:
        assert parse_task(text(form, end=f"target: {{metric: {metric}}}\n")).metric == metric


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (text("qa").replace("profile: qa\n", ""), "profile: profile is for kind: generate, which needs one"),
        (text("tag", between="profile: qa\n"), "task.yaml:4: profile: profile is for kind: generate"),
        (text("qa").replace("qa", "qaa"), "task.yaml:4: profile: must be 'qa', 'maths'"),
        (text("extract", between=""), "answer_schema: answer_schema is for kind: extract, which needs one"),
        (text("classify", between=SCHEMA), "task.yaml:4: answer_schema: answer_schema is for kind: extract"),
        (text("custom", between=""), "scorer: scorer is for profile: custom, which needs one"),
        (text("chat", between="scorer: judge\n"), "task.yaml:5: scorer: scorer is for profile: custom"),
        (text("tag", inputs="[a, b]"), "task.yaml:5: data: input is one column for kind: tag"),
        (text("rank", inputs="query"), "task.yaml:5: data: input is two columns for kind: rank"),
        (text("rank", outputs="[a, b]"), "task.yaml:5: data: output is one column for kind: rank"),
        (text("classify", outputs="[a, b]"), "task.yaml:5: data: output is one column for kind: classify"),
        (text("qa", end="target: {metric: bleu}\n"), "task.yaml:10: target: target.metric 'bleu' is none of f1"),
        (text("qa", end="target: {metric: blue}\n"), "task.yaml:10: target.metric: must be one of"),
        (text("maths", end="target: {correct_at: 0.5}\n"), "task.yaml:10: target: target.correct_at is for graded"),
        (text("qa", end="target: {correct_at: 0}\n"), "task.yaml:10: target.correct_at: must be greater than 0"),
        (text("custom", between="scorer: judge\n"), "llm: scorer: judge asks the LLM, so llm must be given"),
        (text("qa", end="generation: {max_tokens: 0}\n"), "task.yaml:10: generation.max_tokens: must be greater"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_line_and_the_reason(source: str, expected: str) -> None:
    assert expected in faults(source)


KINDS: dict[str, tuple[str, ...]] = {
    "classify": ("linear", "head", "full", "lora", "dora", "prompt", "few_shot"),
    "tag": ("head", "full", "lora", "dora", "prompt", "few_shot"),
    "rank": ("linear", "head", "full", "prompt", "few_shot"),
    "extract": ("full", "lora", "dora", "prompt", "few_shot"),
    "qa": ("full", "lora", "dora", "prompt", "few_shot"),
}


def students(*listed: str) -> str:
    return "students:\n" + "".join(f"  - {{{each}}}\n" for each in listed)


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("method", get_args(Method))
def test_each_kind_takes_the_methods_that_make_it(form: str, method: str) -> None:
    source = text(form, end=students("method: linear" if method == "linear" else f"base: b, method: {method}"))
    if method in KINDS[form]:
        assert parse_task(source).students != "auto"
        return
    line = source.count("\n")
    kind = "generate" if form == "qa" else form
    message = faults(source)
    assert f"task.yaml:{line}: students.0.method: no method for kind: {kind}; use one of " in message
    assert message.endswith("[task-invalid]") and f"(got '{method}')" in message
    assert all(known in message.partition("use one of ")[2] for known in KINDS[form])


def test_students_that_their_kind_cannot_be_are_told_together_each_with_its_line() -> None:
    written = students(
        "base: b, method: head", "base: b, method: full, depth: 6", "method: linear", "base: b, method: lora"
    )
    message = faults(text("qa", end=written))
    assert message.startswith("3 faults in task.yaml")
    assert "task.yaml:11: students.0.method: no method for kind: generate" in message
    assert "task.yaml:12: students.1.depth: a student that writes keeps all layers of its base" in message
    assert "task.yaml:13: students.2.method: no method for kind: generate" in message


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ("base: b, method: prompt, depth: 6", "depth is for bases that are trained, and method prompt trains none"),
        ("base: b, method: few_shot, depth: 6", "depth is for bases that are trained, and method few_shot trains none"),
        ("method: linear, depth: 6", "depth is for bases that are trained, and method linear trains none"),
    ],
)
def test_layers_are_kept_of_what_is_trained_alone(student: str, told: str) -> None:
    assert f"task.yaml:10: students.0: {told}: leave it out" in faults(text("rank", end=students(student)))
    assert parse_task(text("rank", end=students("base: b, method: full, depth: 6"))).students != "auto"


@pytest.mark.parametrize(
    ("form", "student", "told"),
    [
        ("qa", "base: b, method: prompt, train_layers: 6", "train_layers is for methods that tune what writes"),
        ("tag", "base: b, method: full, train_layers: 6", "it is for students that write (extract, generate)"),
    ],
)
def test_layers_learn_in_what_is_tuned_to_write_alone(form: str, student: str, told: str) -> None:
    assert told in faults(text(form, end=students(student)))
    tuned = parse_task(text("qa", end=students("base: b, method: dora, train_layers: 6"))).students
    assert [spec.train_layers for spec in tuned if spec != "auto"] == [6]


def test_a_fault_in_the_kind_is_not_told_again_for_what_hangs_on_it() -> None:
    message = faults(text("extract").replace("kind: extract", "kind: extrakt"))
    assert message.startswith("1 fault in task.yaml\n  task.yaml:3: kind: must be")


def test_a_judge_is_the_tasks_llm() -> None:
    task = parse_task(text("custom", between="scorer: judge\n", end="llm: {model: judge.gguf}\n"))
    assert (task.scorer, task.llm and task.llm.model) == ("judge", "judge.gguf")


JUDGED = "scorer: judge\nllm: {model: judge.gguf}\n"


def test_a_judge_goes_by_its_own_criterion_and_grades_and_may_be_compared_with_people() -> None:
    plain = parse_task(text("custom", between=JUDGED))
    assert plain.judge is None
    assert plain.judged is not None
    assert (plain.judged.grades, plain.judged.human) == (5, None)
    assert plain.judged.criterion.startswith("Does the answer do what the task asks")
    human = '[judged.csv, "https://x.example/j.csv"]'
    own = f'judge: {{criterion: " Is it kind? ", grades: 2, human: {human}, reference: gold}}\n'
    task = parse_task(text("custom", between=JUDGED + own))
    assert task.judged is not None
    assert (task.judged.criterion, task.judged.grades, task.judged.answer) == ("Is it kind?", 2, "answer")
    assert task.judged.human == ("judged.csv", "https://x.example/j.csv")
    assert parse_task(text("custom")).judged is None  # a scorer of another name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (text("custom", between="scorer: exact\njudge: {grades: 2}\n"), "judge is for scorer: judge, which"),
        (
            text("qa", end="judge: {grades: 2}\n"),
            "task.yaml:10: judge: judge is for scorer: judge, which",
        ),
        (
            text("custom", between=JUDGED, end="judge: {grades: 1}\n"),
            "judge.grades: must be greater than or equal to 2",
        ),
        (
            text("custom", between=JUDGED, end='judge: {criterion: " "}\n'),
            "judge.criterion: String should have at least 1",
        ),
        (text("custom", between=JUDGED, end="judge: {creterion: x}\n"), "did you mean 'criterion'?"),
        (text("custom", between=JUDGED, end="judge: {grade: points}\n"), "grade: for answers that people graded, and"),
        (
            text("custom", between=JUDGED, end="judge: {human: j.csv, answer: x, grade: x}\n"),
            "columns of their own, and two are the same",
        ),
        (
            text("custom", between=JUDGED, end="judge: {human: j.csv, answer: text}\n"),
            "data: the input 'text' is also named under judge",
        ),
        (
            text("custom", between=JUDGED, end="judge: {human: j.csv, sha256: abc}\n"),
            "judge.sha256: String should match",
        ),
    ],
)
def test_faults_of_a_judge_are_told_with_their_line(source: str, expected: str) -> None:
    assert expected in faults(source)


def test_faults_of_a_judge_are_told_with_all_others() -> None:
    message = faults(text("custom", between=JUDGED, end="judge: {grades: 1, human: 3}\ntarget: {metric: blue}\n"))
    assert message.startswith("3 faults")
    assert "task.yaml:12: judge.grades" in message


def test_several_outputs_and_inputs_are_fine_where_answers_are_written() -> None:
    task = parse_task(text("code", inputs="[head, doc]", outputs="[canonical_solution, test, entry_point]"))
    assert task.data.output == ("canonical_solution", "test", "entry_point")
    assert task.data.input == ("head", "doc")
