"""Start-up time: ``import locum`` and ``locum --help`` in fresh processes; the median and the least of 15 runs.

python bench/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "startup.json"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import locum": [sys.executable, "-c", "import locum"],
    "locum --help": [sys.executable, "-m", "locum.cli.main", "--help"],
    "locum build --help": [sys.executable, "-m", "locum.cli.main", "build", "--help"],
}
RUNS = 15


def main() -> None:
    """Time every command in turn and write the JSON."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            start_s = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(1000 * (time.perf_counter() - start_s))
    table = [
        {"command": name, "median": f"{statistics.median(ms):.0f} ms", "least": f"{min(ms):.0f} ms"}
        for name, ms in times.items()
    ]
    for row in table:
        print(f"{row['command']:<20} median {row['median']:>8}  least {row['least']:>8}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "columns": ["command", "median", "least"],
        "table": table,
        "runs": RUNS,
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
