"""Tuning is asked for by the candidate's own method, and by no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import Interrupted, UserError
from locum.pipeline import make_tuned as making
from locum.pipeline.make_tuned import make_tuned
from locum.pipeline.prepare import prepare_data
from locum.pipeline.steps import StepCache
from locum.pipeline.workspace import Workspace, read_task
from locum.schema.candidate import Candidate
from locum.schema.training import TuneRequest
from locum.testing.pico_gguf import pico_gguf


@pytest.fixture
def work(tickets: Any, tmp_path: Path) -> Workspace:
    rows = [{"said": f"say {n} of it", "reply": f"it is {n}"} for n in range(150)]
    (tickets.folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pico_gguf(tickets.folder / "pico.gguf")
    data = {"train": "talk.jsonl", "input": "said", "output": "reply"}
    students = [{"base": "./pico.gguf", "method": "full"}]
    path = tickets.change(kind="generate", profile="chat", data=data, students=students)
    task, text = read_task(path)
    return Workspace(task, text, path.parent, tmp_path / "out", StepCache(tmp_path / "out" / "work"), 1)


def asked(work: Workspace, monkeypatch: pytest.MonkeyPatch, method: Any, **more: Any) -> list[TuneRequest]:
    """What the training of a candidate is asked for; it ends there."""
    requests: list[TuneRequest] = []

    def record(_work: Workspace, _job: str, request: TuneRequest, _out: Path, _name: str) -> None:
        requests.append(request)
        raise Interrupted("core-interrupted", "seen enough")

    monkeypatch.setattr(making, "train_within_memory", record)
    data, _ = prepare_data(work)
    candidate = Candidate(name=f"pico/{method}", family="decoder", base="./pico.gguf", method=method, **more)
    with pytest.raises(Interrupted):
        make_tuned(work, data, candidate, 10.0)
    return requests


@pytest.mark.parametrize("method", ["full", "lora", "dora"])
def test_a_candidate_is_tuned_by_its_method(work: Workspace, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    (request,) = asked(work, monkeypatch, method)
    assert (request.method, request.layers) == (method, None)


def test_only_so_many_of_its_last_layers_learn(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    (request,) = asked(work, monkeypatch, "full", train_layers=1)
    assert request.layers == 1


@pytest.mark.parametrize("method", ["head", "linear", "prompt"])
def test_what_tunes_nothing_is_refused_and_not_made_an_adapter(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with pytest.raises(UserError, match=f"{method} tunes nothing that writes") as caught:
        asked(work, monkeypatch, method)
    assert (caught.value.code, caught.value.fix) == ("train-request", "use one of full, lora, dora")
