"""``python -m locum``: the command line, where the ``locum`` command is not on the path."""

from __future__ import annotations

from locum.cli.main import main

if __name__ == "__main__":
    main()
