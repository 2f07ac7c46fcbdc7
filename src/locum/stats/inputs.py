"""What every statistic checks first: lengths, ranges, 0/1 outcomes.

Notable: a wrong input is a ``UserError`` with code ``stats-input``, never a silent NaN further down.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locum.core.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def input_error(cause: str, fix: str = "") -> UserError:
    """The error for numbers that a statistic cannot be computed from."""
    return UserError("stats-input", cause, fix=fix)


def check_open_unit(name: str, value: float) -> float:
    """Return ``value`` if it lies strictly between 0 and 1.

    Raises:
        UserError: it does not.
    """
    if not 0.0 < value < 1.0:
        raise input_error(f"{name} is {value}, it must lie strictly between 0 and 1")
    return float(value)


def check_counts(successes: int, n: int) -> None:
    """Require 0 ≤ successes ≤ n.

    Raises:
        UserError: they are not.
    """
    if not 0 <= successes <= n:
        raise input_error(f"{successes} of {n} is not a count of a whole")


def as_floats(name: str, values: ArrayLike, *, n: int | None = None, nan: bool = False) -> Floats:
    """A one-dimensional float array.

    Args:
        name: what it is, for the message.
        values: numbers, shape (n,).
        n: the length it must have, when known.
        nan: whether NaN is allowed.

    Raises:
        UserError: not one-dimensional, of another length, or NaN where none may be.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise input_error(f"{name} has shape {array.shape}, one dimension is needed")
    if n is not None and len(array) != n:
        raise input_error(f"{name} has {len(array)} values, {n} are needed (one per row)")
    if not nan and bool(np.isnan(array).any()):
        raise input_error(f"{name} holds {int(np.isnan(array).sum())} NaN")
    return array


def as_outcomes(name: str, values: ArrayLike, *, n: int | None = None) -> Bools:
    """A one-dimensional array of booleans from booleans or exact 0/1 numbers.

    Raises:
        UserError: a value is neither 0 nor 1, or the length is wrong.
    """
    array = as_floats(name, values, n=n)
    if not bool(np.isin(array, (0.0, 1.0)).all()):
        raise input_error(f"{name} must hold only true/false or 0/1")
    return array.astype(np.bool_)


def as_scores(name: str, values: ArrayLike, *, n: int | None = None) -> Floats:
    """A one-dimensional array of numbers in [0, 1].

    Raises:
        UserError: a value lies outside.
    """
    array = as_floats(name, values, n=n)
    if len(array) and (float(array.min()) < 0.0 or float(array.max()) > 1.0):
        raise input_error(f"{name} runs from {array.min():.4g} to {array.max():.4g}, outside [0, 1]")
    return array


def floats(values: Any) -> Floats:
    """The float array behind a value that a library leaves untyped."""
    return np.asarray(values, dtype=np.float64)
