"""A copy of the session's finished build, to change at will; nothing of it is built again unless a test asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from locum.core import child


@pytest.fixture
def copied(built: Any, tmp_path: Path) -> Any:
    """The finished build under this test's folder."""
    assert built.status == 0, built.stderr
    task, out = tmp_path / "task", tmp_path / "out"
    shutil.copytree(built.tickets.folder, task)
    shutil.copytree(built.out, out)
    tickets = type(built.tickets)(task, built.tickets.build_fields)
    return type(built)(tickets, out, built.status, built.stdout, built.stderr)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that a build starts in child processes, as they are started."""
    started: list[str] = []
    run: Callable[..., None] = child.run_job

    def record(target: str, *paths: Path, **options: Any) -> None:
        started.append(target)
        run(target, *paths, **options)

    monkeypatch.setattr(child, "run_job", record)
    return started
