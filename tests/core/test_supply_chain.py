"""What an installation brings along: nothing that runs by itself, and no check that ``python -O`` takes away."""

from __future__ import annotations

import ast
import re
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KNOWN_PTH = {
    "_editable_impl_locum.pth": "the project itself, installed to be edited: one line with its src folder",
    "distutils-precedence.pth": "setuptools' own shim for distutils, the same in every release",
    "_virtualenv.pth": "virtualenv's fix for distutils' configuration",
    "a1_coverage.pth": "coverage, where it measures subprocesses",
}
"""A .pth file may run code whenever Python starts: LiteLLM 1.82.7 stole credentials by one."""


def installed_pth(folder: Path) -> dict[str, str]:
    """The .pth files of a folder of packages whose lines run code or are not known, by name."""
    found: dict[str, str] = {}
    for path in folder.glob("*.pth"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
        runs = any(line.startswith(("import ", "import\t")) for line in lines)
        is_folder = bool(lines) and not runs and all(Path(line).is_dir() for line in lines)
        if path.name not in KNOWN_PTH and not is_folder:
            found[path.name] = path.read_text(encoding="utf-8")[:200]
    return found


def test_no_installed_distribution_has_a_pth_file_that_runs_code() -> None:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), *sys.path}
    folders = {Path(folder) for folder in folders if "site-packages" in folder or "dist-packages" in folder}
    assert {str(folder): bad for folder in folders if (bad := installed_pth(folder))} == {}


def test_a_pth_file_that_runs_code_is_found(tmp_path: Path) -> None:
    (tmp_path / "helpful.pth").write_text("import os; os.environ.get('HOME')\n")
    (tmp_path / "folder.pth").write_text(f"{tmp_path}\n")
    assert set(installed_pth(tmp_path)) == {"helpful.pth"}


def test_the_editable_install_names_a_folder_and_runs_nothing() -> None:
    for folder in map(Path, site.getsitepackages()):
        path = folder / "_editable_impl_locum.pth"
        if path.is_file():
            assert Path(path.read_text().strip()).is_dir()


def test_the_wheel_holds_the_package_and_nothing_that_runs_by_itself(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*words, "--wheel-dir", tmp_path, ROOT], capture_output=True, text=True, timeout=280)
    if done.returncode and re.search("No matching distribution|connection|No module named pip", done.stderr):
        pytest.skip("the build backend cannot be had without a network")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "locum/__init__.py" in names
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and tops - {"locum"} == {next(top for top in tops if top.endswith(".dist-info"))}
    assert [
        name for name in names if name.endswith((".pth", ".so", ".pyd", ".dll", ".pkl", ".pt", ".sh", ".exe"))
    ] == []


def test_no_check_is_an_assert() -> None:
    """``python -O`` drops them (vLLM's CVE-2026-41523 was such a check); the tests also run under it."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__debug__")
    ]
    assert found == []


def test_the_engine_is_no_older_than_the_one_that_is_tested() -> None:
    pinned = re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    tested = dict(pinned)["xllamacpp"]
    assert f'"xllamacpp>={tested}"' in (ROOT / "pyproject.toml").read_text()
