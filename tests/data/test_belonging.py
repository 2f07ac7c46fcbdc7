"""Words that give the label away, because rows belong together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from data_toys import labelled, make_task, write_csv

from locum.data.belonging import given_away
from locum.data.prepare import prepare
from locum.schema.data import Row


def conversations(count: int, size: int, seed: int = 3) -> list[tuple[str, str, str]]:
    drawn = random.Random(seed)
    rows: list[tuple[str, str, str]] = []
    for n in range(count):
        name = "".join(drawn.choices("bdfgklmnprstvz", k=3) + drawn.choices("aeiou", k=3)) + str(n)
        label = drawn.choice("ab")
        texts = [text for text, _ in labelled(size, start=size * n)]
        rows += [(f"{name} says {text}", label, f"talk {n}") for text in texts]
    drawn.shuffle(rows)
    return rows


@pytest.mark.parametrize("size", [6, 10, 30])
def test_names_of_conversations_are_warned_of_and_the_column_is_named(tmp_path: Path, size: int) -> None:
    path = write_csv(tmp_path / "talks.csv", conversations(900 // size, size), header=("text", "label", "talk"))
    card = prepare(make_task(), {"train": path}, tmp_path / "out")
    (warning,) = [each for each in card.warnings if "data.group" in each]
    assert "further columns: talk" in warning
    card = prepare(make_task(group="talk"), {"train": path}, tmp_path / "grouped")
    assert not any("data.group" in each for each in card.warnings)


def test_rows_with_words_of_their_own_are_not_warned_of(tmp_path: Path) -> None:
    card = prepare(make_task(), {"train": write_csv(tmp_path / "rows.csv", labelled(900, "abc"))}, tmp_path / "out")
    assert not any("data.group" in each for each in card.warnings)


def test_rare_words_of_one_label_by_chance_do_not_count() -> None:
    drawn = random.Random(8)
    words = [f"w{n}" for n in range(4000)]
    rows = [Row(id=str(n), input=" ".join(drawn.choices(words, k=12)), output=drawn.choice("ab")) for n in range(800)]
    assert given_away(rows[200:], rows[:200]) is None
    telling = [row.model_copy(update={"input": f"{row.input} {row.output}{n % 30}"}) for n, row in enumerate(rows)]
    found = given_away(telling[200:], telling[:200])
    assert found is not None and found.share == 1.0 and found.chance < 0.3
    assert set(found.words) <= {f"{label}{n}" for label in "ab" for n in range(30)}
    assert given_away([], telling[:200]) is None and given_away(telling, []) is None


def test_words_that_a_label_is_about_are_no_names(tmp_path: Path) -> None:
    drawn = random.Random(2)
    about = {"good": ("lovely", "superb", "kind", "neat"), "bad": ("broken", "dull", "rude", "late")}
    rows = [(f"{drawn.choice(about[label])} {text}", label) for text, label in labelled(240, ["good", "bad"])]
    card = prepare(make_task(), {"train": write_csv(tmp_path / "rows.csv", rows)}, tmp_path / "out")
    assert not any("data.group" in each for each in card.warnings)
