"""Lazy registries: names to ``"module:attribute"`` strings, loaded only when asked for.

Notable: nothing is imported until ``load``; that keeps ``locum --help`` fast and lets a base install
list what only an extra can run. ``nearest`` is the one place where a wrong name becomes a suggestion.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from locum.core.errors import UserError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None when nothing is close (difflib ratio under 0.6)."""
    folded = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


class Registry:
    """A table of names and where their implementation lives.

    Args:
        what: what is registered, in the singular, for error messages ("engine").
        entries: name to ``"package.module:attribute"``.
    """

    def __init__(self, what: str, entries: Mapping[str, str]) -> None:
        self.what = what
        self._entries = dict(entries)

    def names(self) -> tuple[str, ...]:
        """All names, in the order they were registered."""
        return tuple(self._entries)

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            UserError: no such name; the message has the nearest one.
        """
        if name not in self._entries:
            close = nearest(name, self._entries)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(self._entries)}"
            raise UserError("core-unknown-name", f"unknown {self.what} {name!r}", fix=hint)
        module, _, attribute = self._entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
