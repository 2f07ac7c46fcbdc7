from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from data_toys import labelled, make_task, write_csv

from locum.core.errors import DataError
from locum.core.progress import Event, listening
from locum.data.labelled import read_labelled
from locum.data.load import iterate, label_names, load, read_card
from locum.data.prepare import prepare
from locum.data.splits import rows_for_certificate, sizes
from locum.data.verify import verify_splits
from locum.schema.data import DataCard, SplitName

SPLITS: tuple[SplitName, ...] = ("train", "dev", "calibration", "test")


def contents(out: Path) -> dict[str, set[tuple[str, str]]]:
    return {split: {(row.input, row.output) for row in iterate(out, split)} for split in SPLITS}


def build(folder: Path, rows: list[tuple[str, str]], name: str = "out", **options: object) -> DataCard:
    path = write_csv(folder / f"{name}.csv", rows)
    return prepare(make_task(**options), {"train": path}, folder / name)


def test_every_row_lands_in_one_split_and_the_card_says_so(tmp_path: Path) -> None:
    rows = labelled(2000, "abcde")
    card = build(tmp_path, rows)
    parts = contents(tmp_path / "out")
    assert set().union(*parts.values()) == set(rows)
    assert sum(map(len, parts.values())) == len(rows)
    assert {name: split.rows for name, split in card.splits.items()} == {n: len(p) for n, p in parts.items()}
    assert card == read_card(tmp_path / "out")
    assert label_names(tmp_path / "out") == tuple("abcde")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*(f"{split}.jsonl" for split in SPLITS), "labels.json", "card.json", "card.html"}
    verify_splits(tmp_path / "out")


def test_ids_lead_back_to_the_file(tmp_path: Path) -> None:
    rows = labelled(100)
    build(tmp_path, rows)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    for row in iterate(tmp_path / "out", "train"):
        name, _, number = row.id.partition(":")
        assert name == "out.csv"
        assert lines[int(number) - 1] == f"{row.input},{row.output}"


def test_splits_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = labelled(800, "abc")
    rows += [(f"{text.upper()}?", label) for text, label in rows[:50]]
    rows += [(text, "a" if label != "a" else "b") for text, label in rows[100:120]]
    build(tmp_path, rows, "first")
    random.Random(1).shuffle(rows)
    build(tmp_path, rows, "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    build(tmp_path, rows, "third", seed=1)
    assert contents(tmp_path / "first") != contents(tmp_path / "third")


def test_most_rows_stay_in_their_split_when_the_file_grows(tmp_path: Path) -> None:
    rows = labelled(3000)
    build(tmp_path, rows[:2950], "before")
    build(tmp_path, rows, "after")
    before, after = contents(tmp_path / "before"), contents(tmp_path / "after")
    stayed = sum(len(before[split] & after[split]) for split in SPLITS)
    assert stayed > 0.98 * 2950


def test_splits_are_stratified(tmp_path: Path) -> None:
    rows = labelled(4000, ["often"] * 15 + ["seldom"])
    card = build(tmp_path, rows)
    for split in card.splits.values():
        assert abs(split.labels["seldom"] - split.rows / 16) <= 2


def test_every_label_keeps_a_training_row(tmp_path: Path) -> None:
    rows = labelled(500) + [
        (f"only row of {n} {text}", f"rare{n}") for n, (text, _) in enumerate(labelled(20, start=3))
    ]
    card = build(tmp_path, rows)
    assert set(card.splits["train"].labels) == set(card.labels)


def test_near_copies_never_straddle_splits_even_where_they_are_kept(tmp_path: Path) -> None:
    rows = labelled(600)
    copies = [(f"{text.title()} !", label) for text, label in rows[:200]]
    for duplicates, kept in (("near", 600), ("exact", 800), ("keep", 800)):
        card = build(tmp_path, rows + copies, duplicates=duplicates)
        where: dict[str, set[str]] = {}
        for split in SPLITS:
            for row in iterate(tmp_path / "out", split):
                where.setdefault(row.input.casefold().removesuffix(" !"), set()).add(split)
        assert all(len(splits) == 1 for splits in where.values())
        assert sum(split.rows for split in card.splits.values()) == kept
        assert card.duplicates["near_within"] == 200


def test_chains_of_near_copies_do_not_collapse_into_one(tmp_path: Path) -> None:
    base = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda sigma upsilon omega and many more words"
    chain = [base[: len(base) - 4 * n] + "q" * (4 * n) for n in range(8)]
    build(tmp_path, [(text, "a") for text in chain] + labelled(60, "ab"))
    kept = [row for split in SPLITS for row in iterate(tmp_path / "out", split) if row.input.startswith("alpha")]
    assert 2 <= len(kept) < len(chain)


def test_keep_writes_every_copy_with_its_own_id(tmp_path: Path) -> None:
    rows = labelled(100)
    card = build(tmp_path, rows + rows[:10] + rows[:10], duplicates="keep")
    ids = [row.id for split in SPLITS for row in iterate(tmp_path / "out", split)]
    assert len(ids) == len(set(ids)) == 120
    assert card.dropped == ()


def test_contradictions_keep_the_majority_in_train_and_every_label_held_out(tmp_path: Path) -> None:
    rows = labelled(300)
    doubtful = [f"doubtful {text}" for text, _ in labelled(60, start=4)]
    rows += [(text, label) for text in doubtful for label in ("yes", "yes", "no")]
    build(tmp_path, rows)
    parts = contents(tmp_path / "out")
    seen = 0
    for text in doubtful:
        for name, part in parts.items():
            labels = {label for held, label in part if held == text}
            if labels:
                seen += 1
                assert labels == ({"yes"} if name == "train" else {"yes", "no"})
    assert seen == 60


def test_priority_is_test_then_calibration_then_dev_then_train(tmp_path: Path) -> None:
    rows = labelled(1200)
    files: dict[SplitName, Path] = {
        "train": write_csv(tmp_path / "train.csv", rows[:500]),
        "dev": write_csv(tmp_path / "dev.csv", rows[495:800]),
        "calibration": write_csv(tmp_path / "calibration.csv", rows[800:1000]),
        "test": write_csv(tmp_path / "test.csv", rows[999:]),
    }
    card = prepare(make_task(), files, tmp_path / "out")
    counts = {name: split.rows for name, split in card.splits.items()}
    assert counts == {"test": 201, "calibration": 199, "dev": 305, "train": 495}
    assert [file.split for file in card.files] == ["train", "dev", "calibration", "test"]


def test_texts_with_near_copies_do_not_gather_in_held_out_splits(tmp_path: Path) -> None:
    rows = labelled(1500)
    copies = [(f"{mark} {text} {mark}", label) for text, label in rows[:500] for mark in ("!", "?", "(", ")", "-")]
    card = build(tmp_path, rows + copies)
    assert sum(split.rows for split in card.splits.values()) == 1500
    copied = {text for text, _ in rows[:500]}
    held = [row.input.strip("!?()- ") in copied for row in iterate(tmp_path / "out", "test")]
    assert len(held) == 300
    assert abs(sum(held) - 100) < 4 * (300 * 2 / 9) ** 0.5


def test_sizes_of_carved_splits() -> None:
    task = make_task()
    assert sizes(10_000, ["test"], task) == {"calibration": 800, "dev": 600}
    assert sizes(10_000, [], task) == {"test": 2000, "calibration": 800, "dev": 600}
    assert sizes(200, ["test"], task) == {"calibration": 40, "dev": 40}
    assert sizes(1_000_000, ["test"], task)["dev"] == 1000
    strict = make_task(guarantee={"kind": "selective", "max_error": 0.01})
    assert sizes(100_000, ["test"], strict)["calibration"] == rows_for_certificate(strict) > 3000
    shares = make_task(split={"dev": 0.1, "calibration": 0.3})
    assert sizes(1000, ["test"], shares) == {"calibration": 300, "dev": 100}


def test_max_rows_limits_train_only(tmp_path: Path) -> None:
    card = build(tmp_path, labelled(2000, "abcd"), max_rows=100)
    assert card.splits["train"].rows == 100
    assert card.splits["test"].rows == 400
    assert max(card.splits["train"].labels.values()) <= 27


def test_several_columns_become_lines(tmp_path: Path) -> None:
    rows = [(text, n, label) for n, (text, label) in enumerate(labelled(40))]
    path = write_csv(tmp_path / "train.csv", rows, header=("title", "price", "label"))
    prepare(make_task(input=["title", "price"]), {"train": path}, tmp_path / "out")
    inputs = {row.input for split in SPLITS for row in iterate(tmp_path / "out", split)}
    assert f"title: {rows[7][0]}\nprice: 7" in inputs


def test_inputs_that_are_missing_in_some_rows_are_counted_and_the_rows_kept(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with path.open("w") as file:
        for n, (text, label) in enumerate(labelled(40)):
            row: dict[str, object] = {"q": text, "label": label, "ctx": {"text": f"of {n}"}, "more": "all"}
            if n % 4 == 0:
                del row["ctx"]
            if n % 8 == 1:
                row["more"] = None
            file.write(json.dumps(row) + "\n")
    card = prepare(make_task(input=["q", "ctx.text", "more"]), {"train": path}, tmp_path / "out")
    assert sum(split.rows for split in card.splits.values()) == 40
    assert {item.reason: item.count for item in card.dropped} == {
        "no value in the input column 'ctx.text' (row kept)": 10,
        "no value in the input column 'more' (row kept)": 5,
    }
    assert card.dropped[0].places[:2] == ("train.jsonl:1", "train.jsonl:5")
    said = "10 of 40 rows have no value in the input column 'ctx.text' and are read without it"
    assert said in card.warnings
    heard: list[Event] = []
    with listening(heard.append):
        rows = read_labelled(path, make_task(input=["q", "ctx.text", "more"]))
    assert len(rows) == 40
    (event, _) = [each for each in heard if each.kind == "warning"]
    assert "input column 'ctx.text'" in event.label


def test_labels_are_strings_sorted_by_value_and_alike_ones_warned(tmp_path: Path) -> None:
    card = build(tmp_path, labelled(60, ["10", "9", " 9 "]))
    assert card.labels == ("9", "10")
    assert card.normalised["label_cleaned"] == 20
    card = build(tmp_path, labelled(60, ["Spam", "spam", "ham"]))
    assert any("'Spam', 'spam'" in warning for warning in card.warnings)


def test_a_column_that_is_no_label_is_refused(tmp_path: Path) -> None:
    rows = [(text, f"answer {n}") for n, (text, _) in enumerate(labelled(100))]
    with pytest.raises(DataError) as caught:
        build(tmp_path, rows)
    assert caught.value.code == "data-not-labels"


def test_too_few_calibration_rows_are_announced(tmp_path: Path) -> None:
    card = build(tmp_path, labelled(100))
    assert any("certificate needs at least 59" in warning for warning in card.warnings)


def test_labels_that_stand_in_test_only_are_announced(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", labelled(200))
    test = write_csv(tmp_path / "test.csv", labelled(100, ["yes", "maybe"], start=8))
    card = prepare(make_task(), {"train": train, "test": test}, tmp_path / "out")
    assert card.labels == ("maybe", "no", "yes")
    assert any("maybe" in warning and "no training row" in warning for warning in card.warnings)


def test_progress_and_warnings_are_told(tmp_path: Path) -> None:
    events: list[Event] = []
    with listening(events.append):
        build(tmp_path, labelled(100))
    kinds = Counter(event.kind for event in events)
    assert kinds["warning"] >= 1 and kinds["done"] >= 3
    assert any(event.label == "read out.csv" and event.done == 100 for event in events)


def test_the_folder_is_whole_or_absent_and_replaces_the_old(tmp_path: Path) -> None:
    build(tmp_path, labelled(100))
    before = contents(tmp_path / "out")
    with pytest.raises(DataError):
        build(tmp_path, labelled(100, ["one"]))
    assert contents(tmp_path / "out") == before
    build(tmp_path, labelled(120))
    assert contents(tmp_path / "out") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.csv"]


def test_load_gives_three_lists_and_refuses_damage(tmp_path: Path) -> None:
    build(tmp_path, labelled(100))
    examples = load(tmp_path / "out", "dev")
    assert len(examples) == len(examples.ids) == len(examples.inputs) == len(examples.outputs) > 0
    (tmp_path / "out" / "dev.jsonl").write_text('{"id": "x", "input": "half\n')
    with pytest.raises(DataError) as caught:
        load(tmp_path / "out", "dev")
    assert caught.value.code == "schema-invalid"
    (tmp_path / "out" / "dev.jsonl").unlink()
    with pytest.raises(DataError) as caught:
        load(tmp_path / "out", "dev")
    assert caught.value.code == "data-split"
    (tmp_path / "out" / "labels.json").write_text("{}")
    with pytest.raises(DataError):
        label_names(tmp_path / "out")
