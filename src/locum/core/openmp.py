"""How the threads of GNU's OpenMP in a child process wait for each other: for microseconds they spin, then they sleep.

Notable: by itself it spins for milliseconds. Where the machine does other things too, a spinning thread takes the core
that the awaited one needs: beside one busy process on two cores llama.cpp then writes a twentieth of its tokens, and a
tuning step takes three times as long. To sleep at once is bad for an engine that has the machine to itself, because its
threads meet hundreds of times a token: it writes half. A few microseconds cost such an engine little and a tuning step
a tenth or two, and keep most of what sleeping keeps; the larger the model, the longer its threads wait for each other,
so they spin in proportion to its file (docs/log.md). Other OpenMPs do not know the variable and wait as they do. Not
here: how many threads (``cpu``).
"""

from __future__ import annotations

from collections.abc import Mapping

_SPINS, _SPINS_MAX = 500, 2000
_SPINS_A_MEGABYTE = 2
_OWN, _POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


def waiting(environment: Mapping[str, str], model_mb: float = 0.0) -> dict[str, str]:
    """Variables for a child process; none where the environment says already how threads wait.

    Args:
        environment: of this process.
        model_mb: size of the model that the child serves, in 10⁶ bytes; 0 where it does something else.
    """
    if _OWN in environment or _POLICY in environment:
        return {}
    return {_OWN: str(min(_SPINS_MAX, max(_SPINS, round(_SPINS_A_MEGABYTE * model_mb))))}
