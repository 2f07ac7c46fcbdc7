"""Code: programs put together from what a model wrote, and their tests run in the sandbox."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from task_toys import make_kind, make_row

from locum.core.sandbox import run_python
from locum.schema.data import Row
from locum.stats.rowwise import value
from locum.tasks import code as code_kind
from locum.tasks.code import as_body, read_gold, whole_program
from locum.tasks.protocol import Sampled

HEAD = 'from typing import List\n\ndef halve(x: int) -> int:\n    """Half of x."""'
BODY = "    for _ in range(1):\n        x = x // 2\n    return x"
WHOLE = f"def halve(x: int) -> int:\n{BODY}"
TEST = "def check(candidate):\n    assert candidate(4) == 2\n    assert candidate(9) == 4"
GOLD = json.dumps({"canonical_solution": BODY, "test": TEST, "entry_point": "halve"})
ROW = make_row(GOLD, HEAD)


def passes(completion: str, row: Row = ROW) -> bool:
    kind = make_kind("code")
    return value(kind.score([kind.parse(completion, row.input)], [row])["accuracy"]) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        BODY,
        BODY.strip(),
        "for _ in range(1):\n    x = x // 2\nreturn x",
        "    return x // 2\n\ndef other():\n    pass\n\nprint(other())",
        "    return x // 2\n\nThis halves x.".replace("\n\nThis", "\n# This"),
        WHOLE,
        f"Here:\n```python\n{WHOLE}\n```\nIt halves.",
        f"```\n{BODY}\n```",
        f"```python\n{HEAD}\n{BODY}\n```",
        f"<think>easy</think>\n{BODY}",
        "return x // 2",
    ],
)
def test_whatever_form_a_right_answer_has_it_passes(completion: str) -> None:
    assert passes(completion)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "    return x / 2",
        "I cannot write code.",
        "    return x // 2)",
        "    import os\n    os._exit(0)",
        "    while True: pass",
        "    raise SystemExit(0)",
    ],
)
def test_a_wrong_answer_does_not_pass(completion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_kind, "LIMITS", code_kind.LIMITS.__class__(wall_s=6.0, cpu_s=2))
    assert not passes(completion)


def test_the_answer_is_the_whole_program() -> None:
    kind = make_kind("code")
    assert kind.parse(BODY, HEAD) == f"{HEAD}\n{BODY}\n"
    assert kind.parse(WHOLE, HEAD) == f"{HEAD}\n\n\n{WHOLE}\n"
    assert kind.parse("print(1)", "Print one.") == "print(1)\n"
    assert kind.parse("```python\n\n```", HEAD) is None
    assert whole_program("def f(x):", "def f(x):\n  return x") == "def f(x):\n    pass\n\n\ndef f(x):\n  return x\n"


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("return 1", "    return 1"),
        ("if a:\n        b()\n    return c", "    if a:\n        b()\n    return c"),
        ("if a:\n    b()\nreturn c", "    if a:\n        b()\n    return c"),
        ("x = 1\n    return x", "    x = 1\n    return x"),
        ("x = 1\nreturn x", "    x = 1\n    return x"),
        ("\n\n    return 1\n\n", "    return 1"),
        ("", ""),
    ],
)
def test_a_body_gets_its_indentation_back(code: str, body: str) -> None:
    assert as_body(code) == body


def test_a_body_takes_the_indentation_of_its_head() -> None:
    head = 'def f(x):\n  """Two."""'
    assert whole_program(head, "return x") == f"{head}\n  return x\n"


def test_a_student_learns_the_body_and_nothing_where_no_solution_is_known() -> None:
    kind = make_kind("code")
    stripped = json.dumps({"canonical_solution": BODY.strip(), "test": TEST, "entry_point": "halve"})
    assert kind.target(make_row(stripped, HEAD)) == BODY
    assert kind.parse(kind.target(ROW) or "", HEAD) == f"{HEAD}\n{BODY}\n"
    assert kind.target(make_row(json.dumps({"test": TEST, "entry_point": "halve"}), HEAD)) is None
    whole = make_row(json.dumps({"code": WHOLE, "test_list": ["assert halve(4) == 2"]}), "Write halve.")
    assert kind.target(whole) == WHOLE


def test_tests_without_an_entry_point_fail_by_themselves() -> None:
    row = make_row(json.dumps({"test_list": ["assert halve(4) == 2", "assert halve(9) == 4"]}), "Write halve(x).")
    assert passes(f"```python\n{WHOLE}\n```", row)
    assert not passes("def halve(x):\n    return 2", row)


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        ("    return 1", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"canonical_solution": "x"}', "it has no test"),
        ('{"test": ""}', "it has no test"),
        ('{"test": "assert f()", "entry_point": "f"}', "defines check(candidate)"),
        ('{"test": "def check(c): pass", "entry_point": "f()\\nimport os"}', "no function's name"),
        ('{"test": "def check(c): pass", "entry_point": 3}', "no function's name"),
    ],
)
def test_a_gold_answer_without_tests_says_why(gold: str, why: str) -> None:
    assert why in (make_kind("code").fault(make_row(gold)) or "")
    assert make_kind("code").fault(ROW) is None


def test_programs_are_run_once_and_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def counted(prompt: str, completion: str, test: str, entry_point: str, *, limits: object) -> object:
        seen.append(completion)
        time.sleep(0.05)
        return run_python("pass")

    monkeypatch.setattr(code_kind, "run_tests", counted)
    code_kind._passes.cache_clear()
    kind = make_kind("code")
    outputs = [f"x = {number}\n" for number in range(4)]
    for _ in range(2):
        assert value(kind.score([*outputs, None], [ROW] * 5)["accuracy"]) == 0.8
    assert sorted(seen) == outputs
    code_kind._passes.cache_clear()


def test_hostile_code_is_a_wrong_answer_and_leaves_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("here")
    for body in (
        f"    import os\n    os.remove({str(victim)!r})\n    return x // 2",
        "    import socket\n    socket.create_connection(('127.0.0.1', 9))\n    return x // 2",
        "    import os\n    while True: os.fork()",
        "    while True: print('x' * 10000)",
    ):
        assert not passes(body)
    assert victim.read_text() == "here"


def test_features_tell_what_can_be_seen_without_running() -> None:
    kind = make_kind("code")
    found = kind.features(HEAD, kind.parse(BODY, HEAD) or "")
    assert (found["parses"], found["defines"]) == (1.0, 1.0)
    assert kind.features(HEAD, "def halve(:")["parses"] == 0.0
    assert kind.features(HEAD, "def other(): pass")["defines"] == 0.0
    assert kind.features("Say hello.", "print('hello')")["defines"] == 1.0
    assert kind.features("", "-" * 60_000 + "1")["parses"] == 0.0
    assert set(kind.features("", "")) == set(found)


def test_the_solutions_of_humaneval_pass_as_a_student_would_write_them(data_folder: Path) -> None:
    with gzip.open(data_folder / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        problems = [json.loads(line) for line in file][30:50]
    rows = [
        make_row(
            json.dumps({name: each[name].strip() for name in ("canonical_solution", "test", "entry_point")}),
            each["prompt"].strip(),
            each["task_id"],
        )
        for each in problems
    ]
    kind = make_kind("code")
    assert [kind.fault(row) for row in rows] == [None] * len(rows)
    outputs = [kind.parse((kind.target(row) or "").strip(), row.input) for row in rows]
    assert value(kind.score(outputs, rows)["accuracy"]) == 1.0
    assert read_gold(rows[0].output).entry_point == problems[0]["entry_point"]


def test_pass_at_k_is_estimated_from_the_samples_alone() -> None:
    right, wrong = whole_program(HEAD, BODY), whole_program(HEAD, "    return 7")
    kind = make_kind("code")
    assert isinstance(kind, Sampled)
    samples = [[right, wrong, wrong, None, wrong, wrong], [right] * 6, []]
    scores = kind.score_samples(samples, [ROW, ROW, ROW])
    assert set(scores) == {"pass_at_1", "pass_at_5"}
    assert value(scores["pass_at_1"]) == pytest.approx((1 / 6 + 1 + 0) / 3)
    assert value(scores["pass_at_5"]) == pytest.approx((5 / 6 + 1 + 0) / 3)  # 1 - C(5, 5) / C(6, 5)
    assert {metric.n for metric in scores.values()} == {3}
    assert not isinstance(make_kind("maths"), Sampled)
