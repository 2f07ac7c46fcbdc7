"""``locum bench``: two small models and an LLM on local files, compared, resumed and kept within a cap."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import UserError
from locum.core.files import sha256_file
from locum.pipeline.bench import BenchSettings, bench
from locum.runtime.model_files import seal
from locum.stats.multiplicity import holm
from locum.stats.paired import mcnemar
from locum.testing import FakeUpstream
from locum.testing.pico_gguf import pico_gguf

pytestmark = pytest.mark.engines


@pytest.fixture(autouse=True)
def harness() -> None:
    pytest.importorskip("lm_eval", reason="the extra 'bench' is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    files = {
        "piqa/val": [{"goal": f"goal {n}", "sol1": f"do {n}", "sol2": "nothing", "label": n % 2} for n in range(12)],
        "boolq/val": [{"passage": f"P{n}", "question": f"is {n}", "answer": n % 3 == 0} for n in range(12)],
        "gsm8k/test": [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(8)],
    }
    for name, rows in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def picos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("picos")
    return [pico_gguf(folder / f"pico{seed}.gguf", seed=seed).path for seed in (0, 1)]


@pytest.fixture
def small(run: Any, data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Call ``locum bench`` on the small files."""

    def call(*words: object) -> Any:
        return run("bench", *words, "--data", data, "--out", tmp_path / "out", "--threads", 1, "--ctx", 512)

    return call


def right_answers(report: dict[str, Any], folder: Path) -> dict[str, list[list[bool]]]:
    """Which rows each model got right, worked out from the answers on the disk alone."""
    golds = {"piqa": [n % 2 for n in range(12)], "boolq": [int(n % 3 == 0) for n in range(12)]}
    found: dict[str, list[list[bool]]] = {"piqa": [], "boolq": []}
    for model in report["models"]:
        lines = (folder / "answers" / f"{model['sha256'][:16]}.jsonl").read_text().splitlines()
        for task, gold in golds.items():
            rows: dict[int, list[float]] = {}
            for record in map(json.loads, lines):
                if record["task"] == task:
                    rows.setdefault(record["document"], []).append(record["answer"][0])
            lengths = {n: [len(f"do {n}"), len("nothing")] if task == "piqa" else [1, 1] for n in rows}
            scores = {n: [a / b for a, b in zip(rows[n], lengths[n], strict=True)] for n in rows}
            found[task].append([scores[n].index(max(scores[n])) == gold[n] for n in range(12)])
    return found


def test_two_models_are_compared_on_the_same_documents(small: Any, picos: list[Path], tmp_path: Path) -> None:
    done = small(*picos, "--tasks", "piqa,boolq", "--json")
    assert done.status == 0, done.stderr
    report = done.document
    assert report == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [model["name"] for model in report["models"]] == ["pico0", "pico1"]
    assert [model["sha256"] for model in report["models"]] == [sha256_file(path) for path in picos]
    assert {(task["name"], task["n"], task["headline"]) for task in report["tasks"]} == {
        ("piqa", 12, "acc_norm"),
        ("boolq", 12, "acc"),
    }
    right = right_answers(report, tmp_path / "out")
    scores = {(s["task"], s["model"], s["metric"]): s["score"] for s in report["scores"]}
    for task, metric in (("piqa", "acc_norm"), ("boolq", "acc")):
        for name, rows in zip(("pico0", "pico1"), right[task], strict=True):
            found = scores[task, name, metric]
            assert found["value"] == pytest.approx(sum(rows) / 12)
            assert found["low"] < found["value"] < found["high"] and found["method"] == "wilson"
    expected = [mcnemar(*right[task]).p_value for task in ("piqa", "boolq")]
    assert [c["comparison"]["p_value"] for c in report["comparisons"]] == pytest.approx(expected)
    assert [c["p_holm"] for c in report["comparisons"]] == pytest.approx(holm(expected).tolist())


def test_a_second_run_asks_nothing(small: Any, picos: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    first = small(picos[0], "--tasks", "piqa", "--limit", 5, "--json")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out" / "answers").iterdir()}

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the engine was asked")

    monkeypatch.setattr("locum.runtime.llamacpp.LlamaGenerator.score_greedy", refuse)
    again = small(picos[0], "--tasks", "piqa", "--limit", 5, "--json")
    assert again.document == first.document
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "answers").iterdir()} == kept


def test_the_table_and_the_verdicts(small: Any, picos: list[Path]) -> None:
    done = small(*picos, "--tasks", "piqa", "--limit", 6)
    assert done.status == 0
    assert "piqa (6)" in done.stdout and "acc_norm" in done.stdout and "pico1" in done.stdout
    assert "pico0" in done.stdout and "Over all tasks (Holm): p = " in done.stdout
    assert "score pico0" in done.stderr


def test_a_bundle_folder_and_a_twin_name(data: Path, picos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "pico0.gguf").write_bytes(picos[0].read_bytes())
    seal(
        folder,
        name="student",
        engine="llamacpp",
        family="decoder",
        precision="f16",
        labels=(),
        weights="pico0.gguf",
        max_tokens=256,
        parameters=1000,
        purpose="generate",
    )
    settings = BenchSettings(data=data, limit=3, threads=1, n_ctx=512)
    report = bench([folder, picos[0], str(picos[0])], ["boolq"], out=tmp_path / "out", settings=settings)
    assert [model.name for model in report.models] == ["student", "pico0", "pico0#2"]
    assert len({score.score.value for score in report.scores}) == 1
    assert len(report.comparisons) == 3 and all(one.comparison.p_value == 1 for one in report.comparisons)


def test_the_llm_behind_a_url_within_its_cap(small: Any, picos: list[Path], tmp_path: Path) -> None:
    with FakeUpstream(["It is 3.\n#### 3"]) as upstream:
        words = (upstream.base_url, "--model", "large", "--tasks", "gsm8k", "--few-shot", 0, "--price", 1, 2)
        stopped = small(*words, "--max-cost", 0.0012, "--json")
        assert stopped.status == 1 and stopped.document["error"]["code"] == "evaluate-llm-cap"
        paid = len(upstream.received)
        assert 0 < paid < 8 and "8 requests, about" in stopped.stderr
        done = small(picos[0], *words, "--max-cost", 1, "--json")
        assert done.status == 0, done.stderr
        assert len(upstream.received) == 8  # the answers that were paid for are not asked for again
    report = done.document
    assert report["chat"] is True and [model["place"] for model in report["models"]] == ["local", "url"]
    assert report["models"][0]["spent"] is None and report["models"][1]["spent"] > 0
    scores = {(s["model"], s["metric"]): s["score"]["value"] for s in report["scores"]}
    assert scores["large", "exact_match,strict-match"] == pytest.approx(1 / 8)
    assert upstream.received[0].body["messages"][0]["content"].startswith("Question: What is")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("https://llm.example/v1", "--tasks", "piqa"), "cli-usage"),
        (("PICO", "--tasks", "piqa", "--max-cost", "1"), "cli-usage"),
        (("PICO", "--tasks", " , "), "cli-usage"),
        (("absent.gguf", "--tasks", "piqa"), "source-unknown-base"),
        (("PICO", "--tasks", "hellaswag"), "data-missing"),
        (("http://127.0.0.1:9/v1", "--model", "m", "--tasks", "piqa"), "runtime-unsupported-option"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], code: str, small: Any, picos: list[Path]) -> None:
    done = small(*(picos[0] if word == "PICO" else word for word in words), "--json")
    assert (done.status, done.document["error"]["code"]) == (2, code)


def test_without_the_harness_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="lm_eval") as caught:
        bench(["x.gguf"], ["piqa"], out=tmp_path)
    assert caught.value.code == "core-missing-extra" and "[bench]" in caught.value.fix
