"""Taggers that read surface forms."""

from __future__ import annotations

from pathlib import Path

import torch

from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.models.classifier import save_student
from locum.models.pico import pico_base
from locum.models.tagger import TokenClassifier, load_tagger, read_surface
from locum.runtime.surface import SURFACES


def tagger(folder: Path, model_type: str) -> TokenClassifier:
    base = pico_base(folder, ["one", "two", "three"], model_type, width=64)
    files = inspect_base(base)
    torch.manual_seed(5)
    return TokenClassifier(load_body(files), files.architecture, 3).eval()


def scores(model: TokenClassifier) -> torch.Tensor:
    """Of one row of tokens for each of a few forms."""
    ids = torch.tensor([[0, 1, 2]]).repeat(SURFACES, 1)
    forms = torch.arange(SURFACES)[:, None].repeat(1, 3) if model.reads_surface else None
    with torch.no_grad():
        return model(ids, torch.ones_like(ids), forms)


def test_forms_mean_nothing_before_training_and_everything_learned_is_saved(tmp_path: Path) -> None:
    model = tagger(tmp_path / "base", "bert")
    before = scores(model)
    assert read_surface(model.body) and model.reads_surface
    torch.testing.assert_close(scores(model), before)
    for weight in model.fresh_weights():
        torch.nn.init.normal_(weight)
    learned = scores(model)
    assert len({tuple(row.flatten().tolist()) for row in learned}) == SURFACES
    model.seal_surface()
    torch.testing.assert_close(scores(model), learned)
    save_student(model, tmp_path / "saved")
    torch.testing.assert_close(scores(load_tagger(tmp_path / "saved")), learned)


def test_a_body_without_token_types_reads_no_forms(tmp_path: Path) -> None:
    model = tagger(tmp_path / "base", "modernbert")
    assert not read_surface(model.body) and not model.reads_surface
    model.seal_surface()
    assert len(model.fresh_weights()) == 2
