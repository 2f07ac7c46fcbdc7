"""A real server on loopback in a thread, around a pico bundle."""

from __future__ import annotations

import contextlib
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
from locum.gateway.settings import Settings
from locum.testing import FakeUpstream
from locum.testing.bundles import pico_bundle, pico_task

SURE = "my card did not arrive, delivery was due"
UNSURE = "good morning"


@dataclass
class Running:
    """A gateway that listens."""

    url: str
    student: Student
    upstream: FakeUpstream | None
    http: httpx.Client

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


@contextlib.contextmanager
def listening(
    student: Student, settings: Settings, upstream: FakeUpstream | None = None
) -> Generator[Running, None, None]:
    config = uvicorn.Config(
        create_app(student, settings=settings),
        host="127.0.0.1",
        port=0,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
            yield Running(url, student, upstream, http)
    finally:
        server.should_exit = True
        thread.join(20)
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
            log = settings or Settings(log_file=tmp_path / "access.jsonl")
            return stack.enter_context(listening(student, log, upstream))

        yield begin
