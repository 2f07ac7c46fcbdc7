"""Drawing dev, calibration and test out of the training rows: how many, and which.

Rows are drawn one by one, copies too: a message that is a third of the traffic is a third of every split. What belongs
together (``data.group``, or copies that no independent draws explain) goes to one split, and is then counted once.
docs/tasks.md tells the sizes and the rules to users. Not here: which rows train leaves out (``dedupe``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from locum.data.dedupe import Links
from locum.data.staging import ORDER, Staging
from locum.schema.data import SplitName
from locum.schema.task import Task
from locum.stats.copies import strange_count
from locum.stats.sample_size import labels_for_power

_TRAIN = ORDER.index("train")
_MOST_SHARE = 0.2
_TEST_SHARE = 0.2
_ASSUMED_LOCAL_SHARE = 0.6


def rows_for_certificate(task: Task) -> int:
    """Calibration rows that give the certificate 80 % power when the true risk is half of what is promised.

    For a selective guarantee the count is of accepted rows, so it is divided by an assumed local share of 60 %.
    """
    alpha, delta = task.guarantee.max_error, 1 - task.guarantee.confidence
    rows = labels_for_power(alpha, delta, alpha / 2)
    return math.ceil(rows / _ASSUMED_LOCAL_SHARE) if task.guarantee.kind == "selective" else rows


def sizes(rows: int, given: Iterable[SplitName], task: Task) -> dict[SplitName, int]:
    """How many rows to carve out of the training rows, for each split without a file.

    Args:
        rows: training rows (groups, where rows belong together) to share out, n.
        given: splits that have a file of their own.
        task: shares, if any, and the guarantee.

    Returns:
        Rows by split; splits with a file are absent, and train is what remains. dev takes 6·√n (what choosing between
        candidates needs grows slowly), calibration 8·√n or what the certificate needs, test a fifth.
    """
    root, most = math.sqrt(rows), _MOST_SHARE * rows
    shares = task.data.split
    usual = {
        "dev": min(max(6 * root, 100), 1000, most),
        "calibration": min(max(min(max(8 * root, 600), 1000), rows_for_certificate(task)), most),
        "test": _TEST_SHARE * rows,
    }
    wanted = {"dev": shares.dev, "calibration": shares.calibration, "test": shares.test}
    taken = set(given)
    return {
        name: max(1, round(usual[name] if share is None else share * rows))
        for name in ORDER
        if name not in taken and name != "train"
        for share in (wanted[name],)
    }


def strange_copies(staging: Staging, links: Links) -> dict[int, int]:
    """Splits (by ``ORDER``) whose rows hold copies that no independent draws explain, with the count that shows it.

    Args:
        staging: holds the entries.
        links: entries of one file that are near copies, or have one input.
    """
    roots = links.roots()
    sizes = [np.zeros(len(roots), dtype=np.int64) for _ in ORDER]
    for entry in staging.entries():
        sizes[entry.split][roots[entry.i]] += entry.copies
    found = {split: strange_count(counts[counts > 0]) for split, counts in enumerate(sizes)}
    return {split: size for split, size in found.items() if size is not None}


def keep_together(staging: Staging, links: Links, split: int) -> None:
    """Make copies of one file units: what is linked goes to one split."""
    roots = links.roots()
    company = np.bincount(roots, minlength=len(roots)) > 1
    staging.join(
        (int(roots[entry.i]), entry.i)
        for entry in staging.entries("split = ?", split)
        if entry.copies > 1 or company[roots[entry.i]]
    )


def carve(staging: Staging, wanted: dict[SplitName, int], *, by_label: bool = True) -> None:
    """Move units of the training rows (a row each, or what belongs together) to the splits that have no file.

    Within each label, units stand in a seeded random order: the first go to test, the next to calibration, then dev.
    That is stratified sampling with proportional allocation; the order of rows in the file has no influence, and nearly
    every row stays where it was when the file grows. The certificate takes calibration rows as independent draws;
    stratified ones vary less, so its bound stays valid, if slightly wide.

    Args:
        staging: holds the draws; their ``final`` split is changed.
        wanted: units by split, from ``sizes``.
        by_label: stratify by label; False where right answers are no labels.
    """
    total = staging.unit_count(_TRAIN)
    if not wanted or not total:
        return
    weights: dict[str, int] = {}
    for _unit, output in staging.units(_TRAIN, by_label=by_label):
        weights[output] = weights.get(output, 0) + 1
    bounds = _bounds(weights, {name: count / total for name, count in wanted.items()})

    def moves() -> Iterator[tuple[Any, int]]:
        label, position = None, 0
        for unit, output in staging.units(_TRAIN, by_label=by_label):
            if output != label:
                label, position = output, 0
            target = next((split for split, end in bounds[output] if position < end), _TRAIN)
            position += 1
            if target != _TRAIN:
                yield unit, target

    staging.move(moves())


def _bounds(weights: dict[str, int], shares: dict[SplitName, float]) -> dict[str, list[tuple[int, int]]]:
    """For each label, the splits in order and the position in the label where each ends.

    Rounding is cumulative over labels: a split's count up to a label is its share of all rows up to that label,
    rounded. At least one row of each label is left for train.
    """
    bounds: dict[str, list[tuple[int, int]]] = {}
    before = 0
    for label, weight in weights.items():
        end = 0
        bounds[label] = []
        for name, share in shares.items():
            end += round(share * (before + weight)) - round(share * before)
            bounds[label].append((ORDER.index(name), min(end, weight - 1)))
        before += weight
    return bounds


def limit(staging: Staging, split: SplitName, most: int, *, by_label: bool = True, grouped: bool = False) -> int:
    """Keep at most ``most`` rows of a split, evenly over labels where there are any; how many were left out.

    Of groups as many as possible keep a row: a certificate counts groups, and a student learns more from many.
    """
    position = ORDER.index(split)
    total = staging.weight(position)
    if total <= most:
        return 0
    if grouped:
        staging.end([("limit", number) for number in islice(staging.by_turns(position), most, None)])
        return total - staging.weight(position)

    def fates() -> Iterator[tuple[str, int]]:
        credit = 0.5
        for number, _output in staging.light(position, by_label=by_label):
            credit += most / total
            if credit >= 1:
                credit -= 1
            else:
                yield "limit", number

    staging.end(fates())
    return total - staging.weight(position)
