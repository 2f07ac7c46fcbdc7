"""The classifier: pooling by hand, padding without effect, saved and read back bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from locum.core.errors import ModelFileError
from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.models.classifier import HEAD_NAME, SequenceClassifier, load_student, pool, save_student
from locum.models.pico import pico_base

WORDS = ["card", "cash", "pin", "lost", "blocked"]


def student(folder: Path, model_type: str) -> SequenceClassifier:
    base = inspect_base(pico_base(folder, WORDS, model_type))
    torch.manual_seed(1)
    return SequenceClassifier(load_body(base), base.architecture, 3).eval()


def test_pooling_by_hand() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[5.0, 5.0], [7.0, 1.0], [0.0, 3.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "mean").tolist() == [[2.0, 4.0], [4.0, 3.0]]
    assert pool(states, mask, "last").tolist() == [[3.0, 6.0], [0.0, 3.0]]


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama"])
def test_padding_does_not_change_the_logits(tmp_path: Path, model_type: str) -> None:
    model = student(tmp_path / "base", model_type)
    short = torch.tensor([[2, 4, 5]])
    padded = torch.tensor([[2, 4, 5, 0, 0], [2, 4, 6, 7, 3]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    alone = model(short, torch.ones_like(short))
    torch.testing.assert_close(model(padded, mask)[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("model_type", "pooling"), [("bert", "mean"), ("llama", "last")])
def test_student_is_read_back_bit_by_bit(tmp_path: Path, model_type: str, pooling: str) -> None:
    model = student(tmp_path / "base", model_type)
    assert model.pooling == pooling
    save_student(model, tmp_path / "student")
    again = load_student(tmp_path / "student")
    ids = torch.tensor([[2, 4, 5, 3]])
    assert torch.equal(again(ids, torch.ones_like(ids)), model(ids, torch.ones_like(ids)))
    assert again.pooling == pooling
    assert (
        again.parameters_count
        == model.parameters_count
        == sum(w.numel() for w in model.state_dict().values())
        - (sum(buffer.numel() for _, buffer in model.named_buffers() if _ in model.state_dict()))
    )


def test_cut_student_is_read_back_with_its_depth(tmp_path: Path) -> None:
    base = inspect_base(pico_base(tmp_path / "base", WORDS, "llama", layers=3))
    model = SequenceClassifier(load_body(base, depth=1), base.architecture, 2, pooling="mean").eval()
    save_student(model, tmp_path / "student")
    again = load_student(tmp_path / "student")
    ids = torch.tensor([[4, 5, 6]])
    assert torch.equal(again(ids, torch.ones_like(ids)), model(ids, torch.ones_like(ids)))
    assert len(again.body.layers) == 1


def test_head_of_another_width_is_refused(tmp_path: Path) -> None:
    save_student(student(tmp_path / "a", "bert"), tmp_path / "student")
    wide = inspect_base(pico_base(tmp_path / "b", WORDS, "bert", width=64))
    save_student(SequenceClassifier(load_body(wide), wide.architecture, 3), tmp_path / "wide")
    (tmp_path / "student" / HEAD_NAME).write_bytes((tmp_path / "wide" / HEAD_NAME).read_bytes())
    with pytest.raises(ModelFileError, match="does not fit a body of width 32"):
        load_student(tmp_path / "student")


def test_absent_head_is_named(tmp_path: Path) -> None:
    save_student(student(tmp_path / "a", "bert"), tmp_path / "student")
    (tmp_path / "student" / HEAD_NAME).unlink()
    with pytest.raises(ModelFileError, match=HEAD_NAME):
        load_student(tmp_path / "student")
