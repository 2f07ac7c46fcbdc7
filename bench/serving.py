"""A classification bundle over HTTP: answers per second and latency, with 1, 4 and 16 clients on kept connections.

    python bench/serving.py BUNDLE [--rows 2000] [--rounds 5]

The bundle is served by ``locum serve`` in a process of its own, as a user would; the inputs are the test rows of
Banking77 (``LOCUM_DATA``), each asked as a chat completion. The client is lean (raw sockets, prepared bytes), but it
shares the machine's cores with the server. Results go to ``bench/results/serving.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from generation import serve_command, server
from public_data import ROOT, data_folder

RESULTS = ROOT / "bench" / "results" / "serving.json"
CLIENTS = (1, 4, 16)


def main() -> None:
    """Serve, ask, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = messages(options.rows)
    found: dict[int, list[dict[str, float]]] = {clients: [] for clients in CLIENTS}
    with serving(options.bundle) as (address, model):
        asyncio.run(ask_all(address, model, texts[:100], 4))  # warms up
        for _ in range(options.rounds):
            for clients in CLIENTS:
                share = texts if clients > 1 else texts[: len(texts) // 4]
                found[clients].append(asyncio.run(ask_all(address, model, share, clients)))
                print(f"{clients} clients: {found[clients][-1]}")
    write(found, options)


@contextlib.contextmanager
def serving(bundle: Path) -> Iterator[tuple[str, str]]:
    """The running server's address and the name that never leaves this machine."""
    with server(serve_command(bundle)) as (address, name):
        yield address, f"{name}@local"


def messages(count: int) -> list[str]:
    """Real inputs."""
    with (data_folder() / "banking77" / "test.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)][:count]


async def ask_all(address: str, model: str, texts: list[str], clients: int) -> dict[str, float]:
    """Ask every text once, ``clients`` at a time; answers per second, p50 and p95 in milliseconds."""
    parts = urlsplit(address)
    waiting = [_request(parts.netloc, model, text) for text in reversed(texts)]
    took_ms: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while waiting:
            start_s = time.perf_counter()
            writer.write(waiting.pop())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            took_ms.append(1000 * (time.perf_counter() - start_s))
        writer.close()

    start_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    wall_s = time.perf_counter() - start_s
    took_ms.sort()
    return {
        "answers_per_s": len(texts) / wall_s,
        "p50_ms": statistics.median(took_ms),
        "p95_ms": took_ms[int(0.95 * len(took_ms))],
    }


def _request(host: str, model: str, text: str) -> bytes:
    content = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def write(found: dict[int, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Medians over rounds, and every round."""

    def median(clients: int, key: str) -> float:
        return statistics.median(run[key] for run in found[clients])

    table: list[dict[str, Any]] = [
        {
            "clients": str(clients),
            "answers/s": f"{median(clients, 'answers_per_s'):.0f}",
            "p50": f"{median(clients, 'p50_ms'):.1f} ms",
            "p95": f"{median(clients, 'p95_ms'):.1f} ms",
        }
        for clients in CLIENTS
    ]
    document = {
        "columns": ["clients", "answers/s", "p50", "p95"],
        "table": table,
        "rounds": options.rounds,
        "rows": options.rows,
        "date": time.strftime("%Y-%m-%d"),
        "raw": {str(clients): runs for clients, runs in found.items()},
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
