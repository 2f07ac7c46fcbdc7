"""A bundle knows again what its student learned from, and fresh traffic passes."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import ModelFileError
from locum.data.fingerprint import compare, join_fingerprints, read_fingerprint, write_fingerprint

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]


def texts(count: int, seed: int, canned: float = 0.0) -> list[str]:
    """Sentences of random words; a share of them from a list of twenty that everybody writes."""
    rng = random.Random(seed)
    common = [f"thank you {word}" for word in WORDS[:20]]
    return [
        rng.choice(common) if rng.random() < canned else " ".join(rng.choices(WORDS, k=12)).capitalize()
        for _ in range(count)
    ]


def learned(path: Path, given: list[str]) -> Path:
    write_fingerprint(path, Counter(given).items())
    return path


@pytest.mark.parametrize("canned", [0.0, 0.3])
def test_fault_11_learned_rows_are_known_again_and_fresh_ones_pass(tmp_path: Path, canned: float) -> None:
    given = texts(700, 1, canned)
    rows = read_fingerprint(learned(tmp_path / "f.npy", given))
    assert rows.dtype.itemsize == 28 and len(rows) == len(set(given))
    assert compare(rows, random.Random(2).sample(given, 700)).reuse is not None
    assert compare(rows, given[:60] + texts(600, 3, canned)).reuse is not None
    fresh = compare(rows, texts(1000, 4, canned))
    assert fresh.reuse is None
    assert len(fresh.exact) == pytest.approx(1000 * canned, abs=60)


def test_other_case_punctuation_and_digits_are_near_copies_and_many_of_them_are_refused(tmp_path: Path) -> None:
    given = [f"{text} {number}" for number, text in enumerate(texts(500, 1))]
    rows = read_fingerprint(learned(tmp_path / "f.npy", given))
    for change in (str.upper, lambda text: f"«{text}»!", lambda text: f"{text.rsplit(' ', 1)[0]}  9999"):
        found = compare(rows, [change(text) for text in given])
        assert (len(found.exact), len(found.near)) == (0, 500)
        assert found.reuse is not None
    few = compare(rows, [text.upper() for text in given[:10]] + texts(490, 2))
    assert (len(few.near), few.reuse) == (10, None)


def test_one_changed_word_is_mostly_seen_and_other_texts_are_not(tmp_path: Path) -> None:
    given = texts(800, 1)
    rows = read_fingerprint(learned(tmp_path / "f.npy", given))
    changed = [f"{text} please" for text in given]
    assert len(compare(rows, changed).near) > 0.6 * len(given)
    assert len(compare(rows, texts(800, 2)).near) < 4


def test_rows_of_other_tasks_count_as_seen_and_not_as_traffic(tmp_path: Path) -> None:
    own, other = texts(400, 1), texts(400, 2)
    join_fingerprints(learned(tmp_path / "a", own), [learned(tmp_path / "b", other)], tmp_path / "both.npy")
    rows = read_fingerprint(tmp_path / "both.npy")
    assert int(rows["count"].sum()) == 400
    found = compare(rows, other[:5] + texts(300, 3))
    assert found.exact == (0, 1, 2, 3, 4) and found.reuse is not None


def test_fault_26_what_is_no_fingerprint_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "other.npy", np.zeros(3))
    (tmp_path / "short.npy").write_bytes(b"\x93NUMPY")
    for name in ("pickled.npy", "other.npy", "short.npy"):
        with pytest.raises(ModelFileError) as caught:
            read_fingerprint(tmp_path / name)
        assert caught.value.code == "bundle-fingerprint"
