"""Where the system gives a process little memory, a check that could not run says so, and calls no model hostile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from locum.testing.pico_gguf import pico_gguf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")

CHILD = """
import resource, sys
from pathlib import Path
from locum.core.errors import LocumError
from locum.runtime.gguf_check import check_gguf
from locum.runtime.llama_template import check_template
from locum.runtime.onnx_check import check_onnx
limit = int(sys.argv[1]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    if sys.argv[2] == "template":
        check_template([sys.argv[3]], "model.gguf")
    elif sys.argv[2] == "gguf":
        check_gguf(Path(sys.argv[3]))
    else:
        check_onnx(Path(sys.argv[3]), ())
    print("fine")
except LocumError as error:
    print(error.code, error.exit_code, error.cause)
"""
HONEST = "{% for message in messages %}{{ message.content }}{% endfor %}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}"


def checked(limit_mb: int, what: str, about: str) -> str:
    command = [sys.executable, "-c", CHILD, str(limit_mb), what, about]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


@pytest.mark.parametrize("limit_mb", [400, 700, 1000])
def test_fault_29_an_honest_template_is_fine_under_a_limit_below_a_gigabyte(limit_mb: int) -> None:
    assert checked(limit_mb, "template", HONEST) == "fine"


def test_fault_29_a_check_without_memory_is_no_word_on_the_template() -> None:
    said = checked(400, "template", "{% set text = 'a' * 600000000 %}{{ text | length }}")
    assert said.startswith("runtime-check 2 ") and "could not be checked" in said
    assert "refused" not in said


def test_fault_29_a_check_that_does_not_start_is_no_word_on_the_template(tmp_path: Path) -> None:
    program = f"import sys; sys.executable = {str(tmp_path / 'gone')!r}\n" + CHILD
    command = [sys.executable, "-c", program, "2000", "template", HONEST]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert said.startswith("runtime-check 2 ")


@pytest.mark.parametrize(
    ("template", "why"), [(ENDLESS, "took over 250 ms"), ("{{ ''.__class__.__mro__ }}", "no template needs")]
)
def test_fault_29_a_hostile_template_is_still_hostile_under_a_limit(template: str, why: str) -> None:
    said = checked(700, "template", template)
    assert said.startswith("runtime-chat-template 2 ") and why in said


@pytest.mark.parametrize("what", ["gguf", "onnx"])
def test_a_file_that_cannot_be_mapped_is_not_called_damaged(tmp_path: Path, what: str) -> None:
    path = tmp_path / f"model.{what}"
    if what == "gguf":
        pico_gguf(path)
    with path.open("ab") as file:
        file.truncate(3 << 30)  # sparse: it takes no room on the disk
    said = checked(800, what, str(path))
    assert said.startswith("runtime-check 2 ") and "address space" in said
