"""Shared fixtures: where the public data sets are, and an isolated cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def find_data() -> Path | None:
    """The folder with public data sets: LOCUM_DATA, else ../shared/data from the project's root."""
    folder = Path(os.environ.get("LOCUM_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The public data sets; the test is skipped, with the reason, where they are absent."""
    folder = find_data()
    if folder is None:
        pytest.skip("public data sets not found: set LOCUM_DATA to their folder")
    return folder
