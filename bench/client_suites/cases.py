"""What every suite of ``bench/clients.py`` shares: cases, how they are run, and the lines that tell how they ended.

Notable: it runs in the suite's own environment, beside the client it tries, so it imports nothing but the standard
library. A case passes when it returns, is wrong when it raises, and is by design when it raises ``ByDesign``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import Callable
from typing import Any

CHAT_URL = os.environ.get("CHAT_URL", "")
CHAT_MODEL = os.environ.get("CHAT_MODEL", "")
EMBED_URL = os.environ.get("EMBED_URL", "")
EMBED_MODEL = os.environ.get("EMBED_MODEL", "")
BUNDLE_URL = os.environ.get("BUNDLE_URL", "")
BUNDLE_MODEL = os.environ.get("BUNDLE_MODEL", "")
KEY = "none"

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "The city's name"}},
    "required": ["city"],
    "additionalProperties": False,
}
ASK_WEATHER = "What is the weather in Paris? Use the tool."

CASES: list[Callable[[], Any]] = []


class ByDesign(Exception):
    """What this case asks for is refused on purpose, in words that say so."""


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register a case; a coroutine function is run to its end."""
    CASES.append(function)
    return function


def main() -> None:
    """Run every case, one JSON line each: ``case``, ``outcome``, ``detail``, ``seconds``."""
    only = os.environ.get("ONLY", "")
    loop = asyncio.Runner()  # one for all cases: clients keep their connections, which belong to a loop
    for function in CASES:
        if only and only not in function.__name__:
            continue
        started = time.monotonic()
        outcome, detail = "passed", ""
        try:
            if inspect.iscoroutinefunction(function):
                loop.run(function())
            else:
                function()
        except ByDesign as refused:
            outcome, detail = "by_design", str(refused)
        except Exception as error:  # noqa: BLE001 - whatever a client raises is what its user would see
            outcome, detail = "wrong", f"{type(error).__name__}: {error}"[:600]
        tell(function.__name__, outcome, detail, time.monotonic() - started)


def tell(name: str, outcome: str, detail: str, seconds: float) -> None:
    """One line of the result."""
    print(json.dumps({"case": name, "outcome": outcome, "detail": detail, "seconds": round(seconds, 1)}), flush=True)
