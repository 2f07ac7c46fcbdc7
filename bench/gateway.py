"""What a proxy costs: ``locum serve`` passing on to an LLM, against a bare pass-through, LiteLLM's proxy, and no proxy.

    python bench/gateway.py [--rounds 5] [--seconds 4] [--rate 60] [--only NAME …] [--paced-only]

Notable: one mock LLM answers everybody, a raw ASGI application that costs next to nothing; the bare pass-through is the
same with one HTTP client in it (``gateway_apps.py``). Rounds are interleaved: each asks every server in turn, so that a
machine that slows down slows all of them down. Two loads (``gateway_load.py``): a paced one, at a rate that everybody
sustains, tells what a proxy adds; a saturated one tells what it can carry. Either shares the machine's cores with proxy
and mock. Every figure is the median over rounds; "added" is the difference to asking the mock directly in the same
round. Memory is the resident set of all processes of a server, before its first request.

Peers live in environments of their own under ``~/.cache/locum-bench-venvs``, made on the first run. Locum's bundle is
a classifier of a few kilobytes, asked as ``NAME@llm``. Results go to ``bench/results/gateway.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import gateway_load

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "gateway.json"
VENVS = Path.home() / ".cache" / "locum-bench-venvs"
APPS = ["uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0", "aiohttp==3.14.5"]
LITELLM = "1.106.0"  # the newest whose every dependency the index has
CONNECTIONS = (1, 16, 64)
RATE = 60.0  # requests/s; LiteLLM sustains about 110
TIMES = ["load", "connections", "through", "median", "added", "p95", "p95 added"]
COLUMNS = [*TIMES, "requests/s", "of direct", "memory"]
Runs = dict[str, dict[str, list[Any]]]
"""Of each server, with each number of connections, one entry a round."""


@dataclass(frozen=True)
class Server:
    """A server that runs: where, under which model name, and how much memory it took before its first request."""

    url: str
    model: str
    memory_mb: float
    processes: int


def main() -> int:
    """Start all of them, measure in turns, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each run; a paced one takes twice as long")
    parser.add_argument(
        "--rate", type=float, default=RATE, help="requests/s of the paced load, all connections together"
    )
    parser.add_argument("--only", nargs="*", help="names of proxies; without it, all of them")
    parser.add_argument("--paced-only", action="store_true", help="keep the saturated figures that the file has")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        mock = running.enter_context(asgi("mock"))
        servers = {"direct": mock}
        for name, start in {"bare ASGI": bare, "Locum": locum, "LiteLLM": litellm}.items():
            if options.only is None or name in options.only:
                try:
                    servers[name] = running.enter_context(start(mock.url, folder))
                except (OSError, RuntimeError, subprocess.CalledProcessError) as problem:
                    print(f"{name}: left out, {problem}", file=sys.stderr)
        for server in servers.values():
            gateway_load.saturated(server.url, server.model, 16, 1.0)  # imports, connections, caches
        paced = measure(servers, partial(gateway_load.paced, rate=options.rate), options.rounds, 2 * options.seconds)
        document = json.loads(options.out.read_text(encoding="utf-8")) if options.paced_only else {}
        if not options.paced_only:
            document = saturated_document(
                servers, measure(servers, gateway_load.saturated, options.rounds, options.seconds), options
            )
    document.setdefault("more", {})["paced"] = paced_document(servers, paced, options)
    write(document, options.out)
    return 0


def measure(servers: dict[str, Server], load: Callable[..., dict[str, Any]], rounds: int, seconds: float) -> Runs:
    """Rounds of every server at every number of connections, in turns."""
    runs: Runs = {name: {str(count): [] for count in CONNECTIONS} for name in servers}
    for turn in range(rounds):
        names = list(servers)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        for count in CONNECTIONS:
            for name in names:
                found = load(servers[name].url, servers[name].model, count, seconds)
                runs[name][str(count)].append(found)
                print(
                    f"round {turn + 1}, {count:>2} connections, {name:<10} p50 {found['p50_ms']:8.3f} ms  "
                    f"p95 {found['p95_ms']:8.3f} ms  {found['requests'] / found['wall_s']:8.0f}/s  "
                    f"{found['errors']} failed",
                    file=sys.stderr,
                )
    return runs


# the servers


@contextlib.contextmanager
def process(command: list[str], model: str, port: int, environment: dict[str, str], wait_s: float) -> Iterator[Server]:
    """A server process, from its first answer on to its end; nothing but its health was asked before memory is read."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it outlives this line as long as the process does
    child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment}, cwd=ROOT / "bench")
    try:
        give_up_s = time.monotonic() + wait_s
        while not _listens(port):
            if child.poll() is not None or time.monotonic() > give_up_s:
                log.seek(0)
                raise RuntimeError(f"it did not start: {log.read()[-500:].decode('utf-8', 'replace')}")
            time.sleep(0.1)
        time.sleep(1.0)
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        memory_mb = sum(member.memory_info().rss for member in family) / 1e6
        yield Server(f"http://127.0.0.1:{port}", model, memory_mb, len(family))
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _listens(port: int) -> bool:
    """Whether the server answers HTTP, whatever it says."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/health", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def asgi(name: str, upstream: str = "") -> contextlib.AbstractContextManager[Server]:
    """An application of ``gateway_apps``."""
    python = environment("gateway-apps", APPS)
    port = free_port()
    command = [str(python), "-m", "uvicorn", f"gateway_apps:{name}", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    return process(command, "mock", port, {"UPSTREAM": upstream}, 30)


def bare(upstream: str, _folder: Path) -> contextlib.AbstractContextManager[Server]:
    """The pass-through that does nothing."""
    return asgi("bare", upstream)


def locum(upstream: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """``locum serve`` of a small bundle whose LLM is the mock."""
    from locum.testing.bundles import pico_bundle, pico_task

    pico_bundle(folder / "bundle", task_text=pico_task(base_url=f"{upstream}/v1", model="mock"))
    return served(Path(sys.executable), folder / "bundle")


def served(python: Path, bundle: Path) -> contextlib.AbstractContextManager[Server]:
    """``locum serve`` of the bundle ``pico`` by the Python of an environment, to be asked for its LLM."""
    port = free_port()
    command = [str(python), "-m", "locum.cli.main", "serve", str(bundle), "--port", str(port)]
    return process(command, "pico@llm", port, {}, 60)


def litellm(upstream: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """LiteLLM's proxy with one worker, as its documentation starts it."""
    python = environment(f"litellm-{LITELLM}", [f"litellm[proxy]=={LITELLM}"])
    settings = folder / "litellm.yaml"
    parameters = {"model": "openai/mock", "api_base": f"{upstream}/v1", "api_key": "none"}
    settings.write_text(json.dumps({"model_list": [{"model_name": "mock", "litellm_params": parameters}]}))
    port = free_port()
    command = [str(python.with_name("litellm")), "--config", str(settings), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
    quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # it need not check keys either
    return process([*command, "--num_workers", "1"], "mock", port, quiet, 180)


def environment(name: str, packages: list[str]) -> Path:
    """The Python of an environment with these packages, made when it is not there.

    Raises:
        RuntimeError: pip cannot install them.
    """
    python = VENVS / name / "bin" / "python"
    marker = VENVS / name / "installed.txt"
    if not marker.is_file():
        print(f"installing {' '.join(packages)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(VENVS / name)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip cannot install {packages[0]}: {done.stderr.strip().splitlines()[-1]}")
        marker.write_text("\n".join(packages))
    return python


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# the result


def saturated_document(servers: dict[str, Server], runs: Runs, options: argparse.Namespace) -> dict[str, Any]:
    """What each can carry: medians over rounds, and every round."""
    load = gateway_load.generator()
    return {
        "columns": COLUMNS,
        "table": [row(name, servers[name], runs, count, "saturated") for count in CONNECTIONS for name in servers],
        "caption": f"Median over {options.rounds} interleaved rounds of {options.seconds:g} s; load ({load}), proxy "
        "and mock share the machine's cores. Added: against asking the mock directly, in the same round. Saturated: "
        "every connection asks again at once, so with more connections than a proxy can serve at once, its latency is "
        "connections ÷ requests/s. Memory: before the first "
        f"request, no model loaded. LiteLLM {LITELLM}, one worker.",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load": load,
        **circumstances(),
        "raw": {name: {"memory_mb": servers[name].memory_mb, "processes": servers[name].processes, "runs": runs[name]}
                for name in servers},
    }  # fmt: skip


def paced_document(servers: dict[str, Server], runs: Runs, options: argparse.Namespace) -> dict[str, Any]:
    """What each adds to a request: medians over rounds, and every round."""
    load = f"paced, {options.rate:g}/s"
    rows = [row(name, servers[name], runs, count, load) for count in CONNECTIONS for name in servers]
    return {
        "columns": TIMES,
        "table": [{column: each[column] for column in TIMES} for each in rows],
        "caption": f"Median over {options.rounds} interleaved rounds of {2 * options.seconds:g} s. The connections in "
        f"turn ask {options.rate:g} times a second together, evenly spaced, which every proxy sustains. Added: against "
        "asking the mock directly, in the same round, by the same client; its own cost is in the direct rows. Client, "
        "proxy and mock share the machine's cores.",
        "rounds": options.rounds,
        "seconds": 2 * options.seconds,
        "requests_per_s": options.rate,
        **circumstances(),
        "raw": runs,
    }


def circumstances() -> dict[str, Any]:
    """When, where and with which versions."""
    import locum as package

    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"locum": package.__version__, "python": platform.python_version(), "litellm": LITELLM}
        | dict(pinned.split("==") for pinned in APPS),
    }


def write(document: dict[str, Any], out: Path) -> None:
    """The file, and both tables for whoever waits."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for part in (document["more"]["paced"], document):
        print()
        for line in part["table"]:
            print("  ".join(f"{line[column]:>11}" for column in part["columns"]))


def row(name: str, server: Server, runs: Runs, count: int, load: str) -> dict[str, str]:
    """One line of the table."""
    mine, direct = runs[name][str(count)], runs["direct"][str(count)]

    def median(key: str) -> float:
        return statistics.median(run[key] for run in mine)

    def added(key: str) -> float:
        return statistics.median(run[key] - base[key] for run, base in zip(mine, direct, strict=True))

    refused = sum(run["errors"] for run in mine) / sum(run["requests"] for run in mine)
    rate = statistics.median(run["requests"] / run["wall_s"] for run in mine)
    share = statistics.median(
        (run["requests"] / run["wall_s"]) / (base["requests"] / base["wall_s"])
        for run, base in zip(mine, direct, strict=True)
    )
    is_direct = name == "direct"
    return {
        "load": load,
        "connections": str(count),
        "through": f"**{name}**" if name == "Locum" else name,
        "median": f"{median('p50_ms'):.2f} ms",
        "added": "" if is_direct else f"+{added('p50_ms'):.2f} ms",
        "p95": f"{median('p95_ms'):.2f} ms",
        "p95 added": "" if is_direct else f"+{added('p95_ms'):.2f} ms",
        "requests/s": f"{rate:,.0f}" + (f" ({100 * refused:.1f} % refused)" if refused else ""),
        "of direct": "" if is_direct else f"{100 * share:.0f} %",
        "memory": "" if is_direct else f"{server.memory_mb:.0f} MB",
    }


if __name__ == "__main__":
    sys.exit(main())
