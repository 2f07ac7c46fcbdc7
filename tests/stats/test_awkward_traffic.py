"""The promise on traffic that repeats, is skewed, or comes in groups: kept where it is counted as Locum counts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
DRAWS = 100
LIMIT = 0.05 + 3 * (0.05 * 0.95 / DRAWS) ** 0.5


@pytest.fixture(scope="module")
def worlds() -> Iterator[ModuleType]:
    pytest.importorskip("mapie")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        module = importlib.import_module("certificate_worlds")
        patch.setattr(module, "METHODS", {"Locum": module.ours, "before": module.before})
        patch.setattr(module, "GROUPED", {})
        yield module
    for name in ("certificate_worlds", "certificates", "public_data"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_a_message_that_comes_often_does_not_break_the_promise(worlds: ModuleType, share: float) -> None:
    ours, before = worlds.run(worlds.repeated(share), DRAWS)
    assert ours["broken"] <= LIMIT
    if share >= 0.1:
        assert before["broken"] > 0.2


def test_a_message_that_the_student_knows_is_answered(worlds: ModuleType) -> None:
    ours, _ = worlds.run(worlds.repeated_and_right(0.6), DRAWS)
    assert ours["broken"] <= LIMIT and ours["local_share"] > 0.7


@pytest.mark.parametrize("sizes", ["pairs", "zipf"])
def test_rows_that_belong_together_do_not_break_the_promise(worlds: ModuleType, sizes: str) -> None:
    draw = {"pairs": lambda _g: 2, "zipf": worlds.zipf_users}[sizes]
    ours, before = worlds.run(worlds.clustered(sizes, draw), DRAWS)
    assert ours["broken"] <= LIMIT
    assert ours["local_share"] > 0.1
    if sizes != "pairs":
        assert before["broken"] > 2 * 0.05
