"""Duplicates within and across files, contradictions, and leakage: who stays, who goes, and when to stop.

Across the files that a user gives, a row that stands in two keeps its place in the first of test, calibration, dev,
train; too many such rows stop the build. Within one file a text that comes often is what traffic does (``splits`` says
how it is counted); what a student learns from holds each text once. docs/tasks.md tells the rules to users.
Not here: drawing dev, calibration and test out of train (``splits``).
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
from locum.core.progress import track
from locum.core.text import one_line
from locum.data.neardup import NearIndex, near_pairs
from locum.data.rows import MAX_PLACES
from locum.data.staging import BATCH_CHARACTERS, ORDER, Group, Staging
from locum.schema.task import Task
from locum.stats.reuse import Reuse, find_reuse

EXACT_TOLERANCE = 0.01
NEAR_TOLERANCE = 0.05
_TRAIN = ORDER.index("train")
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

    def count(self, reason: str, rows: int) -> None:
        """Count rows that were left out, whose places say nothing."""
        if rows:
            self.dropped_counts[reason] += rows

    def drop(self, reason: str, count: int, place: Callable[[], str]) -> None:
        """Count rows that were left out, and keep the first places (looked up only then)."""
        self.dropped_counts[reason] += count
        places = self.dropped.setdefault(reason, [])
        if len(places) < MAX_PLACES:
            places.append(place())


def find_exact(staging: Staging, findings: Findings, *, keep_across: bool) -> list[int]:
    """Number the distinct examples of each file, settle what stands in several files, and make the draws.

    Args:
        staging: all rows as read.
        findings: added to.
        keep_across: a row that stands in several files stays in each (``duplicates: keep``).

    Returns:
        How many entries each split has, by ``ORDER``.
    """

    def chosen() -> Iterator[tuple[bytes, Group, bool]]:
        for key, groups in staging.by_input():
            home = min(group.split for group in groups)
            _count_input(staging, findings, groups, None if keep_across else home)
            mine = [group for group in groups if keep_across or group.split == home]
            contested = {split for split, times in Counter(group.split for group in mine).items() if times > 1}
            for group in mine:
                findings.duplicates["exact_within"] += group.copies - 1
                yield key, group, group.split in contested

    # the groups are read while they are written: `found` is a table of its own
    staging.found(chosen())
    counts = staging.number_entries()
    staging.draw()
    return counts


def _count_input(staging: Staging, findings: Findings, groups: list[Group], home: int | None) -> None:
    """Account for one input: contradictions, and its copies in files below its ``home``, which are left out."""
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
    if home is None:
        return
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

    def roots(self) -> NDArray[np.int64]:
        """The root of every entry."""
        return np.array([self.root(number) for number in range(len(self.parent))], dtype=np.int64)


class NearSearch:
    """The near-duplicates among the entries: found once, asked for what is in question.

    Args:
        staging: holds the entries.
        counts: entries by split, from ``find_exact``.
        index_file: where the band keys go, in the staging folder.
    """

    def __init__(self, staging: Staging, counts: list[int], index_file: Path) -> None:
        self._staging = staging
        self._split_of = np.repeat(np.arange(len(ORDER), dtype=np.int8), counts)
        self._total = sum(counts)
        self._index = NearIndex(index_file, self._total)
        texts: list[str] = []
        labels: list[str] = []
        characters = 0
        with track("compare texts", total=self._total, unit="row") as tracker:
            for entry in staging.entries():
                texts.append(entry.input)
                labels.append(entry.output)
                characters += len(entry.input)
                if len(texts) == _INDEX_BATCH or characters >= BATCH_CHARACTERS:
                    self._index.add(texts, labels)
                    tracker.advance(len(texts))
                    texts.clear()
                    labels.clear()
                    characters = 0
            if texts:
                self._index.add(texts, labels)
                tracker.advance(len(texts))

    def links(self, findings: Findings) -> Links:
        """Entries of one file that are near each other, or have one input, linked; the near ones counted."""
        links = Links(np.arange(self._total, dtype=np.int64))
        split_of = self._split_of
        before, number = b"", -1
        for entry in self._staging.entries():
            if entry.key == before and split_of[entry.i] == split_of[number]:
                links.join(number, entry.i)
            before, number = entry.key, entry.i

        def settled(first: int, second: int) -> bool:
            return bool(split_of[first] != split_of[second]) or links.root(first) == links.root(second)

        with track("find near-duplicates", unit="pair") as tracker:
            everyone = np.ones(self._total, dtype=np.bool_)
            for first, second in near_pairs(self._index.buckets(everyone), self._staging.texts, settled):
                tracker.advance()
                links.join(first, second)
                findings.duplicates["near_within"] += 1
        return links

    def leave_across(self, findings: Findings) -> None:
        """Leave out the rows of a file that are near one of a file of higher priority."""
        split_of = self._split_of
        if len(np.unique(split_of)) < 2:
            return
        gone = self._near(np.ones(self._total, dtype=np.bool_), lambda first, later: split_of[first] != split_of[later])
        touched: dict[tuple[str, str], set[int]] = {}
        for number in np.flatnonzero(gone >= 0):
            stays = int(gone[number])
            home, own = ORDER[split_of[stays]], ORDER[split_of[number]]
            findings.duplicates["near_across"] += 1
            touched.setdefault((home, own), set()).add(stays)
            self._tell(findings, f"{own} row near one in {home}", int(number), stays)
            self._staging.end_entries([("near", int(number))], int(split_of[number]))
        for pair, rows in touched.items():
            findings.near_overlap[pair] += len(rows)

    def leave_in_train(self, findings: Findings) -> None:
        """Leave out of train what is near another row of train: a student learns from each text once."""
        active = np.zeros(self._total, dtype=np.bool_)
        active[self._staging.present(_TRAIN)] = True
        gone = self._near(active, lambda _first, _later: True)
        for number in np.flatnonzero(gone >= 0):
            self._tell(findings, "near copy in train", int(number), int(gone[number]))
        self._staging.end_entries((("near", int(number)) for number in np.flatnonzero(gone >= 0)), _TRAIN)

    def _tell(self, findings: Findings, reason: str, number: int, stays: int) -> None:
        def place() -> str:
            mine, other = (next(self._staging.entries("i = ?", entry)) for entry in (number, stays))
            return f"{mine.place} ≈ {other.place}"

        findings.drop(reason, 1, place)

    def _near(self, active: NDArray[np.bool_], asked: Callable[[int, int], bool]) -> NDArray[np.int64]:
        """For each entry that goes, the entry that stays and is near it; −1 for the others.

        Rounds: each compares the entries still there, then walks them in order and removes those near one that stays.
        An entry that hung on one that went is compared anew in the next round, so the rounds end only when no verified
        pair is left among the entries that stay. Chains (A near B near C, A far from C) therefore keep A and C.
        """
        gone = np.full(self._total, -1, dtype=np.int64)
        with track("find near-duplicates", unit="pair") as tracker:
            while True:
                near = np.full(self._total, -1, dtype=np.int64)

                def settled(first: int, later: int, near: NDArray[np.int64] = near) -> bool:
                    return bool(near[later] >= 0) or not asked(first, later)

                buckets = self._index.buckets(active & (gone < 0))
                for first, second in near_pairs(buckets, self._staging.texts, settled):
                    near[second] = first
                    tracker.advance()
                later = np.flatnonzero(near >= 0)
                if not len(later):
                    return gone
                for number in later:
                    if gone[near[number]] < 0:
                        gone[number] = near[number]


def check_leakage(task: Task, findings: Findings, staging: Staging, rows: dict[str, int]) -> list[str]:
    """Stop when the user's own files leak into each other; else say what was removed.

    More than 1 % of the test rows exactly, or 5 % nearly, in a file that a student learns from put in doubt how the
    files were split; ``allow_leakage`` goes on. One calibration row is too many: the proof rests on unseen rows.

    Args:
        task: its ``allow_leakage`` and ``duplicates``; with ``keep``, copies across files are traffic.
        findings: overlaps between the files as given.
        staging: holds the entries.
        rows: rows read, by split.

    Returns:
        Warnings.

    Raises:
        DataError: ``data-calibration-leak`` or ``data-leakage``.
    """
    reuse = _reuse(staging) if task.duplicates == "keep" else None
    for other in ("train", "dev"):
        count = findings.overlap["calibration", other]
        if count and (task.duplicates != "keep" or reuse is not None):
            why = "" if reuse is None else f" ({reuse.rows:,} {reuse.why}: more than messages that repeat explain)"
            raise DataError(
                "data-calibration-leak",
                f"{count:,} calibration rows also stand in {other}{why}: {_listed(findings, 'calibration', other)}",
                fix=f"take them out of the {other} file; the certificate's proof needs rows no student has seen. Where "
                "messages repeat in traffic, give one file, or say data.duplicates: keep",
            )
    if task.duplicates == "keep":
        return [
            f"{count:,} of {rows[home]:,} {home} rows also stand in {other}; they stay, as data.duplicates says"
            for (home, other), count in sorted(findings.overlap.items())
        ]
    warnings: list[str] = []
    gone = "both kinds were" if task.duplicates == "near" else "the exact copies were"
    for (home, other), count in sorted({**findings.overlap, **findings.near_overlap}.items()):
        exact, near = findings.overlap[home, other], findings.near_overlap[home, other]
        exact_share, near_share = exact / rows[home], near / rows[home]
        bad = exact_share > EXACT_TOLERANCE or near_share > NEAR_TOLERANCE
        seen = f"{exact:,} of {rows[home]:,} {home} rows ({exact_share:.1%}) also stand in {other}"
        seen += f" exactly, {near:,} ({near_share:.1%}) nearly"
        if home == "test" and bad and not task.data.allow_leakage and count:
            raise DataError(
                "data-leakage",
                f"{seen}: {_listed(findings, home, other)}",
                fix="split the data anew, or set data.allow_leakage: true to go on without those training rows",
            )
        warnings.append(f"{seen}; {gone} left out of {other}")
    return warnings


def _reuse(staging: Staging) -> Reuse | None:
    """Why the rows of a calibration file cannot be fresh, where messages may stand in several files."""
    wanted = dict(staging.copies_by_input([ORDER.index("calibration")]))
    counts: list[int] = []
    hits: list[int] = []
    for key, copies in staging.copies_by_input([ORDER.index("dev"), _TRAIN]):
        hits += [len(counts)] * wanted.pop(key, 0)
        counts.append(copies)
    hits += [-1] * sum(wanted.values())
    return find_reuse(np.array(counts, dtype=np.int64), np.array(hits, dtype=np.int64))


def _listed(findings: Findings, home: str, other: str) -> str:
    places = findings.overlap_places.get((home, other)) or findings.dropped.get(f"{other} row near one in {home}", [])
    return "; ".join(places[:5]) + (" …" if len(places) > 5 else "")


def settle_contradictions(staging: Staging, findings: Findings) -> None:
    """In train, keep the most frequent label of each input; none on a tie, since nothing says which is right."""
    by_key: dict[bytes, dict[int, list[tuple[int, str]]]] = {}
    for entry in staging.entries("contested = 1"):
        for draw in staging.draws("d.final = ? AND d.i = ?", _TRAIN, entry.i):
            by_key.setdefault(entry.key, {}).setdefault(entry.i, []).append((draw.d, draw.place))
    fates: list[tuple[str, int]] = []
    for entries in by_key.values():
        most = max(map(len, entries.values()))
        winners = [i for i, draws in entries.items() if len(draws) == most]
        for i, draws in entries.items():
            if len(entries) > 1 and (len(winners) > 1 or i != winners[0]):
                fates += [("contradiction", d) for d, _ in draws]
                place = draws[0][1]
                findings.drop("contradictory label in train", len(draws), lambda place=place: place)
    staging.end(fates)
