"""Tool calls: does a model call the right functions with the right arguments?

Notable: arguments are compared as JSON values, so the order of keys and ``1`` against ``1.0`` do not matter and
``"1"`` against ``1`` does; the order of several calls does not matter either. Not here: finding calls in a
completion (``tasks``), checking arguments against a tool's schema (``fields.valid``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from locum.schema.message import ToolCall
from locum.scoring import fields
from locum.scoring.counts import check_rows, f1_of_counts
from locum.stats.rowwise import Pooled


def name_match(calls: Sequence[ToolCall], gold: Sequence[ToolCall]) -> float:
    """1.0 when the same functions are called, each as often; no call at all matches no gold call."""
    return float(Counter(call.name for call in calls) == Counter(call.name for call in gold))


def exact_match(calls: Sequence[ToolCall], gold: Sequence[ToolCall]) -> float:
    """1.0 when the same functions are called with equal arguments, the order of calls aside."""
    return fields.exact_match([_value(call) for call in calls], [_value(call) for call in gold])


def argument_counts(calls: Sequence[ToolCall], gold: Sequence[ToolCall]) -> tuple[int, int, int]:
    """Right, predicted and gold arguments of one row, down to the leaves of each.

    Arguments count under the name of their function; the name itself counts as one more, so that a call without
    arguments is worth something.
    """
    answered, wanted = _leaves(calls), _leaves(gold)
    return (answered & wanted).total(), answered.total(), wanted.total()


def argument_f1(calls: Sequence[ToolCall], gold: Sequence[ToolCall]) -> float:
    """F1 of function names and arguments of one row, in [0, 1]. Degenerate: no call on either side is 1."""
    return float(f1_of_counts(np.array(argument_counts(calls, gold), dtype=np.float64)))


def argument_rows(predictions: Sequence[Sequence[ToolCall]], golds: Sequence[Sequence[ToolCall]]) -> Pooled:
    """What each row adds to micro F1 of names and arguments: right, predicted and gold, ``[n, 3]``.

    Raises:
        UserError: ``scoring-input`` when there are no rows or the counts differ.
    """
    check_rows(len(predictions), len(golds))
    counts = [argument_counts(calls, gold) for calls, gold in zip(predictions, golds, strict=True)]
    return Pooled(np.array(counts, dtype=np.float64), f1_of_counts)


def _leaves(calls: Sequence[ToolCall]) -> Counter[tuple[str, fields.Leaf | None]]:
    counted: Counter[tuple[str, fields.Leaf | None]] = Counter()
    for call in calls:
        counted[call.name, None] += 1
        arguments = _arguments(call)
        if arguments != {}:
            counted.update({(call.name, leaf): count for leaf, count in fields.leaves(arguments).items()})
    return counted


def _value(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": _arguments(call)}


def _arguments(call: ToolCall) -> Any:
    """The arguments as JSON; none written are an empty object; what is not JSON stays text, and equals no object."""
    try:
        return json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments
