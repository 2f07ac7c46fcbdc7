"""How the threads of OpenMP in a child process wait for each other: for microseconds they spin, then they sleep.

Notable: GNU's OpenMP by itself spins for milliseconds. Where the machine does other things too, a spinning thread takes
the core that the awaited one needs: beside one busy process on two cores llama.cpp then writes a twentieth of its
tokens, and a tuning step takes twice as long. To sleep at once is bad for an engine that has the machine to itself,
because its threads meet hundreds of times a token: it writes half. A few microseconds cost little in either case
(docs/log.md). Not here: how many threads (``cpu``).
"""

from __future__ import annotations

from collections.abc import Mapping

_SPINS = 500
_VARIABLES = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": str(_SPINS)}
"""The second one overrides the first in GNU's OpenMP, and others do not know it."""


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a child process; none where the environment says already how threads wait."""
    return {} if _VARIABLES.keys() & environment.keys() else dict(_VARIABLES)
