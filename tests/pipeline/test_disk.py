"""FAULTS 37 and 38 on a real small disk: it fills up or becomes read-only while a build, a training or a service runs.

The disk is a tmpfs in a mount namespace of a child process, so nothing outside the test sees it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DISK_MB = 48
HELPERS = """
import json, os, subprocess, sys, pathlib
import locum
from locum.bundle.verify import verify
from locum.core.errors import DeviceError, LocumError
disk, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
filler = disk / "filler"

def fill(leave=0):
    "Write until the disk is full, then give some of it back."
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * (1 << 16))
        except OSError:
            file.truncate(max(0, file.tell() - leave))

def refusal(action):
    try:
        action()
    except LocumError as error:
        return error.to_json()
    return None

def hashes(folder):
    return {str(p.relative_to(folder)): p.read_bytes().hex() for p in sorted(folder.rglob("*")) if p.is_file()}

def answers(bundle):
    with locum.open(bundle) as student:
        found = student("please help the parcel late again today about my courier")
    return [found.output, found.route]

said = {}
"""


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a script whose ``disk`` is a file system of its own; returns what it put into ``said``."""
    disk = tmp_path / "disk"
    disk.mkdir()
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    mount = f"mount -t tmpfs -o size={DISK_MB}m none '{disk}'"
    if shutil.which("unshare") is None or subprocess.run([*enter, mount], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of its own for a disk that may fill up")

    def run(script: str) -> dict[str, Any]:
        file = tmp_path / "script.py"
        file.write_text(HELPERS + textwrap.dedent(script) + "\nprint(json.dumps(said))\n", encoding="utf-8")
        command = f"{mount}; exec '{sys.executable}' '{file}' '{disk}' '{tmp_path}'"
        done = subprocess.run([*enter, command], capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def change(tickets: Any, **fields: Any) -> None:
    """The task as it will be asked for the second time, beside the first."""
    first = tickets.task.read_text(encoding="utf-8")
    tickets.change(**fields)
    (tickets.folder / "second.yaml").write_text(tickets.task.read_text(encoding="utf-8"), encoding="utf-8")
    tickets.task.write_text(first, encoding="utf-8")


def test_fault_37_a_disk_that_fills_up_keeps_the_bundle_which_goes_on_answering(
    tickets: Any, on_disk: Callable[..., dict[str, Any]]
) -> None:
    change(tickets, seed=7)
    said = on_disk(f"""
    task = pathlib.Path({str(tickets.folder)!r})
    bundle = locum.build(task, out=disk / "out").bundle
    before = hashes(bundle)
    with locum.open(bundle) as student:  # in service while the disk fills up
        for leave in (0, 20_000, 200_000):
            fill(leave)
            said[str(leave)] = refusal(lambda: locum.build(task / "second.yaml", out=disk / "out"))
        said["in service"] = student("please help the parcel late again today about my courier").output
    said["same"] = hashes(bundle) == before
    said["answers"] = answers(bundle)
    said["leftovers"] = [p.name for p in (disk / "out").iterdir() if p.name.startswith(".") and "partial" in p.name]
    filler.unlink()
    run = locum.build(task / "second.yaml", out=disk / "out")
    verify(run.bundle)
    said["after"] = [run.report.provenance["seed"], hashes(run.bundle) != before]
    """)
    for leave in ("0", "20000", "200000"):
        error = said[leave]
        assert error is not None and (error["code"], error["exit_code"]) == ("core-disk-full", 2), (leave, error)
        assert "/disk/" in error["cause"] and error["fix"]
    assert said["same"] and said["in service"] == "delivery" and said["answers"] == ["delivery", "local"]
    assert said["leftovers"] == [] and said["after"] == ["7", True]


def test_fault_37_a_training_goes_on_from_its_last_checkpoint_once_there_is_space(
    on_disk: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from locum.models.pico import pico_base
    from locum.schema.candidate import Candidate
    from locum.schema.training import TrainRequest

    words = ["card", "cash", "pin", "my", "the", "please"]
    base = pico_base(tmp_path / "base", words)
    rows = [{"id": f"t:{k}", "input": f"{words[k % 3]} {words[3 + k % 2]}", "output": words[k % 3]} for k in range(90)]
    for name, some in (("train", rows[:60]), ("dev", rows[60:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    request = TrainRequest(
        candidate=Candidate(name="pico/full", family="encoder", base=str(base), method="full"),
        base=str(base), train=str(tmp_path / "train.jsonl"), dev=str(tmp_path / "dev.jsonl"),
        labels=("card", "cash", "pin"), budget_s=1e5, seed=3, threads=1,
    )  # fmt: skip
    (tmp_path / "request.json").write_text(json.dumps(request.to_json()), encoding="utf-8")
    said = on_disk("""
    from locum.train import job
    from locum.train.checkpoint import CheckpointFolder
    request, whole, out = work / "request.json", work / "whole", disk / "out"
    job.main(request, whole)
    save, saved = CheckpointFolder.save, []

    def save_and_fill(self, step, tensors, facts):
        save(self, step, tensors, facts)
        saved.append(step)
        if len(saved) == 2:
            fill(4096)

    CheckpointFolder.save = save_and_fill
    said["refused"] = refusal(lambda: job.main(request, out))
    CheckpointFolder.save = save
    kept = [p.name for p in sorted((out / "work").rglob("step-*"))]
    said["kept"] = [kept, saved]
    filler.unlink()
    job.main(request, out)
    trained = json.loads((out / "trained.json").read_text())
    said["resumed"] = trained["resumed"]
    first = json.loads((whole / "trained.json").read_text())
    said["same"] = trained["files"] == first["files"]
    """)
    assert said["refused"]["code"] == "core-disk-full"
    kept, saved = said["kept"]
    assert len(saved) >= 2 and f"step-{saved[1]:08d}" in kept
    assert (said["resumed"], said["same"]) == (1, True)


def test_fault_38_on_a_read_only_disk_a_bundle_answers_and_what_must_write_names_the_path(
    tickets: Any, on_disk: Callable[..., dict[str, Any]]
) -> None:
    change(tickets, seed=7)
    said = on_disk(f"""
    task = pathlib.Path({str(tickets.folder)!r})
    bundle = locum.build(task, out=disk / "out").bundle
    before = hashes(disk / "out")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    said["build"] = refusal(lambda: locum.build(task / "second.yaml", out=disk / "out"))
    said["new"] = refusal(lambda: locum.build(task, out=disk / "other" / "out"))
    said["answers"] = answers(bundle)
    rows = work / "rows.csv"
    rows.write_text((task / "tickets.csv").read_text())
    command = [sys.executable, "-m", "locum.cli.main", "eval", str(bundle), "--data", str(rows), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work)
    said["eval"] = [done.returncode, done.stderr[-500:]]
    said["same"] = hashes(disk / "out") == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    said["after"] = locum.build(task / "second.yaml", out=disk / "out").report.provenance["seed"]
    """)
    for name in ("build", "new"):
        error = said[name]
        assert error is not None and (error["code"], error["exit_code"]) == ("core-not-writable", 2), error
        assert "Read-only file system" in error["cause"] and "/disk/" in error["cause"] and "--out" in error["fix"]
    assert said["answers"] == ["delivery", "local"]
    assert said["eval"][0] == 0, said["eval"]
    assert said["same"] and said["after"] == "7"


def test_fault_38_a_folder_of_somebody_else_is_named_and_left_as_it_is(tickets: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    script = textwrap.dedent(f"""
        import locum
        from locum.core.errors import LocumError
        try:
            locum.build({str(tickets.folder)!r}, out={str(theirs / "out")!r})
        except LocumError as error:
            print(error.code, error.exit_code, error.cause)
    """)
    command = [sys.executable, "-c", script]
    if os.geteuid() == 0:  # who may write anywhere, unless that right is taken away
        os.chown(theirs, 65534, 65534)
        if shutil.which("setpriv") is None:
            pytest.skip("the superuser writes anywhere, and there is no setpriv to take that right away")
        dropped = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command]
    else:
        theirs.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    theirs.chmod(0o755)
    told = done.stdout.split(maxsplit=2)
    assert told[:2] == ["core-not-writable", "2"], done.stderr[-2000:]
    assert str(theirs) in told[2] and "Permission denied" in told[2] and "Traceback" not in done.stderr
    assert [path.name for path in theirs.iterdir()] == ["notes.txt"]
