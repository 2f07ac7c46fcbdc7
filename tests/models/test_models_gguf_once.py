"""While transformers loads a GGUF file, the file is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.models.gguf_once import gguf_read_once
from locum.testing.pico_gguf import pico_gguf


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """The arguments of each call of one of gguf's functions."""
    calls: list[Any] = []
    original = getattr(gguf, name)

    def call(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(gguf, name, call)
    return calls


def test_file_and_names_are_read_once_for_each_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = inspect_base(pico_gguf(tmp_path / "pico.gguf").path)
    readers, names = counted(monkeypatch, "GGUFReader"), counted(monkeypatch, "get_tensor_name_map")
    first = load_body(base).state_dict()
    assert (len(readers), len(names)) == (1, 1)
    second = load_body(base).state_dict()
    assert (len(readers), len(names)) == (2, 2)  # the file may be another by now
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_package_is_left_as_it_was() -> None:
    before = (gguf.GGUFReader, gguf.get_tensor_name_map)
    with pytest.raises(KeyError), gguf_read_once():
        assert gguf.GGUFReader is not before[0]
        raise KeyError
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
