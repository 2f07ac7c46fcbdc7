"""What a certificate counts: rows of the traffic, one row of each group, or distinct texts."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from locum.cascade.certify import certify
from locum.cascade.sampling import Drawn, independent_draws
from locum.cascade.wording import plural
from locum.core.errors import UserError
from locum.schema.certificate import Certificate, Sampling
from locum.schema.data import Row
from locum.schema.task import Guarantee, Task
from locum.stats.groups import one_of_each_group

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HASHES = dict.fromkeys(("model", "task", "decoding", "redaction", "calibration"), "a" * 64)


def task(**data: object) -> Task:
    spec = {"train": "rows.csv", "input": "text", "output": "label", **data}
    return Task.model_validate({"version": 1, "name": "t", "kind": "classify", "instruction": "?", "data": spec})


def prove(confidence: np.ndarray, right: np.ndarray, drawn: Drawn | None, max_error: float = 0.05) -> Certificate:
    wanted = Guarantee(kind="selective", max_error=max_error, confidence=0.95)
    return certify(wanted, confidence, right, hashes=HASHES, now=NOW, drawn=drawn)


def rows_of(groups: list[str]) -> list[Row]:
    return [Row(id=f"f:{n}", input=f"text {n}", output="a", group=group) for n, group in enumerate(groups)]


def test_one_row_of_each_group_each_with_the_same_chance() -> None:
    groups = [name for name, size in (("a", 1), ("b", 4), ("c", 10)) for _ in range(size)]
    drawn = Counter[int]()
    for seed in range(3000):
        chosen = one_of_each_group(groups, [f"row {n}" for n in range(15)], seed)
        assert sorted(groups[n] for n in chosen) == ["a", "b", "c"]
        drawn.update(int(n) for n in chosen)
    assert drawn[0] == 3000
    for size, first in ((4, 1), (10, 5)):
        for n in range(first, first + size):
            assert abs(drawn[n] - 3000 / size) < 4.5 * (3000 / size) ** 0.5


def test_the_draw_does_not_depend_on_the_order_of_rows() -> None:
    generator = np.random.default_rng(4)
    groups = [f"g{n}" for n in generator.integers(0, 40, 300)]
    said = [f"text {n}" for n in generator.integers(0, 200, 300)]
    chosen = {(groups[n], said[n]) for n in one_of_each_group(groups, said, 7)}
    order = generator.permutation(300)
    mixed = one_of_each_group([groups[n] for n in order], [said[n] for n in order], 7)
    assert {(groups[order[n]], said[order[n]]) for n in mixed} == chosen
    assert one_of_each_group([], []).tolist() == []
    with pytest.raises(UserError):
        one_of_each_group(["a"], [])


def test_the_sentence_speaks_of_new_groups_and_counts_them() -> None:
    rows = rows_of([f"talk {n % 200}" for n in range(1000)])
    drawn = independent_draws(rows, task(group="conversation"))
    right = np.ones(1000, dtype=bool)
    certificate = prove(np.linspace(0.5, 1, 1000), right, drawn)
    assert certificate.n == 200 and certificate.sampling.rows == 1000
    assert "of the answers given locally in new conversations are wrong" in certificate.statement
    assert "on one row of each of 200 conversations the student answered 200" in certificate.statement
    assert certificate.assumptions[0].startswith("The conversations are a random sample of those to come.")
    few = independent_draws(rows[:40], task(group="conversation"))
    nothing = prove(np.linspace(0.5, 1, 40), right[:40], few)
    assert nothing.threshold is None and "more groups would be needed" in nothing.statement


def test_copies_left_out_are_said_and_too_many_prove_nothing() -> None:
    rows = rows_of([""] * 500)
    confidence, right = np.linspace(0.5, 1, 500), np.ones(500, dtype=bool)
    some = prove(confidence, right, independent_draws(rows, task(), 20))
    assert some.threshold is not None and "given locally to distinct texts are wrong" in some.statement
    assert "20 further rows were copies" in some.assumptions[0]
    many = prove(confidence, right, independent_draws(rows, task(), 30))
    assert many.threshold is None and many.local_share == 0 and many.labels_missing is None
    assert "30 of 530 rows are copies that no independent messages explain" in many.statement
    assert "data.duplicates: keep" in many.statement
    assert prove(confidence, right, independent_draws(rows, task(), 30), 0.06).threshold is not None


def test_without_groups_or_copies_every_row_counts() -> None:
    rows = rows_of([""] * 100)
    drawn = independent_draws(rows, task())
    assert drawn.positions.tolist() == list(range(100))
    assert drawn.sampling == Sampling(rows=100)
    confidence, right = np.linspace(0.5, 1, 100), np.ones(100, dtype=bool)
    assert prove(confidence, right, drawn) == prove(confidence, right, None)


def conversations(generator: np.random.Generator, count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Groups of 2 to 50 rows that share confidence and fate: right on nearly all rows of one, or on hardly any."""
    groups: list[str] = []
    confidence: list[float] = []
    right: list[bool] = []
    for n in range(count):
        size = int(np.clip(2 * generator.pareto(1.0) + 2, 2, 50))
        sure = generator.random()
        knows = generator.random() > 0.6 * (1 - sure) ** 2
        groups += [f"talk {n}"] * size
        confidence += list(np.clip(sure + 0.02 * generator.standard_normal(size), 0, 1))
        right += list(generator.random(size) < (0.995 if knows else 0.1))
    return groups, np.array(confidence), np.array(right)


def test_the_promise_is_kept_for_clusters_only_where_groups_are_counted() -> None:
    generator = np.random.default_rng(17)
    groups, confidence, right = conversations(generator, 60_000)
    weights = 1 / np.bincount(np.unique(groups, return_inverse=True)[1])[np.unique(groups, return_inverse=True)[1]]
    order = np.argsort(-confidence)
    risk = np.cumsum((weights * ~right)[order]) / np.cumsum(weights[order])

    def broken(certificate: Certificate) -> bool:
        if certificate.threshold is None:
            return False
        at = np.searchsorted(-confidence[order], -certificate.threshold, side="right") - 1
        return bool(risk[at] > certificate.max_error)

    draws, kept, spoken, broken_by_rows, broken_by_groups = 250, task(group="talk"), 0, 0, 0
    for _ in range(draws):
        names, sure, fine = conversations(generator, 200)
        by_groups = prove(sure, fine, independent_draws(rows_of(names), kept), 0.1)
        spoken += by_groups.threshold is not None
        broken_by_groups += broken(by_groups)
        broken_by_rows += broken(prove(sure, fine, None, 0.1))
    assert spoken > 0.7 * draws
    assert broken_by_groups <= draws * 0.05 + 3 * (draws * 0.05 * 0.95) ** 0.5
    assert broken_by_rows > 0.15 * draws


def test_names_of_columns_in_a_sentence() -> None:
    assert [plural(name) for name in ("conversation", "company", "box", "doc_id", "day", "news")] == [
        "conversations",
        "companies",
        "boxes",
        "doc_ids",
        "days",
        "news",
    ]
