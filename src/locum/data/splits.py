"""Carving dev, calibration and test out of the training rows: how many, and which.

**How many.** dev takes 6·√n rows (600 of 10,000), between 100 and 1,000: what choosing between candidates
needs grows slowly. Calibration takes 8·√n (800 of 10,000), between 600 and 1,000, or as many as the certificate
needs at 80 % power for a student whose true risk is half of what is promised, when that is more. test takes
20 %. None of dev and calibration exceeds 20 % of n. A share in the task file overrides all of this.

**Which.** Within each label, rows are put in the order of a seeded hash of their input: the first go to test,
the next to calibration, then dev, and the rest to train. How many of a label each split gets is its share of the
label, rounded so that the totals over labels are right too. That is stratified sampling with proportional
allocation: the order of rows in the file has no influence, and with the same seed nearly every row stays where it
was when the file grows. Every label keeps a row in train. Linked rows (the same input; near-duplicates, where those
are kept) always go together.

Notable: the hash that orders rows here is independent of the one by which one of two near-duplicates was kept;
otherwise texts with many copies would gather in test. The certificate takes calibration rows as independent draws;
stratified ones vary less, so its bound stays valid, if slightly wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from locum.data.dedupe import Links
from locum.data.staging import ORDER, Staging
from locum.schema.data import SplitName
from locum.schema.task import Task
from locum.stats.sample_size import labels_for_power

_TRAIN = ORDER.index("train")
_MOST_SHARE = 0.2
_TEST_SHARE = 0.2
_MOST_IN_ONE_GROUP = 0.05
_ASSUMED_LOCAL_SHARE = 0.6
_RANDOM_ORDER = "substr(key, 9)"
"""By the second half of the input's hash; the first half decides which near-duplicate is kept."""
_BY_LABEL = f"output, {_RANDOM_ORDER}"


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
        rows: training rows to share out, n.
        given: splits that have a file of their own.
        task: shares, if any, and the guarantee.

    Returns:
        Rows by split; splits with a file are absent, and train is what remains.
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


def carve(staging: Staging, wanted: dict[SplitName, int], links: Links, *, by_label: bool = True) -> None:
    """Move training entries to the splits that have no file.

    Args:
        staging: holds the entries; their ``final`` split is changed.
        wanted: rows by split, from ``sizes``.
        links: entries that must stay together.
        by_label: stratify by label; False where right answers are no labels.
    """
    total = staging.weight(_TRAIN)
    if not wanted or not total:
        return
    companies = links.companies()
    decided = {root: _TRAIN for root, size in companies.items() if size > _MOST_IN_ONE_GROUP * total}
    weights = staging.label_weights(_TRAIN) if by_label else {"": total}
    bounds = _bounds(weights, {name: count / total for name, count in wanted.items()})

    def moves() -> Iterator[tuple[int, int]]:
        label, position = "", 0
        condition = "split = ? AND final = ? AND fate IS NULL"
        order = _BY_LABEL if by_label else _RANDOM_ORDER
        for number, output, copies in staging.light(condition, _TRAIN, _TRAIN, order=order):
            if by_label and output != label:
                label, position = output, 0
            target = next((split for split, end in bounds[label] if position < end), _TRAIN)
            position += copies
            root = links.root(number)
            if root in companies:
                target = decided.setdefault(root, target)
            if target != _TRAIN:
                yield number, target

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


def limit(staging: Staging, split: SplitName, most: int, *, by_label: bool = True) -> int:
    """Keep at most ``most`` rows of a split, evenly over labels where there are any; how many were left out."""
    position = ORDER.index(split)
    total = staging.weight(position)
    if total <= most:
        return 0
    share = most / total

    def fates() -> Iterator[tuple[str, int]]:
        credit = 0.5
        order = _BY_LABEL if by_label else _RANDOM_ORDER
        for number, _output, copies in staging.light("final = ? AND fate IS NULL", position, order=order):
            credit += share * copies
            if credit >= copies:
                credit -= copies
            else:
                yield "limit", number

    staging.end(fates())
    return total - staging.weight(position)
