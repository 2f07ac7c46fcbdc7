"""A task of kind tag, from the task file to a bundle that answers: the real MiniLM, frozen, in well under a minute."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import locum
from locum.bundle.report import read_report
from locum.bundle.student import open_bundle
from locum.gateway.app import create_app
from locum.gateway.bundle_target import BundleTarget
from locum.pipeline.examine import evaluate_bundle
from locum.pipeline.export import export_student

pytestmark = [pytest.mark.models, pytest.mark.slow]

TASK = """\
version: 1
name: people
kind: tag
instruction: Find the people and the cities that the message names.
data: {train: train.jsonl, test: test.jsonl, input: text, output: spans, duplicates: exact}
students:
- {base: all-MiniLM-L6-v2, method: head, depth: 3}
guarantee: {kind: selective, max_error: 0.2, confidence: 0.9}
budget: {build_minutes: 10}
"""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def people_bundle(people: Callable[..., list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write(folder / "train.jsonl", people(400, seed=1))
    write(folder / "test.jsonl", people(60, seed=2))
    (folder / "task.yaml").write_text(TASK, encoding="utf-8")
    return locum.build(folder / "task.yaml", out=folder / "out").bundle


def test_the_bundle_answers_with_spans_and_is_certified(people_bundle: Path) -> None:
    text = "I talked to Anna Berg in New York."
    with open_bundle(people_bundle) as student:
        answer = student(text, "local")
        assert student.void is None
        spans = json.loads(answer.output or "")
    assert [[text[start:end], label] for start, end, label in spans] == [["Anna Berg", "PERSON"], ["New York", "CITY"]]
    assert answer.route == "local" and 0 < answer.confidence < 1
    report = read_report(people_bundle)
    rung = next(rung for rung in report.ladder if rung.chosen)
    assert "then learned from 80 more rows (dev)" in report.refit
    assert rung.refit is not None and rung.trained is not None
    assert rung.refit.settings["penalty"] == rung.trained.settings["penalty"]
    confidences = {path.read_bytes() for path in people_bundle.parent.glob("work/measure-*/model/confidence.json")}
    assert len(confidences) == 1  # dev rows that were learned from calibrate nothing
    assert rung.dev is not None and rung.test is not None and rung.parity is not None and rung.parity.passed
    assert rung.test.metrics["span_f1"].value > 0.8 and rung.test.metrics["accuracy"].value > 0.6
    assert report.certificate.threshold is not None and (report.certificate.local_share or 0) > 0.2
    assert (people_bundle / "report.html").is_file() and (people_bundle / "README.md").is_file()


def test_eval_scores_fresh_rows(
    people_bundle: Path, people: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    data = write(tmp_path / "fresh.jsonl", people(40, seed=9))
    found = evaluate_bundle(people_bundle, data, predictions=tmp_path / "predictions.jsonl")
    assert found["n"] == 40 and found["metrics"]["span_f1"] > 0.8


def test_another_form_of_it_is_held_to_the_same_answers(people_bundle: Path, tmp_path: Path) -> None:
    parity = export_student(people_bundle.parent, tmp_path / "fp32", "onnx-fp32")
    assert (parity.precision, parity.label_agreement, parity.passed) == ("fp32", 1.0, True)
    assert json.loads((tmp_path / "fp32" / "model.json").read_text())["purpose"] == "tag"


def test_the_gateway_answers_the_spans_as_text(people_bundle: Path) -> None:
    target = BundleTarget(open_bundle(people_bundle))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(target))
        body = {"model": "people@local", "messages": [{"role": "user", "content": "is there a branch in Lima ?"}]}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/chat/completions", json=body)

    try:
        answer = asyncio.run(ask())
    finally:
        target.close()
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == [[21, 25, "CITY"]]
    assert answer.headers["x-locum-route"] == "local" and 0 < float(answer.headers["x-locum-confidence"]) < 1
