"""What a proxy costs: ``locum serve`` passing on to an LLM, against a bare pass-through, LiteLLM's proxy, and no proxy.

    python bench/gateway.py [--rounds 5] [--seconds 4] [--only NAME …]

Notable: one mock LLM answers everybody, a raw ASGI application that costs next to nothing; the bare pass-through is the
same with one HTTP client in it (``gateway_apps.py``). Rounds are interleaved: each asks every server in turn, so that a
machine that slows down slows all of them down. Load comes from ``wrk`` when it is installed (``apt install wrk``), else
from a lean generator in a process of its own; either shares the machine's cores with proxy and mock. Every figure is
the median over rounds; "added" is the difference to asking the mock directly in the same round. Memory is the resident
set of all processes of a server, before its first request.

Peers live in environments of their own under ``~/.cache/locum-bench-venvs``, made on the first run. Locum's bundle is
a classifier of a few kilobytes, asked as ``NAME@llm``. Results go to ``bench/results/gateway.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "gateway.json"
VENVS = Path.home() / ".cache" / "locum-bench-venvs"
APPS = ["uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0", "aiohttp==3.14.5"]
LITELLM = "1.106.0"  # the newest whose every dependency the index has
CONNECTIONS = (1, 16, 64)
COLUMNS = ["connections", "through", "median", "added", "p95", "p95 added", "requests/s", "of direct", "memory"]
PATH = "/v1/chat/completions"
PROMPT = "My new card has not arrived yet. Can you tell me when I may expect it, please?"
WRK = """
wrk.method = "POST"
wrk.body = '%s'
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer none"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "wall_s": %%f, "p50_ms": %%f, "p95_ms": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


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
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", nargs="*", help="names of proxies; without it, all of them")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--load", nargs=4, metavar=("URL", "MODEL", "CONNECTIONS", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        url, model, connections, seconds = options.load
        print(json.dumps(asyncio.run(own_load(url, model, int(connections), float(seconds)))))
        return 0
    generator = load_with_wrk if shutil.which("wrk") else load_with_own
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
        runs = measure(servers, generator, options)
    write(servers, runs, options, generator.__name__.removeprefix("load_with_"))
    return 0


def measure(servers: dict[str, Server], load: Any, options: argparse.Namespace) -> dict[str, dict[str, list[Any]]]:
    """Rounds of every server at every number of connections, in turns."""
    runs: dict[str, dict[str, list[Any]]] = {name: {str(count): [] for count in CONNECTIONS} for name in servers}
    for server in servers.values():
        load(server, 16, 1.0)  # imports, connections, caches
    for turn in range(options.rounds):
        names = list(servers)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        for count in CONNECTIONS:
            for name in names:
                found = load(servers[name], count, options.seconds)
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
    port = free_port()
    command = [sys.executable, "-m", "locum.cli.main", "serve", str(folder / "bundle"), "--port", str(port)]
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


# the load


def body_of(model: str) -> str:
    """The request that everybody gets."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64})


def load_with_wrk(server: Server, connections: int, seconds: float) -> dict[str, Any]:
    """One run of wrk with one thread."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK % body_of(server.model))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", script.name]
        done = subprocess.run([*command, server.url + PATH], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def load_with_own(server: Server, connections: int, seconds: float) -> dict[str, Any]:
    """One run of the generator below, in a process of its own."""
    command = [sys.executable, __file__, "--load", server.url, server.model, str(connections), str(seconds)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


async def own_load(url: str, model: str, connections: int, seconds: float) -> dict[str, Any]:
    """Each connection asks again as soon as it was answered, until time is up."""
    parts = urlsplit(url)
    content = body_of(model).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer none\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    request = head.encode() + content
    took_ms: list[float] = []
    errors = 0
    end_s = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while (start_s := time.perf_counter()) < end_s:
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            took_ms.append(1000 * (time.perf_counter() - start_s))
            errors += not answer.startswith(b"http/1.1 200")
        writer.close()

    start_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    wall_s = time.perf_counter() - start_s
    took_ms.sort()
    return {
        "requests": len(took_ms),
        "wall_s": wall_s,
        "p50_ms": statistics.median(took_ms),
        "p95_ms": took_ms[int(0.95 * len(took_ms))],
        "errors": errors,
    }


# the result


def write(servers: dict[str, Server], runs: dict[str, Any], options: argparse.Namespace, load: str) -> None:
    """Medians over rounds, and every round."""
    import locum as package

    document = {
        "columns": COLUMNS,
        "table": [row(name, servers[name], runs, count) for count in CONNECTIONS for name in servers],
        "caption": f"Median over {options.rounds} interleaved rounds of {options.seconds:g} s; load ({load}), proxy "
        "and mock share the machine's cores. Added: against asking the mock directly, in the same round. With more "
        "connections than a proxy can serve at once, its latency is connections ÷ requests/s. Memory: before the first "
        f"request, no model loaded. LiteLLM {LITELLM}, one worker.",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load": load,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"locum": package.__version__, "python": platform.python_version(), "litellm": LITELLM}
        | dict(pinned.split("==") for pinned in APPS),
        "raw": {name: {"memory_mb": servers[name].memory_mb, "processes": servers[name].processes, "runs": runs[name]}
                for name in servers},
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for line in document["table"]:
        print("  ".join(f"{line[column]:>11}" for column in COLUMNS))


def row(name: str, server: Server, runs: dict[str, Any], count: int) -> dict[str, str]:
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
