"""The tables of the generation benchmark, made from figures by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCH))
    import generation_tables

    monkeypatch.setattr(generation_tables, "RESULTS", tmp_path / "results" / "generation.json")
    yield generation_tables


def rounds(*tokens_per_s: float) -> dict[str, list[dict[str, Any]]]:
    runs = [{"tokens_per_s": rate, "first_ms": 10.0, "p95_ms": 90.0} for rate in tokens_per_s]
    return {clients: [dict(run) for run in runs] for clients in ("1", "4", "16")}


def written(tables: ModuleType, servers: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Any] = {"machine": {"bandwidth_gb_s": 10.0, "bf16_gflop_s": 100.0}}
    raw["m"] = {"megabytes": 100.0, "copy_megabytes": 150.0, "servers": servers}
    tables.write(raw)
    return json.loads(tables.RESULTS.read_text(encoding="utf-8"))


def test_medians_stand_against_the_best_server_that_is_not_ours(tables: ModuleType) -> None:
    servers = {
        "Locum": rounds(10, 50, 30),
        "Locum (openvino)": rounds(80, 10, 60),
        "slow": rounds(15, 19, 15),
        "best": rounds(20, 20, 10),  # the median of ratios is not the ratio of medians
    }
    document = written(tables, servers)
    rows = {(row["server"], row["clients"]): row for row in document["table"]}
    assert len(rows) == 12
    assert rows["Locum", "1"]["tokens/s"] == "30.0"
    assert [rows[name, "4"]["against the best peer"] for name in servers] == ["2.50×", "4.00×", "", ""]
    assert rows["Locum (openvino)", "1"]["of bandwidth"] == "90 %"  # of the copy that it reads
    assert rows["Locum", "1"]["of bandwidth"] == "30 %" and rows["Locum", "4"]["of bandwidth"] == ""
    assert document["caption"] == tables.CAPTION


def test_a_peer_that_rounds_the_file_is_no_exact_one(tables: ModuleType) -> None:
    servers = {
        "Locum": rounds(30),
        tables.REFERENCE: rounds(20),
        tables.ROUNDING: rounds(60),
        tables.PEER_COPIED: rounds(25),
    }
    for name, alike in (("Locum", 0.875), (tables.ROUNDING, 0.25)):
        servers[name]["1"][0]["alike"] = alike
    rows = {(row["server"], row["clients"]): row for row in written(tables, servers)["table"]}
    ours = rows["Locum", "1"]
    assert (ours[tables.BEST], ours[tables.BEST_EXACT]) == ("0.50×", "1.20×")
    assert (ours["answers alike"], rows[tables.ROUNDING, "1"]["answers alike"]) == ("88 %", "25 %")
    assert rows["Locum", "4"]["answers alike"] == rows[tables.REFERENCE, "1"]["answers alike"] == ""
    del servers[tables.PEER_COPIED]  # a file that is read exactly has no copy
    (alone, *_) = written(tables, servers)["table"]
    assert alone[tables.BEST_EXACT] == "0.50×"


def test_a_server_that_could_not_run_is_named_with_the_reason(tables: ModuleType) -> None:
    document = written(tables, {"Locum": rounds(10), "Locum (openvino)": {"left_out": "it is not installed"}})
    assert [row["server"] for row in document["table"]] == ["Locum"] * 3
    assert document["caption"] == f"{tables.CAPTION}; m: Locum (openvino) is left out, it is not installed"
