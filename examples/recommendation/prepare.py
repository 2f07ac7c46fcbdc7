"""MovieLens' ratings as rows of this recipe: films that somebody liked, ten candidates, and which one came next.

    python examples/recommendation/prepare.py [FOLDER]

Without a folder with ``ratings.csv`` and ``movies.csv`` the small set is downloaded. Notable: a film is liked at four
stars or more; the nine other candidates are drawn among all liked films, popular ones as often as they are liked, so
that popularity alone does not tell the answer. Rows of one person overlap in time but never in what came next.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from locum.sources.fetch import fetch

SOURCE = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
OUT = Path(__file__).parent / "data" / "train.jsonl"
LIKED, HISTORY, CANDIDATES, MOST_OF_ONE = 4.0, 5, 10, 20


def main() -> None:
    """Read the ratings and write ``data/train.jsonl``."""
    ratings, movies = read(Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(SOURCE))
    titles = {row["movieId"]: f"{row['title']}, {row['genres']}" for row in movies}
    rows = next_films(ratings, titles, random.Random(0))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"wrote {len(rows)} rows to {OUT}")


def read(source: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Ratings and movies, from the zip file or from a folder with both."""
    names = ("ratings.csv", "movies.csv")
    if source.is_dir():
        texts = [(source / name).read_text(encoding="utf-8") for name in names]
    else:
        with zipfile.ZipFile(source) as archive:
            texts = [archive.read(f"ml-latest-small/{name}").decode() for name in names]
    ratings, movies = (list(csv.DictReader(text.splitlines())) for text in texts)
    return ratings, movies


def next_films(
    ratings: Iterable[Mapping[str, str]], titles: Mapping[str, str], lots: random.Random
) -> list[dict[str, Any]]:
    """Rows with ``history`` (oldest first), ``candidates`` and ``next``, the place of the right one.

    Args:
        ratings: with userId, movieId, rating and timestamp.
        titles: what is shown of a film, by its id.
        lots: draws candidates and their order.
    """
    liked: dict[str, list[str]] = defaultdict(list)
    for rating in sorted(ratings, key=lambda row: int(row["timestamp"])):
        if float(rating["rating"]) >= LIKED and rating["movieId"] in titles:
            liked[rating["userId"]].append(rating["movieId"])
    everything = [film for films in liked.values() for film in films]
    rows: list[dict[str, Any]] = []
    for films in liked.values():
        for place in range(HISTORY, len(films))[-MOST_OF_ONE:]:
            candidates = _candidates(films[place], set(films), everything, lots)
            if candidates:
                history = [titles[film] for film in films[place - HISTORY : place]]
                shown = [titles[film] for film in candidates]
                rows.append({"history": history, "candidates": shown, "next": [candidates.index(films[place])]})
    return rows


def _candidates(right: str, known: set[str], everything: Sequence[str], lots: random.Random) -> list[str]:
    """The right film among others that this person did not like; empty when there are too few."""
    others = dict.fromkeys(film for film in lots.choices(everything, k=40 * CANDIDATES) if film not in known)
    chosen = [right, *list(others)[: CANDIDATES - 1]]
    lots.shuffle(chosen)
    return chosen if len(chosen) == CANDIDATES else []


if __name__ == "__main__":
    main()
