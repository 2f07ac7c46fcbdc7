"""A lean client for streamed chat completions: raw asyncio, so that the client costs little beside what it measures.

Notable: the requests' bytes are built beforehand and answers are only searched for ``data:`` lines; one JSON document
an answer (its usage) is parsed. Used by the benchmarks that talk to servers; not part of Locum.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """One answer's figures: seconds to its first token and to its end, and its tokens by the server's own count."""

    first_s: float
    total_s: float
    input_tokens: int
    output_tokens: int
    text: str


@dataclass(frozen=True)
class Load:
    """One run: wall time and its answers."""

    wall_s: float
    answers: tuple[Answer, ...]

    @property
    def tokens_per_s(self) -> float:
        """Tokens written by all clients together, per second of wall time."""
        return sum(answer.output_tokens for answer in self.answers) / self.wall_s


def run(url: str, bodies: list[dict[str, Any]], clients: int, key: str | None = None) -> Load:
    """Send every body once, ``clients`` at a time.

    Args:
        url: of the endpoint, http://HOST:PORT/v1/chat/completions.
        bodies: request documents; ``stream`` and its usage are switched on.
        clients: requests under way at any time.
        key: bearer key.
    """
    return asyncio.run(_run(url, bodies, clients, key))


async def _run(url: str, bodies: list[dict[str, Any]], clients: int, key: str | None) -> Load:
    parts = urlsplit(url)
    waiting = [_request(parts.netloc, parts.path, body, key) for body in reversed(bodies)]
    answers: list[Answer] = []

    async def client() -> None:
        while waiting:
            answers.append(await _ask(parts.hostname or "127.0.0.1", parts.port or 80, waiting.pop()))

    start_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(time.perf_counter() - start_s, tuple(answers))


def _request(host: str, path: str, body: dict[str, Any], key: str | None) -> bytes:
    content = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", "connection: close"]
    if key:
        lines.append(f"authorization: Bearer {key}")
    return "\r\n".join([*lines, f"content-length: {len(content)}", "", ""]).encode() + content


async def _ask(host: str, port: int, request: bytes) -> Answer:
    start_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    writer.write(request)
    first_s, text, usage, status = 0.0, [], None, b""
    async for line in reader:
        status = status or line
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        delta = event["choices"][0].get("delta", {}).get("content") if event.get("choices") else None
        if delta:
            first_s = first_s or time.perf_counter() - start_s
            text.append(delta)
        usage = event.get("usage") or usage
    writer.close()
    if usage is None:
        raise RuntimeError(f"no whole answer: {status.decode().strip()} {''.join(text)[:200]}")
    total_s = time.perf_counter() - start_s
    return Answer(first_s or total_s, total_s, usage["prompt_tokens"], usage["completion_tokens"], "".join(text))
