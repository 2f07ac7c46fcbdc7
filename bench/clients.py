"""Whether the clients that people have work with ``locum serve``: their own calls and test suites, run against it.

    python bench/clients.py [--only openai_python …] [--model Qwen2.5-Coder-0.5B-Instruct] [--keep-going]

Three servers answer on loopback: a plain model from the catalogue, an embedding model, and a small bundle whose LLM is
a mock. Each suite of ``client_suites`` runs in an environment of its own with pinned versions. A case has passed, is
wrong, or is refused by design, with the reason. The exit status is 3 when one is wrong; what the machine lacks (npm)
is told and left out. Results go to ``bench/results/clients.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import VENVS, circumstances, environment, free_port, process

HERE = Path(__file__).resolve().parent
SUITES = HERE / "client_suites"
RESULTS = HERE / "results" / "clients.json"
LLAMA_CPP = "xllamacpp==2026.10.11549"
LLAMA_CPP_SHA256 = "c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b"
"""The release whose sources hold the tests of llama.cpp's server, and its archive's hash."""
NODE = "node@22.23.3"
"""Node.js itself comes from the registry too: what a machine has is often too old for these clients."""
COLUMNS = ["client", "version", "run", "passed", "wrong", "by design"]
OUTCOMES = ("passed", "wrong", "by_design")


@dataclass(frozen=True)
class Suite:
    """One client.

    Attributes:
        script: its file in ``client_suites``.
        label: the table's first column.
        packages: what its environment holds, pinned; the first one's version is shown.
    """

    script: str
    label: str
    packages: tuple[str, ...]

    @property
    def name(self) -> str:
        """The script's name without its ending, as ``--only`` takes it."""
        return self.script.partition(".")[0]


PLAIN = (
    Suite("openai_python.py", "OpenAI's Python client", ("openai==3.57.0",)),
    Suite("open_responses.py", "Open Responses", ("openresponses-types==2.4.0",)),
    Suite("llama_cpp_tests.py", "llama.cpp's server tests", (LLAMA_CPP, "openai==3.57.0", "pytest==8.4.2",
                                                            "requests==2.32.5", "filelock==3.20.0", "numpy")),
    Suite("litellm_client.py", "LiteLLM", ("litellm==1.110.2",)),
    Suite("langchain_client.py", "LangChain's standard tests", ("langchain-tests==1.1.9", "langchain-openai==1.7.4")),
    Suite("instructor_client.py", "Instructor", ("instructor==1.17.0",)),
    Suite("pydantic_ai_client.py", "Pydantic AI", ("pydantic-ai-slim[openai]==2.68.0",)),
    Suite("openai_agents_client.py", "OpenAI Agents SDK", ("openai-agents==0.24.0",)),
    Suite("dspy_client.py", "DSPy", ("dspy==3.4.1", "numpy==2.2.6")),
    Suite("ai_sdk.mjs", "AI SDK", ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "@ai-sdk/openai-compatible@3.0.92", NODE)),
    Suite("promptfoo.mjs", "promptfoo", ("promptfoo@0.123.1", NODE)),
)  # fmt: skip


def main() -> int:
    """Start the servers, run the suites one after the other, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[suite.name for suite in PLAIN], help="suites to run")
    parser.add_argument("--model", default="Qwen2.5-Coder-0.5B-Instruct", help="of the catalogue, must take tools")
    parser.add_argument("--case", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    suites = [suite for suite in PLAIN if not options.only or suite.name in options.only]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder), options.model) as variables:
        for suite in suites:
            cases = list(run(suite, variables | {"ONLY": options.case}))
            counts = {outcome: sum(found["outcome"] == outcome for found in cases) for outcome in OUTCOMES}
            shown = suite.packages[0].replace("==", " ").rpartition("@")
            version = (shown[0] + " " + shown[2]).strip() if shown[0] else shown[2]
            rows[suite.name] = {"label": suite.label, "package": version, "run": len(cases), **counts, "cases": cases}
            print(f"{suite.label}: {len(cases)} run, {counts}", file=sys.stderr)
    write(rows, options)
    return 3 if any(row["wrong"] for row in rows.values()) else 0


def run(suite: Suite, variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The cases of a suite as they end; one that is wrong is told at once.

    Raises:
        RuntimeError: it told no case at all.
    """
    command = command_of(suite)
    if command is None:
        print(f"{suite.label}: left out, this machine has no npm", file=sys.stderr)
        return
    told = 0
    with tempfile.TemporaryFile("w+") as complaints:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            cwd=SUITES,
            env={
                **os.environ,
                **variables,
                "no_proxy": "127.0.0.1",
                "PYTHONPATH": str(SUITES),
                "OPENAI_API_KEY": "none",
            },
        )
        for line in child.stdout or ():
            if not line.startswith('{"case"'):
                continue
            found = json.loads(line)
            told += 1
            if found["outcome"] == "wrong":
                print(f"  wrong: {suite.name} {found['case']}: {found['detail']}", file=sys.stderr)
            yield found
        child.wait()
        complaints.seek(0)
        if not told:
            raise RuntimeError(f"{suite.label} told no case: {complaints.read()[-1000:]}")


def command_of(suite: Suite) -> list[str] | None:
    """How a suite is started; its environment is made on the first run. None: there is no npm here."""
    name = f"clients-{suite.name}-{hashlib.sha256(' '.join(suite.packages).encode()).hexdigest()[:8]}"
    script = SUITES / suite.script
    if suite.script.endswith(".py"):
        if suite.name != "llama_cpp_tests":
            return [str(environment(name, list(suite.packages))), str(script)]
        return [str(environment(name, list(suite.packages[1:]))), str(script), str(llama_cpp_tests())]
    if not shutil.which("npm"):
        return None
    folder = VENVS / name
    if not (folder / "installed.txt").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        quiet = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder)]
        subprocess.run(["npm", "install", *quiet, *suite.packages], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        (folder / "installed.txt").write_text("\n".join(suite.packages))
    shutil.copy(script, folder / suite.script)  # a module finds its packages beside itself
    return [str(folder / "node_modules" / ".bin" / "node"), str(folder / suite.script)]


def llama_cpp_tests() -> Path:
    """The folder of llama.cpp's server tests, out of the sources of the package that Locum answers with.

    Raises:
        RuntimeError: pip cannot fetch the sources, or they are others.
    """
    folder, inside = VENVS / LLAMA_CPP.replace("==", "-sources-"), "tools/server/tests"
    if (folder / inside).is_dir():
        return folder / inside
    with tempfile.TemporaryDirectory() as download:
        package = LLAMA_CPP.partition("==")[0]
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            package,
            LLAMA_CPP,
            "--dest",
            download,
        ]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        archives = list(Path(download).glob("*.tar.gz"))
        if done.returncode or not archives:
            raise RuntimeError(f"pip cannot fetch the sources of {LLAMA_CPP}: {done.stderr.strip().splitlines()[-1]}")
        if hashlib.sha256(archives[0].read_bytes()).hexdigest() != LLAMA_CPP_SHA256:
            raise RuntimeError(f"the sources of {LLAMA_CPP} are not those that this script was written for")
        with tarfile.open(archives[0]) as sources:
            for member in sources:
                _, found, rest = member.name.partition(f"/{inside}/")
                if found and member.isfile() and rest.endswith((".py", ".ini")):
                    member.name = f"{inside}/{rest}"
                    sources.extract(member, folder, filter="data")
    return folder / inside


@contextlib.contextmanager
def servers(folder: Path, model: str) -> Iterator[dict[str, str]]:
    """The three servers; yields the variables by which suites find them."""
    from locum.testing.bundles import pico_bundle, pico_task
    from locum.testing.upstream import FakeUpstream

    locum = [sys.executable, "-m", "locum.cli.main"]
    embedder = VENVS / "clients-embedder"
    if not (embedder / "manifest.json").is_file() and not any(embedder.glob("*")):
        export = [*locum, "export", "all-MiniLM-L6-v2", "--as", "embedder", "--out", str(embedder)]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(FakeUpstream(["hello"] * 1000))
        pico_bundle(folder / "pico", task_text=pico_task(base_url=upstream.base_url, model="mock"))
        variables = {}
        for key, name, target in (
            ("CHAT", model, model), ("EMBED", embedder.name, str(embedder)), ("BUNDLE", "pico", str(folder / "pico"))
        ):  # fmt: skip
            port = free_port()
            served = stack.enter_context(process([*locum, "serve", target, "--port", str(port)], name, port, {}, 300))
            variables[f"{key}_URL"] = f"{served.url}/v1"
            with urllib.request.urlopen(f"{served.url}/v1/models", timeout=30) as answer:
                variables[f"{key}_MODEL"] = json.load(answer)["data"][0]["id"]
        yield variables


def write(rows: dict[str, Any], options: argparse.Namespace) -> None:
    """The JSON; suites that were not run keep what they had."""
    earlier = json.loads(options.out.read_text())["suites"] if options.out.is_file() and options.only else {}
    suites = earlier | rows
    table = [
        {
            "client": row["label"],
            "version": row["package"],
            "run": row["run"],
            "passed": row["passed"],
            "wrong": row["wrong"],
            "by design": row["by_design"],
        }
        for row in suites.values()
    ]
    reasons = sorted(
        {found["detail"] for row in suites.values() for found in row["cases"] if found["outcome"] == "by_design"}
    )
    document = {
        "circumstances": circumstances() | {"model": options.model},
        "columns": COLUMNS,
        "table": table,
        "caption": f"Model: {options.model}. By design: {'; '.join(reasons) or 'none'}.",
        "suites": suites,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {options.out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
