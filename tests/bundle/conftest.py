"""A small bundle, written once and copied for every test that harms it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from locum.testing.bundles import pico_bundle


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "pico"
    pico_bundle(folder)
    return folder


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))
