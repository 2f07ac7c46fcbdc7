"""What children with native code see of the environment."""

from __future__ import annotations

import pytest

from locum.core.environment import without_secrets


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "TMPDIR", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "Path"]
)
def test_what_a_child_needs_is_kept(name: str) -> None:
    assert without_secrets({name: "x"}) == {name: "x"}


@pytest.mark.parametrize(
    "name",
    [
        *("OPENAI_API_KEY", "LOCUM_API_KEY", "LLAMA_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL"),
        *("HTTPS_PROXY", "LOCUM_CLIENT_SECRET", "OPENVINO_PASSWORD", "MY_PROVIDER", "SSH_AUTH_SOCK"),
    ],
)
def test_fault_21_what_it_does_not_need_is_left_out_whatever_it_is_called(name: str) -> None:
    assert without_secrets({name: "x", name.lower(): "x"}) == {}
