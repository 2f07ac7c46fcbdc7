"""A few thousand of the malformed inputs of ``bench/fuzz.py``, always the same ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    try:
        import fuzz

        yield fuzz
    finally:
        sys.path.remove(str(BENCH))


@pytest.mark.parametrize(
    ("name", "count", "codes"),
    [
        ("gguf", 3000, {"runtime-damaged", "runtime-unsupported"}),
        ("safetensors", 3000, {"runtime-damaged"}),
        ("json", 600, {"invalid_json", "invalid_value", "unknown_field", "missing_field"}),
        ("events", 1000, {"BadChunkError", "BrokenOffError", "StreamRefusedError"}),
        ("grammar", 300, {"runtime-constraint-grammar", "runtime-constraint-too-large"}),
        ("schema", 100, {"runtime-constraint-schema", "runtime-constraint-unsupported"}),
    ],
)
def test_malformed_inputs_end_in_an_error_of_ours(fuzz: ModuleType, name: str, count: int, codes: set[str]) -> None:
    result = fuzz.run_batch(name, 1, 0, count)
    assert result["failures"] == []
    assert result["outcomes"].get("ok", 0) > 0, "nothing is accepted: the inputs are not nearly right"
    assert codes <= set(result["outcomes"])


def test_an_input_is_known_by_its_number(fuzz: ModuleType) -> None:
    for name in fuzz.TARGETS:
        fuzz.run_batch(name, 2, 0, 20)  # what ran before changes nothing
        assert fuzz.make_input(name, 2, 11) == fuzz.make_input(name, 2, 11)
        assert fuzz.make_input(name, 2, 11) != fuzz.make_input(name, 3, 11)


def test_a_foreign_exception_is_found_and_kept(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fuzz.Target("broken", 1, lambda rng: bytes([rng.randrange(4)]), lambda content: str(1 // content[0]))
    monkeypatch.setitem(fuzz.TARGETS, "broken", target)
    result = fuzz.run_batch("broken", 0, 0, 40)
    assert {failure["problem"] for failure in result["failures"]} == {
        "ZeroDivisionError: integer division or modulo by zero"
    }
    again = fuzz.make_input("broken", 0, int(result["failures"][0]["input"].split(":")[2]))
    assert again.hex() == result["failures"][0]["content"] == "00"


def test_the_inputs_are_shared_out_and_the_table_is_whole(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, seed: int, start: int, count: int) -> dict[str, object]:
        return {"outcomes": {"ok": count}, "failures": [], "seconds": 0.0, "growth_mb": 0.0}

    monkeypatch.setattr(fuzz, "run_child", run)
    results = fuzz.run_all(["gguf", "json"], 30_000, 0, 2)
    assert sum(each["inputs"] for each in results.values()) in (29_999, 30_000)
    made = fuzz.document(results, 1.0, 0, 2)
    assert set(made["columns"]) == set(made["table"][0]) and json.dumps(made)
