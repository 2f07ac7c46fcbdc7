"""SmolLM2 on a sample of a public benchmark, against the figure of its model card."""

from __future__ import annotations

from pathlib import Path

import pytest

from locum.core.errors import SourceError
from locum.pipeline.bench import BenchSettings, bench
from locum.sources.bases import ensure_base

PUBLISHED = 0.663
"""PIQA, zero-shot, of SmolLM2-135M-Instruct (huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct)."""


@pytest.mark.models
@pytest.mark.data
@pytest.mark.engines
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_interval_covers_the_published_figure(data_folder: Path, tmp_path: Path) -> None:
    """The file is quantised to 4 bits and the sample small; chance, one half, lies outside all the same."""
    pytest.importorskip("lm_eval", reason="the extra 'bench' is not installed")
    try:
        model = ensure_base("SmolLM2-135M-Instruct", format="gguf")
    except SourceError as error:
        pytest.skip(f"SmolLM2-135M-Instruct cannot be had here: {error}")
    settings = BenchSettings(data=data_folder, limit=100, threads=1, n_ctx=1024)
    report = bench([model], ["piqa"], out=tmp_path, settings=settings)
    (score,) = [score.score for score in report.scores if score.metric == "acc_norm"]
    assert 0.5 < score.low < PUBLISHED < score.high, score
