"""What one call to an LLM behind HTTP costs a thread in processor time: common clients, and the two that Locum has.

    python bench/llm_client.py [--rounds 15] [--calls 200]

A mock LLM in a process of its own answers on loopback, so a call is all client: one POST of a chat completion on a kept
connection, and a stream of events that come one by one. Measured is the processor time of the calling thread, system
calls included, and not the clock, which on a busy machine tells of its neighbours. Clients take turns in every round;
figures are medians over rounds, ratios medians of the ratios within a round. A client that is not installed is left
out, and the file says so. Results go to ``bench/results/llm_client.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "llm_client.json"
PATH = "/v1/chat/completions"
OURS = "Locum: http_pool"
MESSAGES = [
    {"role": "user", "content": "My new card has not arrived yet. Can you tell me when I may expect it, please?"}
]
BODY = json.dumps({"model": "mock", "messages": MESSAGES, "max_tokens": 64}).encode()
HEADERS = {"content-type": "application/json", "authorization": "Bearer none"}
USAGE = {"prompt_tokens": 24, "completion_tokens": 12, "total_tokens": 36}
SAID = {"role": "assistant", "content": "The card is on its way and arrives in three days."}
ANSWER = json.dumps(
    {"id": "mock", "object": "chat.completion", "model": "mock", "usage": USAGE,
     "choices": [{"index": 0, "message": SAID, "finish_reason": "stop"}]}
).encode()  # fmt: skip
EVENTS = 100
EVENT_PAUSE_S = 0.001

Call = Callable[[int], None]
"""Makes so many calls, one after the other, in the calling thread."""


def main() -> int:
    """Measure in turns, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200, help="calls of each client in each round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--mock", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mock:
        asyncio.run(mock())
        return 0
    with contextlib.ExitStack() as running:
        port = running.enter_context(mock_process())
        calls, left_out = opened(CALLS, port, running)
        streams, _ = opened(STREAMS, port, running)
        call_runs = measure(calls, options.rounds, options.calls)
        stream_runs = measure(streams, options.rounds, max(1, options.calls // 100))
    write(call_runs, stream_runs, left_out, options)
    return 0


# -- the mock LLM -----------------------------------------------------------------------------------------------------


async def mock() -> None:
    """Answer every POST with the same document, or with events that come one by one; until standard input ends."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n".encode()
    opening = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    event = b"data: " + json.dumps(
        {"id": "mock", "object": "chat.completion.chunk", "created": 1700000000, "model": "mock",
         "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
    ).encode() + b"\n\n"  # fmt: skip
    last = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
                if b'"stream":true' not in (await reader.readexactly(length)).replace(b" ", b""):
                    writer.write(head + ANSWER)
                    continue
                writer.write(opening)
                for _ in range(EVENTS):
                    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                    await asyncio.sleep(EVENT_PAUSE_S)
                writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def mock_process() -> Iterator[int]:
    """The mock; yields its port."""
    command = [sys.executable, __file__, "--mock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline() if process.stdout else "")
        finally:
            process.kill()


# -- the clients ------------------------------------------------------------------------------------------------------


def with_httpx(port: int, running: contextlib.ExitStack) -> Call:
    """Its synchronous client."""
    import httpx

    client = running.enter_context(httpx.Client())

    def call(times: int) -> None:
        for _ in range(times):
            read(client.post(f"http://127.0.0.1:{port}{PATH}", content=BODY, headers=HEADERS).content)

    return call


def with_async_httpx(port: int, running: contextlib.ExitStack) -> Call:
    """Its asynchronous client, on asyncio's own loop."""
    import httpx

    runner = running.enter_context(asyncio.Runner())
    client = httpx.AsyncClient()
    running.callback(lambda: runner.run(client.aclose()))

    async def calls(times: int) -> None:
        for _ in range(times):
            read((await client.post(f"http://127.0.0.1:{port}{PATH}", content=BODY, headers=HEADERS)).content)

    return lambda times: runner.run(calls(times))


def with_aiohttp(port: int, running: contextlib.ExitStack) -> Call:
    """On asyncio's own loop."""
    import aiohttp

    runner = running.enter_context(asyncio.Runner())

    async def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    client = runner.run(session())
    running.callback(lambda: runner.run(client.close()))

    async def calls(times: int) -> None:
        for _ in range(times):
            async with client.post(f"http://127.0.0.1:{port}{PATH}", data=BODY, headers=HEADERS) as response:
                read(await response.read())

    return lambda times: runner.run(calls(times))


def with_urllib3(port: int, running: contextlib.ExitStack) -> Call:
    """Its connection pool, without retries and redirects."""
    import urllib3

    pool = running.enter_context(contextlib.closing(urllib3.HTTPConnectionPool("127.0.0.1", port)))

    def call(times: int) -> None:
        for _ in range(times):
            read(pool.urlopen("POST", PATH, body=BODY, headers=HEADERS, retries=False, redirect=False).data)

    return call


def with_http_client(port: int, running: contextlib.ExitStack) -> Call:
    """The standard library's connection."""
    connection = running.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)))
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(times: int) -> None:
        for _ in range(times):
            connection.request("POST", PATH, BODY, HEADERS)
            read(connection.getresponse().read())

    return call


def with_http_pool(port: int, running: contextlib.ExitStack) -> Call:
    """``runtime.http_pool``: llhttp on a socket."""
    from locum.runtime.http_pool import Address, HttpPool

    pool = HttpPool(Address("127.0.0.1", port, tls=False), connections=1, connect_s=5, idle_s=60)
    running.callback(pool.close)
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    message = f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY

    def call(times: int) -> None:
        for _ in range(times):
            read(pool.post(message, time.monotonic() + 60, 1 << 20).read())

    return call


def with_llama_client(port: int, running: contextlib.ExitStack) -> Call:
    """``runtime.llama_client``, for the engine's process on this machine; it writes and reads the JSON itself."""
    from locum.runtime.llama_client import LlamaClient

    client = running.enter_context(contextlib.closing(LlamaClient(port, "none")))
    body = json.loads(BODY)

    def call(times: int) -> None:
        for _ in range(times):
            client.post(PATH, body, deadline_s=time.monotonic() + 60, idle_s=60)

    return call


def with_generator(port: int, running: contextlib.ExitStack) -> Call:
    """``OpenAiGenerator.complete``: the request made and the answer read, circuit, deadline and key included."""
    from locum.runtime.completion import CompletionRequest

    generator, request = generator_of(port, running), CompletionRequest(messages(), max_tokens=64)

    def call(times: int) -> None:
        for _ in range(times):
            generator.complete(request)

    return call


def stream_with_httpx(port: int, running: contextlib.ExitStack) -> Call:
    """Its lines, each event's JSON read."""
    import httpx

    client = running.enter_context(httpx.Client())
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()

    def call(times: int) -> None:
        for _ in range(times):
            with client.stream("POST", f"http://127.0.0.1:{port}{PATH}", content=body, headers=HEADERS) as response:
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        read(line[6:].encode())

    return call


def stream_with_llama_client(port: int, running: contextlib.ExitStack) -> Call:
    """``LlamaClient.stream``."""
    from locum.runtime.llama_client import LlamaClient

    client = running.enter_context(contextlib.closing(LlamaClient(port, "none")))
    body = {**json.loads(BODY), "stream": True}

    def call(times: int) -> None:
        for _ in range(times):
            exchange = client.stream(PATH, body, deadline_s=time.monotonic() + 60, idle_s=60)
            if len(list(exchange.events())) != EVENTS + 1:
                raise RuntimeError("the stream is not whole")

    return call


def stream_with_generator(port: int, running: contextlib.ExitStack) -> Call:
    """``OpenAiGenerator.stream``: a chunk an event."""
    from locum.runtime.completion import CompletionRequest

    generator, request = generator_of(port, running), CompletionRequest(messages(), max_tokens=64)

    def call(times: int) -> None:
        for _ in range(times):
            with generator.stream(request) as stream:
                if sum(len(chunk.text) for chunk in stream) != EVENTS * len("word "):
                    raise RuntimeError("the stream is not whole")

    return call


def generator_of(port: int, running: contextlib.ExitStack) -> Any:
    """An ``OpenAiGenerator`` of the mock."""
    from locum.runtime.openai import OpenAiGenerator
    from locum.schema.task import LlmSpec

    generator = OpenAiGenerator(LlmSpec(base_url=f"http://127.0.0.1:{port}/v1", model="mock"))
    running.callback(generator.close)
    return generator


def messages() -> tuple[Any, ...]:
    """The conversation, as the engines take it."""
    from locum.schema.message import Message

    return tuple(Message(message["role"], message["content"]) for message in MESSAGES)  # type: ignore[arg-type]


def read(answer: bytes) -> None:
    """What every client has to do with an answer."""
    import orjson

    orjson.loads(answer)


Opener = Callable[[int, contextlib.ExitStack], Call]
CALLS: dict[str, Opener] = {
    "httpx, asynchronous": with_async_httpx,
    "httpx": with_httpx,
    "aiohttp, asynchronous": with_aiohttp,
    "urllib3": with_urllib3,
    "http.client": with_http_client,
    OURS: with_http_pool,
    "Locum: llama_client": with_llama_client,
    "Locum: OpenAiGenerator, whole call": with_generator,
}
STREAMS: dict[str, Opener] = {
    "httpx": stream_with_httpx,
    "Locum: llama_client": stream_with_llama_client,
    "Locum: OpenAiGenerator": stream_with_generator,
}


def opened(named: dict[str, Opener], port: int, running: contextlib.ExitStack) -> tuple[dict[str, Call], list[str]]:
    """The clients, each warmed up, and which are not installed."""
    calls: dict[str, Call] = {}
    left_out: list[str] = []
    for name, opener in named.items():
        try:
            calls[name] = opener(port, running)
        except ImportError as problem:
            left_out.append(f"{name} ({problem})")
            continue
        calls[name](2)
    return calls, left_out


# -- the measure ------------------------------------------------------------------------------------------------------


def measure(calls: dict[str, Call], rounds: int, times: int) -> dict[str, list[float]]:
    """Microseconds of this thread's processor time for each call, one figure a round."""
    runs: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start_s = time.thread_time()
            calls[name](times)
            runs[name].append(1e6 * (time.thread_time() - start_s) / times)
    return runs


def write(
    calls: dict[str, list[float]], streams: dict[str, list[float]], left_out: list[str], options: argparse.Namespace
) -> None:
    """Medians over rounds, and every round."""
    per_event = {name: [took / EVENTS for took in runs] for name, runs in streams.items()}
    missing = f" Left out: {', '.join(left_out)}." if left_out else ""
    document = {
        "columns": ["client", "processor time", "of http_pool's"],
        "table": rows(calls, OURS),
        "caption": f"A POST and its answer, JSON read; median over {options.rounds} interleaved rounds of "
        f"{options.calls} calls.{missing}",
        "more": {
            "stream": {
                "columns": ["client", "an event", "of OpenAiGenerator's"],
                "table": rows(per_event, "Locum: OpenAiGenerator"),
                "caption": f"Streams of {EVENTS} events, {1000 * EVENT_PAUSE_S:g} ms apart, each event's JSON read; "
                f"median over {options.rounds} interleaved rounds.",
            }
        },
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "rounds": options.rounds,
        "raw": {"calls": calls, "streams": per_event},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for row in [*document["table"], *document["more"]["stream"]["table"]]:
        print("  ".join(f"{value:<36}" for value in row.values()))


def rows(runs: dict[str, list[float]], base: str) -> list[dict[str, str]]:
    """Client, median, and the median ratio to another one in the same round."""
    ratio = {
        name: statistics.median(mine / other for mine, other in zip(found, runs[base], strict=True))
        for name, found in runs.items()
    }
    head = ("processor time", "of http_pool's") if base == OURS else ("an event", "of OpenAiGenerator's")
    return [
        {"client": f"**{name}**" if name.startswith("Locum") else name,
         head[0]: f"{statistics.median(found):.0f} µs", head[1]: f"{ratio[name]:.1f}×"}
        for name, found in runs.items()
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
