"""The profile counts what a container may use, not what the host has."""

import os

import pytest

from locum.core.errors import DeviceError
from locum.fit import device as device_module
from locum.fit.device import (
    INSTRUCTIONS,
    core_share,
    instruction_sets,
    measure_gflops,
    measure_memory_gb_s,
    memory_bytes,
    profile_device,
    require_engine,
)
from locum.fit.devices import device_names, find_device
from locum.schema.device import DeviceProfile

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 cores and 16 GB whose /proc and /sys are in a folder."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)

    def write(path, text):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    write("proc/meminfo", MEMINFO)
    write.root = tmp_path
    return write


def test_without_a_container_all_cores_and_memory_count(machine):
    assert core_share(machine.root) == 8
    assert memory_bytes(machine.root) == (16000000 * 1024, 8000000 * 1024)


def test_fault_39_cgroup_v2_quota(machine):
    machine("proc/self/cgroup", "0::/docker/abc\n")
    machine("sys/fs/cgroup/docker/abc/cpu.max", "150000 100000\n")
    assert core_share(machine.root) == 1.5


def test_fault_39_the_tightest_level_counts(machine):
    machine("proc/self/cgroup", "0::/a/b\n")
    machine("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    machine("sys/fs/cgroup/a/cpu.max", "300000 100000\n")
    machine("sys/fs/cgroup/cpu.max", "600000 100000\n")
    assert core_share(machine.root) == 3


def test_fault_39_inside_a_container_the_mount_is_the_root(machine):
    machine("proc/self/cgroup", "0::/path/of/the/host\n")
    machine("sys/fs/cgroup/cpu.max", "200000 100000\n")
    assert core_share(machine.root) == 2


def test_fault_39_cgroup_v1_quota_and_memory(machine):
    machine("proc/self/cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n")
    machine("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "50000\n")
    machine("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    machine("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000000000\n")
    machine("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "500000000\n")
    assert core_share(machine.root) == 0.5
    assert memory_bytes(machine.root) == (2_000_000_000, 1_500_000_000)


def test_fault_39_no_quota_is_no_limit(machine):
    machine("proc/self/cgroup", "4:cpu:/\n5:memory:/\n")
    machine("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    machine("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    machine("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert core_share(machine.root) == 8
    assert memory_bytes(machine.root)[0] == 16000000 * 1024


def test_fault_39_affinity_counts(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3}, raising=False)
    assert core_share(machine.root) == 2


def test_cgroup_v2_memory(machine):
    machine("proc/self/cgroup", "0::/a\n")
    machine("sys/fs/cgroup/a/memory.max", "4000000000\n")
    machine("sys/fs/cgroup/a/memory.current", "3900000000\n")
    assert memory_bytes(machine.root) == (4_000_000_000, 100_000_000)


def test_instruction_sets_of_x86_and_arm(machine):
    machine("proc/cpuinfo", "model name\t: A CPU\nflags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni\n")
    assert instruction_sets(machine.root) == ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni")
    assert profile_device(machine.root, root=machine.root).cpu == "A CPU"
    machine("proc/cpuinfo", "Features\t: fp asimd asimddp i8mm\n")
    assert instruction_sets(machine.root) == ("neon", "dotprod", "i8mm")


def test_unknown_instruction_sets_are_unknown(machine, monkeypatch):
    monkeypatch.setattr(device_module.platform, "system", lambda: "Windows")
    assert instruction_sets(machine.root) is None


def cpu(*instructions, architecture="x86_64", known=True):
    return DeviceProfile(
        name="this",
        source="measured",
        system="Linux",
        cpu="Old CPU",
        architecture=architecture,
        cores=2,
        memory_mb=8000,
        instructions=instructions if known else None,
    )


def test_fault_40_missing_instructions_are_named_before_the_engine_dies():
    with pytest.raises(DeviceError) as caught:
        require_engine(cpu("sse4_2", "avx"), "llamacpp")
    assert caught.value.code == "fit-instructions"
    for word in ("Old CPU", "avx2", "fma", "f16c", "onnx"):
        assert word in str(caught.value)
    with pytest.raises(DeviceError, match="sse4_2"):
        require_engine(cpu(), "onnx")


def test_fault_40_a_wrong_architecture_is_named():
    with pytest.raises(DeviceError, match="no llamacpp engine for riscv64"):
        require_engine(cpu(architecture="riscv64"), "llamacpp")


def test_fault_40_what_is_enough_or_unknown_passes():
    enough = cpu("sse4_2", "avx", "avx2", "fma", "f16c", "bmi2")
    assert require_engine(cpu("sse4_2"), "onnx") is None
    assert require_engine(enough, "llamacpp") is None
    assert require_engine(cpu("neon", architecture="aarch64"), "llamacpp") is None
    assert require_engine(cpu(known=False), "llamacpp") is None


def test_this_machine():
    profile = profile_device()
    assert profile.source == "measured"
    assert 0 < profile.cores <= (os.cpu_count() or 1)
    assert profile.memory_mb is None or profile.memory_mb > 100
    assert profile.disk_free_mb is not None
    assert set(profile.instructions or ()) <= set(INSTRUCTIONS)
    assert profile.matmul_gflops is None
    assert DeviceProfile.from_json(profile.model_dump_json(), where="test") == profile


def test_a_folder_that_does_not_exist_yet(tmp_path):
    assert profile_device(tmp_path / "not" / "yet").disk_free_mb == pytest.approx(
        profile_device(tmp_path).disk_free_mb, rel=0.05
    )


def test_speeds_are_positive_and_finite():
    assert 0.1 < measure_gflops(1, 128) < 1e6
    assert 0.01 < measure_memory_gb_s(1) < 1e5


@pytest.mark.parametrize("name", ["raspberry-pi-5", "phone-6gb", "laptop", "server-cpu-2"])
def test_named_devices_say_what_they_assume(name):
    profile = find_device(name)
    assert profile.source == "nominal"
    assert len(profile.assumptions) == 3
    assert profile.matmul_gflops
    assert profile.memory_gb_s
    require_engine(profile, "onnx")
    require_engine(profile, "llamacpp")


def test_device_by_name():
    assert find_device("this").name == "this"
    assert device_names()[0] == "this"
    with pytest.raises(DeviceError, match="did you mean 'raspberry-pi-5'"):
        find_device("rasberry-pi-5")
    with pytest.raises(DeviceError, match="known: this"):
        find_device("zzz")
