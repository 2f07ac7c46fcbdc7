"""A bundle is what its manifest says, no more and no less; anything else is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from locum.bundle.report import read_report
from locum.bundle.verify import verify
from locum.bundle.write import MANIFEST, REQUIRED, replace_certificate
from locum.core.errors import DeviceError, ModelFileError
from locum.core.files import content_hash, sha256_file, write_json
from locum.core.progress import Event, listening
from locum.report.card import model_card
from locum.report.page import render
from locum.schema.certificate import Certificate, Policy
from locum.testing.bundles import pico_bundle


def _edit(bundle: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    write_json(bundle / MANIFEST, manifest)


def _refused(bundle: Path, code: str, match: str = "refused|not a valid|reading such|pointer") -> str:
    with pytest.raises(ModelFileError, match=match) as caught:
        verify(bundle)
    assert caught.value.code == code
    return caught.value.cause


@pytest.mark.parametrize(
    "name",
    ["", "Pico", "a b", "\x1b[2Jpico", "pico\n", "pico\nfake 1", "pi\u202eco", "../pico", "p" * 65, 'pi"co', "-p"],
)
def test_a_name_that_no_task_may_have_is_refused_in_printable_words(bundle: Path, name: str):
    _edit(bundle, lambda manifest: manifest.update(name=name))
    cause = _refused(bundle, "bundle-unsafe")
    assert cause.isprintable() and "a name has lower case" in cause


def test_a_whole_bundle_verifies_and_names_every_file(bundle: Path):
    manifest = verify(bundle)
    on_disk = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert set(manifest.files) == on_disk - {MANIFEST}
    assert set(REQUIRED) <= set(manifest.files)
    assert set(manifest.hashes) == {"task", "data", "model", "certificate"}
    assert not list(bundle.rglob("*.pkl"))


@pytest.mark.parametrize("name", REQUIRED)
def test_fault_32_a_changed_file_is_refused(bundle: Path, name: str):
    with (bundle / name).open("ab") as file:
        file.write(b" ")
    assert _refused(bundle, "bundle-hash", name)


def test_fault_32_a_changed_weight_is_refused(bundle: Path):
    weights = next(p for p in (bundle / "model").iterdir() if p.suffix == ".npz")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    assert _refused(bundle, "bundle-hash", weights.name)


@pytest.mark.parametrize("name", ["policy.json", "model/model.json", "README.md"])
def test_fault_32_a_missing_file_is_named(bundle: Path, name: str):
    (bundle / name).unlink()
    assert _refused(bundle, "bundle-incomplete", name)


def test_fault_32_an_additional_file_is_refused(bundle: Path):
    (bundle / "model" / "extra.py").write_text("print('run me')", encoding="utf-8")
    assert _refused(bundle, "bundle-extra", "extra.py")


def test_fault_32_a_manifest_that_lies_about_roles_is_refused(bundle: Path):
    _edit(bundle, lambda m: m["hashes"].update(model="0" * 64))
    assert _refused(bundle, "bundle-hash", "model")


def test_fault_26_a_pickle_named_by_the_manifest_is_refused(bundle: Path):
    evil = bundle / "model" / "weights.npy"
    evil.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    _edit(bundle, lambda m: m["files"].update({"model/weights.npy": sha256_file(evil)}))
    assert _refused(bundle, "runtime-pickle")


def test_fault_31_an_lfs_pointer_is_named_as_one(bundle: Path):
    name = next(p.name for p in (bundle / "model").iterdir() if p.suffix == ".npz")
    (bundle / "model" / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", encoding="utf-8"
    )
    assert _refused(bundle, "runtime-lfs-pointer")


@pytest.mark.parametrize(
    "name", ["../task.yaml", "/etc/passwd", "a/../../b", "a\\b", "C:x", "", "./task.yaml", MANIFEST]
)
def test_fault_16_names_that_climb_out_are_refused(bundle: Path, name: str):
    _edit(bundle, lambda m: m["files"].update({name: "0" * 64}))
    assert _refused(bundle, "bundle-unsafe")


@pytest.mark.parametrize("kind", ["file", "folder", "manifest"])
def test_fault_16_links_are_refused(bundle: Path, tmp_path: Path, kind: str):
    name = {"file": "README.md", "folder": "model", "manifest": MANIFEST}[kind]
    elsewhere = tmp_path / "elsewhere"
    (bundle / name).rename(elsewhere)
    (bundle / name).symlink_to(elsewhere)
    assert _refused(bundle, "bundle-unsafe")


def test_fault_16_a_pipe_is_refused_without_being_opened(bundle: Path):
    (bundle / "README.md").unlink()
    os.mkfifo(bundle / "README.md")
    assert _refused(bundle, "bundle-unsafe", "README.md")


def test_a_manifest_that_is_no_manifest(bundle: Path):
    (bundle / MANIFEST).write_text('{"files": NaN', encoding="utf-8")
    assert _refused(bundle, "schema-invalid")


def test_a_huge_manifest_is_not_read(bundle: Path):
    with (bundle / MANIFEST).open("ab") as file:
        file.truncate(5 << 20)
    assert _refused(bundle, "bundle-unsafe", "bytes")


def test_no_bundle_there_says_how_to_get_one(tmp_path: Path):
    assert _refused(tmp_path, "bundle-missing", "locum build")
    with pytest.raises(ModelFileError, match="bundle"):
        read_report(tmp_path)


def test_read_report_gives_the_build(bundle: Path):
    assert read_report(bundle).task == "pico"


def test_fault_37_disk_full_while_writing_keeps_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    before = sha256_file(bundle / MANIFEST)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("locum.bundle.write.shutil.copyfile", full)
        with pytest.raises(DeviceError, match="no space left"):
            pico_bundle(bundle)
    assert sha256_file(bundle / MANIFEST) == before
    verify(bundle)
    assert not [p for p in bundle.parent.iterdir() if ".partial" in p.name]


def _replace(bundle: Path, threshold: float) -> Certificate:
    certificate = Certificate.from_json((bundle / "certificate.json").read_bytes(), "c")
    policy = Policy.from_json((bundle / "policy.json").read_bytes(), "p")
    new = certificate.model_copy(update={"threshold": threshold})
    told = read_report(bundle).model_copy(update={"certificate": new})
    replace_certificate(bundle, policy, new, report=told, page=render(told), card=model_card(told, "MIT"))
    return certificate


def test_a_replaced_certificate_verifies_and_what_was_before_is_kept(bundle: Path):
    old = verify(bundle)
    before = [_replace(bundle, 0.9), _replace(bundle, 0.95)]
    new = verify(bundle)
    assert new.hashes["certificate"] != old.hashes["certificate"]
    assert new.hashes["model"] == old.hashes["model"]
    assert {name for name in old.files if new.files[name] == old.files[name]} >= {"task.yaml", "policy.json"}
    kept = sorted(name for name in new.files if name.startswith("previous/"))
    assert {Certificate.from_json((bundle / name).read_bytes(), name).hash() for name in kept if "cert" in name} == {
        each.hash() for each in before
    }
    assert read_report(bundle).certificate.threshold == 0.95
    (bundle / kept[0]).write_text("{}")
    assert _refused(bundle, "bundle-hash", "previous/")


def test_a_document_of_an_earlier_version_has_the_hash_that_it_had(bundle: Path):
    """A certificate without the fields that came later still is what its manifest names."""
    fields = json.loads((bundle / "certificate.json").read_bytes())
    del fields["llm"], fields["local_labels"]
    write_json(bundle / "certificate.json", fields)
    written = sha256_file(bundle / "certificate.json")
    _edit(
        bundle,
        lambda m: (
            m["files"].update({"certificate.json": written}),
            m["hashes"].update(certificate=content_hash(fields)),
        ),
    )
    assert verify(bundle).hashes["certificate"] == content_hash(fields)


def _replacing(bundle: Path, plain: bool) -> subprocess.Popen[bytes]:
    """A process that replaces the bundle's certificate again and again."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "import locum.core.files as files\n"
        f"if {plain}: files._exchange = lambda *_: False\n"
        "from test_verify import _replace\n"
        "print('ready', flush=True)\n"
        "for turn in range(100000): _replace(Path(sys.argv[1]), 0.5 + turn % 100 / 250)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(bundle), str(Path(__file__).parent)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["exchanged", "two renames"])
def test_fault_45_kill_9_while_a_bundle_is_replaced_leaves_one_in_its_place(bundle: Path, plain: bool):
    lots = random.Random(7)
    for _ in range(8):
        with _replacing(bundle, plain) as process:
            time.sleep(lots.uniform(0.0, 0.25))
            process.kill()
        if not plain:
            assert bundle.is_dir()  # no moment without one
        verify(bundle)  # puts it back where two renames were cut apart
    _replace(bundle, 0.9)
    verify(bundle)
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".bundle.")] == []


def test_fault_45_a_bundle_moved_aside_by_a_killed_process_is_put_back_and_that_is_said(bundle: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    bundle.rename(bundle.with_name(f".bundle.{dead.pid}.old"))
    said: list[Event] = []
    with listening(said.append):
        verify(bundle)
    assert ["put back" in event.label for event in said] == [True]
    assert read_report(bundle).task == "pico"


@pytest.mark.parametrize("call", ["write", "link"])
def test_fault_37_a_full_disk_while_certifying_keeps_the_old_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    before = sha256_file(bundle / MANIFEST)

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if call == "write":
            patched.setattr("locum.core.files.os.fsync", full)
        else:
            patched.setattr("pathlib.Path.hardlink_to", full)
            patched.setattr("locum.core.files.shutil.copyfile", full)
        with pytest.raises(DeviceError, match="no space left") as caught:
            _replace(bundle, 0.9)
    assert (caught.value.code, caught.value.exit_code) == ("core-disk-full", 2)
    assert sha256_file(bundle / MANIFEST) == before
    verify(bundle)
    assert not [path for path in bundle.parent.iterdir() if ".partial" in path.name]
