"""A finished bundle on fresh rows: what ``eval`` measures, and what ``certify`` puts in place."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.bundle.verify import verify
from locum.core.errors import DataError, ModelFileError, UpstreamError, UserError
from locum.pipeline.examine import certify_bundle, evaluate_bundle
from locum.schema.task import Guarantee
from locum.schema.taskfile import parse_task
from locum.tasks import open_kind
from locum.testing import FakeUpstream
from locum.testing.bundles import pico_bundle, pico_task
from locum.testing.pico import WORDS


def write_words(path: Path, rows: int, wrong: float = 0.0, seed: int = 0) -> Path:
    """Rows that the pico student answers right, but for a share whose label is another one."""
    rng = random.Random(seed)
    labels = list(WORDS)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            label = rng.choice(labels)
            text = f"{' '.join(rng.choices(WORDS[label], k=3))} {number}"
            gold = rng.choice([other for other in labels if other != label]) if rng.random() < wrong else label
            file.write(json.dumps({"text": text, "label": gold}) + "\n")
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pico_bundle(tmp_path / "bundle", threshold=0.5)
    return tmp_path / "bundle"


def test_the_document_of_eval(bundle: Path, tmp_path: Path) -> None:
    data = write_words(tmp_path / "fresh.jsonl", 120, wrong=0.1)
    found = evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl")
    assert {"n", "metrics", "local_share", "error_local", "latency_ms", "predictions"} <= set(found)
    assert found["n"] == 120
    assert 0.8 < found["metrics"]["accuracy"] < 0.97
    low, high = found["intervals"]["accuracy"]
    assert low < found["metrics"]["accuracy"] < high
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p95"]
    assert found["void"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found

    rows = [json.loads(line) for line in Path(found["predictions"]).read_text().splitlines()]
    assert len(rows) == 120
    right = sum(row["output"] == row["gold"] for row in rows)
    local = [row for row in rows if row["route"] == "local"]
    assert found["metrics"]["accuracy"] == pytest.approx(right / 120)
    assert found["local_share"] == pytest.approx(len(local) / 120)
    assert found["error_local"] == pytest.approx(sum(row["output"] != row["gold"] for row in local) / len(local))


def test_measuring_changes_nothing_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    evaluate_bundle(bundle, write_words(tmp_path / "d.jsonl", 30), predictions=tmp_path / "p.jsonl")
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_a_label_that_the_student_does_not_know_counts_as_wrong_and_is_named(bundle: Path, tmp_path: Path) -> None:
    data = write_words(tmp_path / "d.jsonl", 30)
    with data.open("a") as file:
        file.write('{"text": "something new", "label": "unheard of"}\n')
    found = evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl")
    assert found["unknown_labels"] == ["unheard of"]
    assert found["metrics"]["accuracy"] <= 30 / 31


def test_fault_90_under_a_void_certificate_nothing_counts_as_local(tmp_path: Path) -> None:
    pico_bundle(tmp_path / "bundle", hashes={"model": "0" * 64})
    data = write_words(tmp_path / "d.jsonl", 30)
    found = evaluate_bundle(tmp_path / "bundle", data, predictions=tmp_path / "p.jsonl")
    assert found["void"]
    assert (found["local_share"], found["error_local"]) == (0.0, None)
    assert '"local"' not in (tmp_path / "p.jsonl").read_text()


def test_certify_replaces_policy_and_certificate_whole(bundle: Path, tmp_path: Path) -> None:
    before = verify(bundle)
    guarantee = Guarantee(kind="selective", max_error=0.1, confidence=0.95)
    certificate = certify_bundle(bundle, write_words(tmp_path / "c.jsonl", 400, seed=2), guarantee)
    assert certificate.threshold is not None
    assert (certificate.n, certificate.max_error) == (400, 0.1)
    after = verify(bundle)
    assert after.hashes["certificate"] == certificate.hash() != before.hashes["certificate"]
    assert after.hashes["model"] == before.hashes["model"]
    with locum.open(bundle) as student:
        assert student.void is None
        assert student.certificate == certificate
        assert student(" ".join(next(iter(WORDS.values()))[:3])).route == "local"


def test_fault_91_what_does_not_certify_hands_everything_over(bundle: Path, tmp_path: Path) -> None:
    certificate = certify_bundle(bundle, write_words(tmp_path / "c.jsonl", 300, wrong=0.5))
    assert certificate.threshold is None
    verify(bundle)
    with locum.open(bundle) as student:
        assert {student(" ".join(words)).route for words in WORDS.values()} == {"abstain"}


def test_fault_21_too_few_rows_say_how_many_are_missing(bundle: Path, tmp_path: Path) -> None:
    certificate = certify_bundle(bundle, write_words(tmp_path / "c.jsonl", 20))
    assert certificate.threshold is None
    assert certificate.labels_missing
    assert certificate.labels_missing > 30


def test_fault_11_the_file_the_bundle_was_built_on_certifies_nothing(built: Any) -> None:
    before = (built.bundle / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="proves nothing") as caught:
        certify_bundle(built.bundle, built.tickets.folder / "tickets.csv")
    assert caught.value.code == "data-calibration-leak"
    assert (built.bundle / "manifest.json").read_bytes() == before


def test_regret_without_an_llm_is_the_users_mistake(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no LLM"):
        certify_bundle(bundle, write_words(tmp_path / "c.jsonl", 20), Guarantee(kind="regret"))


@pytest.mark.parametrize("work", ["eval", "certify"])
def test_what_is_no_bundle_or_no_data_is_refused(bundle: Path, tmp_path: Path, work: str) -> None:
    def call(folder: Path, data: Path) -> object:
        if work == "eval":
            return evaluate_bundle(folder, data, predictions=tmp_path / "p.jsonl")
        return certify_bundle(folder, data)

    data = write_words(tmp_path / "d.jsonl", 30)
    with pytest.raises(ModelFileError):
        call(tmp_path, data)
    with pytest.raises(DataError):
        call(bundle, tmp_path / "gone.csv")
    with pytest.raises(DataError):
        call(bundle, tmp_path)
    (tmp_path / "columns.csv").write_text("body,label\na,b\n")
    with pytest.raises(DataError, match="text"):
        call(bundle, tmp_path / "columns.csv")
    verify(bundle)


def test_fault_32_a_bundle_that_was_changed_is_neither_measured_nor_certified(bundle: Path, tmp_path: Path) -> None:
    data = write_words(tmp_path / "d.jsonl", 30)
    with (bundle / "policy.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelFileError, match="policy.json"):
        evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl")
    with pytest.raises(ModelFileError, match="policy.json"):
        certify_bundle(bundle, data)


def test_certify_stops_at_the_cap_and_keeps_what_it_paid_for(tmp_path: Path) -> None:
    """Of an answer only what is written costs, 1 a token; a label may have more tokens than it has."""
    with FakeUpstream(lambda _body: next(iter(WORDS))) as upstream:
        llm = {"base_url": upstream.base_url, "model": "big", "price": {"input": 0, "output": 1e6}, "max_cost": 1000}
        pico_bundle(tmp_path / "bundle", threshold=0.5, task_text=pico_task(**llm))
        data, guarantee = write_words(tmp_path / "c.jsonl", 20), Guarantee(kind="regret", max_error=0.5)
        kept = tmp_path / "c.llm-answers.jsonl"
        most = open_kind(parse_task(pico_task(**llm)), tuple(WORDS)).decoding.max_tokens
        with pytest.raises(UpstreamError, match="is spent") as caught:
            certify_bundle(tmp_path / "bundle", data, guarantee, max_cost=most + 4.5)
        assert caught.value.code == "evaluate-llm-cap"
        assert caught.value.fix is not None and "--max-cost" in caught.value.fix
        assert len(kept.read_text().splitlines()) == len(upstream.received) == 5
        certify_bundle(tmp_path / "bundle", data, guarantee)  # the task's own cap is enough
        assert len(upstream.received) == 20


def test_a_cap_without_a_price_is_the_users_mistake(bundle: Path, tmp_path: Path) -> None:
    data = write_words(tmp_path / "d.jsonl", 30)
    for call in (
        lambda: evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl", max_cost=1.0),
        lambda: certify_bundle(bundle, data, max_cost=1.0),
    ):
        with pytest.raises(UserError, match="needs the price"):
            call()
