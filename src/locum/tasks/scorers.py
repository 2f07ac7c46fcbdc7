"""Scorers of the user's own: functions ``(output, gold) -> score``, found by the entry point that a package declares.

Notable: a scorer is somebody's code, so whatever it does wrong is an error that names it and what it was given; never a
score of 0 that nobody sees. In the package's ``pyproject.toml``:

    [project.entry-points."locum.scorers"]
    exact = "my_package.scorers:exact"

Not here: the judge, which is a scorer as well (``judging``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from locum.core.errors import LocumError, UserError
from locum.core.registry import nearest
from locum.core.text import one_line

GROUP = "locum.scorers"
JUDGE = "judge"
"""The name that stands for an LLM as a judge."""

Scorer = Callable[[str, str], float]
"""An answer and the gold answer to a score from 0 to 1."""

_SHOWN = 80


@lru_cache
def load_scorer(name: str) -> Scorer:
    """The scorer that an installed package declares under a name.

    Raises:
        UserError: ``tasks-scorer``: none does, several do, or it cannot be imported or called.
    """
    found = [each for each in entry_points(group=GROUP) if each.name == name]
    if not found:
        raise _unknown(name)
    if len({each.value for each in found}) > 1:
        places = ", ".join(sorted(each.value for each in found))
        raise UserError(
            "tasks-scorer", f"scorer {name!r} is declared more than once: {places}", fix="remove all but one"
        )
    loaded = _imported(found[0])
    if not callable(loaded):
        raise UserError("tasks-scorer", f"scorer {name!r} is {type(loaded).__name__} and no function", fix=_how(name))
    return cast("Scorer", loaded)


def score_one(name: str, output: str, gold: str) -> float:
    """The score of one answer.

    Raises:
        UserError: ``tasks-scorer``; or ``tasks-scorer-failed``: it raised an error, or gave no number from 0 to 1.
    """
    scorer = load_scorer(name)
    try:
        given: Any = scorer(output, gold)
        score = float(given)
    except LocumError:
        raise
    except Exception as problem:  # the scorer is the user's code: it may raise anything
        raise _failed(name, output, gold, f"{type(problem).__name__}: {problem}") from problem
    if isinstance(given, str) or not math.isfinite(score) or not 0.0 <= score <= 1.0:
        raise _failed(name, output, gold, f"it gave {given!r}")
    return score


def _imported(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as problem:  # importing a stranger's module may raise anything
        cause = f"scorer {entry.name!r} ({entry.value}) cannot be imported: {type(problem).__name__}: {problem}"
        raise UserError("tasks-scorer", one_line(cause), fix="mend or reinstall its package") from problem


def _unknown(name: str) -> UserError:
    known = sorted({each.name for each in entry_points(group=GROUP)} | {JUDGE})
    close = nearest(name, known)
    hint = f"did you mean {close!r}?" if close else f"known: {', '.join(known)}; {_how(name)}"
    return UserError("tasks-scorer", f"no installed package declares a scorer {name!r}", fix=hint)


def _how(name: str) -> str:
    return f'declare {name} = "package.module:function" under [project.entry-points."{GROUP}"] and install it'


def _failed(name: str, output: str, gold: str, why: str) -> UserError:
    seen = f"answer {one_line(output, _SHOWN)!r}, gold answer {one_line(gold, _SHOWN)!r}"
    return UserError(
        "tasks-scorer-failed",
        f"scorer {name!r}: {one_line(why)} ({seen})",
        fix="a scorer gives a number from 0 to 1 for every answer, however wrong",
    )
