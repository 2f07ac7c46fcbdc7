"""A fresh environment in a temporary folder, in which a finding's script runs itself once more.

Not here: anything of Locum. A script calls ``main`` with its packages and with what is to be shown inside.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

INSIDE = "--inside"


def main(script: str, packages: list[str], show: Callable[[], bool]) -> int:
    """Install the packages and run the script there; within, show the finding.

    Args:
        script: the ``__file__`` of the caller.
        packages: each pinned, as pip takes them.
        show: prints what it sees; whether the behaviour is still the one that the script's head states.

    Returns:
        The exit status: 0 as stated, 1 changed, 2 the packages could not be installed.
    """
    if INSIDE in sys.argv:
        as_stated = show()
        print("as stated" if as_stated else "CHANGED: the behaviour is not the one that the script's head states")
        return 0 if as_stated else 1
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        if subprocess.run(pip, check=False).returncode:
            return 2
        return subprocess.run([str(python), script, INSIDE], check=False).returncode
