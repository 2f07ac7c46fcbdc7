"""The child process with OpenVINO GenAI in it: JSON lines in on standard input, JSON lines out.

Notable: the native code that reads a GGUF file and its chat template runs here and nowhere else, so a crash, a kill for
memory or an endless loop ends this process and not the service. One request at a time; ``stop`` ends the one under way
between two tokens. Not here: the parent's side (``openvino_generator``).

Lines in: the settings; then ``{"id", "messages" | "prompt", "config"}`` or ``{"stop": id}``.
Lines out: ``{"ready": true}`` or ``{"fatal": why}``; then ``{"id", "piece"}`` …, and ``{"id", "done"}`` or
``{"id", "error"}``.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from locum.runtime.llamacpp_child import die_with_parent

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class OpenVinoSettings:
    """What the child opens.

    Attributes:
        model: path of the GGUF file.
        n_ctx: most tokens of a prompt and its answer together.
        threads: CPU threads.
        parent: process id of the parent.
    """

    model: str
    n_ctx: int
    threads: int
    parent: int

    def to_json(self) -> dict[str, Any]:
        """As the first line that the child reads."""
        return asdict(self)


class _Pipeline:
    """OpenVINO GenAI with one model.

    Raises:
        RuntimeError: it cannot read the file.
    """

    def __init__(self, settings: OpenVinoSettings) -> None:
        self._genai: Any = importlib.import_module("openvino_genai")
        options = {
            "INFERENCE_NUM_THREADS": settings.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": "",
        }
        self._pipeline = self._genai.LLMPipeline(settings.model, "CPU", **options)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._n_ctx = settings.n_ctx
        self.stop = threading.Event()

    def answer(self, request: dict[str, Any], send: Send) -> dict[str, Any]:
        """Write one answer, sending each piece; returns its counts.

        Raises:
            RuntimeError: OpenVINO failed.
            ValueError: the request does not fit the context (``too long``).
        """
        prompt = request.get("prompt")
        templated = prompt is None
        if templated:
            prompt = self._tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True)
        ids = self._tokenizer.encode(prompt, add_special_tokens=not templated)
        length = int(ids.input_ids.shape[1])
        wanted = int(request["config"]["max_new_tokens"])
        if length + 1 > self._n_ctx:
            raise ValueError(f"too long: {length} tokens of a prompt")
        config = self._config({**request["config"], "max_new_tokens": min(wanted, self._n_ctx - length)})
        running, stopped = self._genai.StreamingStatus.RUNNING, self._genai.StreamingStatus.CANCEL

        def hear(piece: str) -> Any:
            if piece:
                send({"id": request["id"], "piece": piece})
            return stopped if self.stop.is_set() else running

        result = self._pipeline.generate(ids, config, hear)
        written = len(result.tokens[0])
        reason = result.finish_reasons[0] if result.finish_reasons else None
        cut = reason == self._genai.GenerationFinishReason.LENGTH
        return {"input_tokens": length, "output_tokens": written, "finish_reason": "length" if cut else "stop"}

    def _config(self, fields: dict[str, Any]) -> Any:
        config = self._pipeline.get_generation_config()
        config.apply_chat_template = False  # it was applied
        config.include_stop_str_in_output = False
        for name, value in fields.items():
            setattr(config, name, set(value) if name == "stop_strings" else value)
        return config


def serve(settings: OpenVinoSettings, lines: Any, send: Send) -> int:
    """Load the model, say so, and answer requests one after the other until there are no more lines."""
    try:
        pipeline = _Pipeline(settings)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        send({"fatal": f"{type(error).__name__}: {error}"})
        return 1
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    current: list[int] = []

    def read() -> None:
        for line in lines:
            record = json.loads(line)
            if "stop" in record:
                if record["stop"] in current:
                    pipeline.stop.set()
            else:
                current[:] = [record["id"]]
                pipeline.stop.clear()
                requests.put(record)
        os._exit(0)  # closed, or the parent is gone: nobody waits for what is being computed

    threading.Thread(target=read, daemon=True).start()
    send({"ready": True})
    while True:
        request = requests.get()
        try:
            send({"id": request["id"], "done": pipeline.answer(request, send)})
        except (RuntimeError, ValueError, LookupError, TypeError) as error:  # the next may do
            send({"id": request["id"], "error": f"{error or type(error).__name__}"})


def main() -> int:
    """Read settings and requests from standard input; answer on what was standard output."""
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the native code prints goes to the log, never between our lines
    settings = OpenVinoSettings(**json.loads(sys.stdin.readline()))
    die_with_parent(settings.parent)
    lock = threading.Lock()

    def send(record: dict[str, Any]) -> None:
        with lock:
            wire.write(json.dumps(record) + "\n")
            wire.flush()

    return serve(settings, sys.stdin, send)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
