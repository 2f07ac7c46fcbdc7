"""The plan: everything is validated, nothing is downloaded or written, and it says what a build would cost."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DataError, DeviceError, SourceError, TaskFileError
from locum.pipeline.plan import ASSUMED, make_plan
from locum.schema.plan import Plan


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_args: Any) -> None:
        raise AssertionError("a plan reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_local_data_are_counted(tickets: Any, tmp_path: Path) -> None:
    before = files(tmp_path)
    plan = make_plan(tickets.task, out=tmp_path / "out")
    assert files(tmp_path) == before
    assert [step.name for step in plan.steps] == [
        "data",
        "ladder",
        "train-tfidf",
        "export-tfidf",
        "measure-tfidf",
        "certify",
    ]
    assert not any(step.done for step in plan.steps)
    assert plan.seconds == sum(step.seconds or 0 for step in plan.steps)
    assert (plan.budget_s, plan.download_mb, plan.llm_calls, plan.llm_cost) == (900, 0, 0, None)
    assert plan.labels.available == 120
    assert plan.warnings == ()
    (data,) = plan.downloads
    assert (data.cached, data.address) == (True, "tickets.csv")
    assert Plan.from_json(json.dumps(plan.to_json()), "plan") == plan


def test_the_bases_of_auto_are_listed_and_not_fetched(tickets: Any, tmp_path: Path) -> None:
    before = files(tmp_path)
    plan = make_plan(tickets.change(students="auto"))
    bases = [download for download in plan.downloads if download.what != "train data"]
    assert len(bases) == 2
    assert not any(base.cached for base in bases)
    assert plan.download_mb == pytest.approx(sum(base.size_mb or 0 for base in bases))
    assert plan.download_mb > 80
    assert len(plan.ladder) == 4
    assert files(tmp_path) == before


def test_remote_data_are_assumed_and_the_plan_says_so(tickets: Any) -> None:
    address = "https://data.example/train.csv"
    plan = make_plan(tickets.change(data={"train": address, "input": "text", "output": "team"}))
    assert plan.labels.available is None
    (warning,) = plan.warnings
    assert f"{ASSUMED.train_rows:,} rows" in warning
    assert [(item.address, item.cached) for item in plan.downloads] == [(address, False)]


def test_finished_steps_are_marked(built: Any) -> None:
    plan = make_plan(built.tickets.task, out=built.out)
    assert [step.name for step in plan.steps if step.done] == [
        "data",
        "ladder",
        "train-tfidf",
        "export-tfidf",
        "measure-tfidf",
    ]


def test_what_the_llm_will_cost_is_said(tickets: Any) -> None:
    llm = {"base_url": "https://api.example/v1", "model": "m", "examples": 100, "price": {"input": 1, "output": 10}}
    plan = make_plan(tickets.change(llm=llm))
    assert plan.llm_calls == 100
    assert plan.llm_cost == pytest.approx(100 * (400 * 1 + 12 * 10) / 1e6)
    del llm["price"]
    assert make_plan(tickets.change(llm=llm)).llm_cost is None


def test_the_labels_of_the_guarantee(tickets: Any) -> None:
    need = make_plan(tickets.change(guarantee={"max_error": 0.05, "confidence": 0.95})).labels
    assert (need.without_errors, need.with_five_errors) == (59, 208)


def test_every_missing_file_is_named_at_once(tickets: Any) -> None:
    data = {"train": "gone.csv", "dev": "tickets.csv", "test": "also-gone.csv", "input": "text", "output": "team"}
    with pytest.raises(SourceError, match=r"data\.train: there is no .*gone\.csv; data\.test: .*also-gone"):
        make_plan(tickets.change(data=data))


def test_one_of_several_addresses_is_enough(tickets: Any) -> None:
    data = {"train": ["gone.csv", "tickets.csv"], "input": "text", "output": "team"}
    assert make_plan(tickets.change(data=data)).labels.available == 120


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"kind": "clasify", "budget": {"build_minutes": -1}}, TaskFileError, "2 faults"),
        ({"students": [{"base": "all-MiniLM-L6-v22", "method": "head"}]}, SourceError, "did you mean"),
        ({"budget": {"device": "laptob"}}, DeviceError, "did you mean 'laptop'"),
        ({"data": {"train": "gopher://x/y", "input": "text", "output": "team"}}, SourceError, "gopher"),
    ],
    ids=["faults", "base", "device", "address"],
)
def test_what_cannot_be_built_cannot_be_planned(
    tickets: Any, changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_plan(tickets.change(**changed))


def test_a_column_that_is_not_there_is_found_by_the_plan(tickets: Any) -> None:
    with pytest.raises(DataError, match="did you mean 'team'"):
        make_plan(tickets.change(data={"train": "tickets.csv", "input": "text", "output": "teams"}))
