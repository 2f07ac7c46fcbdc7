"""The task's LLM as the judge: lent only where it is asked for, and paid for once."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.core.errors import UserError
from locum.pipeline.judge import lent_judge
from locum.pipeline.preflight import require_scorers
from locum.schema.data import Row
from locum.schema.taskfile import parse_task
from locum.stats.rowwise import Mean
from locum.tasks import open_kind
from locum.testing import FakeUpstream, Scripted

ROWS = [Row(id=str(n), input=f"question {n}", output=f"answer {n}") for n in range(4)]


def task(url: str, scorer: str = "judge"):
    return parse_task(f"""\
version: 1
name: judged
kind: generate
profile: custom
scorer: {scorer}
instruction: Answer.
data: {{train: t.jsonl, input: text, output: answer}}
llm: {{base_url: "{url}", model: judge}}
""")


def test_the_llm_judges_and_is_asked_once_for_an_answer(tmp_path: Path) -> None:
    with FakeUpstream([Scripted(text="Grade: 5")]) as upstream:
        asked = task(upstream.base_url)
        kind = open_kind(asked)
        for _ in range(2):
            with lent_judge(asked, asked.llm, tmp_path / "judge.jsonl"):
                scores = kind.score(["answer 0", "answer 1", None, "answer 3"], ROWS)
        assert len(upstream.received) == 3
    found = scores["score"]
    assert isinstance(found, Mean)
    assert found.values.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_without_a_judge_to_lend_such_a_task_cannot_be_scored(tmp_path: Path) -> None:
    asked = task("http://127.0.0.1:9/v1")
    with lent_judge(asked, None, tmp_path / "judge.jsonl"), pytest.raises(UserError) as caught:
        open_kind(asked).score(["x"], ROWS[:1])
    assert caught.value.code == "tasks-judge"
    assert not (tmp_path / "judge.jsonl").exists()


def test_scorers_that_are_not_installed_are_told_before_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = parse_task("""\
version: 1
name: s
kind: generate
profile: summarise
instruction: Summarise.
data: {train: t.jsonl, input: text, output: answer}
""")
    require_scorers(asked)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError) as caught:
        require_scorers(asked)
    assert caught.value.code == "core-missing-extra"
    assert "rouge_score" in caught.value.cause
