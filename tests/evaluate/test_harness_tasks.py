"""The harness's tasks on local files: same prompts, same metrics, and clear words where something is missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.core.errors import DataError, SourceError, UserError
from locum.evaluate.harness_answers import AnswerFile
from locum.runtime.completion import CompletionRequest
from locum.runtime.fake import FakeGenerator
from locum.runtime.protocol import Scores
from locum.stats.rowwise import value

pytest.importorskip("lm_eval", reason="the extra 'bench' is not installed")

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from locum.evaluate.harness import HarnessModel
from locum.evaluate.harness_tasks import Benchmark, open_benchmarks, run_benchmarks


class ByHash(FakeGenerator):
    """Finds continuations probable by their letters, always the same ones; writes the number 4."""

    def __init__(self) -> None:
        super().__init__(["The answer is 4\n#### 4"])
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def score_greedy(self, request: CompletionRequest, continuations: Sequence[str]) -> Scores:
        self.asked.append((request.prompt or "", tuple(continuations)))
        values = [-float(sum(text.encode()) % 17) - len(text) for text in continuations]
        return Scores(np.array(values), np.array([one > -12 for one in values]))


def put(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ARC = [{"query": f"Question: Why {n}?", "choices": ["a", "bb", "ccc", "dd d"], "gold": n % 4} for n in range(12)]
PIQA = [{"goal": f"goal {n}", "sol1": f"do {n}", "sol2": "rather not", "label": n % 2} for n in range(12)]
GSM = [{"question": f"What is {n} + 1?", "answer": f"Add.\n#### {n + 1}"} for n in range(6)]
PROMPTS = {
    "arc_easy": (
        ("arc/arc_easy.jsonl", ARC[1]),
        "Question: Why 1?\nAnswer:",
        (" a", " bb", " ccc", " dd d"),
    ),
    "hellaswag": (
        (
            "hellaswag/val.jsonl",
            {
                "activity_label": "Roof",
                "ctx_a": "A man sits.",
                "ctx_b": "he",
                "endings": ["goes [step] on.", "stays"],
                "label": "1",
            },
        ),
        "Roof: A man sits. He",
        (" goes on.", " stays"),
    ),
    "piqa": (("piqa/val.jsonl", PIQA[0]), "Question: goal 0\nAnswer:", (" do 0", " rather not")),
    "boolq": (
        ("boolq/val.jsonl", {"passage": "P.", "question": "is it", "answer": True}),
        "P.\nQuestion: is it?\nAnswer:",
        (" no", " yes"),
    ),
    "sciq": (
        (
            "sciq/val.jsonl",
            {
                "question": "Who?",
                "support": " S",
                "distractor1": "a",
                "distractor2": "b",
                "distractor3": "c",
                "correct_answer": "d",
            },
        ),
        "S\nQuestion: Who?\nAnswer:",
        (" a", " b", " c", " d"),
    ),
    "lambada_openai": (
        ("lambada/lambada_openai.jsonl", {"context": "He gave the", "continuation": "signs"}),
        "He gave the",
        (" signs",),
    ),
}


@pytest.mark.parametrize("task", PROMPTS)
def test_plain_files_become_the_published_prompts(task: str, tmp_path: Path) -> None:
    (file, row), prompt, continuations = PROMPTS[task]
    put(tmp_path, file, [row])
    model = ByHash()
    opened = open_benchmarks([task], data=tmp_path, work=tmp_path / "work")
    with AnswerFile(tmp_path / "answers.jsonl", "hash") as answers:
        run_benchmarks(HarnessModel(model, answers), "m", opened)
    assert model.asked == [(prompt, continuations)]


def own_figures(tasks: dict[str, Any], limit: int | None = None) -> dict[str, dict[str, Any]]:
    """What the harness makes of the same tasks and the same model by itself."""
    manager = TaskManager(include_defaults=False)
    with AnswerFile(Path(f"{next(iter(tasks))}.jsonl"), "other") as answers:
        found = simple_evaluate(
            HarnessModel(ByHash(), answers),
            tasks=list(tasks.values()),
            task_manager=manager,
            bootstrap_iters=0,
            torch_random_seed=None,
            limit=limit,
        )
    return found["results"]


def run(opened: list[Benchmark], folder: Path, limit: int | None = None, chat: bool = False) -> dict[str, Any]:
    with AnswerFile(folder / "answers.jsonl", "hash") as answers:
        scored = run_benchmarks(HarnessModel(ByHash(), answers), "m", opened, limit=limit, chat=chat)
    return {benchmark.name: one for benchmark, one in zip(opened, scored, strict=True)}


def test_figures_are_the_harness_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "arc/arc_easy.jsonl", ARC)
    put(tmp_path, "gsm8k/test.jsonl", GSM)
    put(
        tmp_path, "lambada/lambada_openai.jsonl", [{"context": f"{n} the", "continuation": f"end{n}"} for n in range(9)]
    )
    names = ["arc_easy", "gsm8k", "lambada_openai"]
    opened = open_benchmarks(names, data=tmp_path, work=tmp_path / "work", few_shot=0)
    mine = run(opened, tmp_path)
    own = own_figures({benchmark.name: benchmark.parts[benchmark.name] for benchmark in opened})
    for name, metrics in own.items():
        for metric, statistic in mine[name].metrics.items():
            key = metric if "," in metric else f"{metric},none"
            assert value(statistic) == pytest.approx(metrics[key]), (name, metric)
    assert 0 < value(mine["arc_easy"].metrics["acc"]) < 1
    assert mine["lambada_openai"].metrics["perplexity"].n == 9


def test_a_group_is_all_its_parts_and_each_part_its_rows(tmp_path: Path) -> None:
    rows = [
        {"subject": subject, "question": f"{subject} {n}?", "choices": list("wxyz"), "answer": n % 4}
        for subject in ("anatomy", "astronomy")
        for n in range(4)
    ]
    put(tmp_path, "mmlu/test.jsonl", rows)
    put(tmp_path, "mmlu/dev.jsonl", rows)
    opened = open_benchmarks(["mmlu_anatomy", "mmlu_astronomy"], data=tmp_path, work=tmp_path / "work", few_shot=2)
    model = ByHash()
    with AnswerFile(tmp_path / "answers.jsonl", "hash") as answers:
        run_benchmarks(HarnessModel(model, answers, concurrency=1), "m", opened)
    first, continuations = model.asked[0]
    assert continuations == (" A", " B", " C", " D")
    assert first.startswith("The following are multiple choice questions (with answers) about anatomy.\n\nanatomy 0?")
    assert first.count("Answer:") == 3 and "astronomy" not in first
    with pytest.raises(DataError, match="abstract_algebra") as caught:
        open_benchmarks(["mmlu"], data=tmp_path, work=tmp_path / "work")
    assert caught.value.code == "data-empty"


def test_a_sample_is_drawn_by_lot_and_grows(tmp_path: Path) -> None:
    put(tmp_path, "arc/arc_easy.jsonl", [{**ARC[n % 12], "query": f"Question: Why {n}?"} for n in range(120)])
    (opened,) = open_benchmarks(["arc_easy"], data=tmp_path, work=tmp_path / "work")
    chosen: list[set[int]] = []
    for limit in (5, 20):
        with AnswerFile(tmp_path / f"{limit}.jsonl", "hash") as answers:
            run_benchmarks(HarnessModel(ByHash(), answers), "m", [opened], limit=limit)
        lines = (tmp_path / f"{limit}.jsonl").read_text().splitlines()
        chosen.append({json.loads(line)["document"] for line in lines})
    assert chosen[0] <= chosen[1] and max(chosen[0]) > 11
    assert run([opened], tmp_path, limit=5)["arc_easy"].n == 5 and opened.of == 120


def test_files_in_the_original_columns_and_other_formats(tmp_path: Path) -> None:
    """A CSV file by the task's name, and a Parquet file in the hub's own columns."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    with (tmp_path / "piqa.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(PIQA[0]))
        writer.writeheader()
        writer.writerows(PIQA)
    hub = [
        {"question": f"Why {n}?", "choices": {"text": ["a", "bb", "ccc"], "label": ["1", "2", "3"]}, "answerKey": "2"}
        for n in range(3)
    ]
    (tmp_path / "arc_easy").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(hub), tmp_path / "arc_easy" / "test.parquet")
    found = run(open_benchmarks(["piqa", "arc_easy"], data=tmp_path, work=tmp_path / "work"), tmp_path)
    again = tmp_path / "jsonl"
    put(again, "piqa/val.jsonl", PIQA)
    same = run(open_benchmarks(["piqa"], data=again, work=again / "work"), again)
    assert value(found["piqa"].metrics["acc"]) == value(same["piqa"].metrics["acc"])
    assert found["arc_easy"].n == 3


def test_examples_are_put_as_turns_of_a_conversation(tmp_path: Path) -> None:
    put(tmp_path, "gsm8k/test.jsonl", GSM)
    put(tmp_path, "gsm8k/train.jsonl", GSM)
    opened = open_benchmarks(["gsm8k"], data=tmp_path, work=tmp_path / "work", few_shot=2)
    model = ByHash()
    with AnswerFile(tmp_path / "answers.jsonl", "hash") as answers:
        run_benchmarks(HarnessModel(model, answers), "m", opened, limit=1, chat=True)
    roles = [message.role for message in model.requests[0].messages]
    assert roles == ["user", "assistant"] * 2 + ["user"]
    assert opened[0].few_shot == 2


@pytest.mark.parametrize(
    ("task", "file", "row", "code"),
    [
        ("piqa", "boolq/val.jsonl", {"x": 1}, "data-missing"),
        ("gsm8k", "gsm8k/test.jsonl", GSM[0], "data-missing"),  # five examples by default, and no train split
        ("arc_easy", "arc/arc_easy.jsonl", {"question": "?"}, "data-columns"),
        ("piqa", "piqa/val.jsonl", {"goal": "?", "label": 0}, "data-columns"),
        ("piqa", "piqa/val.jsonl", None, "data-bad-rows"),
    ],
)
def test_files_that_do_not_fit_are_refused(task: str, file: str, row: Any, code: str, tmp_path: Path) -> None:
    path = put(tmp_path, file, [row] if row else PIQA)
    if row is None:
        path.write_text(path.read_text() + "{oh no\n")
    with pytest.raises(DataError) as caught:
        open_benchmarks([task], data=tmp_path, work=tmp_path / "work")
    assert caught.value.code == code and caught.value.fix


def test_the_hub_is_left_alone_when_downloads_are_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_OFFLINE", "1")
    with pytest.raises(SourceError, match="piqa") as caught:
        open_benchmarks(["piqa"], data=None, work=tmp_path)
    assert caught.value.code == "source-offline"


def test_code_of_the_models_is_not_run_unguarded(tmp_path: Path) -> None:
    rows = put(tmp_path, "rows.jsonl", [{"q": "1", "a": "2"}])
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {tmp_path}}}\n"
        "output_type: generate_until\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
        "unsafe_code: true\nmetric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(UserError, match="unguarded") as caught:
        open_benchmarks([str(tmp_path / "mine.yaml")], data=None, work=tmp_path / "work")
    assert caught.value.code == "runtime-unsupported-option"


@pytest.mark.slow
def test_a_wrong_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hellaswag") as caught:
        open_benchmarks(["helaswag"], data=tmp_path, work=tmp_path / "work")
    assert caught.value.code == "core-unknown-name"


def test_a_task_file_of_ones_own(tmp_path: Path) -> None:
    rows = put(tmp_path, "rows.jsonl", [{"q": f"{n}+1", "a": str(n + 1)} for n in range(5)])
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {tmp_path}}}\n"
        "output_type: generate_until\ntest_split: test\ndoc_to_text: '{{q}}='\ndoc_to_target: '{{a}}'\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    opened = open_benchmarks([str(tmp_path / "mine.yaml")], data=None, work=tmp_path / "work")
    (scored,) = run(opened, tmp_path).values()
    assert list(scored.metrics) == ["exact_match"] and scored.n == 5
