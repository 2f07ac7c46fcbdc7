"""Queries whose words tell which note answers them, pico encoders, and requests that train on them in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from locum.models.pico import pico_base
from locum.schema.candidate import Candidate
from locum.schema.training import TrainRequest

PAIRS = {"car": "automobile", "doctor": "physician", "sofa": "couch", "movie": "film", "shop": "store", "fast": "quick"}
"""A query's word and the word of the note that answers it: nothing that BM25 could see."""
FILLER = ("the", "a", "my", "of", "with", "please")


def write_rankings(path: Path, rows: int, seed: int, *, candidates: int = 4) -> Path:
    """One relevant note among some, each note one of a fixed few."""
    generator = random.Random(seed)
    lines = []
    for number in range(rows):
        chosen = generator.sample(sorted(PAIRS), candidates)
        query = f"{generator.choice(FILLER)} {chosen[0]} {generator.choice(FILLER)}"
        generator.shuffle(listed := [(word, f"{PAIRS[word]} {FILLER[len(word) % 6]}") for word in chosen])
        asked = {"query": query, "candidates": [note for _, note in listed]}
        relevant = [place for place, (word, _) in enumerate(listed) if word == query.split()[1]]
        lines.append({"id": f"t:{number}", "input": json.dumps(asked), "output": json.dumps(relevant)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def rank_request(folder: Path, method: str, **fields: Any) -> TrainRequest:
    """A request on a pico encoder; data and base are made when they are not there."""
    base = folder / "base"
    if not base.exists():
        pico_base(base, [*PAIRS, *PAIRS.values(), *FILLER], width=32)
    for split, rows in (("train", 96), ("dev", 32)):
        if not (folder / f"{split}.jsonl").exists():
            write_rankings(folder / f"{split}.jsonl", rows, len(split))
    linear = method == "linear"
    candidate = Candidate(
        name="bm25" if linear else f"pico/{method}",
        family="linear" if linear else "encoder",
        base=None if linear else str(base),
        method=method,  # type: ignore[arg-type]
    )
    values: dict[str, Any] = {
        "candidate": candidate,
        "base": None if linear else str(base),
        "train": str(folder / "train.jsonl"),
        "dev": str(folder / "dev.jsonl"),
        "labels": (),
        "budget_s": 1e5,  # so that every schedule is the recipe's, however busy the machine is
        "seed": 3,
        "threads": 1,
        "max_tokens": 16,
    }
    return TrainRequest(**{**values, **fields})
