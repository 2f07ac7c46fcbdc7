"""A bundle of a student that extracts: the confidence of each field is fitted, stored, read and told."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

import locum
from locum.bundle.student import NO_REDACTION
from locum.bundle.write import model_hash, task_hash, write_bundle
from locum.cascade.policy import make_policy
from locum.cli.conversation import BundlePartner
from locum.evaluate.answers import answer_rows
from locum.evaluate.llm import decoding_hash
from locum.runtime.completion import Completion, CompletionRequest, TokenLogprob
from locum.runtime.fake import FakeGenerator
from locum.runtime.model_files import seal
from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.schema.taskfile import parse_task
from locum.students.open import CONFIDENCE, PROMPT, open_drafter, open_student
from locum.tasks import open_kind
from locum.testing.reports import example_certificate, example_report

TASK = {
    "version": 1,
    "name": "trips",
    "kind": "extract",
    "instruction": "Where to, and for how long?",
    "data": {"train": "t.jsonl", "input": "text", "output": "trip"},
    "answer_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
SPEC = {"name": "toy", "engine": "llamacpp", "family": "decoder", "precision": "f16", "labels": (),
        "weights": "model.gguf", "max_tokens": 64, "parameters": 1, "purpose": "generate"}  # fmt: skip


def writes(request: CompletionRequest) -> Completion:
    """Always sure of the city; of the days it is sure, and right, where the number is even."""
    days = int(request.messages[-1].content.split()[0])
    sure = days % 2 == 0
    pieces = [
        ('{"city":', 0.0),
        ('"Rome"', -0.05),
        (',"days":', 0.0),
        (str(days if sure else 99), -0.1 if sure else -2),
    ]
    tokens = tuple(TokenLogprob(text, logprob) for text, logprob in [*pieces, ("}", 0.0)])
    return Completion("".join(token.token for token in tokens), "stop", 9, len(tokens), "toy", logprobs=tokens)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose confidence was fitted on sixty answers of a scripted engine."""
    monkeypatch.setattr("locum.students.open.open_model", lambda *_: FakeGenerator(writes))
    text = yaml.safe_dump(TASK)
    task, model = parse_task(text), tmp_path / "model"
    model.mkdir()
    (model / "model.gguf").write_bytes(b"GGUF")
    (model / PROMPT).write_text(json.dumps(Prompt(instruction=task.instruction).to_json()))
    seal(model, **SPEC)
    rows = [Row(id=f"{n}", input=f"{n} days in Rome", output=f'{{"city":"Rome","days":{n}}}') for n in range(60)]
    kind = open_kind(task)
    fitted = answer_rows(open_drafter(model, task), rows, "dev").fit_confidence(kind, rows)
    (model / CONFIDENCE).write_text(json.dumps(fitted.to_json()))
    seal(model, **SPEC)
    now = datetime.now(UTC)
    certificate = example_certificate(certified=True).model_copy(
        update={
            "threshold": 0.3,
            "hashes": {
                "model": model_hash(model),
                "task": task_hash(text),
                "decoding": decoding_hash(kind),
                "redaction": NO_REDACTION,
            },
            "issued_at": now.isoformat(),
            "expires_at": (now + timedelta(days=1)).isoformat(),
        }
    )
    write_bundle(
        tmp_path / "bundle",
        task=task,
        task_text=text,
        model_folder=model,
        policy=make_policy(certificate, "toy", has_llm=False),
        certificate=certificate,
        report=example_report(2),
        page="",
        card="",
        licence="Apache-2.0",
        hashes={"data": "0" * 64},
    )
    return tmp_path / "bundle"


def test_an_answer_tells_how_sure_each_field_is(bundle: Path) -> None:
    with locum.open(bundle) as student:
        right, wrong = student.many(["4 days in Rome", "5 days in Rome"], "local")
        covered, handed = student("4 days in Rome"), student("5 days in Rome")
    assert json.loads(wrong.output or "") == {"city": "Rome", "days": 99}
    assert right.fields is not None and wrong.fields is not None
    assert list(right.fields) == ["city", "days"]
    assert right.fields["days"] > 0.9 > 0.1 > wrong.fields["days"]
    assert wrong.fields["city"] > 0.8
    assert all(0 < sure < 1 and math.isfinite(sure) for sure in wrong.fields.values())
    assert (covered.route, covered.fields) == ("local", right.fields)
    assert (handed.route, handed.fields) == ("abstain", None)  # a wrong answer has little confidence


def test_a_chat_tells_it_in_json(bundle: Path) -> None:
    with locum.open(bundle) as student:
        turn = BundlePartner(student).answer("4 days in Rome", lambda _text: None)
        answer = student("4 days in Rome")
    assert answer.fields
    assert turn.to_json()["fields"] == answer.to_json()["fields"] == answer.fields


def test_a_confidence_without_fields_opens_as_it_did(bundle: Path, tmp_path: Path) -> None:
    confidence = tmp_path / "model" / CONFIDENCE
    old = json.loads(confidence.read_text())
    del old["fields"]
    confidence.write_text(json.dumps(old))
    seal(tmp_path / "model", **SPEC)
    (answer,) = open_student(tmp_path / "model", parse_task(yaml.safe_dump(TASK))).answer(["4 days in Rome"])
    assert answer.output is not None
    assert answer.fields is None
