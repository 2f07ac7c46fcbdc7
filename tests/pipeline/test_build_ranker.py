"""A task of kind rank, from the task file to a bundle that answers: BM25 and pico encoders, in seconds of training."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")

import locum
from locum.bundle.report import read_report
from locum.bundle.student import open_bundle
from locum.core.errors import DataError, UserError
from locum.gateway.app import create_app
from locum.gateway.bundle_target import BundleTarget
from locum.models.pico import pico_base
from locum.pipeline import build
from locum.pipeline.examine import evaluate_bundle
from locum.pipeline.recertify import certify_bundle
from locum.testing import FakeUpstream

PAIRS = {"car": "automobile", "doctor": "physician", "sofa": "couch", "movie": "film", "shop": "store", "fast": "quick"}
FILLER = ["the", "a", "my", "of", "with", "again", "now", "today", "only"]
ASKING = ["please", "find", "tell", "where", "which", "is"]

Rows = list[dict[str, Any]]


def make_rows(count: int, seed: int) -> Rows:
    """Four notes, one about the query's word: in most that stands itself, in some only another word for it does."""
    rng = random.Random(seed)
    rows: Rows = []
    for _ in range(count):
        words = rng.sample(sorted(PAIRS), 4)
        notes = [[word if rng.random() < 0.8 else PAIRS[word], *rng.choices(FILLER, k=3)] for word in words]
        asked = [*rng.choices(ASKING, k=3), words[0], rng.choice(ASKING)]
        texts = [" ".join(note) for note in notes]
        first = texts[0]
        rng.shuffle(texts)
        rows.append({"query": " ".join(asked), "notes": texts, "right": [texts.index(first)]})
    return rows


def write_task(folder: Path, rows: Rows, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "version": 1,
        "name": "notes",
        "kind": "rank",
        "instruction": "Which note is about what is asked?",
        "data": {"train": "rows.jsonl", "input": ["query", "notes"], "output": "right"},
        "students": [{"method": "linear"}],
        "guarantee": {"kind": "selective", "max_error": 0.2, "confidence": 0.9},
    }
    (folder / "task.yaml").write_text(json.dumps({**task, **fields}), encoding="utf-8")  # JSON is YAML
    return folder / "task.yaml"


def asked(query: str, notes: list[Any]) -> str:
    return json.dumps({"query": query, "notes": notes})


@pytest.fixture(scope="module")
def notes_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with one thread: a pico encoder's steps are so short that two threads would mostly wait for each other."""
    folder = tmp_path_factory.mktemp("notes")
    base = pico_base(folder / "base", [*PAIRS, *PAIRS.values(), *FILLER, *ASKING], positions=256)
    students = [{"method": "linear"}, {"base": str(base), "method": "full"}]
    with pytest.MonkeyPatch.context() as patch, FakeUpstream(["2, 1"]) as upstream:
        llm = {"base_url": upstream.base_url, "model": "large", "examples": 8}
        rows, budget = make_rows(500, 1), {"build_minutes": 10}
        task = write_task(folder / "task", rows, students=students, budget=budget, llm=llm)
        patch.setattr(build, "usable_cores", lambda: 1)
        return locum.build(task, out=folder / "out").bundle


@pytest.mark.slow
def test_the_bundle_ranks_and_is_certified(notes_bundle: Path) -> None:
    notes = ["the couch again", "film now", "only a store"]
    with open_bundle(notes_bundle) as student:
        assert student.void is None
        answer = student(asked("please movie or film", notes), "local")
        lists = student(
            asked('["an old movie", "a film"]', [{"id": note[-3:], "title": note} for note in notes]), "local"
        )
    assert json.loads(answer.output or "")[0] == 1 == json.loads(lists.output or "")[0]
    assert sorted(json.loads(answer.output or "")) == [0, 1, 2]
    assert answer.route == "local" and 0 < (answer.confidence or 0) < 1
    report = read_report(notes_bundle)
    assert [rung.status for rung in report.ladder] == ["built"] * 2
    for rung in report.ladder:
        assert rung.test is not None and rung.parity is not None and rung.parity.passed
        assert {"ndcg_at_10", "mrr_at_10", "recall_at_10", "accuracy"} == set(rung.test.metrics)
        assert rung.trained is not None and rung.trained.dev_accuracy is not None
    bm25 = next(rung for rung in report.ladder if rung.candidate.method == "linear")
    assert bm25.test is not None and bm25.test.metrics["ndcg_at_10"].value > 0.85
    assert bm25.engine == "linear" and (bm25.size_mb or 1) < 0.1
    assert {rung.engine for rung in report.ladder} == {"linear", "onnx"}
    assert report.certificate.threshold is not None and (report.certificate.local_share or 0) > 0.2
    assert report.llm is not None and report.llm.test.n == 8 and report.llm.failures == 0
    assert 'Query: "query"\nCandidates:\n1. ' in report.llm.prompt


@pytest.mark.slow
def test_eval_and_certify_take_fresh_rows(notes_bundle: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.jsonl"
    fresh.write_text("".join(json.dumps(row) + "\n" for row in make_rows(200, 9)), encoding="utf-8")
    found = evaluate_bundle(notes_bundle, fresh, predictions=tmp_path / "predictions.jsonl")
    assert found["n"] == 200 and found["metrics"]["ndcg_at_10"] > 0.85
    assert certify_bundle(notes_bundle, fresh).certificate.threshold is not None


@pytest.mark.slow
def test_the_gateway_answers_a_ranking_and_refuses_what_is_none(notes_bundle: Path) -> None:
    target = BundleTarget(open_bundle(notes_bundle))

    async def ask(text: str) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(target))
        body = {"model": "notes@local", "messages": [{"role": "user", "content": text}]}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/chat/completions", json=body)

    try:
        good = asyncio.run(ask(asked("the film", ["a couch", "the film"])))
        bad = asyncio.run(ask("which one?"))
    finally:
        target.close()
    assert good.status_code == 200, good.text
    assert json.loads(good.json()["choices"][0]["message"]["content"]) == [1, 0]
    assert bad.status_code == 400 and "an input to rank" in bad.text


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"query": "q", "notes": [], "right": [0]}, "nothing to rank"),
        ({"query": "q", "notes": ["lone"], "right": [0]}, "nothing to rank"),
        ({"query": "q", "notes": ["a", "b", "c"], "right": [3]}, "none of the 3 candidates"),
        ({"query": "q", "notes": ["a", "b", "c"], "right": [-1]}, "none of the 3 candidates"),
        ({"query": "q", "notes": ["a", "b", "c"], "right": []}, "no candidate is relevant"),
        ({"query": "", "notes": ["a", "b"], "right": [0]}, "query"),
    ],
    ids=["no candidates", "one candidate", "beyond the last", "below the first", "none relevant", "no query"],
)
def test_rows_that_cannot_be_ranked_stop_the_build_with_their_line(
    tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    task = write_task(tmp_path / "task", [*make_rows(120, 1), row])
    with pytest.raises(DataError, match=why) as caught:
        locum.build(task, out=tmp_path / "out")
    assert caught.value.code == "data-bad-rows"
    assert "121" in str(caught.value)


def test_rows_whose_candidates_are_all_relevant_are_built_on(tmp_path: Path) -> None:
    all_right = [
        {"query": f"find {i}", "notes": [f"find {i}", f"or {i}", "else"], "right": [0, 1, 2]} for i in range(60)
    ]
    task = write_task(tmp_path / "task", [*make_rows(300, 1), *all_right])
    run = locum.build(task, out=tmp_path / "out")
    with open_bundle(run.bundle) as student, pytest.raises(UserError) as caught:
        student("no candidates here", "local")
    assert caught.value.code == "tasks-input"
