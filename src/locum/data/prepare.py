"""``prepare``: the user's files in, a folder of clean splits and a data card out.

The steps: read and normalise every file into a staging file; settle what stands in several files (``dedupe``); draw
the splits that have no file (``splits``); leave copies and contradictions out of train; write ``train.jsonl``,
``dev.jsonl``, ``calibration.jsonl``, ``test.jsonl``, ``labels.json``, ``card.html`` and,
last, ``card.json``. The folder appears whole or not at all.

Notable: rows wait in SQLite, so memory hardly grows: about 30 bytes a row beside fixed buffers, whatever the length
of the texts. Everything but the rows' own ids is independent of their order in the files. A label is text without
white space at its ends; labels that differ only in case stay apart, with a warning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from locum.core.errors import DataError
from locum.core.files import atomic_folder, sha256_file, write_bytes, write_json, write_text
from locum.core.progress import track, warn
from locum.core.text import count_of, one_line
from locum.data import card as card_page
from locum.data.belonging import given_away
from locum.data.dedupe import Findings, NearSearch, check_leakage, find_exact, settle_contradictions
from locum.data.examples import ExampleReader
from locum.data.fingerprint import write_fingerprint
from locum.data.label_sets import check_known, same_otherwise, spellings
from locum.data.load import iterate
from locum.data.readers import open_table, wanted_columns
from locum.data.rows import MAX_PLACES, Faults
from locum.data.splits import carve, keep_together, limit, sizes, strange_copies
from locum.data.staging import ORDER, Staging, open_staging
from locum.schema.data import DataCard, Dropped, SourceFile, SplitCard, SplitName
from locum.schema.task import Task
from locum.stats.sample_size import labels_needed
from locum.tasks.tag import load_spans

MIN_TRAIN_ROWS = 10
RARE_ROWS = 20
"""A label with fewer rows than this, over all splits, gets a warning and no statement of its own."""
FEW_HELD_OUT_ROWS = 100
_TRAIN = ORDER.index("train")
_DUPLICATE_KINDS = ("exact_within", "near_within", "exact_across", "near_across")


@dataclass
class _Reading:
    """What reading the files found."""

    files: list[SourceFile] = field(default_factory=list[SourceFile])
    changes: Counter[str] = field(default_factory=Counter[str])
    dropped: list[Dropped] = field(default_factory=list[Dropped])
    rows: dict[str, int] = field(default_factory=dict[str, int])
    missing: Counter[str] = field(default_factory=Counter[str])
    labels: dict[SplitName, Counter[str]] = field(default_factory=dict[SplitName, Counter[str]])
    classes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reviewed: set[str] = field(default_factory=set[str])


def prepare(
    task: Task,
    files: Mapping[SplitName, Path],
    out: Path,
    *,
    addresses: Mapping[SplitName, str] | None = None,
    learned: Path | None = None,
) -> DataCard:
    """Read the user's files, clean them, and write the splits.

    Args:
        task: names the columns, the options under ``data``, the guarantee and the seed.
        files: local file or folder by split; ``train`` must be there, the others are carved out of it.
        out: the folder to write; replaced when it exists.
        addresses: where each file came from, for the card; default: its name.
        learned: file for the fingerprint of what a student learns from and is chosen on; None writes none.

    Returns:
        The data card, also written as ``card.json`` and ``card.html``.

    Raises:
        DataError: a file cannot be used, the labels cannot be learned, or the splits leak into each other.
        DeviceError: the disk is full or cannot be written.
    """
    labelled = task.kind == "classify"
    if "train" not in files:
        raise DataError("data-missing", "no training file", fix="name it under data.train in the task file")
    findings = Findings()
    with atomic_folder(out) as folder, open_staging(folder / "staging.sqlite", task.seed) as staging:
        reading = _read_all(task, files, staging, addresses or {})
        counts = find_exact(staging, findings, keep_across=task.duplicates == "keep")
        index_file = folder / "staging.keys"
        near = NearSearch(staging, counts, index_file)
        if task.duplicates == "near":
            near.leave_across(findings)
        warnings = _settle_groups(task, staging, findings)
        left_out = _draw_splits(task, files, staging, near, findings, warnings, reading.reviewed)
        if task.duplicates == "near":
            near.leave_in_train(findings)
        index_file.unlink()
        warnings += check_leakage(task, findings, staging, reading.rows)
        if labelled and task.duplicates != "keep":
            settle_contradictions(staging, findings)
        _limit(task, staging, findings, labelled)
        splits = _write_splits(task, staging, folder, left_out)
        if learned is not None:
            write_fingerprint(learned, staging.learned())
        if labelled and task.data.group is None:
            warnings += _look_for_groups(folder, reading.unused)
        card = _make_card(task, reading, findings, splits, warnings)
        _check_filled(task, splits, len(reading.reviewed))
        write_bytes(folder / "labels.json", orjson.dumps(list(card.labels), option=orjson.OPT_INDENT_2) + b"\n")
        write_text(folder / "card.html", card_page.render(card))
        write_json(folder / "card.json", card.to_json())
    for warning in card.warnings:
        warn(warning)
    return card


def _look_for_groups(folder: Path, unused: Sequence[str]) -> list[str]:
    """Warn where words of few rows decide the label, as names do in messages of one conversation."""
    found = given_away(iterate(folder, "train"), iterate(folder, "calibration"))
    if found is None:
        return []
    columns = f"; the file has further columns: {', '.join(unused[:10])}" if unused else ""
    return [
        f"{found.share:.0%} of calibration rows hold a word that stands in few rows, all of one label, in train too "
        f"({', '.join(found.words)}); by chance it would be {found.chance:.0%}. If rows belong together (one "
        "conversation, customer or document), the student is right on those that it knows and not on new ones, and "
        f"figures and certificate are too good: name the column that tells them apart under data.group{columns}"
    ]


def _settle_groups(task: Task, staging: Staging, findings: Findings) -> list[str]:
    """Where rows belong together, leave out those whose group stands in a file of higher priority."""
    if task.data.group is None:
        return []
    warnings: list[str] = []
    for lower, upper, rows in staging.end_owned_across():
        reason = f"{ORDER[lower]} row of a group that also stands in {ORDER[upper]}"
        findings.count(reason, rows)
        warnings.append(f"{rows:,} {ORDER[lower]} rows belong to groups that also stand in {ORDER[upper]}: left out")
    return warnings


def _draw_splits(
    task: Task,
    files: Mapping[SplitName, Path],
    staging: Staging,
    near: NearSearch,
    findings: Findings,
    warnings: list[str],
    reviewed: set[str],
) -> dict[int, int]:
    """Draw the splits that have no file, and count what belongs together once in those that are held out.

    Returns:
        By split (its place in ``ORDER``), rows left out because they are copies that no independent draws explain.
    """
    links = near.links(findings)
    strange: dict[int, int] = {}
    if task.data.group is not None:
        staging.own()
    elif task.duplicates != "keep":
        strange = strange_copies(staging, links)
        for split in strange:
            keep_together(staging, links, split)
    carve(staging, sizes(staging.unit_count(_TRAIN), files, task), by_label=task.kind == "classify")
    if reviewed and (kept := staging.keep_in(_TRAIN, reviewed)):
        warnings.append(
            f"{kept:,} rows were picked and judged by a person on the gateway's page, who saw the answer first: they "
            "are no sample of the traffic, so students learn from them, and dev, calibration and test have none of them"
        )
    left_out: dict[int, int] = {}
    for split, name in enumerate(ORDER):
        source = split if name in files else _TRAIN
        if name != "train" and source in strange:
            left_out[split] = staging.end_all_but_one("copy", split)
            findings.count(f"copy in {name}, counted once", left_out[split])
    for split, size in strange.items():
        warnings.append(
            f"{ORDER[split]}: more texts stand {size} times than independent messages could (a file joined twice, "
            "a template, messages sent again?); each is counted once in dev, calibration and test. Name what belongs "
            "together under data.group, or say that these are separate messages with data.duplicates: keep"
        )
    if task.duplicates != "keep":
        findings.count("exact copy in train", staging.end_copies("exact", _TRAIN))
    return left_out


def _limit(task: Task, staging: Staging, findings: Findings, labelled: bool) -> None:
    """Leave out what is beyond the task's own limits."""
    for split in ORDER:
        name = "max_rows" if split == "train" else "max_held_out"
        most = task.data.max_rows if split == "train" else task.max_held_out
        if most and (left := limit(staging, split, most, by_label=labelled, grouped=task.data.group is not None)):
            findings.dropped_counts[f"beyond data.{name}"] += left


def _read_all(
    task: Task, files: Mapping[SplitName, Path], staging: Staging, addresses: Mapping[SplitName, str]
) -> _Reading:
    reading = _Reading()
    for split in ORDER:
        if split in files:
            path = files[split]
            _read_one(task, split, path, staging, reading, addresses.get(split, path.name))
    _agree_on_labels(task, files, staging, reading)
    return reading


def _agree_on_labels(task: Task, files: Mapping[SplitName, Path], staging: Staging, reading: _Reading) -> None:
    """Write labels alike in all files, and refuse a file whose labels training rows do not have."""
    if task.kind == "classify":
        alike = spellings(label for labels in reading.labels.values() for label in labels)
        staging.relabel(alike)
        for split, labels in reading.labels.items() if alike else ():
            reading.changes["label_cleaned"] += sum(labels[label] for label in alike)
            counts = Counter[str]()
            for label, rows in labels.items():
                counts[alike.get(label, label)] += rows
            reading.labels[split] = counts
    train = files["train"].name
    for split, labels in reading.labels.items():
        if split != "train":
            place = f"{files[split]} (data.{split})"
            check_known(labels, reading.labels["train"], where=place, source=train, classes=reading.classes)


def _read_one(task: Task, split: SplitName, path: Path, staging: Staging, reading: _Reading, address: str) -> None:
    spec = task.data
    wanted = wanted_columns(spec)
    table = open_table(path, format=spec.format, encoding=spec.encoding, wanted=wanted, split=split)
    faults = Faults(str(path))
    examples = ExampleReader(task, faults, reading.changes)
    labels = reading.labels.setdefault(split, Counter())
    reading.classes = reading.classes or table.classes
    if split == "train":
        reading.unused = tuple(name for name in table.columns if name not in wanted)
    rows = 0
    with track(f"read {path.name}", unit="row") as tracker:
        for row in table.rows(faults):
            if (example := examples.take(row)) and (split == "train" or row.place not in examples.reviewed):
                staging.add(ORDER.index(split), row.place, example, examples.group_of(row))
                labels.update(_labels_of(task, example.output))
                rows += 1
                tracker.advance()
    staging.flush()
    table.recheck()
    examples.finish(spec.skip_bad)
    faults.settle(spec.skip_bad)
    least = MIN_TRAIN_ROWS if split == "train" else 1
    if rows < least:
        cause = f"{rows} usable rows; the {split} split needs at least {least}"
        raise DataError("data-empty", cause, where=str(path), fix="give a file with more rows")
    for reason, count in faults.counts.items():
        dropped = Dropped(reason=f"bad row: {reason}", count=count, places=tuple(faults.by_reason[reason]))
        reading.dropped.append(dropped)
    if examples.cut_count:
        what = f"field cut at {spec.max_field_chars:,} characters (row kept)"
        reading.dropped.append(Dropped(reason=what, count=examples.cut_count, places=tuple(examples.cut)))
    if split == "train":
        reading.reviewed = examples.reviewed
    elif examples.reviewed:
        what = "picked and judged on the gateway's page, so it is no sample of the traffic"
        places = tuple(sorted(examples.reviewed)[:MAX_PLACES])
        reading.dropped.append(Dropped(reason=f"{split} row {what}", count=len(examples.reviewed), places=places))
    if examples.only_wrong:
        what = "row that says an answer was wrong, and not what is right"
        reading.dropped.append(Dropped(reason=what, count=examples.only_wrong, places=()))
    for column, count in examples.missing.counts.items():
        what = f"no value in the input column {column!r} (row kept)"
        places = tuple(examples.missing.by_reason[column])
        reading.dropped.append(Dropped(reason=what, count=count, places=places))
    reading.missing.update(examples.missing.counts)
    reading.rows[split] = rows
    facts = {"sha256": table.sha256, "bytes": table.bytes, "format": table.format, "encoding": table.encoding}
    reading.files.append(SourceFile.model_validate({"split": split, "address": address, "rows": rows, **facts}))


def _write_splits(
    task: Task, staging: Staging, folder: Path, left_out: Mapping[int, int]
) -> dict[SplitName, SplitCard]:
    splits: dict[SplitName, SplitCard] = {}
    for position, split in reversed(list(enumerate(ORDER))):
        path = folder / f"{split}.jsonl"
        labels: Counter[str] = Counter()
        lengths: Counter[int] = Counter()
        groups: set[str | None] = set()
        rows = 0
        with path.open("wb") as file:
            for draw in staging.draws("d.final = ?", position):
                row = {"id": draw.place, "input": draw.input, "output": draw.output}
                if draw.owner is not None:
                    row["group"] = draw.owner
                    groups.add(draw.owner)
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                labels.update(_labels_of(task, draw.output))
                lengths[len(draw.input)] += 1
                rows += 1
        splits[split] = SplitCard(
            rows=rows,
            sha256=sha256_file(path),
            labels=dict(sorted(labels.items())),
            chars_p50=_quantile(lengths, 0.5),
            chars_p95=_quantile(lengths, 0.95),
            chars_max=max(lengths, default=0),
            groups=len(groups) if task.data.group is not None else None,
            seen_in_train=0 if split == "train" else staging.seen_in(position, _TRAIN),
            copies_left_out=left_out.get(position, 0),
        )
    return splits


def _labels_of(task: Task, output: str) -> list[str]:
    """What a right answer counts as: its label, or the label of each of its spans."""
    if task.kind == "tag":
        return [label for _, _, label in load_spans(output)]
    return [output] if task.kind == "classify" else []


def _quantile(lengths: Counter[int], share: float) -> int:
    """The least length that at least ``share`` of the rows do not exceed."""
    seen, total = 0, lengths.total()
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= share * total:
            return length
    return 0


def _make_card(
    task: Task, reading: _Reading, findings: Findings, splits: dict[SplitName, SplitCard], warnings: list[str]
) -> DataCard:
    totals: Counter[str] = Counter()
    for split in splits.values():
        totals.update(split.labels)
    labelled = task.kind == "classify"
    labels = _ordered(totals)
    if labelled:
        _check_labels(labels, splits, task)
    elif task.kind == "tag" and not splits["train"].labels:
        raise DataError(
            "data-one-label",
            "no training row has a span, so there is nothing to find",
            where=f"column {task.data.output!r}",
            fix="give rows with spans, or name another column under data.output",
        )
    rare = {label: totals[label] for label in labels if totals[label] < RARE_ROWS}
    spec = task.data
    dropped = [
        Dropped(reason=reason, count=count, places=tuple(findings.dropped.get(reason, ())))
        for reason, count in findings.dropped_counts.items()
    ]
    return DataCard(
        task=task.name,
        files=tuple(sorted(reading.files, key=lambda file: -ORDER.index(file.split))),
        input=(spec.input,) if isinstance(spec.input, str) else spec.input,
        output=spec.output if isinstance(spec.output, str) else ", ".join(spec.output),
        labels=labels,
        splits=splits,
        dropped=(*reading.dropped, *dropped),
        normalised=dict(sorted(reading.changes.items())),
        duplicates={kind: findings.duplicates[kind] for kind in _DUPLICATE_KINDS},
        contradictions=findings.contradictions if labelled else 0,
        contradiction_examples=tuple(findings.examples) if labelled else (),
        noise_ceiling=findings.noise_ceiling if labelled else 1.0,
        rare_labels=rare,
        warnings=(*warnings, *_warnings(task, labels, splits, rare, findings, reading)),
        seed=task.seed,
        copies_across=task.duplicates == "keep",
    )


def _ordered(labels: Counter[str]) -> tuple[str, ...]:
    """Labels sorted; by value when all of them are whole numbers."""
    if all(label.lstrip("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _check_filled(task: Task, splits: dict[SplitName, SplitCard], reviewed: int) -> None:
    """Refuse a data set that is too small for all four splits."""
    grouped = task.data.group is not None
    for name, split in splits.items():
        if not split.rows:
            train = splits["train"]
            raise DataError(
                "data-empty",
                f"no rows are left for {name}: train has {train.rows:,} rows"
                + (f" of {train.groups:,} groups" if grouped else "")
                + (
                    f", {reviewed:,} of them judged on the gateway's page, which are for train alone"
                    if reviewed
                    else ""
                ),
                where=f"data.{name}",
                fix=f"give more rows{' of more groups' if grouped else ''}, or a file of its own under data.{name}",
            )


def _check_labels(labels: tuple[str, ...], splits: dict[SplitName, SplitCard], task: Task) -> None:
    train = splits["train"]
    learned = [label for label in labels if train.labels.get(label)]
    if len(learned) < 2:
        seen = repr(learned[0]) if learned else "none"
        raise DataError(
            "data-one-label",
            f"all training rows have the same label ({seen}), so there is nothing to tell apart",
            where=f"column {task.data.output!r}",
            fix="give rows of at least two labels, or name another column under data.output",
        )
    if train.rows >= 2 * MIN_TRAIN_ROWS and len(learned) > train.rows / 2:
        few = ", ".join(one_line(label, 30) for label in learned[:5])
        raise DataError(
            "data-not-labels",
            f"{len(learned):,} different labels in {train.rows:,} training rows ({few}, …)",
            where=f"column {task.data.output!r}",
            fix="kind: classify needs a column whose values repeat; name it under data.output",
        )


def _warnings(
    task: Task,
    labels: tuple[str, ...],
    splits: dict[SplitName, SplitCard],
    rare: dict[str, int],
    findings: Findings,
    reading: _Reading,
) -> Iterator[str]:
    bad = sum(item.count for item in reading.dropped if item.reason.startswith("bad row"))
    if bad:
        yield f"{count_of(bad, 'bad row')} {'was' if bad == 1 else 'were'} skipped, as data.skip_bad says"
    for column, count in reading.missing.items():
        whole = sum(reading.rows.values())
        yield f"{count:,} of {whole:,} rows have no value in the input column {column!r} and are read without it"
    if mixed := reading.changes["label_of_another_type"]:
        yield f"{mixed:,} labels are of another type than most and were taken as text"
    tagged = task.kind == "tag"
    if rare:
        yield (
            f"{len(rare)} of {len(labels)} labels have fewer than {RARE_ROWS} {'spans' if tagged else 'rows'} "
            f"({_some(f'{label}: {count}' for label, count in rare.items())}); no statement is made about these alone"
        )
    unseen = [label for label in labels if not splits["train"].labels.get(label)]
    if unseen:
        twins = same_otherwise(unseen, splits["train"].labels)
        alike_ones = "; ".join(f"{label!r} may be {twin!r} written differently" for label, twin in twins.items())
        yield (
            f"{len(unseen)} labels stand in no training row ({_some(unseen)}); a student never gives them"
            + (f"; {one_line(alike_ones)}" if twins else "")
        )
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike["".join(label.casefold().split())].append(label)
    for group in alike.values():
        if len(group) > 1:
            yield f"labels differ only in case or spaces and stay apart: {', '.join(map(repr, group))}"
    if findings.contradictions and task.kind == "classify":
        yield (
            f"inputs that stand with more than one label: {findings.contradictions:,}; "
            f"no student can score above {findings.noise_ceiling:.2%} on the rows as given"
        )
    need = labels_needed(task.guarantee.max_error, 1 - task.guarantee.confidence)
    if task.guarantee.kind != "regret" and splits["calibration"].rows < need:
        yield (
            f"calibration has {splits['calibration'].rows} rows; the certificate needs at least {need} "
            "without an error, so none can be issued"
        )
    if splits["test"].rows < FEW_HELD_OUT_ROWS:
        yield f"test has only {splits['test'].rows} rows; its scores will have wide intervals"


def _some(names: Iterator[str] | list[str], most: int = 5) -> str:
    shown = [one_line(name, 40) for name in names]
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")
