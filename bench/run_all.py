"""Every benchmark, one after the other; each writes its own JSON.

python bench/run_all.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "startup.py",
    "no_slower.py",
    "fuzz.py",
    "clients.py",
    "demo.py",
    "certificates.py",
    "certificate_worlds.py",
    "classify.py",
    "gateway.py",
    "llm_client.py",
    "training.py",
    "tagging.py",
    "ranking.py",
    "applications.py",
    "confidence.py",
    "judge.py",
    "unlike.py",
    "plan_times.py",
)


def main() -> int:
    """Run them; the exit status of the first that fails."""
    folder = Path(__file__).resolve().parent
    for script in SCRIPTS:
        print(f"== {script}", flush=True)
        status = subprocess.run([sys.executable, str(folder / script)], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
