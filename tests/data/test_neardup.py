from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from data_toys import distinct_sentences

from locum.data.neardup import BAND_ROWS, BANDS, NearIndex, fold, is_near, near_pairs, shingles, similarity


def plain_similarity(first: str, second: str) -> float:
    """Jaccard on sets of strings: the independent plain path."""
    a = {first[n : n + 5] for n in range(max(1, len(first) - 4))}
    b = {second[n : n + 5] for n in range(max(1, len(second) - 4))}
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("transfer 5", "transfer 6", False),
        ("Where is my card?", "where is my card", True),
        ("Where is my card?", "Where is my cart?", False),
        ("a < b", "a > b", False),
        ("C++", "C", False),
        ("?", "!", False),
        ("Ünïcode — ok", "ünïcode ok", True),
        ("the order 66 of " + "long words " * 30, "the order 67 of " + "long words " * 30, False),
        (" ".join(distinct_sentences(4)), " ".join(distinct_sentences(4)) + "s", True),
    ],
)
def test_definition(first: str, second: str, near: bool) -> None:
    assert is_near(first, second) is near


def test_similarity_equals_the_plain_one() -> None:
    texts = [*distinct_sentences(40), "", "a", "abcd", "aaaaaaaaaa", "日本語のテキストです"]
    for first, second in combinations(texts, 2):
        assert similarity(first, second) == pytest.approx(plain_similarity(first, second), abs=1e-12)
    assert len(shingles("abc")) == 1


def planted(count: int, seed: int) -> list[str]:
    """Long texts, each third one followed by a copy with a few characters changed."""
    random.seed(seed)
    words = " ".join(distinct_sentences(60)).split()
    texts: list[str] = []
    for _ in range(count):
        text = " ".join(random.choices(words, k=random.randint(8, 60)))
        texts.append(text)
        if random.random() < 0.35:
            where = random.randrange(len(text))
            texts.append(text[:where] + "x" * random.randint(1, 3) + text[where:])
    random.shuffle(texts)
    return texts


def found_pairs(texts: list[str], path: Path) -> set[tuple[int, int]]:
    index = NearIndex(path, len(texts))
    index.add(texts[:100], ["a"] * 100)
    index.add(texts[100:], ["a"] * (len(texts) - 100))
    buckets = index.buckets(np.ones(len(texts), dtype=np.bool_))
    return set(near_pairs(buckets, lambda some: {n: texts[n] for n in some}, lambda _a, _b: False))


def test_recall_and_precision_against_brute_force(tmp_path: Path) -> None:
    texts = planted(400, seed=5)
    found = found_pairs(texts, tmp_path / "keys")
    grams = [{fold(text)[n : n + 5] for n in range(len(fold(text)) - 4)} for text in texts]
    true = {
        (a, b)
        for a, b in combinations(range(len(texts)), 2)
        if len(grams[a] & grams[b]) >= 0.9 * len(grams[a] | grams[b])
    }
    assert len(true) > 60
    assert found <= true  # every candidate is verified
    assert len(found) / len(true) >= 0.98  # 0.999 at the threshold, by the formula


def test_candidates_follow_the_banding_formula(tmp_path: Path) -> None:
    """Among pairs of known similarity, the share that meet in a band is about 1 − (1 − s⁸)¹²."""
    from locum.data.neardup import band_keys

    random.seed(2)
    letters = "abcdefghijklmnopqrstuvwxyz"
    hits, chance = 0, 0.0
    for _ in range(400):
        text = "".join(random.choices(letters, k=200))
        other = text[: random.randint(120, 190)] + "".join(random.choices(letters, k=random.randint(5, 40)))
        keys = band_keys([text, other], ["a", "a"])
        hits += bool((keys[0, :BANDS] == keys[1, :BANDS]).any())
        chance += 1 - (1 - plain_similarity(fold(text), fold(other)) ** BAND_ROWS) ** BANDS
    assert abs(hits - chance) < 4 * np.sqrt(400) / 2


def test_labels_and_numbers_keep_texts_apart(tmp_path: Path) -> None:
    from locum.data.neardup import band_keys

    keys = band_keys(["gold ends higher", "gold ends higher", "gold 1 ends", "gold 2 ends"], ["up", "down", "up", "up"])
    for a, b in combinations(range(4), 2):
        assert not (keys[a] == keys[b]).any()


def test_many_equal_texts_stay_linear(tmp_path: Path) -> None:
    texts = ["Same Text!" if n % 2 else "same text" for n in range(3000)]
    pairs = found_pairs(texts, tmp_path / "keys")
    assert len({later for _first, later in pairs}) >= 2900  # one leader for each 256


def test_parts_of_a_band_give_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = planted(200, seed=9)
    whole = found_pairs(texts, tmp_path / "whole")
    monkeypatch.setattr("locum.data.neardup._PART_TEXTS", 37)
    assert found_pairs(texts, tmp_path / "parts") == whole
