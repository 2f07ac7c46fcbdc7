"""A finished bundle on fresh rows: what ``eval`` measures, and what ``certify`` puts in place."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.bundle.report import read_report
from locum.bundle.verify import verify
from locum.core.errors import DataError, ModelFileError, UpstreamError, UserError
from locum.core.files import sha256_file, write_json
from locum.core.progress import Event, listening
from locum.pipeline.examine import evaluate_bundle
from locum.pipeline.recertify import certify_bundle
from locum.schema.certificate import Certificate
from locum.schema.task import Guarantee, LlmSpec
from locum.schema.taskfile import parse_task
from locum.tasks import open_kind
from locum.testing import FakeUpstream, Scripted
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


def test_rows_that_cannot_be_used_stop_the_measuring_or_are_counted(bundle: Path, tmp_path: Path) -> None:
    data = write_words(tmp_path / "d.jsonl", 60)
    with data.open("a") as file:
        file.write('{"text": "no label yet", "label": null}\n{"text": "two", "label": ["a", "b"]}\n')
    with pytest.raises(DataError) as caught:
        evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl")
    assert "--skip-bad" in caught.value.fix
    found = evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl", skip_bad=True)
    assert (found["n"], sum(found["skipped"].values())) == (60, 2)
    assert "no label" in found["skipped"]


def test_a_certificate_says_that_rows_were_left_out_before_it_was_proved(bundle: Path, tmp_path: Path) -> None:
    data = write_words(tmp_path / "fresh.jsonl", 300, seed=5)
    whole = certify_bundle(bundle, data, dry_run=True).certificate
    with data.open("a") as file:
        file.write('{"text": "no label yet", "label": ""}\n')
    with pytest.raises(DataError):
        certify_bundle(bundle, data)
    done = certify_bundle(bundle, data, skip_bad=True)
    assert (done.certificate.n, done.certificate.threshold) == (whole.n, whole.threshold)
    assert any("1 row of the file could not be used" in line for line in done.sentences())
    proof = read_report(bundle).proof
    assert proof is not None and (proof.rows, proof.skipped) == (300, 1)


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


def test_certify_replaces_policy_and_certificate_whole_and_tells_it_everywhere(bundle: Path, tmp_path: Path) -> None:
    before = verify(bundle)
    guarantee = Guarantee(kind="selective", max_error=0.1, confidence=0.95)
    found = certify_bundle(bundle, write_words(tmp_path / "c.jsonl", 400, seed=2), guarantee)
    certificate = found.certificate
    assert found.replaced and certificate.threshold is not None
    assert (certificate.n, certificate.max_error) == (400, 0.1)
    after = verify(bundle)
    assert after.hashes["certificate"] == certificate.hash() != before.hashes["certificate"]
    assert after.hashes["model"] == before.hashes["model"]
    with locum.open(bundle) as student:
        assert student.void is None
        assert student.certificate == certificate
        assert student(" ".join(next(iter(WORDS.values()))[:3])).route == "local"
    report = read_report(bundle)
    assert report.certificate == certificate
    assert report.proof is not None and (report.proof.file, report.proof.rows) == ("c.jsonl", 400)
    for told in (bundle / "README.md", bundle / "report.html"):
        page = told.read_text().replace("\u00a0", " ").replace("\\_", "_")
        assert "400 rows of c.jsonl" in page
        assert f"since {certificate.issued_at[:10]}" in page
        assert "at most 10 % of the answers given locally are wrong" in page
        assert "29 of 842" not in page  # of the certificate before
    kept = [path for path in bundle.glob("previous/*/*.json") if path.name == "certificate.json"]
    assert [Certificate.from_json(path.read_bytes(), "c").hash() for path in kept] == [found.before.hash()]


def test_the_tasks_own_promise_is_the_default_and_a_weaker_one_is_said(tmp_path: Path) -> None:
    own = f"{pico_task()}guarantee:\n  kind: marginal\n  max_error: 0.02\n  confidence: 0.9\n"
    pico_bundle(tmp_path / "bundle", threshold=0.5, task_text=own)
    data = write_words(tmp_path / "c.jsonl", 400, seed=2)
    found = certify_bundle(tmp_path / "bundle", data, dry_run=True)
    made = found.certificate
    assert (made.kind, made.max_error, made.confidence) == ("marginal", 0.02, 0.9)
    assert found.proof.weaker is None
    for asked in (Guarantee(kind="marginal", max_error=0.1, confidence=0.9), Guarantee(kind="selective")):
        found = certify_bundle(tmp_path / "bundle", data, asked, dry_run=True)
        assert found.proof.weaker is not None and "marginal, at most 2 % at 90 %" in found.proof.weaker
        assert found.proof.weaker in found.sentences(dry_run=True)
    stronger = certify_bundle(tmp_path / "bundle", data, Guarantee(kind="marginal", max_error=0.01, confidence=0.95))
    assert stronger.proof.weaker is None


def test_a_dry_run_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    data = write_words(tmp_path / "c.jsonl", 400, seed=2)
    assert certify_bundle(bundle, data, dry_run=True).certificate.threshold is not None
    few = write_words(tmp_path / "few.jsonl", 10, seed=3)
    assert not certify_bundle(bundle, few, dry_run=True, replace=True).replaced
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_fault_21_a_proof_that_fails_leaves_the_certificate_in_force_and_says_how_many_rows_are_missing(
    bundle: Path, tmp_path: Path
) -> None:
    before = sha256_file(bundle / "manifest.json")
    found = certify_bundle(bundle, write_words(tmp_path / "c.jsonl", 20))
    assert found.certificate.threshold is None and not found.replaced
    assert found.certificate.labels_missing and found.certificate.labels_missing > 30
    assert sha256_file(bundle / "manifest.json") == before
    with locum.open(bundle) as student:
        assert student(" ".join(next(iter(WORDS.values()))[:3])).route == "local"


def test_fault_91_what_does_not_certify_hands_everything_over_where_that_is_asked_for(
    bundle: Path, tmp_path: Path
) -> None:
    found = certify_bundle(bundle, write_words(tmp_path / "c.jsonl", 300, wrong=0.5), replace=True)
    assert found.certificate.threshold is None and found.replaced
    assert found.doubt is not None and found.doubt.broken  # the rows speak against the certificate before, too
    verify(bundle)
    with locum.open(bundle) as student:
        assert {student(" ".join(words)).route for words in WORDS.values()} == {"abstain"}


def test_eval_says_when_the_promise_is_broken(bundle: Path, tmp_path: Path) -> None:
    kept = evaluate_bundle(bundle, write_words(tmp_path / "kept.jsonl", 300), predictions=tmp_path / "p.jsonl")
    assert kept["promise"]["broken"] is False
    wrong = write_words(tmp_path / "wrong.jsonl", 300, wrong=0.5)
    found = evaluate_bundle(bundle, wrong, predictions=tmp_path / "p.jsonl")
    promise = found["promise"]
    assert promise["broken"] is True and promise["p_value"] < 1e-6
    assert promise["errors"] / promise["rows"] == pytest.approx(found["error_local"])
    assert promise["low"] < found["error_local"] < promise["high"]
    assert "broken" in promise["statement"] and "at most 5 %" in promise["statement"]
    pico_bundle(tmp_path / "void", hashes={"model": "0" * 64})
    assert evaluate_bundle(tmp_path / "void", wrong, predictions=tmp_path / "p.jsonl")["promise"] is None


def test_fault_11_calibration_rows_seen_in_training_prove_nothing_in_whatever_file_they_come(
    built: Any, fresh_tickets: list[dict[str, str]], tmp_path: Path
) -> None:
    """The build's own rows in another order, as JSON Lines, in capitals, and a part of them among fresh ones."""
    with (built.tickets.folder / "tickets.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(3).shuffle(rows)
    before = sha256_file(built.bundle / "manifest.json")
    loud = [{**row, "text": f"{row['text'].upper()}!"} for row in rows]
    for name, given in {"other": rows, "loud": loud, "part": fresh_tickets + rows[:40]}.items():
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in given))
        with pytest.raises(DataError, match="prove nothing") as caught:
            certify_bundle(built.bundle, data)
        assert caught.value.code == "data-calibration-leak"
        assert re.search(rf"{name}\.jsonl:\d+, ", caught.value.cause)
        seen = evaluate_bundle(built.bundle, data, predictions=tmp_path / "p.jsonl")["seen"]
        assert seen["of"] == len(given)
        assert seen["rows"] + seen["near"] > (10 if name == "part" else 0.5 * len(given))
    assert sha256_file(built.bundle / "manifest.json") == before
    data = tmp_path / "fresh.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in fresh_tickets))
    found = certify_bundle(built.bundle, data, dry_run=True)
    assert (found.proof.rows, found.proof.seen) == (400, 0)
    assert found.certificate.threshold is not None


def test_a_bundle_without_a_fingerprint_says_that_nobody_can_check(bundle: Path, tmp_path: Path) -> None:
    (bundle / "learned.npy").unlink()
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["learned.npy"]
    write_json(bundle / "manifest.json", manifest)
    said: list[Event] = []
    data = write_words(tmp_path / "c.jsonl", 400, seed=2)
    with listening(said.append):
        found = certify_bundle(bundle, data)
    assert any("nobody can check" in event.label for event in said)
    assert found.replaced and found.proof.seen is None
    assert "nobody could check" in (bundle / "README.md").read_text()
    assert evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl")["seen"] is None


def test_fault_60_a_certificate_of_regret_ends_for_good_when_another_llm_answers(tmp_path: Path) -> None:
    """Certified by the product, with a server that calls itself otherwise later; the end outlives the process."""
    name = ["big-1"]

    def reply(body: dict[str, Any]) -> Scripted:
        told = str(body["messages"][-1]["content"])
        label = next((label for label, words in WORDS.items() if any(word in told for word in words)), "pin")
        return Scripted(label, model=name[0], document={"system_fingerprint": "fp_1"})

    said: list[str] = []
    with FakeUpstream(reply) as upstream:
        folder = tmp_path / "bundle"
        pico_bundle(folder, threshold=0.5, task_text=pico_task(base_url=upstream.base_url, model="big"))
        data = write_words(tmp_path / "c.jsonl", 200, seed=2)
        found = certify_bundle(folder, data, Guarantee(kind="regret", max_error=0.1))
        assert found.replaced and found.certificate.llm is not None
        assert found.certificate.llm.names == ("big-1",) and found.certificate.llm.versions == ("fp_1",)
        sure, unsure = " ".join(next(iter(WORDS.values()))[:3]), "good morning"
        with locum.open(folder) as student:
            student.alarms = said.append
            assert [student(sure).route, student(unsure).route, student(sure).route] == ["local", "llm", "local"]
            name[0] = "big-2"
            assert student(unsure).route == "llm"
            assert student(sure).route == "llm" and "big-2" in str(student.void)
            assert student(sure, "local").certificate is None
        assert len(said) == 1
        name[0] = "big-1"
        with locum.open(folder) as student:
            assert student(sure).route == "llm" and "big-2" in str(student.void)
        certify_bundle(folder, data, Guarantee(kind="regret", max_error=0.11))
        with locum.open(folder) as student:
            assert student.void is None
        with locum.open(folder, llm=LlmSpec(base_url=upstream.base_url, model="other")) as student:
            assert "other" in str(student.void) and student(sure).route == "llm"
        with locum.open(folder, llm=LlmSpec(base_url="http://127.0.0.1:9/v1", model="big")) as student:
            assert "127.0.0.1:9" in str(student.void)


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
