"""Load for ``gateway.py``: saturated, where every connection asks again at once, and paced, at a rate of its own.

Notable: under saturation a proxy's latency is the queue before it (connections ÷ requests/s), which says what it can
carry and not what it adds; a paced load asks at a rate that all proxies sustain, one request every so many
milliseconds, the connections in turn. A paced request whose connection is free counts from when it is sent, so that
the timers of the load cost nobody; one that finds its connection busy counts from when it was due, so that a slow proxy
cannot hide its queue (Tene's coordinated omission). Saturation comes from ``wrk`` when it is installed, else from the
client below; the paced load always from that client, raw sockets on asyncio in a process of its own.

    python gateway_load.py URL MODEL CONNECTIONS SECONDS [REQUESTS_PER_S]
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any
from urllib.parse import urlsplit

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


def generator() -> str:
    """What makes the saturated load: ``wrk``, or this file's own client."""
    return "wrk" if shutil.which("wrk") else "own"


def saturated(url: str, model: str, connections: int, seconds: float) -> dict[str, Any]:
    """Every connection asks again as soon as it was answered."""
    if generator() == "own":
        return _in_child(url, model, connections, seconds)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK % body_of(model))
        script.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "20s",
            "-s",
            script.name,
        ]
        done = subprocess.run([*command, url + PATH], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def paced(url: str, model: str, connections: int, seconds: float, rate: float) -> dict[str, Any]:
    """The connections together ask ``rate`` times a second, in turn."""
    return _in_child(url, model, connections, seconds, rate)


def body_of(model: str) -> str:
    """The request that everybody gets."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64})


def _in_child(url: str, model: str, *numbers: float) -> dict[str, Any]:
    command = [sys.executable, __file__, url, model, *map(str, numbers)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


class Client:
    """One kept connection.

    Attributes:
        took_ms: of each answer.
        errors: answers with a status other than 200.
    """

    def __init__(self, url: str, model: str) -> None:
        self._parts = urlsplit(url)
        content = body_of(model).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: {self._parts.netloc}\r\nauthorization: Bearer none\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self._request = head.encode() + content
        self.took_ms: list[float] = []
        self.errors = 0

    async def open(self) -> None:
        """Connect, and ask once without counting: connections of the proxy's own are made then."""
        self._reader, self._writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        await self._ask()

    async def ask(self, since_s: float) -> None:
        """Ask, and count the answer from ``since_s`` on."""
        good = await self._ask()
        self.took_ms.append(1000 * (time.perf_counter() - since_s))
        self.errors += not good

    async def _ask(self) -> bool:
        self._writer.write(self._request)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.split(b":")[1]))
        return answer.startswith(b"http/1.1 200")

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def run(url: str, model: str, connections: int, seconds: float, rate: float | None = None) -> dict[str, Any]:
    """One run of this file's client; saturated without a rate."""
    clients = [Client(url, model) for _ in range(connections)]
    for client in clients:
        await client.open()
    start_s = time.perf_counter()
    end_s = start_s + seconds
    asked = (
        _ask_paced(client, place, connections, start_s, math.floor(seconds * rate), rate)
        if rate
        else _ask_at_once(client, end_s)
        for place, client in enumerate(clients)
    )
    await asyncio.gather(*asked)
    wall_s = time.perf_counter() - start_s
    for client in clients:
        client.close()
    took_ms = sorted(took for client in clients for took in client.took_ms)
    return {
        "requests": len(took_ms),
        "wall_s": wall_s,
        "p50_ms": statistics.median(took_ms),
        "p95_ms": took_ms[int(0.95 * len(took_ms))],
        "errors": sum(client.errors for client in clients),
    }


async def _ask_at_once(client: Client, end_s: float) -> None:
    while (now_s := time.perf_counter()) < end_s:
        await client.ask(now_s)


async def _ask_paced(client: Client, place: int, connections: int, start_s: float, total: int, rate: float) -> None:
    """Every ``connections``-th of ``total`` requests, beginning with the one at ``place``."""
    for number in range(place, total, connections):
        due_s = start_s + number / rate
        wait_s = due_s - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
            due_s = time.perf_counter()
        await client.ask(due_s)


if __name__ == "__main__":
    _url, _model, _connections, *_numbers = sys.argv[1:]
    print(json.dumps(asyncio.run(run(_url, _model, int(_connections), *map(float, _numbers)))))
