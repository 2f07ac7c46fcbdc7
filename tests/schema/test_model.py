"""What a ``model.json`` may say."""

from __future__ import annotations

import json

import pytest

from locum.core.errors import LocumError
from locum.schema.model import ModelSpec

SPEC = ModelSpec(
    name="m",
    engine="onnx",
    family="encoder",
    precision="int8",
    labels=("a", "b"),
    weights="model.onnx",
    max_tokens=64,
    parameters=1,
    files={},
)


def with_letter_case(value: bool) -> str:
    return json.dumps(SPEC.to_json() | {"letter_case": value})


def test_a_model_from_before_surface_forms_is_read() -> None:
    assert ModelSpec.from_json(with_letter_case(False), "model.json") == SPEC


def test_a_tagger_that_reads_letter_case_alone_is_to_be_built_again() -> None:
    with pytest.raises(LocumError, match="build it again"):
        ModelSpec.from_json(with_letter_case(True), "model.json")
