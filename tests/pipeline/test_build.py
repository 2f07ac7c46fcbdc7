"""Whole builds of a linear student: the contract, what a change rebuilds, and what a build survives."""

from __future__ import annotations

import errno
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.bundle.verify import verify
from locum.core import child as children
from locum.core.errors import BusyError, CheckFailed, DataError, DeviceError, Interrupted, ModelFileError, UserError
from locum.core.files import sha256_file
from locum.core.progress import Event, listening
from locum.testing import FakeUpstream, Scripted

CLI = [sys.executable, "-m", "locum.cli.main"]


def manifest(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text())


def start(words: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CLI, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def made(pattern: str, folder: Path) -> set[str]:
    """What is there of a build at work; ``Path.glob`` fails on folders that go while it looks."""
    return set(glob.glob(pattern, root_dir=folder))  # noqa: PTH207


def wait_for(pattern: str, folder: Path, child: subprocess.Popen[str], timeout_s: float = 120) -> None:
    end_s = time.monotonic() + timeout_s
    while not made(pattern, folder):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end_s, f"{pattern} never came"
        time.sleep(0.02)


def test_the_command_prints_one_document_with_all_that_is_promised(built: Any) -> None:
    assert built.status == 0, built.stderr
    document = json.loads(built.stdout)  # fails on anything but one document
    assert {"bundle", "chosen", "wall_s", "candidates", "llm", "certificate", "parity"} <= set(document)
    assert (document["bundle"], document["llm"]) == (str(built.bundle), None)
    (candidate,) = document["candidates"]
    assert candidate["name"] == document["chosen"] == "tfidf"
    for split in ("dev", "test"):
        assert 0.8 < candidate[split]["accuracy"] <= 1
        assert 0.8 < candidate[split]["macro_f1"] <= 1
    assert 0 < candidate["latency_ms"]["p50"] <= candidate["latency_ms"]["p95"]
    assert candidate["params"] > 1000
    assert 0.01 < candidate["size_mb"] < 5
    assert 0 < candidate["train_s"] <= document["wall_s"]
    assert document["parity"]["label_agreement"] > 0.97
    certificate = document["certificate"]
    assert certificate["threshold"] is not None
    assert certificate["upper_bound"] <= 0.2
    served = sum(path.stat().st_size for path in (built.bundle / "model").iterdir()) / 1e6
    assert candidate["size_mb"] == pytest.approx(served, rel=0.05)


def test_progress_goes_to_standard_error(built: Any) -> None:
    assert "✓ train tfidf" in built.stderr
    assert "Traceback" not in built.stderr


def test_fault_65_a_build_from_local_data_touches_no_network(built: Any) -> None:
    assert built.status == 0, built.stderr
    assert (built.out.parent / "reached-watched").exists()
    assert not (built.out.parent / "reached").exists()


def test_the_bundle_verifies_opens_and_answers(built: Any) -> None:
    found = verify(built.bundle)
    assert found.hashes["certificate"]
    report = json.loads((built.bundle / "report.json").read_text())
    assert found.hashes["model"] == report["provenance"]["model"] == sha256_file(built.bundle / "model" / "model.json")
    assert (built.bundle / "task.yaml").read_bytes() == built.tickets.task.read_bytes()
    with locum.open(built.bundle) as student:
        assert student.void is None
        answer = student("please help the parcel late again today about my courier")
    assert (answer.output, answer.route) == ("delivery", "local")
    assert answer.confidence is not None
    assert 0 < answer.confidence <= 1


def test_a_second_run_does_nothing_again_and_gives_the_same_model(copied: Any, jobs: list[str]) -> None:
    before = manifest(copied.bundle)
    heard: list[Event] = []
    with listening(heard.append):
        run = locum.build(copied.tickets.task, out=copied.out)
    assert jobs == []
    steps = ("data", "ladder", *2 * ("train", "export", "measure"))
    assert sum("done before" in event.label for event in heard) == len(steps)
    after = manifest(copied.bundle)
    for name in ("model", "data", "task"):
        assert after["hashes"][name] == before["hashes"][name]
    assert run.report.wall_s == copied.document["wall_s"]
    assert run.to_json()["certificate"]["threshold"] == copied.document["certificate"]["threshold"]


@pytest.mark.parametrize(
    ("changed", "threshold"),
    [
        ({"guarantee": {"kind": "marginal", "max_error": 0.2, "confidence": 0.9}}, True),
        ({"guarantee": {"kind": "selective", "max_error": 0.001, "confidence": 0.99}}, False),
        ({"instruction": "Who takes this?", "target": {"at_least": 0.5}}, True),
        ({"budget": {"memory_mb": 200, "build_minutes": 15}}, True),
        ({"budget": {"build_minutes": 40}}, True),
        ({"budget": {"build_minutes": 3}}, True),
    ],
    ids=["guarantee", "impossible guarantee", "words", "memory", "more time", "less time, and still enough"],
)
def test_what_the_student_does_not_depend_on_trains_nothing_again(
    copied: Any, jobs: list[str], changed: dict[str, Any], threshold: bool
) -> None:
    run = locum.build(copied.tickets.change(**changed), out=copied.out)
    assert jobs == []
    assert manifest(run.bundle)["hashes"]["model"] == copied.model_hash
    assert (run.report.certificate.threshold is not None) == threshold
    with locum.open(run.bundle) as student:
        assert student.void is None or not threshold
        assert student("please help my invoice refund today about the account").route == (
            "local" if threshold else "abstain"
        )


@pytest.mark.parametrize("changed", [{"seed": 1}, {"data": "rows"}], ids=str)
def test_what_the_student_depends_on_trains_again(
    copied: Any, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    def stop(target: str, *_paths: Path, **_options: Any) -> None:
        raise CheckFailed("core-internal", f"about to run {target}")

    monkeypatch.setattr(children, "run_job", stop)
    if changed == {"data": "rows"}:
        with (copied.tickets.folder / "tickets.csv").open("a") as file:
            file.write("refund the invoice number twelve,billing\n")
    else:
        copied.tickets.change(**changed)
    before = manifest(copied.bundle)
    with pytest.raises(CheckFailed, match="train"):
        locum.build(copied.tickets.task, out=copied.out)
    assert manifest(copied.bundle) == before  # the old bundle stands until a new one is whole


def test_a_task_is_found_in_its_folder_and_its_paths_start_there(
    copied: Any, jobs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    copied.out.rename(tmp_path / "runs" / "tickets")
    run = locum.build("task")
    assert jobs == []
    assert run.bundle.resolve() == (tmp_path / "runs" / "tickets" / "bundle").resolve()


def test_the_llm_is_the_reference_row_and_is_paid_once(copied: Any, jobs: list[str]) -> None:
    def script(_request: Any) -> Scripted:
        return Scripted("billing")

    with FakeUpstream(script) as upstream:
        llm = {
            "base_url": upstream.base_url,
            "model": "large",
            "examples": 12,
            "price": {"input": 1.0, "output": 2.0},
        }
        copied.tickets.change(llm=llm)
        first = locum.build(copied.tickets.task, out=copied.out)
        asked = len(upstream.received)
        second = locum.build(copied.tickets.task, out=copied.out)
        assert (asked, len(upstream.received)) == (12, 12)
    assert jobs == []
    assert first.report.llm is not None
    assert second.report.llm is not None
    assert first.report.llm.test.n == second.report.llm.test.n == 12
    assert first.report.llm.test.metrics["accuracy"].value < 0.8
    assert first.report.cost.llm_per_1000 > first.report.cost.cascade_per_1000
    assert first.to_json()["llm"]["model"]
    assert first.report.comparisons


def test_a_regret_guarantee_asks_the_llm_about_every_calibration_row(copied: Any, jobs: list[str]) -> None:
    with FakeUpstream(["billing"]) as upstream:
        copied.tickets.change(
            llm={"base_url": upstream.base_url, "model": "large", "examples": 5},
            guarantee={"kind": "regret", "max_error": 0.1, "confidence": 0.9},
        )
        run = locum.build(copied.tickets.task, out=copied.out)
        asked = len(upstream.received)
        with locum.open(run.bundle) as student:  # built here, so its LLM needs no word more
            assert student("card", "llm").output == "billing"
    assert jobs == []
    certificate = run.report.certificate
    assert asked == certificate.n + 5
    assert certificate.kind == "regret"
    assert certificate.threshold is not None  # a student far better than this LLM loses nothing


def test_a_key_that_is_not_there_is_said_before_anything_is_done(
    tickets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    tickets.change(llm={"base_url": "https://api.example/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"})
    with pytest.raises(UserError, match="NO_SUCH_KEY") as caught:
        locum.build(tickets.task, out=tmp_path / "out")
    assert caught.value.code == "upstream-key-missing"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_fault_44_killed_at_any_moment_the_build_ends_with_the_same_model(built: Any, tmp_path: Path) -> None:
    rng = random.Random(44)
    out = tmp_path / "out"
    words = [*CLI, "build", str(built.tickets.task), "--out", str(out), "--json"]
    kills = 0
    for number in range(7):
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        if number < 2:
            delay_s = rng.uniform(0.2, 1.5)
        else:  # soon after something of the next step is there
            before = made("work/*/*", out)
            end_s = time.monotonic() + 60
            while made("work/*/*", out) <= before and child.poll() is None and time.monotonic() < end_s:
                time.sleep(0.01)
            delay_s = rng.uniform(0, 1.2)
        try:
            child.wait(delay_s)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
        if (out / "bundle").exists():
            verify(out / "bundle")  # complete or absent, whenever the kill came
    assert kills >= 4
    last = subprocess.run(words, capture_output=True, text=True, timeout=250, check=False)
    assert last.returncode == 0, last.stderr
    assert manifest(out / "bundle")["hashes"]["model"] == built.model_hash
    assert json.loads(last.stdout)["candidates"][0]["test"] == built.document["candidates"][0]["test"]


def test_fault_44_killed_between_the_end_of_training_and_its_record(copied: Any, jobs: list[str]) -> None:
    trained = next(copied.out.glob("work/train-*"))
    (trained / "step.json").unlink()
    for later in ("refit-*", "export-*", "measure-*"):
        for folder in copied.out.glob(f"work/{later}"):
            shutil.rmtree(folder)
    with (trained / "train.log").open("a") as log:
        log.write("what the second try has to say\n")
    run = locum.build(copied.tickets.task, out=copied.out)
    assert jobs == 2 * ["locum.train.job:main", "locum.compress.job:main", "locum.evaluate.job:run"]
    assert manifest(run.bundle)["hashes"]["model"] == copied.model_hash


def test_fault_47_a_second_build_in_the_folder_is_told_who_is_there(tickets: Any, tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time; from locum.core.lock import folder_lock\n"
        "with folder_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid} "):
            locum.build(tickets.task, out=out)
        assert [path.name for path in out.iterdir()] == [".locum.lock"]
    finally:
        holder.kill()
        holder.communicate()


def test_fault_49_ctrl_c_once_stops_with_a_clear_line_and_the_build_goes_on_later(built: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["build", str(built.tickets.task), "--out", str(out), "--json"]
    child = start(words)
    wait_for("work/train-*/request.json", out, child)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=120)
    assert child.returncode == 1
    assert json.loads(stdout)["error"]["code"] == "core-interrupted"
    assert stderr.rstrip().endswith(
        "error: stopped on request → run the same command to go on from here [core-interrupted]"
    )
    assert "Traceback" not in stderr
    assert not (out / "bundle").exists()
    run = locum.build(built.tickets.task, out=out)
    assert manifest(run.bundle)["hashes"]["model"] == built.model_hash


def test_fault_49_ctrl_c_twice_ends_a_job_that_does_not_stop(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        textwrap.dedent("""\
        import os, pathlib, signal, time
        def main(request, out):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pathlib.Path(out, "pid").write_text(str(os.getpid()))
            time.sleep(300)
        """)
    )
    driver = (
        "import pathlib; from locum.core.child import run_job; here = pathlib.Path('.')\n"
        "try: run_job('stubborn:main', here / 'request', here, log=here / 'log', threads=1)\n"
        "except BaseException as error: print(type(error).__name__)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", driver],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for("pid", tmp_path, parent)
    time.sleep(0.2)
    parent.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        parent.wait(1.0)  # once: it waits for the job to save
    parent.send_signal(signal.SIGINT)
    stdout, _ = parent.communicate(timeout=30)
    assert stdout.strip() == "Interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_fault_49_a_stop_between_jobs_is_the_same_error(
    copied: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ctrl_c(*_args: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("locum.pipeline.build.conclude", ctrl_c)
    with pytest.raises(Interrupted, match="run the same command"):
        locum.build(copied.tickets.task, out=copied.out)


def test_fault_37_a_full_disk_names_the_place_and_the_last_bundle_stays(
    copied: Any, monkeypatch: pytest.MonkeyPatch, jobs: list[str]
) -> None:
    copied.tickets.change(instruction="Which desk?")
    before = manifest(copied.bundle)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(DeviceError, match="no space left") as caught:
        patched.setattr(os, "fsync", full)
        locum.build(copied.tickets.task, out=copied.out)
    assert caught.value.code == "core-disk-full"
    assert manifest(copied.bundle) == before
    verify(copied.bundle)
    locum.build(copied.tickets.task, out=copied.out)  # once there is space again
    assert jobs == []
    assert manifest(copied.bundle)["hashes"]["task"] != before["hashes"]["task"]


def test_fault_37_a_disk_that_is_full_from_the_start(tickets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeviceError) as caught:
        locum.build(tickets.task, out=tickets.folder / "out")
    assert caught.value.code == "core-disk-full"


def test_fault_38_an_output_folder_that_cannot_be_written_is_named(tickets: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(DeviceError, match="cannot write") as caught:
            locum.build(tickets.task, out=out)
        assert caught.value.code == "core-not-writable"
    assert (tmp_path / "file").read_text() == "mine"
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(DeviceError, match="cannot write"):
            locum.build(tickets.task, out=closed / "out")


def test_fault_35_a_budget_below_every_candidate_is_refused_with_the_reasons(
    copied: Any, jobs: list[str], tmp_path: Path
) -> None:
    copied.tickets.change(budget={"memory_mb": 5})
    with pytest.raises(UserError, match=r"tfidf: its estimated memory of \d+ MB is over the 5 MB of the budget") as bad:
        locum.build(copied.tickets.task, out=copied.out)
    assert (bad.value.code, bad.value.exit_code, jobs) == ("pipeline-nothing-built", 2, [])


def test_fault_34_a_failed_parity_check_ends_the_build_with_3(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from locum.cli.main import main

    for exported in copied.out.glob("work/export-*"):  # a refit whose export fails would serve the first training
        shutil.rmtree(exported)
    shutil.rmtree(copied.bundle)

    def collapsed(target: str, *_paths: Path, **_options: Any) -> None:
        assert target == "locum.compress.job:main"
        raise CheckFailed("compress-parity", "agreement 0.31 < 0.97", fix="build another student")

    monkeypatch.setattr(children, "run_job", collapsed)
    monkeypatch.setattr(signal, "signal", lambda *_args: None)
    with pytest.raises(SystemExit) as ended:
        main(["build", str(copied.tickets.task), "--out", str(copied.out)])
    assert ended.value.code == 3
    assert not copied.bundle.exists()


def test_fault_10_test_rows_in_the_training_data_end_the_build(tickets: Any, tmp_path: Path) -> None:
    lines = (tickets.folder / "tickets.csv").read_text().splitlines()
    (tickets.folder / "test.csv").write_text("\n".join([lines[0], *lines[50:150]]) + "\n")
    data = {"train": "tickets.csv", "test": "test.csv", "input": "text", "output": "team"}
    tickets.change(data=data)
    with pytest.raises(DataError) as caught:
        locum.build(tickets.task, out=tmp_path / "out")
    assert caught.value.code == "data-leakage"
    assert not list((tmp_path / "out" / "work").glob("train-*"))


def test_fault_11_calibration_rows_in_the_training_data_end_the_build(tickets: Any, tmp_path: Path) -> None:
    lines = (tickets.folder / "tickets.csv").read_text().splitlines()
    (tickets.folder / "calibration.csv").write_text("\n".join([lines[0], *lines[50:150]]) + "\n")
    data = {"train": "tickets.csv", "calibration": "calibration.csv", "input": "text", "output": "team"}
    tickets.change(data=data | {"allow_leakage": True})
    with pytest.raises(DataError) as caught:
        locum.build(tickets.task, out=tmp_path / "out")
    assert caught.value.code == "data-calibration-leak"
    assert not list((tmp_path / "out" / "work").glob("train-*"))


def test_fault_11_splits_changed_after_training_certify_nothing(copied: Any) -> None:
    splits = next(copied.out.glob("work/data-*")) / "splits"
    stolen = (splits / "train.jsonl").read_bytes().splitlines(keepends=True)[:1]
    with (splits / "calibration.jsonl").open("ab") as file:
        file.writelines(stolen)
    with pytest.raises(DataError) as caught:
        locum.build(copied.tickets.task, out=copied.out)
    assert caught.value.code == "data-split"


def test_fault_32_a_model_file_changed_after_it_was_measured_is_not_bundled(copied: Any) -> None:
    before = manifest(copied.bundle)
    for weights in copied.out.glob("work/*/model/weights.npz"):
        content = weights.read_bytes()
        weights.unlink()
        weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(ModelFileError) as caught:
        locum.build(copied.tickets.task, out=copied.out)
    assert caught.value.code == "runtime-hash"
    assert manifest(copied.bundle) == before


BROKEN: dict[str, dict[str, Any]] = {
    "no task file": {"task": None},
    "empty task file": {"task": b""},
    "binary task file": {"task": bytes(range(256)) * 4},
    "task file of another kind": {"task": b"- 1\n- 2\n"},
    "task file with a tag": {"task": b"version: !!python/object/apply:os.getcwd []\n"},
    "no data file": {"data": None},
    "empty data": {"data": b""},
    "only a header": {"data": b"text,team\n"},
    "one row": {"data": b"text,team\na,b\n"},
    "binary data": {"data": bytes(range(256)) * 64},
    "data of unknown encoding": {"data": b"text,team\n" + b"\xff\xfe\x81 word,a\n\x9d\x8f,b\n" * 40},
    "UTF-16 without an end": {"data": b"\xff\xfe" + "text,team\n".encode("utf-16-le") + b"a"},
    "another delimiter and column": {"data": b"body;team\n" + b"a b;x\n" * 50},
    "one label": {"data": b"text,team\n" + b"".join(b"row %d,x\n" % n for n in range(100))},
    "an archive": {"data": b"PK\x03\x04" + b"\x00" * 100},
    "a pickle": {"data": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00."},
    "unclosed quote": {"data": b'text,team\n"a,b\n' + b"c,d\n" * 40},
    "NUL bytes": {"data": b"text,team\n" + b"a\x00b,x\n\x00,y\n" * 30},
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_no_foreign_exception_escapes(tickets: Any, tmp_path: Path, fault: dict[str, bytes | None]) -> None:
    for name, content in fault.items():
        path = tickets.task if name == "task" else tickets.folder / "tickets.csv"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        locum.build(tickets.task, out=tmp_path / "out")
    assert caught.value.exit_code == 2
    assert caught.value.cause


@pytest.mark.parametrize("address", [".", "task.yaml/x", "x" * 5000, "ftp://a/b", "hf://", "pypi://x", "\x00"])
def test_no_foreign_exception_escapes_an_address(tickets: Any, tmp_path: Path, address: str) -> None:
    tickets.change(data={"train": address, "input": "text", "output": "team"})
    with pytest.raises(UserError):
        locum.build(tickets.task, out=tmp_path / "out", offline=True)


@pytest.mark.parametrize("path", ["nothing/here.yaml", ".", "x" * 5000, "a\x00b"])
def test_no_foreign_exception_escapes_a_path_to_a_task(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        locum.build(path)
    assert caught.value.code == "task-missing"
    assert not list(tmp_path.iterdir())
