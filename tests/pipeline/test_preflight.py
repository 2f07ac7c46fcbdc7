"""What a build refuses before it starts."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from locum.core.errors import UserError
from locum.pipeline.preflight import check_environment
from locum.schema.task import Task
from locum.schema.taskfile import parse_task

TASK = """
version: 1
name: t
kind: classify
instruction: Which?
data: {train: train.csv, input: text, output: label}
"""


def without_torch(name: str, package: str | None = None) -> ModuleSpec | None:
    return None if name == "torch" else ModuleSpec(name, None)


def task(extra: str = "") -> Task:
    return parse_task(TASK + extra, "task.yaml")


def test_a_build_that_tunes_needs_the_training_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", without_torch)
    with pytest.raises(UserError) as caught:
        check_environment(task())
    assert caught.value.code == "core-missing-extra"
    assert "torch" in caught.value.cause


def test_linear_students_alone_need_no_training_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", without_torch)
    wanted = task("students: [{method: linear}]\n")
    assert check_environment(wanted) is None


def test_a_missing_key_is_said_before_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCUM_TEST_KEY", raising=False)
    with pytest.raises(UserError) as caught:
        check_environment(task("llm: {base_url: https://host.example/v1, model: m, api_key_env: LOCUM_TEST_KEY}\n"))
    assert caught.value.code == "upstream-key-missing"
    monkeypatch.setenv("LOCUM_TEST_KEY", "k")
    check_environment(task("llm: {base_url: https://host.example/v1, model: m, api_key_env: LOCUM_TEST_KEY}\n"))
