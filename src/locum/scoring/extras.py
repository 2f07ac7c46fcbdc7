"""Packages of the ``tasks`` extra, imported when a scorer needs them.

Notable: rouge-score brings nltk, whose import takes seconds, so nothing here is imported before it is used.
Not here: what the packages do.
"""

from __future__ import annotations

import importlib
from typing import Any

from locum.core.errors import UserError
from locum.core.extras import install_command


def needed(module: str, what: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: its name, e.g. ``sacrebleu.metrics``.
        what: the scorer that needs it, for the message.

    Raises:
        UserError: ``core-missing-extra``.
    """
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise UserError(
            "core-missing-extra", f"{what} needs {module}: {problem}", fix=install_command("tasks")
        ) from problem
