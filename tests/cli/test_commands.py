"""Each command on a real bundle: what it prints for people, what it prints as JSON, and its status."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from locum.bundle.verify import verify
from locum.schema.certificate import Certificate
from locum.schema.plan import Plan
from locum.schema.report import BuildReport
from locum.testing.bundles import pico_bundle
from locum.testing.pico import WORDS


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pico_bundle(tmp_path / "bundle", threshold=0.5)
    rng = random.Random(3)
    with (tmp_path / "fresh.csv").open("w") as file:
        file.write("text,label\n")
        for number in range(200):
            label = rng.choice(list(WORDS))
            file.write(f"{' '.join(rng.choices(WORDS[label], k=3))} {number},{label}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bundle"


def test_eval(run: Any, bundle: Path) -> None:
    done = run("eval", bundle, "--data", "fresh.csv", "--json")
    assert done.status == 0
    assert {"n", "metrics", "local_share", "error_local", "latency_ms", "predictions"} <= set(done.document)
    assert done.document["metrics"]["accuracy"] == 1.0
    assert len(Path(done.document["predictions"]).read_text().splitlines()) == done.document["n"] == 200
    shown = run("eval", bundle, "--data", "fresh.csv", "--predictions", "mine.jsonl")
    assert shown.status == 0
    assert "accuracy      100.0%  (95 % interval " in shown.stdout
    assert Path("mine.jsonl").is_file()


def test_eval_with_another_engine(run: Any, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pico_bundle(tmp_path / "onnx", threshold=0.5, engine="onnx")
    own = run("eval", tmp_path / "onnx", "--data", "fresh.csv", "--json").document
    other = run("eval", tmp_path / "onnx", "--data", "fresh.csv", "--engine", "openvino", "--json").document
    assert (own["engine"], other["engine"]) == ("onnx", "openvino")
    assert other["metrics"] == own["metrics"]
    assert own["void"] is None and other["void"] and other["local_share"] == 0
    refused = run("eval", bundle, "--data", "fresh.csv", "--engine", "openvino")
    assert refused.status == 2 and "[runtime-engine]" in refused.stderr


def test_certify_that_holds(run: Any, bundle: Path) -> None:
    done = run("certify", bundle, "--data", "fresh.csv", "--max-error", "0.1", "--json")
    assert done.status == 0
    certificate = Certificate.from_json(json.dumps(done.document), "certificate")
    assert certificate.threshold is not None
    assert verify(bundle).hashes["certificate"] == certificate.hash()
    shown = run("certify", bundle, "--data", "fresh.csv", "--max-error", "0.1")
    assert shown.stdout.startswith("With 95 % confidence, at most 10 % ")


def test_certify_and_report_tell_what_is_in_force(run: Any, bundle: Path) -> None:
    shown = run("certify", bundle, "--data", "fresh.csv", "--dry-run")
    assert shown.status == 0 and "at most 5 %" in shown.stdout and "nothing was changed" in shown.stdout
    before = run("report", bundle).stdout
    assert "by the build" in before
    weak = run("certify", bundle, "--data", "fresh.csv", "--max-error", "0.2")
    assert weak.status == 0 and "weaker than the task's own promise" in weak.stdout
    told = " ".join(run("report", bundle).stdout.split())
    assert "at most 20 % of the answers given locally are wrong" in told
    assert "from 200 rows of fresh.csv" in told and "weaker than the task's own promise" in told
    failed = run("certify", bundle, "--data", "fresh.csv", "--max-error", "0.001")
    assert failed.status == 3 and "the certificate in force stays" in failed.stderr
    assert "at most 20 %" in run("report", bundle).stdout
    ended = run("certify", bundle, "--data", "fresh.csv", "--max-error", "0.001", "--replace")
    assert ended.status == 3 and "every input goes to the LLM, or to nobody" in ended.stderr
    assert run("eval", bundle, "--data", "fresh.csv", "--json").document["local_share"] == 0


def test_eval_check_exits_3_when_the_rows_break_the_promise(run: Any, bundle: Path) -> None:
    assert run("eval", bundle, "--data", "fresh.csv", "--check").status == 0
    rows = Path("fresh.csv").read_text().splitlines()
    turned = {"card": "cash", "cash": "pin", "pin": "card"}
    wrong = [f"{text},{turned[label]}" for text, label in (row.split(",") for row in rows[1:101])]
    Path("wrong.csv").write_text("\n".join([rows[0], *wrong, *rows[101:]]) + "\n")
    shown = run("eval", bundle, "--data", "wrong.csv")
    assert shown.status == 0 and "! The promise is broken on these rows: 5" in shown.stdout
    checked = run("eval", bundle, "--data", "wrong.csv", "--check", "--json")
    assert checked.status == 3 and "[cascade-promise-broken]" in checked.stderr
    assert checked.document["promise"]["broken"] is True


def test_fault_91_certify_that_does_not_hold_exits_3_with_one_document(run: Any, bundle: Path) -> None:
    done = run("certify", bundle, "--data", "fresh.csv", "--max-error", "0.001", "--json")
    assert done.status == 3
    assert done.document["threshold"] is None
    assert "[cascade-not-certified]" in done.stderr
    verify(bundle)
    shown = run("certify", bundle, "--data", "fresh.csv", "--max-error", "0.001")
    assert shown.status == 3
    assert "label about" in shown.stderr


def test_report(run: Any, bundle: Path, built: Any) -> None:
    done = run("report", built.bundle, "--json")
    assert BuildReport.from_json(json.dumps(done.document), "report").task == "tickets"
    shown = run("report", built.bundle, "--html", "page.html")
    assert shown.status == 0
    assert "tfidf" in shown.stdout
    assert "Certificate: With 90 % confidence" in shown.stdout
    assert "<html" in Path("page.html").read_text()
    assert run("report", bundle.parent).status == 2


def test_build_ends_with_how_to_serve(run: Any, built: Any, tmp_path: Path) -> None:
    shutil.copytree(built.tickets.folder, tmp_path / "task")
    shutil.copytree(built.out, tmp_path / "out")
    done = run("build", tmp_path / "task", "--out", tmp_path / "out", "--offline")
    assert done.status == 0
    assert "✓" in done.stdout
    assert f"Serve   locum serve {tmp_path / 'out' / 'bundle'}" in done.stdout
    assert "tfidf" in done.stdout
    body = done.stdout.split("-d '")[1].split("'")[0]
    assert json.loads(body)["model"] == "tickets"


def test_plan(run: Any, tickets: Any, tmp_path: Path) -> None:
    done = run("plan", tickets.task, "--json")
    assert Plan.from_json(json.dumps(done.document), "plan").task == "tickets"
    shown = run("plan", tickets.folder)
    assert shown.status == 0
    assert "Ladder, cheapest first" in shown.stdout
    assert "You have about 120 rows to test the promise with" in shown.stdout


def test_fault_20_plan_shows_all_faults_with_their_lines(run: Any, tickets: Any) -> None:
    tickets.task.write_text("version: 1\nname: X Y\nkind: clasify\nbudgte: {}\n")
    done = run("plan", tickets.task)
    assert done.status == 2
    for place in ("task.yaml:2: name", "task.yaml:3: kind", "task.yaml:4: budgte"):
        assert place in done.stderr


def test_models(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path))
    done = run("models", "--json")
    names = {base["name"] for base in done.document}
    assert {"all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"} <= names
    assert not any(base["cached"] for base in done.document)
    shown = run("models").stdout
    assert all(name in shown for name in names)


def test_models_pull_offline_and_unknown(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path))
    monkeypatch.setenv("LOCUM_OFFLINE", "1")
    assert run("models", "pull", "all-MiniLM-L6-v2", "--json").document["error"]["code"] == "source-offline"
    assert "did you mean" in run("models", "pull", "all-MiniLM-L6-v1").stderr


def test_serve_refuses_what_is_no_bundle(run: Any, tmp_path: Path) -> None:
    done = run("serve", tmp_path)
    assert done.status == 2
    assert "[bundle-missing]" in done.stderr


@pytest.mark.parametrize("engine", ["openvino", "auto"])
def test_serve_refuses_a_cache_for_each_slot_where_the_engine_has_one_for_all(run: Any, engine: str) -> None:
    done = run("serve", "m.gguf", "--engine", engine, "--no-shared-cache")
    assert done.status == 2 and "[runtime-unsupported-option]" in done.stderr


@pytest.mark.engines
def test_serve_answers_until_it_is_told_to_stop(bundle: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "locum.cli.main", "serve", str(bundle), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        said = child.stderr.readline()
        assert said.startswith("serving pico at http://127.0.0.1:")
        url = said.split()[3]
        body = {"model": "pico", "messages": [{"role": "user", "content": "withdraw cash at the atm"}]}
        answer = httpx.post(f"{url}/chat/completions", json=body, trust_env=False, timeout=30)
        assert answer.json()["choices"][0]["message"]["content"] == "cash"
        assert answer.headers["x-locum-route"] == "local"
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=30)
    finally:
        child.kill()
    assert (child.returncode, stdout) == (0, "")
    assert "Traceback" not in stderr
