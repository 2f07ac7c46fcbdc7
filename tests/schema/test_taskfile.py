"""The task file: every fault at once, each with its line; nothing ignored, no secret accepted or repeated."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from locum.core.errors import TaskFileError
from locum.schema.taskfile import parse_task

GOOD = """\
version: 1
name: banking77
kind: classify
instruction: Which banking intent does the message express?
data:
  train: train.csv
  input: text
  output: category
"""


def faults(text: str) -> str:
    with pytest.raises(TaskFileError) as caught:
        parse_task(text, "task.yaml")
    return str(caught.value)


def test_the_smallest_file_is_enough_and_defaults_are_those_documented() -> None:
    task = parse_task(GOOD)
    assert task.guarantee.kind == "selective"
    assert (task.guarantee.max_error, task.guarantee.confidence) == (0.05, 0.95)
    assert (task.metric, task.target.at_least, task.students, task.budget.build_minutes) == (
        "accuracy",
        None,
        "auto",
        15,
    )


def test_everything_of_the_design_is_accepted() -> None:
    text = GOOD + (
        "target: {metric: accuracy, at_least: 0.93}\n"
        "budget: {memory_mb: 300, latency_ms: 50, build_minutes: 15, device: this}\n"
        "students:\n  - {method: linear}\n  - {base: all-MiniLM-L6-v2, method: full}\n"
        "llm: {base_url: 'https://api.example/v1', model: big, api_key_env: KEY, price: {input: 0.15, output: 0.6}}\n"
        "guarantee: {kind: regret, max_error: 0.02, confidence: 0.9}\n"
    )
    task = parse_task(text)
    assert task.llm is not None
    assert task.llm.price is not None
    assert task.llm.price.output == 0.6
    assert task.students != "auto"
    assert [student.method for student in task.students] == ["linear", "full"]


def test_fault_18_unknown_keys_are_errors_with_the_nearest_name_and_line() -> None:
    message = faults(GOOD.replace("input: text", "inptu: text") + "budgte: {}\n")
    assert "task.yaml:7: data.inptu: unknown key 'inptu'; did you mean 'input'?" in message
    assert "task.yaml:9: budgte: unknown key 'budgte'; did you mean 'budget'?" in message


def test_fault_18_a_key_like_no_other_lists_what_is_known() -> None:
    message = faults(GOOD + "target: {zzzzzz: 1}\n")
    assert "known here: metric, correct_at, at_least" in message


def test_fault_20_all_faults_are_reported_together() -> None:
    text = GOOD.replace("kind: classify", "kind: clasify") + (
        "target: {metric: acc, at_least: 1.5}\n"
        "budget: {memory_mb: -3}\n"
        "guarantee: {confidence: 0.2}\n"
        "students:\n  - {base: x, method: linear}\n"
    )
    message = faults(text)
    assert message.startswith("6 faults in task.yaml")
    for place in (":3: kind", ":9: target.at_least", ":9: target.metric", ":10: budget", ":11: guarantee", ":13: stud"):
        assert f"task.yaml{place}" in message


def test_fault_20_a_conflict_between_fields_is_a_fault() -> None:
    assert "guarantee.kind: regret compares with the LLM" in faults(GOOD + "guarantee: {kind: regret}\n")


@pytest.mark.parametrize(
    "line",
    [
        "llm: {base_url: 'https://x/v1', model: m, api_key: sk-THISISAPLANTEDSECRET}",
        "llm: {base_url: 'https://x/v1', model: m, api_key_env: sk-THISISAPLANTEDSECRET}",
        "llm: {base_url: 'https://me:THISISAPLANTEDSECRET@x/v1', model: m}",
        "instruct: 'use Bearer THISISAPLANTEDSECRET'",
    ],
)
def test_fault_22_a_secret_is_refused_and_never_repeated(line: str) -> None:
    message = faults(GOOD + line + "\n")
    assert "a secret must not stand in a task file" in message
    assert "THISISAPLANTEDSECRET" not in message


def test_fault_22_only_one_fault_for_the_line_with_the_secret() -> None:
    assert faults(GOOD + "llm: {base_url: 'https://x/v1', model: m, api_key: sk-aaaaaaaaaaaaaaaaaaaa}\n").startswith(
        "1 fault "
    )


def test_fault_19_an_anchor_bomb_is_refused_quickly() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "task-too-large" in faults(bomb)


def test_fault_19_deep_nesting_and_recursive_anchors_are_refused() -> None:
    assert "task-too-large" in faults("a: " + "[" * 60 + "]" * 60)
    assert "task-too-large" in faults("a: &a [*a]")


def test_fault_19_a_python_tag_is_refused() -> None:
    assert "tag" in faults(GOOD + "seed: !!python/name:os.system ''\n")


def test_fault_19_a_huge_file_is_refused() -> None:
    assert "task-too-large" in faults("# " + "x" * 300_000)


HARD_TEXTS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{n}: &{n} [{','.join(['*' + o] * 10)}]\n" for o, n in zip("abcdefghijkl", "bcdefghijklm", strict=True)),
    "merged": "a: &a {x: 1}\n" + "".join(f"k{n}: &k{n} {{<<: *a, y{n}: *a}}\n" for n in range(9_000)),
    "lists": "a: " + "[" * 120_000,
    "closed lists": "a: " + "[" * 100_000 + "]" * 100_000,
    "objects": '{"a":' * 40_000,
    "dashes": "- " * 100_000 + "a",
    "keys": "? " * 100_000 + "a",
    "one word": "a: " + "x" * 260_000,
}


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS.keys())
def test_fault_19_hard_texts_take_bounded_time_and_memory_and_are_faults_of_the_task(text: str) -> None:
    tracemalloc.start()
    started_s = time.process_time()
    assert faults(text)  # a TaskFileError, and so never a recursion error
    seconds, peak_bytes = time.process_time() - started_s, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 15
    assert peak_bytes < 64 << 20


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [{path}]",
        "!!python/object/new:os.mkdir [{path}]",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{path}]]",
        "!!python/module:made_by_a_task_file",
        "!!python/name:made_by_a_task_file.value",
    ],
)
def test_fault_19_nothing_is_constructed_from_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    made = tmp_path / "made"
    (tmp_path / "made_by_a_task_file.py").write_text(
        f"import pathlib\npathlib.Path({str(made)!r}).touch()\nvalue = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "tag" in faults(GOOD + f"seed: {value.format(path=made)}\n")
    assert faults(GOOD + f"? {value.format(path=made)}\n: 1\n")
    assert not made.exists() and "made_by_a_task_file" not in sys.modules


def test_fault_23_versions() -> None:
    assert "version 2 is newer than this Locum reads" in faults(GOOD.replace("version: 1", "version: 2"))
    assert "older than any" in faults(GOOD.replace("version: 1", "version: 0"))
    assert "task.yaml:1: version: is required" in faults(GOOD.replace("version: 1\n", ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("- 1\n", "is a mapping"),
        ("a: [1\nb: 2", "not valid YAML"),
        ("a: 1\na: 2\n", "the key stands twice"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_text_that_is_no_task_file(text: str, expected: str) -> None:
    assert expected in faults(text)


def test_equal_tasks_have_equal_hashes_whatever_the_order_of_keys() -> None:
    lines = GOOD.splitlines()
    swapped = "\n".join([lines[1], lines[0], *lines[2:]])
    assert parse_task(swapped).hash() == parse_task(GOOD).hash()
    assert parse_task(GOOD + "seed: 1\n").hash() != parse_task(GOOD).hash()


def test_a_cap_on_the_cost_of_the_llm_needs_its_price() -> None:
    head = "llm: {base_url: 'https://api.example/v1', model: big, max_cost: 2.5"
    with pytest.raises(TaskFileError) as caught:
        parse_task(GOOD + head + "}\n")
    assert "give llm.price" in str(caught.value)
    task = parse_task(GOOD + head + ", price: {input: 1, output: 2}}\n")
    assert task.llm is not None
    assert task.llm.max_cost == 2.5
