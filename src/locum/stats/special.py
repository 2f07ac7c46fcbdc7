"""``special``: scipy's special functions, imported when the first one is asked for.

Notable: importing them takes a tenth of a second, and a bundle that is opened to answer needs none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scipy import special as special
else:

    class _Special:
        """Stands for the module until a function of it is asked for."""

        def __getattr__(self, name: str) -> Any:
            found = getattr(import_module("scipy.special"), name)
            setattr(self, name, found)  # so that it is looked up once
            return found

    special = _Special()
