"""Duplicates within and across splits, contradictions, and leakage: who stays, who goes, and when to stop.

The rules, with their reasons:

- **Exact copies** (the same normalised input) stay once in the split of highest priority: test, calibration,
  dev, train. So a training row that stands in the test file leaves *training*; the test file is not touched.
- **Near-duplicates** (``neardup``) likewise, one at a time in a fixed order: an entry goes when it is near one
  that stays. Chains (A near B near C, A far from C) therefore keep A and C, rather than collapse into one.
- **Leakage.** Public data sets have a few test rows in their training files, and removing these is enough. When
  more than 1 % of the test rows do, the way the files were split is itself in doubt, and the build stops
  unless the task says ``allow_leakage``. Near copies are counted apart: up to 5 %, since templated and short
  texts are often near each other without having been copied.
- **Calibration.** If a calibration file that the user gave has a single exact row in train or dev, the build
  stops, always: the certificate's proof rests on those rows being unseen.
- **Contradictions** (one input, several labels). In train the most frequent label stays; on a tie, none does,
  since nothing says which is right. In dev, calibration and test every label stays once: traffic will hold
  such inputs too, no student can be right on all of them, and leaving them out would flatter student and
  certificate. The noise ceiling says what the best possible student could score on the rows as given.

Notable: decisions follow the order of entries, so the same rows in another order give the same splits.
Not here: carving splits out of train (``splits``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import DataError
from locum.core.progress import Tracker, track
from locum.core.text import one_line
from locum.data.neardup import NearIndex, near_pairs
from locum.data.rows import MAX_PLACES
from locum.data.staging import ORDER, Group, Staging

EXACT_TOLERANCE = 0.01
NEAR_TOLERANCE = 0.05
_TEST, _CALIBRATION, _DEV, _TRAIN = range(4)
_INDEX_BATCH = 2000
MAX_EXAMPLES = 10


@dataclass
class Findings:
    """What was found among the rows as given.

    Attributes:
        duplicates: counts by ``exact_within``, ``near_within``, ``exact_across``, ``near_across``.
        overlap: rows of a split of higher priority that also stand in one of lower, by the two names.
        near_overlap: the same for near copies.
        dropped: places by reason, the first 20 each.
        dropped_counts: how many by reason.
        contradictions: inputs with more than one label.
        examples: some of them, as sentences.
        agreeing: rows that agree with their input's most frequent label; of ``rows``.
    """

    duplicates: Counter[str] = field(default_factory=Counter[str])
    overlap: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    near_overlap: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    overlap_places: dict[tuple[str, str], list[str]] = field(default_factory=dict[tuple[str, str], list[str]])
    dropped: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    dropped_counts: Counter[str] = field(default_factory=Counter[str])
    contradictions: int = 0
    examples: list[str] = field(default_factory=list[str])
    agreeing: int = 0
    rows: int = 0

    @property
    def noise_ceiling(self) -> float:
        """Share of rows that agree with the most frequent label of their input."""
        return self.agreeing / self.rows if self.rows else 1.0

    def drop(self, reason: str, count: int, place: Callable[[], str]) -> None:
        """Count rows that were left out, and keep the first places (looked up only then)."""
        self.dropped_counts[reason] += count
        places = self.dropped.setdefault(reason, [])
        if len(places) < MAX_PLACES:
            places.append(place())


def find_exact(staging: Staging, findings: Findings, keep_copies: bool) -> list[int]:
    """Collapse exact copies into entries, settle which split each belongs to, and number them.

    Args:
        staging: all rows as read.
        findings: added to.
        keep_copies: copies within a split stay (``duplicates: keep``), so they are not counted as dropped.

    Returns:
        How many entries each split has, by ``ORDER``.
    """

    def chosen() -> Iterator[tuple[bytes, Group, bool]]:
        for key, groups in staging.by_input():
            home = min(group.split for group in groups)
            _count_input(staging, findings, groups, home)
            mine = [group for group in groups if group.split == home]
            for group in mine:
                if group.copies > 1 and not keep_copies:
                    findings.duplicates["exact_within"] += group.copies - 1
                    first = group.first
                    findings.drop(
                        "exact copy in the same split",
                        group.copies - 1,
                        lambda first=first: f"copies of {staging.place(first)[0]}",
                    )
                yield key, group, len(mine) > 1

    # the groups are read while they are written: `found` is a table of its own
    staging.found(chosen())
    return staging.number_entries()


def _count_input(staging: Staging, findings: Findings, groups: list[Group], home: int) -> None:
    """Account for one input: contradictions, and its copies in splits of lower priority."""
    labels = Counter[str]()
    for group in groups:
        labels[group.output] += group.copies
        findings.rows += group.copies
    findings.agreeing += max(labels.values())
    if len(labels) > 1:
        findings.contradictions += 1
        if len(findings.examples) < MAX_EXAMPLES:
            text = one_line(staging.place(groups[0].first)[1], 120)
            said = ", ".join(f"{one_line(label, 40)} ×{count}" for label, count in labels.most_common(5))
            findings.examples.append(f"“{text}” → {said}")
    rows = Counter[int]()
    first: dict[int, int] = {}
    for group in groups:
        rows[group.split] += group.copies
        first[group.split] = min(first.get(group.split, group.first), group.first)
    for upper, lower in combinations(sorted(rows), 2):
        pair = (ORDER[upper], ORDER[lower])
        findings.overlap[pair] += rows[upper]
        places = findings.overlap_places.setdefault(pair, [])
        if len(places) < MAX_PLACES:
            places.append(f"{staging.place(first[upper])[0]} = {staging.place(first[lower])[0]}")
    for other in sorted(set(rows) - {home}):
        findings.duplicates["exact_across"] += rows[other]
        reason = f"{ORDER[other]} row that also stands in {ORDER[home]}"
        findings.drop(reason, rows[other], lambda other=other: staging.place(first[other])[0])


@dataclass(frozen=True)
class Links:
    """Which entries must stay together when splits are carved; roots by number, and which have company."""

    parent: NDArray[np.int64]

    def root(self, number: int) -> int:
        """The least number of the entries that this one is linked with."""
        parent = self.parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = int(parent[number])
        return number

    def join(self, first: int, second: int) -> None:
        """Link two entries."""
        a, b = sorted((self.root(first), self.root(second)))
        self.parent[b] = a

    def companies(self) -> dict[int, int]:
        """Root to number of entries, for groups of at least two."""
        linked = np.flatnonzero(self.parent != np.arange(len(self.parent)))
        sizes = Counter[int](self.root(int(number)) for number in linked)
        return {root: size + 1 for root, size in sizes.items()}


def find_near(staging: Staging, findings: Findings, counts: list[int], index_file: Path, remove: bool) -> Links:
    """Find near-duplicates among the entries; remove them, or link them so that they stay together.

    Args:
        staging: holds the entries.
        findings: added to.
        counts: entries by split, from ``find_exact``.
        index_file: where the band keys go, in the staging folder.
        remove: True to remove (``duplicates: near``), False to link only.

    Returns:
        The links between entries; those with the same input and different labels are always linked.
    """
    total = sum(counts)
    split_of = np.repeat(np.arange(len(ORDER), dtype=np.int8), counts)
    links = Links(np.arange(total, dtype=np.int64))
    index = _index(staging, links, index_file, total)
    with track("find near-duplicates", unit="pair") as tracker:
        if remove:
            gone = _remove_near(staging, index, total, tracker)
            _account_removed(staging, findings, gone, split_of)
            return links
        buckets = index.buckets(np.ones(total, dtype=np.bool_))
        for first, second in near_pairs(buckets, staging.texts, lambda a, b: links.root(a) == links.root(b)):
            tracker.advance()
            links.join(first, second)
            if split_of[first] != split_of[second]:
                findings.near_overlap[ORDER[split_of[first]], ORDER[split_of[second]]] += 1
                findings.duplicates["near_across"] += 1
            else:
                findings.duplicates["near_within"] += 1
    return links


def _index(staging: Staging, links: Links, index_file: Path, total: int) -> NearIndex:
    """Put every entry's band keys into the index; link neighbours that have the same input."""
    index = NearIndex(index_file, total)
    texts: list[str] = []
    labels: list[str] = []
    before = b""
    with track("compare texts", total=total, unit="row") as tracker:
        for entry in staging.entries():
            if entry.key == before:
                links.join(entry.i - 1, entry.i)
            before = entry.key
            texts.append(entry.input)
            labels.append(entry.output)
            if len(texts) == _INDEX_BATCH:
                index.add(texts, labels)
                tracker.advance(len(texts))
                texts.clear()
                labels.clear()
        if texts:
            index.add(texts, labels)
            tracker.advance(len(texts))
    return index


def _remove_near(staging: Staging, index: NearIndex, total: int, tracker: Tracker) -> NDArray[np.int64]:
    """For each entry that goes, the entry that stays and is near it; −1 for the others.

    Rounds: each compares the entries still there, then walks them in order and removes those near one that
    stays. An entry that hung on one that went is compared anew in the next round, so the rounds end only when
    no verified pair is left among the entries that stay.
    """
    gone = np.full(total, -1, dtype=np.int64)
    while True:
        near = _near_earlier(staging, index, gone < 0, tracker)
        later = np.flatnonzero(near >= 0)
        if not len(later):
            return gone
        for number in later:
            if gone[near[number]] < 0:
                gone[number] = near[number]


def _near_earlier(staging: Staging, index: NearIndex, active: NDArray[np.bool_], tracker: Tracker) -> NDArray[np.int64]:
    """For each active entry, one earlier active entry that it is near; −1 where none was found."""
    near = np.full(len(active), -1, dtype=np.int64)
    for first, second in near_pairs(index.buckets(active), staging.texts, lambda _first, later: bool(near[later] >= 0)):
        near[second] = first
        tracker.advance()
    return near


def _account_removed(staging: Staging, findings: Findings, gone: NDArray[np.int64], split_of: NDArray[np.int8]) -> None:
    touched: dict[tuple[str, str], set[int]] = {}
    fates: list[tuple[str, int]] = []
    removed = np.flatnonzero(gone >= 0)
    for start in range(0, len(removed), _INDEX_BATCH):
        for number in removed[start : start + _INDEX_BATCH]:
            stays = int(gone[number])
            home, own = ORDER[split_of[stays]], ORDER[split_of[number]]
            where = "within" if home == own else "across"
            findings.duplicates[f"near_{where}"] += 1
            reason = f"near copy in {own}" if home == own else f"{own} row near one in {home}"
            findings.drop(reason, 1, lambda pair=(int(number), stays): _pair_of_places(staging, *pair))
            if home != own:
                touched.setdefault((home, own), set()).add(stays)
            fates.append(("near", int(number)))
        staging.end(fates)
        fates.clear()
    for pair, rows in touched.items():
        findings.near_overlap[pair] += len(rows)


def _pair_of_places(staging: Staging, number: int, stays: int) -> str:
    mine, other = (next(staging.entries("i = ?", entry)) for entry in (number, stays))
    return f"{mine.place} ≈ {other.place}"


def check_leakage(findings: Findings, rows: dict[str, int], *, allow: bool, near_removed: bool) -> list[str]:
    """Stop when the user's own files leak into each other; else say what was removed.

    Args:
        findings: overlaps between the files as given.
        rows: rows read, by split.
        allow: the task's ``allow_leakage``.
        near_removed: near copies were removed as well (``duplicates: near``).

    Returns:
        Warnings.

    Raises:
        DataError: ``data-calibration-leak`` or ``data-leakage``.
    """
    for other in ("train", "dev"):
        if count := findings.overlap["calibration", other]:
            raise DataError(
                "data-calibration-leak",
                f"{count:,} calibration rows also stand in {other}: {_listed(findings, 'calibration', other)}",
                fix=f"take them out of the {other} file; the certificate's proof needs rows no student has seen",
            )
    warnings: list[str] = []
    gone = "both kinds were" if near_removed else "the exact copies were"
    for (home, other), count in sorted({**findings.overlap, **findings.near_overlap}.items()):
        exact, near = findings.overlap[home, other], findings.near_overlap[home, other]
        exact_share, near_share = exact / rows[home], near / rows[home]
        bad = exact_share > EXACT_TOLERANCE or near_share > NEAR_TOLERANCE
        seen = f"{exact:,} of {rows[home]:,} {home} rows ({exact_share:.1%}) also stand in {other}"
        seen += f" exactly, {near:,} ({near_share:.1%}) nearly"
        if home == "test" and bad and not allow and count:
            raise DataError(
                "data-leakage",
                f"{seen}: {_listed(findings, home, other)}",
                fix="split the data anew, or set data.allow_leakage: true to go on without those training rows",
            )
        warnings.append(f"{seen}; {gone} left out of {other}")
    return warnings


def _listed(findings: Findings, home: str, other: str) -> str:
    places = findings.overlap_places.get((home, other)) or findings.dropped.get(f"{other} row near one in {home}", [])
    return "; ".join(places[:5]) + (" …" if len(places) > 5 else "")


def settle_contradictions(staging: Staging, findings: Findings) -> None:
    """In train, keep the most frequent label of each input; none on a tie."""
    reason = "contradictory label in train"
    fates: list[tuple[str, int]] = []
    by_key: dict[bytes, list[tuple[int, int, str]]] = {}
    for entry in staging.entries("contested = 1 AND final = ? AND fate IS NULL", _TRAIN):
        by_key.setdefault(entry.key, []).append((entry.copies, entry.i, entry.place))
    for group in by_key.values():
        most = max(copies for copies, _i, _place in group)
        winners = [i for copies, i, _place in group if copies == most]
        for copies, i, place in group:
            if len(group) > 1 and (len(winners) > 1 or i != winners[0]):
                fates.append(("contradiction", i))
                findings.drop(reason, copies, lambda place=place: place)
    staging.end(fates)
