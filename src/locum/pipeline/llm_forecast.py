"""``forecast_llm``: how often a build asks the task's LLM, and what that costs, before it is asked.

Notable: an answer of the LLM is priced by the length of a prompt and of a middling right answer; a verdict by what a
judge reads (rubric, question, gold answer, answer) and by the most that it may write. What stands in the build's
folder from an earlier run is not asked again, so a build that goes on costs less. Not here: the cap
(``evaluate.spending``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from locum.fit.written import CHARS_PER_TOKEN, instruction_tokens
from locum.pipeline.judge import VERDICT_TOKENS
from locum.pipeline.rung import maker
from locum.schema.candidate import Candidate
from locum.schema.data import SplitName
from locum.schema.task import Price, Task
from locum.tasks.judging import rubric
from locum.tasks.prompt import quote

_TOKENS_PER_LABEL = (400, 12)


@dataclass(frozen=True)
class LlmForecast:
    """What a build will ask.

    Attributes:
        calls: of the LLM, those as judge included.
        cost: in the currency of the price; None without a price.
    """

    calls: int
    cost: float | None

    def line(self) -> str:
        """In words."""
        price = "price unknown" if self.cost is None else f"about {self.cost:.4f} in your currency"
        return f"{self.calls:,} calls, {price}"

    def over_cap(self, task: Task) -> str | None:
        """Why the build is to stop before its end; None where the task's cap, if any, is enough."""
        cap = task.llm.max_cost if task.llm else None
        if cap is None or self.cost is None or self.cost <= cap:
            return None
        return (
            f"the LLM is forecast to cost about {self.cost:.4g}, and llm.max_cost is {cap:g}: a build stops there, "
            "keeps its answers, and goes on once the cap is raised"
        )


def forecast_llm(
    task: Task,
    ladder: Sequence[Candidate],
    rows: Mapping[SplitName, int],
    *,
    row_tokens: int,
    answer_tokens: int,
    graded: int,
) -> LlmForecast:
    """What a build will ask the task's LLM.

    Args:
        task: with its LLM, or without one.
        ladder: the candidates.
        rows: of dev, calibration and test.
        row_tokens: of a middling input.
        answer_tokens: of a middling right answer.
        graded: answers that people graded, which a judge grades too.
    """
    llm = task.llm
    if llm is None:
        return LlmForecast(0, None)
    asked = min(llm.examples, rows["test"]) + (rows["calibration"] if task.guarantee.kind == "regret" else 0)
    judged = asked + graded + _drafted(task, ladder, rows) if task.scorer == "judge" else 0
    if llm.price is None:
        return LlmForecast(asked + judged, None)
    prompt_tokens = instruction_tokens(task) + row_tokens
    answer = _TOKENS_PER_LABEL if task.kind == "classify" else (prompt_tokens, answer_tokens)
    verdict = (_rubric_tokens(task) + prompt_tokens + 2 * answer_tokens, VERDICT_TOKENS)
    return LlmForecast(asked + judged, asked * _cost(llm.price, *answer) + judged * _cost(llm.price, *verdict))


def _drafted(task: Task, ladder: Sequence[Candidate], rows: Mapping[SplitName, int]) -> int:
    """Answers of students: each candidate's to dev and test and while its prompt is searched, one's to calibration."""
    tried = [candidate for candidate in ladder if candidate.skipped is None]
    searched = sum(maker(task.kind, candidate) == "prompted" for candidate in tried)
    held_out = len(tried) * (rows["dev"] + rows["test"]) + rows["calibration"]
    return held_out + searched * task.generation.search_calls


def _rubric_tokens(task: Task) -> int:
    said = rubric(task).messages("", "", quote, "")
    return round(sum(len(message.content) for message in said) / CHARS_PER_TOKEN)


def _cost(price: Price, read: int, written: int) -> float:
    return (read * price.input + written * price.output) / 1e6
