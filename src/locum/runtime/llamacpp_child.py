"""The child process with llama.cpp in it: JSON lines in on standard input, JSON lines out.

Notable: the native code that reads a model file and its chat template runs here and nowhere else, so a crash,
a kill for memory or an endless loop ends this process and not the service. The child dies with its parent:
Linux kills it (PR_SET_PDEATHSIG), elsewhere the end of standard input does. llama.cpp opens a loopback port
of its own; a random key that nobody is told closes it to others. Not here: the parent's side (``llamacpp``).

Lines in: the settings, then ``{"id", "op": "chat" | "embed", "body"}``. Lines out: ``{"ready": {...}}``, then
``{"id", "result"}`` or ``{"id", "error"}``; ``{"fatal"}`` before giving up.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import importlib
import json
import os
import queue
import secrets
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any, Literal

Pooling = Literal["mean", "last"]
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ChildSettings:
    """What the child opens.

    Attributes:
        model: path of the GGUF file.
        n_ctx: context in tokens; a prompt and its answer must fit.
        pooling: None writes text; mean or last gives one embedding a text.
        threads: CPU threads.
        parent: process id of the parent.
    """

    model: str
    n_ctx: int
    pooling: Pooling | None
    threads: int
    parent: int

    def to_json(self) -> dict[str, Any]:
        """As the first line that the child reads."""
        return asdict(self)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere nothing.

    The signal belongs to the parent's thread, so the parent starts the child from a thread that lives as long.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another libc: the end of standard input remains
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request was in place
            os._exit(1)


class Engine:
    """llama.cpp with one model.

    Args:
        settings: what to open.

    Raises:
        RuntimeError: llama.cpp cannot load the file (the reason is on standard error).
    """

    def __init__(self, settings: ChildSettings) -> None:
        xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no types
        self._key = secrets.token_hex(32)
        params = xllamacpp.CommonParams()
        params.model.path = settings.model
        params.n_ctx = settings.n_ctx
        params.n_parallel = 1  # one after the other: an answer does not depend on its neighbours
        params.cpuparams.n_threads = settings.threads
        params.cpuparams_batch.n_threads = settings.threads
        params.n_threads_http = 2
        params.warmup = False
        params.fit_params = False  # the context is what was asked, or an error
        params.cache_ram_mib = 0
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
        params.verbosity = 1  # errors only: prompts must not reach a log
        if settings.pooling is not None:
            pooling = xllamacpp.llama_pooling_type
            kinds = {"mean": pooling.LLAMA_POOLING_TYPE_MEAN, "last": pooling.LLAMA_POOLING_TYPE_LAST}
            params.embedding = True
            params.pooling_type = kinds[settings.pooling]
            params.embd_normalize = -1
            params.n_batch = params.n_ubatch = settings.n_ctx  # a pooled text is read in one piece
            params.cache_prompt = False
        self._server = xllamacpp.Server(params)
        self._address: str = self._server.listening_address.removeprefix("http://")

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """An OpenAI chat completion, through the model's own chat template."""
        return _whole(self._server.handle_chat_completions({**body, "stream": False}))

    def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Pooled embeddings: ``{"texts", "max_tokens"}`` → ``{"embeddings": [[...]], "cut": n}``."""
        limit = int(body["max_tokens"])
        embeddings: list[list[float]] = []
        cut = 0
        for text in body["texts"]:
            ids = self._tokens(text) or self._tokens(" ")  # nothing at all has no embedding
            cut += len(ids) > limit
            answer = _whole(self._server.handle_embeddings({"input": [ids[:limit]]}))
            embeddings.append(answer["data"][0]["embedding"])
        return {"embeddings": embeddings, "cut": cut}

    def _tokens(self, text: str) -> list[int]:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            headers = {"content-type": "application/json", "authorization": f"Bearer {self._key}"}
            connection.request("POST", "/tokenize", json.dumps({"content": text, "add_special": True}), headers)
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return _whole(answer)["tokens"]


def _whole(answer: Any) -> dict[str, Any]:
    """The answer, unless llama.cpp answered with an error document."""
    if isinstance(answer, dict) and "error" not in answer and "message" not in answer:
        return answer
    error: Any = answer.get("error", answer) if isinstance(answer, dict) else answer
    raise ValueError(str(error.get("message", error) if isinstance(error, dict) else error))


def serve(settings: ChildSettings, requests: queue.SimpleQueue[dict[str, Any] | None], send: Any) -> int:
    """Load the model, say so, and answer requests one after the other until there are no more."""
    try:
        engine = Engine(settings)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        send({"fatal": f"{type(error).__name__}: {error}"})
        return 1
    send({"ready": {"pid": os.getpid()}})
    operations = {"chat": engine.chat, "embed": engine.embed}
    while (request := requests.get()) is not None:
        try:
            send({"id": request["id"], "result": operations[request["op"]](request["body"])})
        except (RuntimeError, ValueError, LookupError, TypeError, OSError) as error:  # the next may do
            send({"id": request["id"], "error": f"{error or type(error).__name__}"})
    return 0


def main() -> int:
    """Read settings and requests from standard input; answer on what was standard output."""
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the native code prints goes to the log, never between our lines
    settings = ChildSettings(**json.loads(sys.stdin.readline()))
    die_with_parent(settings.parent)
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        os._exit(0)  # closed, or the parent is gone: nobody waits for what is being computed

    def send(record: dict[str, Any]) -> None:
        wire.write(json.dumps(record) + "\n")
        wire.flush()

    threading.Thread(target=read, daemon=True).start()
    return serve(settings, requests, send)


if __name__ == "__main__":
    raise SystemExit(main())
