"""``docs/api.md``: its examples run as they stand, and its tables name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from locum.gateway.chat import ChatRequest
from locum.gateway.errors import API_CODES
from locum.gateway.targets import ModelTarget
from locum.runtime.completion import CompletionRequest
from locum.testing import FakeEmbedder, FakeGenerator
from locum.testing.bundles import pico_task

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def _says(request: CompletionRequest) -> str:
    return '{"name": "Aare", "length_km": 288}' if request.json_schema is not None else "The Aare."


@pytest.mark.engines
def test_the_examples_run(start, start_model, capsys: pytest.CaptureFixture[str]):
    urls = {
        "8080": start(task_text=pico_task("banking77")).url,
        "8081": start_model(ModelTarget("smollm2-135m-instruct", FakeGenerator(_says))).url,
        "8082": start_model(ModelTarget("minilm", embedder=FakeEmbedder())).url,
    }
    page = PAGE
    for port, url in urls.items():
        page = page.replace(f"http://127.0.0.1:{port}", url)
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    space: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), space)
    for name in ("bundle", "model", "embedder"):
        space[name].close()  # type: ignore[attr-defined]
    said = capsys.readouterr().out
    assert len(blocks) == 5
    assert said.startswith("local ") and "card\n" in said and "The Aare." in said
    assert "name='Aare' length_km=288" in said and "2 4\n" in said and "unknown_field top_kk" in said


def test_every_error_code_and_field_is_on_the_page():
    assert [code for code in API_CODES if f"`{code}`" not in PAGE] == []
    shown = set(re.findall(r"`(\w+)`", PAGE))
    assert [name for name in ChatRequest.model_fields if name not in shown] == []
