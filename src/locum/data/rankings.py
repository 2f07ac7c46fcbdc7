"""Prepared rows of a ranking task as queries, candidates and grades.

Notable: candidates that repeat from row to row are numbered once, so that whoever computes something of a text does it
once. A row's candidates stand in an order drawn by its input, so that ties are won by nobody. Not here: what a query
looks like in a file (``tasks.rank``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.core.files import sha256_bytes
from locum.schema.data import Row
from locum.scoring.ranking import ndcg
from locum.tasks.rank import LOOKED_AT, Candidates, read_candidates, read_grades

DEV_ROWS = 300
"""Dev rows that training chooses by, and that an export is held against: the first ones. Candidates are many a row."""


@dataclass(frozen=True, eq=False)
class Rankings:
    """Rows of a ranking task.

    Attributes:
        queries: with their candidates, one a row.
        grades: of each row's candidates, above 0 for the relevant ones.
        texts: the candidates of all rows, each once.
        places: of each row's candidates in ``texts``.
    """

    queries: list[Candidates]
    grades: list[NDArray[np.float64]]
    texts: list[str]
    places: list[NDArray[np.intp]]

    def split(self, flat: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Numbers of all candidates of all rows, one after the other, as one array a row."""
        return np.split(flat, np.cumsum([len(each) for each in self.places])[:-1])

    def mean_ndcg(self, scores: Iterable[NDArray[np.floating]]) -> float:
        """Mean nDCG at 10 of the rankings that scores give; equal scores keep their order."""
        found = [ndcg_of(row, grades) for row, grades in zip(scores, self.grades, strict=True)]
        return float(np.mean(found))


def ndcg_of(scores: NDArray[np.floating], grades: NDArray[np.float64]) -> float:
    """What one row's candidates, ranked by their scores, have as nDCG at 10."""
    order = np.argsort(-scores, kind="stable")
    return ndcg([str(i) for i in order], {str(i): float(grade) for i, grade in enumerate(grades)}, LOOKED_AT)


def read_rankings(rows: Iterable[Row], most: int | None = None) -> Rankings:
    """Rows as rankings.

    Args:
        rows: of a prepared split.
        most: how many are read at most; the first ones are taken.

    Raises:
        UserError: ``tasks-input``, an input is no query with candidates.
        GoldFault: a gold answer does not fit them; prepared rows are free of both.
    """
    found = Rankings([], [], [], [])
    numbers: dict[str, int] = {}
    for row in rows:
        if most is not None and len(found.queries) == most:
            break
        given = read_candidates(row.input)
        seed = int(sha256_bytes(row.input.encode(errors="surrogatepass"))[:16], 16)
        order = np.random.default_rng(seed).permutation(len(given.texts))
        texts = tuple(given.texts[number] for number in order)
        for text in texts:
            if text not in numbers:
                numbers[text] = len(found.texts)
                found.texts.append(text)
        found.queries.append(Candidates(given.query, texts, tuple(given.ids[number] for number in order)))
        found.grades.append(np.asarray(read_grades(row), dtype=np.float64)[order])
        found.places.append(np.array([numbers[text] for text in texts], dtype=np.intp))
    return found
