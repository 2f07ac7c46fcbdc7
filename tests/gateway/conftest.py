"""A real server on loopback in a thread, around a pico bundle or a scripted model."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from locum.bundle.student import Student, open_bundle
from locum.gateway.app import create_app
from locum.gateway.bundle_target import BundleTarget
from locum.gateway.serve import server_config
from locum.gateway.settings import Settings
from locum.gateway.targets import ModelTarget, Target
from locum.runtime.protocol import Embedder
from locum.runtime.protocol import Generator as TextGenerator
from locum.testing import FakeUpstream
from locum.testing.bundles import pico_bundle, pico_task

SURE = "my card did not arrive, delivery was due"
UNSURE = "good morning"


@dataclass
class Running:
    """A gateway that listens."""

    url: str
    upstream: FakeUpstream | None
    http: httpx.Client
    opened: Student | None = None

    @property
    def student(self) -> Student:
        assert self.opened is not None
        return self.opened

    def client(self, **settings: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=settings.pop("api_key", "none"), max_retries=0, **settings
        )

    def ask(self, text: str = SURE, model: str = "pico", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def metric(self, name: str) -> float:
        page = self.http.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


class _Server(uvicorn.Server):
    """One that looks every 5 ms whether it is to stop, where uvicorn does so every 100 ms."""

    async def main_loop(self) -> None:
        tick = 0
        while not await self.on_tick(tick):
            tick = 1
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def listening(
    target: Target, settings: Settings, upstream: FakeUpstream | None = None, student: Student | None = None
) -> Generator[Running, None, None]:
    server = _Server(server_config(create_app(target, settings=settings), settings))
    listener = socket.create_server(("127.0.0.1", 0))
    factory = server.config.get_loop_factory()

    def run() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
            yield Running(url, upstream, http, student)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture
def start(tmp_path: Path) -> Generator[Callable[..., Running], None, None]:
    """Start a gateway: ``start(script=[...], settings=Settings(...), **pico_bundle options)``."""
    with contextlib.ExitStack() as stack:
        count = 0

        def begin(
            script: Any = None,
            settings: Settings | None = None,
            wrap: Callable[[Any], Any] | None = None,
            **options: Any,
        ) -> Running:
            nonlocal count
            count += 1
            upstream = stack.enter_context(FakeUpstream(script)) if script is not None else None
            if upstream is not None:
                options["task_text"] = pico_task(base_url=upstream.base_url, model="big", timeout_s=5)
            folder = tmp_path / f"bundle{count}"
            pico_bundle(folder, **options)
            student = open_bundle(folder, threads=1)
            if wrap is not None:
                student.wrap(wrap)
            chosen = settings or Settings(log_file=tmp_path / "access.jsonl", drain_s=5)
            return stack.enter_context(listening(BundleTarget(student), chosen, upstream, student))

        yield begin


@pytest.fixture
def start_model(tmp_path: Path) -> Generator[Callable[..., Running], None, None]:
    """Serve a plain model: ``start_model(FakeGenerator(...), embedder)``, named ``tiny``; or a target."""
    with contextlib.ExitStack() as stack:

        def begin(
            engine: TextGenerator | Target | None = None,
            embedder: Embedder | None = None,
            settings: Settings | None = None,
        ) -> Running:
            chosen = settings or Settings(log_file=tmp_path / "model.jsonl", drain_s=5)
            made = isinstance(engine, (ModelTarget, BundleTarget))
            target = engine if made else ModelTarget("tiny", engine, embedder)
            return stack.enter_context(listening(target, chosen))

        yield begin
