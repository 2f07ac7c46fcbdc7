"""The key ``multitask`` of a task file: read with its defaults, and refused with line and reason where it cannot be."""

from __future__ import annotations

import pytest

from locum.core.errors import TaskFileError
from locum.schema.taskfile import parse_task

HEAD = "version: 1\nname: toy\nkind: {kind}\ninstruction: Do it.\ndata: {{train: t.jsonl, input: a, output: b}}\n"
CHAT = HEAD.format(kind="generate\nprofile: chat")  # six lines
OTHER = "multitask: {tasks: [other.yaml]}\n"
STUDENT = "{base: SmolLM2-135M-Instruct, method: %s}"


def faults(text: str) -> str:
    with pytest.raises(TaskFileError) as caught:
        parse_task(text)
    assert caught.value.code == "task-invalid"
    return str(caught.value)


def test_other_tasks_are_mixed_by_the_square_root_unless_the_file_says_otherwise() -> None:
    found = parse_task(CHAT + OTHER).multitask
    assert found is not None
    assert (found.tasks, found.mixing) == (("other.yaml",), 2.0)
    changed = parse_task(CHAT + "multitask: {tasks: [a.yaml, b], mixing: 1}\n").multitask
    assert changed is not None
    assert (changed.tasks, changed.mixing) == (("a.yaml", "b"), 1.0)
    assert parse_task(CHAT).multitask is None


@pytest.mark.parametrize("method", ["full", "lora", "dora"])
def test_a_student_named_by_hand_asks_for_it(method: str) -> None:
    alone, both = (STUDENT % method, STUDENT % f"{method}, multitask: true")
    task = parse_task(CHAT + OTHER + f"students: [{alone}, {both}]\n")
    assert [spec.multitask for spec in task.students if not isinstance(spec, str)] == [False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD.format(kind="classify") + OTHER, "task.yaml:6: multitask: multitask is for kinds that write (extract"),
        (CHAT + "multitask: {tasks: []}\n", "task.yaml:7: multitask.tasks: Tuple should have at least 1 item"),
        (CHAT + "multitask: {mixing: 2}\n", "task.yaml:7: multitask.tasks: is required"),
        (CHAT + "multitask: {tasks: [a.yaml], mixing: 0.5}\n", "multitask.mixing: must be greater than or equal to 1"),
        (CHAT + "multitask: {tasks: [a.yaml], mixin: 2}\n", "unknown key 'mixin'; did you mean 'mixing'?"),
        (CHAT + "together: {tasks: [a.yaml]}\n", "unknown key 'together'"),
        (CHAT + "multitask: {tasks: ['']}\n", "task.yaml:7: multitask.tasks.0"),
        (
            CHAT + "students:\n- " + STUDENT % "full, multitask: true" + "\n",
            "task.yaml:7: students: a student has multitask: true, and multitask.tasks names no other tasks",
        ),
        (
            CHAT + OTHER + "students:\n- " + STUDENT % "full" + "\n",
            "task.yaml:8: students: no student learns from the tasks under multitask",
        ),
        (
            CHAT + OTHER + "students:\n- " + STUDENT % "prompt, multitask: true" + "\n",
            "task.yaml:9: students.0: multitask is for methods that tune what writes: full, lora, dora",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_line_and_the_reason(text: str, expected: str) -> None:
    assert expected in faults(text)


def test_what_a_look_at_named_files_finds_is_told_with_the_files_own_faults() -> None:
    seen: list[object] = []

    def look(values: dict[str, object]) -> list[tuple[tuple[str | int, ...], str]]:
        seen.append(values["multitask"])
        return [(("multitask", "tasks", 1), "second is gone")]

    text = CHAT + "multitask:\n  tasks:\n  - first\n  - second\nseed: -1\n"
    with pytest.raises(TaskFileError) as caught:
        parse_task(text, "t.yaml", look)
    assert seen == [{"tasks": ["first", "second"]}]
    assert str(caught.value).startswith("2 faults in t.yaml")
    assert "t.yaml:10: multitask.tasks.1: second is gone" in str(caught.value)
    with pytest.raises(TaskFileError, match="second is gone"):
        parse_task(text.replace("seed: -1\n", ""), "t.yaml", look)
