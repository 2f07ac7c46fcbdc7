"""Pico students, built once for all tests of this room: tracing a graph is the slow part."""

from __future__ import annotations

import pytest
import torch

from locum.compress.pico import PicoStudent, pico_student


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models of a few kilobytes only wait for further threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PicoStudent:
    return pico_student(tmp_path_factory.mktemp("encoder"), "bert")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> PicoStudent:
    """A Llama with grouped heads, cut from three layers to two."""
    return pico_student(tmp_path_factory.mktemp("decoder"), "llama", depth=2)
