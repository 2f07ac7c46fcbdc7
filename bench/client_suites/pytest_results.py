"""Runs pytest in this process and tells each test as a case; what a suite skips by itself is no case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from cases import tell


class _Results:
    """A plugin that keeps how each test ended."""

    def __init__(self, by_design: Mapping[str, str]) -> None:
        self.by_design = by_design
        self.told: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One line a test: its call, or its set-up where that failed; a test that is expected to fail is none."""
        name = report.nodeid.split("::", 1)[-1].removeprefix("TestChat::").removeprefix("TestEmbeddings::")
        if name in self.told or hasattr(report, "wasxfail") or report.skipped:
            return
        if report.passed and report.when != "call":
            return
        self.told.add(name)
        reason = next((why for part, why in self.by_design.items() if part in name), "")
        if report.passed:
            tell(name, "passed", "", report.duration)
        elif reason:
            tell(name, "by_design", reason, report.duration)
        else:
            crash = getattr(report.longrepr, "reprcrash", None)
            tell(name, "wrong", str(crash.message if crash else report.longrepr)[:600], report.duration)


def run(arguments: list[str], by_design: Mapping[str, str], plugins: tuple[Any, ...] = ()) -> None:
    """Run the tests of ``arguments``; ``by_design`` maps a part of a test's name to the reason why it is refused."""
    status = pytest.main(
        ["-p", "no:cacheprovider", "-p", "no:terminal", *arguments], plugins=[_Results(by_design), *plugins]
    )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest ended with {status!r}: run it by hand in this environment to see why")
