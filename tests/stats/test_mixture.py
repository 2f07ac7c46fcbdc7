"""A task's rows in an epoch of a mixture: published shares, rounding that adds up, degenerate cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.stats.mixture import task_counts


@pytest.mark.parametrize(
    ("temperature", "wanted"), [(1.0, {"a": 90, "b": 9, "c": 1}), (1e9, {"a": 34, "b": 33, "c": 33})]
)
def test_tasks_are_mixed_by_size_and_temperature(temperature: float, wanted: dict[str, int]) -> None:
    assert task_counts({"a": 90, "b": 9, "c": 1}, temperature) == wanted


def test_square_root_mixing_has_the_published_shares() -> None:
    counts = task_counts({"a": 900, "b": 100}, 2.0)
    assert counts == {"a": 750, "b": 250}


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5000), min_size=1), st.floats(1, 1e9))
def test_counts_add_up_and_are_nearer_to_each_other_than_sizes(sizes: dict[str, int], temperature: float) -> None:
    counts = task_counts(sizes, temperature)
    assert sum(counts.values()) == sum(sizes.values())
    assert counts.keys() == sizes.keys()
    assert max(counts.values()) <= max(sizes.values()) + 1
    assert min(counts.values()) >= min(sizes.values()) - 1


def test_one_task_has_all_rows_and_no_task_has_none() -> None:
    assert task_counts({"a": 7}, 5.0) == {"a": 7}
    assert task_counts({}, 2.0) == {}
