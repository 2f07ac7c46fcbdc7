"""A bundle's LLM is called where its operator chose it, and never because the bundle names it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.bundle.student import open_bundle
from locum.cli.llm_options import llm_choice
from locum.cli.serve import open_target
from locum.core.errors import LocumError, UserError
from locum.pipeline.examine import evaluate_bundle
from locum.pipeline.recertify import certify_bundle
from locum.schema.task import Guarantee, LlmSpec
from locum.testing.bundles import pico_bundle, pico_task
from locum.testing.pico import WORDS
from locum.testing.upstream import FakeUpstream

UNSURE = "nothing that it knows"
SECRET = "canary-4711"


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeUpstream]:
    monkeypatch.setenv("LOCUM_STATE", str(tmp_path / "state"))
    with FakeUpstream(["pin"] * 50) as running:
        yield running


def stranger(folder: Path, upstream: FakeUpstream, **llm: Any) -> Path:
    """A bundle from elsewhere that names the upstream as its LLM."""
    pico_bundle(folder, task_text=pico_task(base_url=upstream.base_url, model="big", **llm), built_here=False)
    return folder


def keys(upstream: FakeUpstream) -> list[str]:
    return [str(request.headers) for request in upstream.received]


@pytest.mark.parametrize("variable", [None, "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"])
def test_nothing_is_sent_for_a_bundle_from_elsewhere(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv(variable, SECRET)
    bundle = stranger(tmp_path / "b", upstream, **({"api_key_env": variable} if variable else {}))
    with open_bundle(bundle) as student:
        answer = student(UNSURE)
        assert answer.route == "abstain" and student.llm is None
        assert "was not built here" in (student.llm_problem or "") and "127.0.0.1" in (student.llm_problem or "")
        assert variable is None or variable in (student.llm_problem or "")
        with pytest.raises(LocumError):
            student(UNSURE, "llm")
    assert upstream.received == []


def test_the_operator_accepts_drops_or_replaces_it(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    bundle = stranger(tmp_path / "b", upstream, api_key_env="OPENAI_API_KEY")
    with open_bundle(bundle, "none") as student:
        assert student(UNSURE).route == "abstain" and student.llm_problem is None
    assert upstream.received == []
    with open_bundle(bundle, LlmSpec(base_url=upstream.base_url, model="mine")) as student:
        assert student(UNSURE).output == "pin"
    assert SECRET not in keys(upstream)[0]  # the bundle's variable does not go to the operator's own LLM
    with open_bundle(bundle, "bundle") as student:
        assert "127.0.0.1" in (student.llm_said or "") and "OPENAI_API_KEY" in (student.llm_said or "")
        assert student(UNSURE).output == "pin"
    assert SECRET in keys(upstream)[1]


@pytest.mark.parametrize(
    "variable",
    ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "STRIPE_API_KEY", "LOCUM_API_KEY", "DATABASE_URL", "HOME", "DEPLOY_KEY"],
)
def test_the_value_of_a_variable_that_is_no_llm_key_is_not_sent(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, SECRET)
    bundle = stranger(tmp_path / "b", upstream, api_key_env=variable)
    with pytest.raises(UserError) as caught:
        open_bundle(bundle, "bundle")
    assert caught.value.code == "bundle-llm-key" and variable in caught.value.cause
    assert upstream.received == []
    with open_bundle(bundle, "bundle", llm_key_env=variable) as student:  # named by the operator himself
        assert student(UNSURE).output == "pin"
    assert SECRET in keys(upstream)[0]


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "MY_GATEWAY_API_KEY", "HF_TOKEN", "AZURE_OPENAI_API_KEY"])
def test_keys_of_llms_are_taken_once_the_llm_is_accepted(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, SECRET)
    with open_bundle(stranger(tmp_path / "b", upstream, api_key_env=variable), "bundle") as student:
        assert student(UNSURE).output == "pin"


def test_what_was_built_here_is_handed_over_wherever_it_stands_but_no_cloud_key(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    pico_bundle(tmp_path / "b", task_text=pico_task(base_url=upstream.base_url, model="big"))
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    with open_bundle(tmp_path / "copy") as student:
        assert student(UNSURE).output == "pin"
    text = pico_task(base_url=upstream.base_url, model="big", api_key_env="AWS_SECRET_ACCESS_KEY")
    pico_bundle(tmp_path / "cloud", task_text=text)
    with open_bundle(tmp_path / "cloud") as student:
        assert student(UNSURE).route == "abstain"
        assert "does not look like an LLM's key" in (student.llm_problem or "")
    assert len(upstream.received) == 1
    monkeypatch.setenv("LOCUM_STATE", str(tmp_path / "another user"))
    with open_bundle(tmp_path / "b") as student:
        assert student(UNSURE).route == "abstain"


def rows(path: Path) -> Path:
    words = [(f"{word} {n}", label) for label, known in WORDS.items() for n, word in enumerate(known)]
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in words))
    return path


def test_eval_and_certify_ask_it_only_when_it_was_accepted(tmp_path: Path, upstream: FakeUpstream) -> None:
    bundle, data = stranger(tmp_path / "b", upstream), rows(tmp_path / "rows.jsonl")
    regret = Guarantee(kind="regret", max_error=0.5)
    evaluate_bundle(bundle, data, predictions=tmp_path / "p.jsonl")  # needs no LLM
    certify_bundle(bundle, data, Guarantee(kind="selective", max_error=0.5))
    with pytest.raises(UserError) as caught:
        certify_bundle(bundle, data, regret)
    assert caught.value.code == "bundle-llm" and "--llm-from-bundle" in caught.value.fix
    assert upstream.received == []
    certify_bundle(bundle, data, regret, llm="bundle")
    assert upstream.received


def test_chat_abstains_and_says_why(tmp_path: Path, upstream: FakeUpstream) -> None:
    bundle = stranger(tmp_path / "b", upstream)
    command = [sys.executable, "-m", "locum.cli.main", "chat", str(bundle), "--json"]
    for options, output, route in (
        ([], None, "abstain"),
        (["--llm-from-bundle"], "pin", "llm"),
        (["--no-llm"], None, "abstain"),
    ):
        done = subprocess.run(
            [*command, *options], input=UNSURE + "\n", capture_output=True, text=True, timeout=120, env=dict(os.environ)
        )
        turn = json.loads(done.stdout)
        assert (turn["output"], turn["route"]) == (output, route), done.stderr
        assert ("127.0.0.1" in done.stderr) == (options != ["--no-llm"])
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("choice", "said"), [("bundle", "hands over to big at 127.0.0.1"), (None, "was not built here")]
)
def test_serve_says_at_its_start_who_gets_which_key(
    tmp_path: Path,
    upstream: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choice: Any,
    said: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    bundle = stranger(tmp_path / "b", upstream, api_key_env="OPENAI_API_KEY")
    target = open_target(str(bundle), threads=None, engine=None, draft=None, adapters=(), llm=choice)
    target.close()
    shown = capsys.readouterr().err
    assert said in shown and "OPENAI_API_KEY" in shown and SECRET not in shown


@pytest.mark.parametrize(
    "words", [(True, True, None, None, None), (True, False, "https://x/v1", "m", None), (False, True, None, None, "K")]
)
def test_options_that_contradict_each_other_are_a_mistake_of_use(words: Any) -> None:
    with pytest.raises(UserError) as caught:
        llm_choice(*words)
    assert caught.value.code == "cli-usage"
    assert llm_choice(False, False, "https://x/v1", "m", "K") == LlmSpec(
        base_url="https://x/v1", model="m", api_key_env="K"
    )
