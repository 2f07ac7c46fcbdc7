"""``core.cpu``: affinity and both versions of control groups, on a made-up ``/sys/fs/cgroup``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from locum.core import cpu
from locum.core.cpu import cgroup_quota, usable_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group_v2(tmp_path: Path, files: dict[str, str], group: str = "/pod/app") -> tuple[Path, Path]:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    (tmp_path / "cgroup").mkdir(exist_ok=True)
    write(tmp_path / "proc", f"0::{group}\n")
    return tmp_path / "cgroup", tmp_path / "proc"


def test_fault_39_cgroup_v2_quota_is_honoured(tmp_path: Path) -> None:
    root, proc = group_v2(tmp_path, {"pod/app/cpu.max": "150000 100000\n"})
    assert cgroup_quota(root, proc) == 1.5


def test_fault_39_the_tightest_ancestor_counts(tmp_path: Path) -> None:
    files = {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "200000 100000\n", "cpu.max": "800000 100000\n"}
    assert cgroup_quota(*group_v2(tmp_path, files)) == 2.0


def test_fault_39_cgroup_v1_quota_is_honoured(tmp_path: Path) -> None:
    folder = tmp_path / "cgroup" / "cpu,cpuacct" / "docker"
    write(folder / "cpu.cfs_quota_us", "300000\n")
    write(folder / "cpu.cfs_period_us", "100000\n")
    write(tmp_path / "proc", "4:cpu,cpuacct:/docker\n7:memory:/docker\n")
    assert cgroup_quota(tmp_path / "cgroup", tmp_path / "proc") == 3.0


def test_no_quota_in_version_1_is_minus_one(tmp_path: Path) -> None:
    folder = tmp_path / "cgroup" / "cpu"
    write(folder / "cpu.cfs_quota_us", "-1\n")
    write(folder / "cpu.cfs_period_us", "100000\n")
    write(tmp_path / "proc", "4:cpu:/\n")
    assert cgroup_quota(tmp_path / "cgroup", tmp_path / "proc") is None


@pytest.mark.parametrize("text", ["", "max 100000", "0 100000", "100000 0", "x y", "100000"])
def test_what_is_no_quota_is_none(tmp_path: Path, text: str) -> None:
    assert cgroup_quota(*group_v2(tmp_path, {"pod/app/cpu.max": text})) is None


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "none", tmp_path / "neither") is None


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (2.9, 2), (None, 6), (64.0, 6)])
def test_usable_cores_takes_the_smallest(monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(6)), raising=False)
    monkeypatch.setattr(cpu, "cgroup_quota", lambda: quota)
    assert usable_cores() == cores
