"""Files are complete or absent; a full or forbidden disk is said in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locum.core import files
from locum.core.errors import DeviceError


def test_hashes_agree_with_each_other(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a" / "b.bin", b"abc")
    assert files.sha256_file(tmp_path / "a" / "b.bin") == files.sha256_bytes(b"abc")
    assert files.sha256_bytes(b"abc").startswith("ba7816bf")
    assert files.hash_folder(tmp_path) == {"a/b.bin": files.sha256_bytes(b"abc")}


def test_content_hash_ignores_order_and_refuses_nan() -> None:
    assert files.content_hash({"a": 1, "b": [1, 2]}) == files.content_hash({"b": [1, 2], "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.content_hash({"a": float("nan")})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_file(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with files.atomic_folder(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(RuntimeError), files.atomic_folder(target) as folder:
        (folder / "two").write_text("2")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["one"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_atomic_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with files.atomic_folder(tmp_path / "bundle") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["two"]


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "core-disk-full"), (errno.EROFS, "core-not-writable")])
def test_fault_37_a_refusing_disk_keeps_the_last_file_and_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    target = tmp_path / "model.bin"
    files.write_bytes(target, b"last good")

    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DeviceError, match=str(target)) as caught:
        files.write_bytes(target, b"new")
    assert caught.value.code == code
    assert target.read_bytes() == b"last good"
    assert list(tmp_path.iterdir()) == [target]


def test_fault_38_a_forbidden_folder_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DeviceError, match="Not a directory|File exists"):
        files.write_text(blocker / "x", "text")
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(DeviceError, match="cannot write"):
            files.write_text(tmp_path / "x", "text")


def test_fault_45_kill_9_while_saving_leaves_the_previous_file(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint.bin"
    files.write_bytes(target, b"0" * 1000)
    script = (
        "import sys, pathlib; from locum.core.files import write_bytes\n"
        "n = 1\n"
        "while True:\n"
        "    write_bytes(pathlib.Path(sys.argv[1]), str(n % 10).encode() * 5_000_000); n += 1\n"
    )
    for delay_s in (0.3, 0.37, 0.45):
        child = subprocess.Popen([sys.executable, "-c", script, str(target)])
        time.sleep(delay_s)
        child.kill()
        child.wait()
        content = target.read_bytes()
        assert len(content) in (1000, 5_000_000)
        assert len(set(content)) == 1
