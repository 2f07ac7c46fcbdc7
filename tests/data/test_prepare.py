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


def test_near_copies_that_no_draws_explain_stay_together_and_are_held_out_once(tmp_path: Path) -> None:
    rows = labelled(600)
    copies = [(f"{text.title()} !", label) for text, label in rows[:200]]
    for duplicates in ("near", "exact"):
        card = build(tmp_path, rows + copies, duplicates=duplicates)
        where: dict[str, list[str]] = {}
        for split in SPLITS:
            for row in iterate(tmp_path / "out", split):
                where.setdefault(row.input.casefold().removesuffix(" !"), []).append(split)
        assert all(len(set(splits)) == 1 for splits in where.values())
        twice = [splits[0] for splits in where.values() if len(splits) == 2]
        assert set(twice) == (set() if duplicates == "near" else {"train"})
        assert card.duplicates["near_within"] == 200
        held_out = sum(card.splits[name].copies_left_out for name in SPLITS if name != "train")
        assert sum(split.rows for split in card.splits.values()) == (600 if duplicates == "near" else 800 - held_out)
        assert any("data.group" in warning for warning in card.warnings)
    card = build(tmp_path, rows + copies, duplicates="keep")
    assert sum(split.rows for split in card.splits.values()) == 800


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


def test_contradictions_keep_the_majority_in_train_and_every_row_held_out(tmp_path: Path) -> None:
    rows = labelled(300)
    drawn = random.Random(5)
    doubtful = [f"doubtful {text}" for text, _ in labelled(60, start=4)]
    rows += [(text, label) for text in doubtful for label in drawn.choices(["yes", "yes", "no"], k=drawn.randint(1, 9))]
    card = build(tmp_path, rows)
    assert not any(split.copies_left_out for split in card.splits.values())
    told: dict[str, Counter[tuple[str, str]]] = {split: Counter() for split in SPLITS}
    for split in SPLITS:
        told[split].update((row.input, row.output) for row in iterate(tmp_path / "out", split))
    assert set(Counter(text for text, _ in told["train"] if text in doubtful).values()) == {1}
    in_train = Counter(rows)
    for split in SPLITS[1:]:
        in_train -= told[split]
        assert sum(count for (text, _), count in told[split].items() if text in doubtful) > 10
    for (text, label), _ in told["train"].items():
        other = "no" if label == "yes" else "yes"
        assert in_train[text, label] > in_train[text, other]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("duplicates", ["near", "exact", "keep"])
def test_a_message_that_comes_often_counts_as_often_as_it_came(tmp_path: Path, share: float, duplicates: str) -> None:
    rows = labelled(2000, ["billing", "technical", "other"])
    canned = round(share * 2000)
    rows[:canned] = [("my card is lost , please help", "billing")] * canned
    random.Random(2).shuffle(rows)
    card = build(tmp_path, rows, duplicates=duplicates)
    for name in SPLITS:
        split, often = card.splits[name], 0
        often = sum(row.input.startswith("my card is lost") for row in iterate(tmp_path / "out", name))
        if name == "train" and duplicates != "keep":
            assert often == 1
            continue
        assert abs(often / split.rows - share) < 4 * (share * (1 - share) / split.rows) ** 0.5
        for label in ("billing", "technical", "other"):
            assert abs(split.labels[label] / split.rows - sum(lab == label for _, lab in rows) / 2000) < 0.02
    verify_splits(tmp_path / "out")


@pytest.mark.parametrize("marks", [("",), ("!", "?", " .", "...")])
def test_canned_texts_that_are_all_of_one_label_empty_no_split(tmp_path: Path, marks: tuple[str, ...]) -> None:
    rows = labelled(2100, ["a", "b"])
    canned = ("thank you very much", "good morning to you", "please call me back")
    for n in range(900):
        rows[2 * n] = (canned[n % 3] + random.Random(n).choice(marks), "a")
    card = build(tmp_path, rows)
    for name in ("dev", "calibration", "test"):
        assert abs(card.splits[name].labels["a"] / card.splits[name].rows - 0.5) < 0.02
        often = sum(row.input.startswith(canned) for row in iterate(tmp_path / "out", name))
        assert abs(often / card.splits[name].rows - 900 / 2100) < 0.12
    assert card.splits["train"].labels["a"] < 150 < card.splits["train"].labels["b"]


def test_a_file_that_was_joined_twice_is_counted_once(tmp_path: Path) -> None:
    rows = labelled(500)
    card = build(tmp_path, rows + rows)
    assert sum(split.rows for split in card.splits.values()) == 500
    inputs = [row.input for split in SPLITS for row in iterate(tmp_path / "out", split)]
    assert len(set(inputs)) == 500
    assert card.splits["calibration"].copies_left_out == card.splits["calibration"].rows
    assert any("more texts stand 2 times than independent messages could" in warning for warning in card.warnings)


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
        rows = read_labelled(path, make_task(input=["q", "ctx.text", "more"])).rows
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


def grouped(count: int, sizes: tuple[int, ...] = (4, 9), seed: int = 0) -> list[tuple[str, str, str]]:
    """Rows of conversations: text, label, conversation."""
    drawn = random.Random(seed)
    rows: list[tuple[str, str, str]] = []
    for n in range(count):
        label = drawn.choice("ab")
        for text, _ in labelled(drawn.randint(*sizes), start=1000 * n):
            rows.append((f"{text} {n}", label if drawn.random() < 0.8 else "c", f"talk {n}"))
    drawn.shuffle(rows)
    return rows


def test_groups_stay_in_one_split_whatever_their_size(tmp_path: Path) -> None:
    rows = grouped(400)
    rows += [(f"monologue {n}", "c", "talk 0") for n in range(800)]
    path = write_csv(tmp_path / "talks.csv", rows, header=("text", "label", "talk"))
    card = prepare(make_task(group="talk"), {"train": path}, tmp_path / "out")
    where: dict[str, set[str]] = {}
    for split in SPLITS:
        for row in iterate(tmp_path / "out", split):
            assert row.group is not None
            where.setdefault(row.group, set()).add(split)
    assert len(where) == 400 and all(len(splits) == 1 for splits in where.values())
    counts = {name: split.groups for name, split in card.splits.items()}
    assert counts == {"train": 160, "dev": 80, "calibration": 80, "test": 80}
    verify_splits(tmp_path / "out")


def test_large_groups_do_not_gather_in_held_out_splits(tmp_path: Path) -> None:
    rows = grouped(600, (1, 1)) + [
        (f"{text} again {n}", "a", group) for text, _, group in grouped(100, (30, 30), 7) for n in range(1)
    ]
    path = write_csv(tmp_path / "talks.csv", rows, header=("text", "label", "talk"))
    prepare(make_task(group="talk"), {"train": path}, tmp_path / "out")
    large = [row.group for row in iterate(tmp_path / "out", "test")]
    most = sum(count > 10 for count in Counter(large).values())
    assert abs(most - 20) < 4 * (100 * 0.2 * 0.8) ** 0.5


def test_a_group_in_two_files_keeps_its_place_in_the_first(tmp_path: Path) -> None:
    rows = grouped(60)
    half = [row for row in rows if int(row[2].split()[1]) < 40]
    rest = [row for row in rows if int(row[2].split()[1]) >= 39]
    files: dict[SplitName, Path] = {
        "train": write_csv(
            tmp_path / "train.csv", [row for n, row in enumerate(half)], header=("text", "label", "talk")
        ),
        "test": write_csv(
            tmp_path / "test.csv", [row for row in rest if row not in half], header=("text", "label", "talk")
        ),
    }
    files["train"].write_text(files["train"].read_text() + "one more word of it,a,talk 50\n")
    card = prepare(make_task(group="talk"), files, tmp_path / "out")
    assert not any(row.group == "talk 50" for row in iterate(tmp_path / "out", "train"))
    assert any("1 train rows belong to groups that also stand in test" in warning for warning in card.warnings)
    verify_splits(tmp_path / "out")


def test_a_row_without_its_group_is_bad(tmp_path: Path) -> None:
    rows = [*grouped(60), ("nobody's row", "a", "")]
    path = write_csv(tmp_path / "talks.csv", rows, header=("text", "label", "talk"))
    with pytest.raises(DataError, match="no group"):
        prepare(make_task(group="talk"), {"train": path}, tmp_path / "out")
    with pytest.raises(DataError, match="no column 'tlak'.*did you mean 'talk'"):
        prepare(make_task(group="tlak"), {"train": path}, tmp_path / "out")


def test_a_limit_keeps_a_row_of_as_many_groups_as_it_can(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "talks.csv", grouped(400), header=("text", "label", "talk"))
    card = prepare(make_task(group="talk", max_held_out=60, max_rows=200), {"train": path}, tmp_path / "out")
    assert {name: (split.rows, split.groups) for name, split in card.splits.items()} == {
        "train": (200, 160),
        "dev": (60, 60),
        "calibration": (60, 60),
        "test": (60, 60),
    }


def test_rows_that_a_person_picked_on_the_page_are_learned_from_and_nothing_is_measured_on_them(tmp_path: Path) -> None:
    said = {"how": "page-review", "verdict": "right"}
    came = [{"text": text, "label": label} for text, label in labelled(600, "ab")]
    picked = [{"text": text, "label": label, "locum": said} for text, label in labelled(200, "ab", start=5000)]
    only_wrong = {"text": "nobody knows", "label": None, "locum": said}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*picked, only_wrong, *came]))
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in [*picked[:3], {"text": "one more", "label": "a"}]))
    card = prepare(make_task(duplicates="exact"), {"train": file, "test": test}, tmp_path / "out")
    parts = contents(tmp_path / "out")
    texts = {row["text"] for row in picked}
    assert texts <= {text for text, _ in parts["train"]}
    assert {text for split in ("dev", "calibration", "test") for text, _ in parts[split]}.isdisjoint(texts)
    assert sum(split.rows for split in card.splits.values()) == 801 and card.splits["calibration"].rows > 50
    assert any("200 rows were picked" in warning for warning in card.warnings)
    assert {item.count for item in card.dropped if "answer was wrong" in item.reason} == {1}
    assert {item.count for item in card.dropped if "no sample of the traffic" in item.reason} == {3}

    file.write_text("".join(json.dumps(row) + "\n" for row in picked))
    with pytest.raises(DataError, match="judged on the gateway's page, which are for train alone"):
        prepare(make_task(), {"train": file}, tmp_path / "out")
