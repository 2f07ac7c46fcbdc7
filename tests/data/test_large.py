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


LIMITED = """
import json, resource, sys
from pathlib import Path
import locum.data.prepare, locum.data.delimited, locum.data.neardup, locum.data.card, jinja2, sqlite3
from locum.data.prepare import prepare
from locum.schema.task import Task
source, small, out, room = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
task = Task.model_validate({"version": 1, "name": "big", "kind": "classify", "instruction": "?",
    "data": {"train": "x", "input": "text", "output": "label"}})
prepare(task, {"train": small}, out)  # loads and opens what is needed, whatever the size of the data
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
try:
    source.read_bytes()
    print(json.dumps({"whole": True}))
except MemoryError:
    card = prepare(task, {"train": source}, out)
    rows = {name: split.rows for name, split in card.splits.items()}
    print(json.dumps({"whole": False, "rows": sum(rows.values()), "splits": sorted(rows)}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the address space is read from /proc")
def test_fault_13_a_file_that_does_not_fit_the_memory_is_prepared_row_by_row(tmp_path: Path) -> None:
    """Under a limit of the address space that the file itself, read whole, breaks."""
    room, long = 150_000_000, " ".join(f"{WORDS[k % 30]}{k % 977}" for k in range(9000))
    big, small = tmp_path / "big.csv", tmp_path / "small.csv"
    for path, rows in ((small, 200), (big, 2500)):  # rows of some 70 kB
        with path.open("w") as file:
            file.write("text,label\n")
            for k in range(rows):
                start = (k * 7919) % 9000
                file.write(f"row{k} {long[start:]} {k * k},{k % 5}\n")
    assert big.stat().st_size > room
    command = [sys.executable, "-c", LIMITED, str(big), str(small), str(tmp_path / "out"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["whole"] is False and said["rows"] > 100
    assert said["splits"] == ["calibration", "dev", "test", "train"]
