"""A data set whose answer is in the words, pico bases, and requests that train on them in seconds."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from locum.schema.candidate import Candidate
from locum.schema.training import TrainRequest

sys.path.append(str(Path(__file__).parent))  # for ``train_toys``

WORDS = {
    "card": ("card", "arrive", "delivery", "plastic", "mail"),
    "cash": ("cash", "atm", "withdraw", "money", "note"),
    "pin": ("pin", "code", "forgot", "blocked", "change"),
}
FILLER = ("i", "my", "the", "please", "a", "help", "now")


def write_split(path: Path, rows: int, seed: int) -> Path:
    generator = random.Random(seed)
    lines = []
    for number in range(rows):
        label = generator.choice(sorted(WORDS))
        words = [generator.choice(WORDS[label]), *generator.choices(FILLER, k=generator.randint(1, 6))]
        generator.shuffle(words)
        lines.append(json.dumps({"id": f"t:{number}", "input": " ".join(words), "output": label}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def requests_in(folder: Path) -> Callable[..., TrainRequest]:
    """Builds requests over one data set, all of whose files are in the folder."""
    splits = write_split(folder / "train.jsonl", 160, 1), write_split(folder / "dev.jsonl", 40, 2)

    def build(method: str, model_type: str | None = None, **fields: object) -> TrainRequest:
        base = None
        if model_type:
            from locum.models.pico import pico_base

            words = [word for group in (*WORDS.values(), FILLER) for word in group]
            spare = [f"unused{n}" for n in range(20)]
            base = str(pico_base(folder / f"base-{model_type}", [*spare, *words], model_type, layers=3))
        family = {None: "linear", "llama": "decoder"}.get(model_type, "encoder")
        candidate = Candidate(name=f"pico/{method}", family=family, base=base, method=method)  # type: ignore[arg-type]
        values: dict[str, object] = {
            "candidate": candidate,
            "base": base,
            "train": str(splits[0]),
            "dev": str(splits[1]),
            "labels": tuple(sorted(WORDS)),
            "budget_s": 1e5,  # so that every schedule is the recipe's, however busy the machine is
            "seed": 3,
            "threads": 1,
            "max_tokens": 16,
        }
        return TrainRequest(**{**values, **fields})  # type: ignore[arg-type]

    return build


@pytest.fixture
def make_request(tmp_path: Path) -> Callable[..., TrainRequest]:
    """Build a request: ``make_request("full", "llama", budget_s=…)``."""
    return requests_in(tmp_path)


@pytest.fixture(scope="package")
def make_request_for_all(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainRequest]:
    """The same, for what several tests share and none changes."""
    return requests_in(tmp_path_factory.mktemp("requests"))
