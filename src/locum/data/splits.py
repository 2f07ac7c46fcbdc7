"""Carving dev, calibration and test out of the training rows: how many, and which.

**How many.** dev takes 6·√n rows (600 of 10,000), between 100 and 1,000: what choosing between candidates
needs grows slowly. Calibration takes 8·√n (800 of 10,000), between 600 and 1,000, or as many as the certificate
needs at 80 % power for a student whose true risk is half of what is promised, when that is more. test takes
20 %. None of dev and calibration exceeds 20 % of n. A share in the task file overrides all of this.

**Which.** Rows are put in order by label and, within a label, by the seeded hash of their input; then each goes
to the split that lags furthest behind its share. That is stratified sampling with proportional allocation: every
split has each label within about one row of its share, the order of rows in the file has no influence, and with
the same seed most rows stay where they were when the file grows. The first row of every label goes to train, so
that no label is held out altogether. Linked rows (the same input; near-duplicates, where those are kept) always
go together.

Notable: the certificate takes calibration rows as independent draws; stratified ones vary less, so its bound
stays valid, if slightly wide.
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


def carve(staging: Staging, wanted: dict[SplitName, int], links: Links) -> None:
    """Move training entries to the splits that have no file.

    Args:
        staging: holds the entries; their ``final`` split is changed.
        wanted: rows by split, from ``sizes``.
        links: entries that must stay together.
    """
    total = staging.weight(_TRAIN)
    if not wanted or not total:
        return
    shares = {ORDER.index(name): count / total for name, count in wanted.items()}
    shares[_TRAIN] = max(0.0, 1 - sum(shares.values()))
    companies = links.companies()
    giants = {root for root, size in companies.items() if size > _MOST_IN_ONE_GROUP * total}

    def moves() -> Iterator[tuple[int, int]]:
        behind = dict.fromkeys(shares, 0.0)
        decided = dict.fromkeys(giants, _TRAIN)
        label: str | None = None
        rows = staging.light("split = ? AND final = ? AND fate IS NULL", _TRAIN, _TRAIN, order="output, key")
        for number, output, copies in rows:
            for split, share in shares.items():
                behind[split] += share * copies
            root = links.root(number)
            if root in decided:
                target = decided[root]
            elif output != label:
                target = _TRAIN
            else:
                target = max(behind, key=lambda split: (behind[split], split))
            if root in companies:
                decided[root] = target
            label = output
            behind[target] -= copies
            if target != _TRAIN:
                yield number, target

    staging.move(moves())


def limit_train(staging: Staging, most: int) -> int:
    """Keep at most ``most`` training rows, evenly over labels; how many were left out."""
    total = staging.weight(_TRAIN)
    if total <= most:
        return 0
    share = most / total

    def fates() -> Iterator[tuple[str, int]]:
        credit = 0.5
        for number, _output, copies in staging.light("final = ? AND fate IS NULL", _TRAIN, order="output, key"):
            credit += share * copies
            if credit >= copies:
                credit -= copies
            else:
                yield "max_rows", number

    staging.end(fates())
    return total - staging.weight(_TRAIN)
