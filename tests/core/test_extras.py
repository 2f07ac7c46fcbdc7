"""The hint that installs an optional part: it names this checkout and its pins, and works when pasted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from locum.core import extras

PINS = "numpy==2.2.6\ntorch==2.13.0\ntyper==0.20.0\n"


def test_from_a_checkout_the_command_can_be_pasted() -> None:
    words = shlex.split(extras.install_command("openvino"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    checkout = Path(words[words.index("--editable") + 1].removesuffix("[openvino]"))
    assert (checkout / "pyproject.toml").is_file()
    assert Path(words[words.index("--constraint") + 1]) == checkout / "constraints.txt"


def test_without_a_checkout_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_checkout", lambda: None)
    assert shlex.split(extras.install_command("train"))[-1] == "locum[train]"


def test_the_build_for_processors_is_named_where_no_card_could_use_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(extras, "has_nvidia_card", lambda: False)
    assert extras.torch_for_cpu(PINS).endswith("torch==2.13.0+cpu")
    assert " && " in extras.install_command("train")
    monkeypatch.setattr(extras, "has_nvidia_card", lambda: True)
    assert extras.torch_for_cpu(PINS) == ""
    assert " && " not in extras.install_command("train")


def test_what_is_installed_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has_nvidia_card", lambda: False)
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _name: object())
    assert extras.torch_for_cpu(PINS) == ""
