"""The real small bases: loaded, frozen in part, and a head that learns from a few sentences."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from locum.models.classifier import SequenceClassifier
from locum.schema.candidate import Candidate
from locum.schema.training import TrainRequest
from locum.sources.bases import ensure_base
from locum.train.forward import Encoded, Machine, all_vectors
from locum.train.frozen import FrozenPrefix, can_freeze
from locum.train.head import train
from locum.train.outcome import Clock

pytestmark = [pytest.mark.models, pytest.mark.slow]

EXACT = Machine(torch.device("cpu"), bfloat16=False)
TRAIN = {
    "card": ("my card has not arrived", "where is my new card", "the card I ordered is late", "no plastic in the mail"),
    "cash": ("the machine kept my money", "cash withdrawal failed", "the atm gave me no notes", "I could not withdraw"),
    "pin": ("I forgot my secret code", "how do I change my pin", "my pin is blocked", "the passcode does not work"),
}
DEV = {
    "card": ("still waiting for delivery of the card",),
    "cash": ("the teller machine did not pay out",),
    "pin": ("reset the four digits I type in",),
}


def write_rows(path: Path, texts: dict[str, tuple[str, ...]]) -> str:
    rows = [{"id": "r", "input": text, "output": label} for label, group in texts.items() for text in group]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def test_minilm_head_understands_other_words(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    request = make_request("linear").model_copy(
        update={
            "candidate": Candidate(name="minilm/head", family="encoder", base="all-MiniLM-L6-v2", method="head"),
            "base": str(ensure_base("all-MiniLM-L6-v2")),
            "train": write_rows(tmp_path / "few.jsonl", TRAIN),
            "dev": write_rows(tmp_path / "other.jsonl", DEV),
        }
    )
    outcome = train(request, tmp_path / "out", Clock(600))
    assert outcome.dev_logits.argmax(axis=1).tolist() == [0, 1, 2]
    assert outcome.parameters > 22_000_000


def test_frozen_prefix_of_smollm_equals_the_whole_body(smollm2_layers: tuple[Any, Any]) -> None:
    base, body = smollm2_layers
    assert (base.gguf is not None, base.architecture.model_type) == (True, "llama")
    model = SequenceClassifier(copy.deepcopy(body), base.architecture, 2).eval()
    assert can_freeze(base.architecture, tokens=20, width=model.head.in_features)
    split = Encoded([[504, 3575, 314, 1365, 30], [28, 29, 17]], torch.tensor([0, 1]))
    plain = all_vectors(model, split, 0, EXACT)
    prefix = FrozenPrefix(model.body, model.architecture, 2)
    prefix.read(split, 0, EXACT, "read")
    prefix.remove()
    torch.testing.assert_close(all_vectors(model, split, 0, EXACT), plain, atol=1e-4, rtol=1e-4)
