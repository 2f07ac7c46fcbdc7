"""The benchmark script runs and writes what the README's table is made from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "certificates.py"


@pytest.mark.slow
def test_the_benchmark_runs_and_says_how_it_was_made(tmp_path):
    out = tmp_path / "certificates.json"
    subprocess.run([sys.executable, SCRIPT, "--draws", "20", "--out", out], check=True, capture_output=True)
    result = json.loads(out.read_text())
    assert {row["method"] for row in result["setting"] if row["kind"] == "selective"} >= {"Locum", "naive threshold"}
    assert all(0 <= row["broken"] <= 1 and 0 <= row["local_share"] <= 1 for row in result["setting"] + result["grid"])
    assert {"seed", "date", "machine", "versions"} <= result["provenance"].keys()
