"""MovieLens' ratings as rows of this recipe: films that somebody liked, ten candidates, and which one came next.

    python examples/recommendation/prepare.py [FOLDER]

Without a folder with ``ml-100k.inter`` and ``ml-100k.item`` (tab-separated, in RecBole's form) both come from the
package index. Notable: a film is liked at four stars or more; the nine other candidates are drawn among all liked
films, popular ones as often as they are liked, so that popularity alone does not tell the answer. Rows of one person
overlap in time but never in what came next.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from locum.sources.fetch import Request, fetch_all

SOURCE = "pypi://recbole==1.2.1/recbole/dataset_example/ml-100k/"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
OUT = Path(__file__).parent / "data" / "train.jsonl"
LIKED, HISTORY, CANDIDATES, MOST_OF_ONE = 4.0, 5, 10, 20


def main() -> None:
    """Read the ratings and write ``data/train.jsonl``."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    files = downloaded() if folder is None else [folder / name for name in SHA256]
    rows = rows_of(*files)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"wrote {len(rows)} rows to {OUT}")


def downloaded() -> list[Path]:
    """The files of ratings and of films, from the package index."""
    return list(fetch_all({name: Request(SOURCE + name, digest) for name, digest in SHA256.items()}).values())


def rows_of(ratings: Path, films: Path) -> list[dict[str, Any]]:
    """The rows of a file of ratings and a file of films."""
    titles = {
        row["item_id"]: f"{row['movie_title']} ({row['release_year']}), {row['class'].replace(' ', '|')}"
        for row in _table(films)
    }
    return next_films(_table(ratings), titles, random.Random(0))


def _table(path: Path) -> list[dict[str, str]]:
    """A file of tab-separated values whose columns are named ``name:type``."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    names = [column.partition(":")[0] for column in head.split("\t")]
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


def next_films(
    ratings: Iterable[Mapping[str, str]], titles: Mapping[str, str], lots: random.Random
) -> list[dict[str, Any]]:
    """Rows with ``history`` (oldest first), ``candidates`` and ``next``, the place of the right one.

    Args:
        ratings: with user_id, item_id, rating and timestamp.
        titles: what is shown of a film, by its id.
        lots: draws candidates and their order.
    """
    liked: dict[str, list[str]] = defaultdict(list)
    for rating in sorted(ratings, key=lambda row: int(row["timestamp"])):
        if float(rating["rating"]) >= LIKED and rating["item_id"] in titles:
            liked[rating["user_id"]].append(rating["item_id"])
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
