"""Builds of several rungs: one that fails costs itself alone, and a base that was changed in place is another base."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import locum
from locum.core import child
from locum.core.errors import CheckFailed
from locum.core.files import sha256_file
from locum.pipeline.llm import answers_file
from locum.pipeline.steps import FileHashes, StepCache
from locum.pipeline.workspace import Workspace
from locum.schema.taskfile import parse_task

LINEAR, FROZEN = "tfidf", "base/head"


@pytest.fixture
def rungs(tickets: Any) -> Any:
    """The tickets with two students: linear, and a frozen encoder on a random base in a folder beside the task."""
    from locum.models.pico import pico_base

    file = tickets.folder / "tickets.csv"
    lines = file.read_text(encoding="utf-8").splitlines()[:241]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = sorted({word for line in lines[1:] for word in line.rpartition(",")[0].split()})
    pico_base(tickets.folder / "base", words)
    tickets.change(students=[{"method": "linear"}, {"base": "./base", "method": "head"}])
    return tickets


@pytest.fixture
def collapse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make trainings of some students leave other scores of dev than their weights give, as a faulty method would."""
    run: Callable[..., None] = child.run_job

    def choose(*names: str, refits: bool = True) -> None:
        def job(target: str, request: Path, out: Path, **options: Any) -> None:
            run(target, request, out, **options)
            asked = json.loads(request.read_text())
            if target != "locum.train.job:main" or asked["candidate"]["name"] not in names:
                return
            if refits or not asked["repeat"]:
                logits = np.load(out / "dev_logits.npy")
                np.save(out / "dev_logits.npy", np.roll(logits, 1, axis=1))
                trained = json.loads((out / "trained.json").read_text())
                trained["files"]["dev_logits.npy"] = sha256_file(out / "dev_logits.npy")
                (out / "trained.json").write_text(json.dumps(trained))

        monkeypatch.setattr(child, "run_job", job)

    return choose


@pytest.mark.parametrize(("broken", "left"), [(LINEAR, FROZEN), (FROZEN, LINEAR)])
def test_fault_34_a_rung_that_fails_parity_costs_itself_alone(
    rungs: Any, tmp_path: Path, collapse: Callable[..., None], broken: str, left: str
) -> None:
    collapse(broken)
    run = locum.build(rungs.task, out=tmp_path / "out")
    by_name = {rung.candidate.name: rung for rung in run.report.ladder}
    assert {name: rung.status for name, rung in by_name.items()} == {broken: "failed", left: "built"}
    assert run.report.chosen == left
    assert "labels agree on" in by_name[broken].reason
    page = (run.bundle / "report.html").read_text(encoding="utf-8")
    assert "labels agree on" in page
    with locum.open(run.bundle) as student:
        assert student("please help the parcel late again today about my courier").output in {
            "billing",
            "technical",
            "delivery",
        }


def test_fault_34_when_no_rung_is_left_the_build_ends_with_3_and_every_reason(
    rungs: Any, tmp_path: Path, collapse: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    collapse(LINEAR, FROZEN)
    with pytest.raises(CheckFailed) as caught:
        locum.build(rungs.task, out=tmp_path / "out")
    assert (caught.value.code, caught.value.exit_code) == ("pipeline-nothing-built", 3)
    assert f"{LINEAR}: failed: " in caught.value.cause and f"{FROZEN}: failed: " in caught.value.cause
    assert caught.value.cause.count("labels agree on") >= 2
    assert not (tmp_path / "out" / "bundle").exists()


def test_fault_34_a_refit_that_fails_parity_serves_the_first_training(
    rungs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rungs.change(students=[{"method": "linear"}])
    run: Callable[..., None] = child.run_job

    def job(target: str, request: Path, out: Path, **options: Any) -> None:
        if target == "locum.compress.job:main" and "refit" in out.name:
            raise CheckFailed("compress-parity", "labels agree on 40.0 % of 60 rows")
        run(target, request, out, **options)

    monkeypatch.setattr(child, "run_job", job)
    report = locum.build(rungs.task, out=tmp_path / "out").report
    assert report.chosen == LINEAR
    assert report.refit.startswith("Training it again with the dev rows failed: labels agree on 40.0 %")


def trained(out: Path, name: str) -> set[str]:
    return {path.parent.name for path in (out / "work").glob(f"train-{name}-*/step.json")}


def flipped(weights: Path) -> bytes:
    """Other weights in as many bytes: the first matrix's numbers with the other sign."""
    content = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    floats = np.frombuffer(content, dtype="<f4", offset=start)
    content[start:] = (-floats[::-1]).tobytes()
    return bytes(content)


def test_a_base_whose_weights_were_replaced_in_place_is_trained_again(
    rungs: Any, tmp_path: Path, jobs: list[str]
) -> None:
    out, weights = tmp_path / "out", rungs.folder / "base" / "model.safetensors"
    old = weights.stat()
    os.utime(weights, ns=(old.st_atime_ns, old.st_mtime_ns - 10**12))
    locum.build(rungs.task, out=out)
    first, linear = trained(out, "base-head"), trained(out, "tfidf")
    jobs.clear()
    locum.build(rungs.task, out=out)
    assert jobs == [] and trained(out, "base-head") == first  # nothing changed: nothing is made again

    before = weights.stat()
    with weights.open("r+b") as file:
        file.write(flipped(weights))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = weights.stat()
    same = (before.st_size, before.st_mtime_ns, before.st_ino)
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == same
    locum.build(rungs.task, out=out)
    (second,) = trained(out, "base-head") - first
    assert trained(out, "tfidf") == linear  # what does not depend on it stays
    states = [np.load(out / "work" / name / "dev_logits.npy") for name in (*first, second)]
    assert not np.allclose(states[0], states[1])


def test_a_base_that_was_only_moved_or_copied_is_the_same(rungs: Any, tmp_path: Path, jobs: list[str]) -> None:
    out = tmp_path / "out"
    locum.build(rungs.task, out=out)
    jobs.clear()
    shutil.copytree(rungs.folder / "base", rungs.folder / "copy")
    shutil.rmtree(rungs.folder / "base")
    (rungs.folder / "copy").rename(rungs.folder / "base")
    (rungs.folder / "base" / ".cache").write_text("what a download leaves behind")
    locum.build(rungs.task, out=out)
    assert jobs == []


def test_hashes_are_remembered_and_a_change_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr("locum.pipeline.steps.sha256_file", counted)
    model = tmp_path / "model"
    model.mkdir()
    for name in ("a.safetensors", "config.json"):
        (model / name).write_bytes(name.encode() * 100)
    monkeypatch.setattr(FileHashes, "_SETTLED_NS", -1)  # as if written long ago
    hashes = FileHashes(tmp_path / "work" / "hashes.json")
    first = hashes.of(model)
    assert first == {name: sha256_file(model / name) for name in ("a.safetensors", "config.json")}
    assert (hashes.of(model), FileHashes(tmp_path / "work" / "hashes.json").of(model)) == (first, first)
    assert sorted(read) == ["a.safetensors", "config.json"]
    (tmp_path / "work" / "hashes.json").write_text("damaged")
    assert FileHashes(tmp_path / "work" / "hashes.json").of(model) == first
    assert len(read) == 4
    kept = (model / "config.json").stat()
    (tmp_path / "new").write_bytes(b"CONFIG.JSON" * 100)  # another file in its place, of the same size and time
    os.utime(tmp_path / "new", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    (tmp_path / "new").replace(model / "config.json")
    assert hashes.of(model)["config.json"] == sha256_file(model / "config.json") != first["config.json"]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    hashes = FileHashes(tmp_path / "hashes.json")
    file.write_bytes(b"one")
    hashes.of(file)
    assert not (tmp_path / "hashes.json").exists()


def test_all_parts_of_a_model_in_several_files_count(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.gguf").write_bytes(bytes([number]))
    (tmp_path / "other-00001-of-00001.gguf").write_bytes(b"x")
    found = FileHashes(tmp_path / "hashes.json").of(tmp_path / "model-00001-of-00002.gguf")
    assert sorted(found) == ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"]


def test_answers_of_a_local_llm_are_those_of_its_weights(tmp_path: Path) -> None:
    text = (
        "version: 1\nname: t\nkind: classify\ninstruction: Which?\n"
        "data: {train: t.csv, input: text, output: label}\nllm: {model: llm.gguf}\n"
    )
    work = Workspace(parse_task(text), text, tmp_path, tmp_path / "out", StepCache(tmp_path / "out" / "work"), 1)
    names: list[str] = []
    for weights in (b"GGUF one", b"GGUF two", b"GGUF one"):
        (tmp_path / "llm.gguf").write_bytes(weights)
        names.append(answers_file(work, "llm-answers").name)
    assert names[0] == names[2] != names[1]
    there = text.replace("model: llm.gguf", "model: m, base_url: 'http://127.0.0.1:9/v1'")
    assert answers_file(replace(work, task=parse_task(there)), "llm-answers").name == "llm-answers.jsonl"
