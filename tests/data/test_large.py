"""FAULTS 13: memory does not grow with the file. Measured in a child process, because a peak never falls."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_toys import WORDS

CHILD = """
import json, sys
from pathlib import Path
from locum.data.prepare import prepare
from locum.runtime.memory import peak_resident_mb
from locum.schema.task import Task
task = Task.model_validate({"version": 1, "name": "big", "kind": "classify", "instruction": "?",
    "data": {"train": "x", "input": "text", "output": "label"}})
card = prepare(task, {"train": Path(sys.argv[1])}, Path(sys.argv[2]))
peak_mb = peak_resident_mb()
print(json.dumps({"peak_mb": peak_mb, "rows": sum(s.rows for s in card.splits.values())}))
"""


def write_big(path: Path, target_bytes: int) -> int:
    """A CSV of about so many bytes; every tenth row repeats an earlier one. The number of rows."""
    random.seed(13)
    made, size, kept = 0, 0, ["first"]
    with path.open("w") as file:
        file.write("text,label\n")
        while size < target_bytes:
            text = kept[made % len(kept)] if made % 10 == 9 else " ".join(random.choices(WORDS, k=30)) + f" {made}"
            if len(kept) < 1000:
                kept.append(text)
            size += file.write(f"{text},{made % 7}\n")
            made += 1
    return made


def measure(folder: Path, target_bytes: int) -> dict[str, float]:
    path = folder / f"{target_bytes}.csv"
    made = write_big(path, target_bytes)
    start_s = time.monotonic()
    command = [sys.executable, "-c", CHILD, str(path), str(folder / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    path.unlink()
    return {**json.loads(done.stdout), "made": made, "seconds": time.monotonic() - start_s}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fault_13_larger_than_memory_streams(tmp_path: Path) -> None:
    small = measure(tmp_path, 20_000_000)
    large = measure(tmp_path, 65_000_000)
    print(small, large)
    assert large["made"] > 280_000
    assert large["peak_mb"] < 300
    assert large["peak_mb"] - small["peak_mb"] < 30  # 45 MB more data
