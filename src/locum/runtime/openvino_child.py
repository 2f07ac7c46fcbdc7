"""The child process with OpenVINO GenAI in it: JSON lines in on standard input, JSON lines out.

Notable: the native code that reads a GGUF file and its chat template runs here and nowhere else, so a crash, a kill for
memory or an endless loop ends this process and not the service. Requests are answered in one batch, which takes and
drops members between two steps; a step is a token of every answer and up to ``batch_tokens`` of the prompts. A step
that fails leaves the library's scheduler unusable, so it ends the process. Not here: the parent's side
(``openvino_process``).

Lines in: the settings; then ``{"id", "prompt" | "messages", "config", "grammar", "stops", "logprobs"}``,
``{"id", "path", "body"}`` for what can be asked of the tokenizer, or ``{"stop": id}``.
Lines out: ``{"ready"}`` or ``{"fatal": why}``; then for each request ``{"id", "begun": tokens}``,
``{"id", "piece", "tokens"}`` … and ``{"id", "done"}``, or ``{"id", "refused": why, "code"}``; for the tokenizer
``{"id", "answer"}``; and ``{"beat"}`` where steps leave nothing to tell for long.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from locum.runtime.engine_child import Send, die_with_parent, line_to_parent
from locum.runtime.llama_settings import KvType
from locum.runtime.openvino_text import AnswerText

_BLOCK_TOKENS = 32
"""Tokens in a block of the cache, as OpenVINO's CPU plug-in keeps it."""
_BEAT_S = 0.1
"""Least time between two signs of life."""
_KV_PRECISION: dict[KvType, str] = {"f16": "f16", "q8_0": "u8", "q4_0": "u4"}


@dataclass(frozen=True)
class OpenVinoSettings:
    """What the child opens.

    Attributes:
        model: path of the GGUF file.
        n_ctx: most tokens of a prompt and its answer together.
        slots: answers written in one batch; more wait in line.
        threads: CPU threads.
        batch_tokens: most prompt tokens read in one step.
        kv_type: how keys and values are kept, in llama.cpp's words.
        prefix_reuse: keep what was read for prompts that start alike.
        stream_interval_s: least time between two pieces of an answer.
        parent: process id of the parent.
    """

    model: str
    n_ctx: int
    slots: int = 4
    threads: int = 1
    batch_tokens: int = 256
    kv_type: KvType = "f16"
    prefix_reuse: bool = True
    stream_interval_s: float = 0.0
    parent: int = 0

    def to_json(self) -> dict[str, Any]:
        """As the first line that the child reads."""
        return asdict(self)

    @property
    def cache_blocks(self) -> int:
        """Blocks of the cache: every slot can fill its context, so that none is thrown out to make room."""
        return self.slots * (-(-self.n_ctx // _BLOCK_TOKENS) + 1)


class _RefusedError(Exception):
    """A request that cannot be answered, while others can.

    Args:
        code: of ``locum.core.codes``.
        why: for the caller.
    """

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass
class _Job:
    """An answer under way."""

    number: int
    handle: Any
    input_tokens: int
    logprobs: bool
    text: AnswerText
    output_tokens: int = 0
    fresh: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    reason: Any = None
    next_s: float = 0.0


class Pipeline:
    """OpenVINO GenAI with one model, and the answers it is writing.

    Args:
        settings: what to open.
        send: takes the records for the parent.

    Raises:
        RuntimeError: it cannot read the file.
    """

    def __init__(self, settings: OpenVinoSettings, send: Send) -> None:
        self._genai: Any = importlib.import_module("openvino_genai")
        self._tensor: Any = importlib.import_module("openvino").Tensor
        self._array: Any = importlib.import_module("numpy").array
        scheduler = self._genai.SchedulerConfig()
        scheduler.num_kv_blocks = settings.cache_blocks
        scheduler.max_num_seqs = settings.slots
        scheduler.max_num_batched_tokens = max(settings.batch_tokens, settings.slots)
        scheduler.enable_prefix_caching = settings.prefix_reuse
        options = {
            "INFERENCE_NUM_THREADS": settings.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "KV_CACHE_PRECISION": _KV_PRECISION[settings.kv_type],
            "CACHE_DIR": "",
        }
        self._pipeline = self._genai.ContinuousBatchingPipeline(settings.model, scheduler, "CPU", options)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._n_ctx = settings.n_ctx
        self._beat_s = 0.0
        self._interval_s = settings.stream_interval_s
        self._send = send
        self._jobs: dict[int, _Job] = {}

    @property
    def busy(self) -> bool:
        """Whether there is something to compute, or to put away."""
        return self._pipeline.has_non_finished_requests()

    def take(self, record: dict[str, Any]) -> None:
        """A line from the parent."""
        if "stop" in record:
            job = self._jobs.pop(record["stop"], None)
            if job is not None:
                job.handle.cancel()
            return
        number = record["id"]
        try:
            if "path" in record:
                self._send({"id": number, "answer": self._tokenize(record["path"], record["body"])})
            else:
                self._begin(number, record)
        except _RefusedError as error:
            self._send({"id": number, "refused": str(error), "code": error.code})

    def step(self) -> None:
        """Compute a token of every answer, and tell those that are due.

        Raises:
            RuntimeError: OpenVINO failed; it cannot be used any more.
        """
        self._pipeline.step()
        now_s = time.monotonic()
        jobs = [job for job in self._jobs.values() if self._due(job, now_s)]
        windows: list[list[int]] = []
        for job in jobs:
            windows.extend(job.text.add([token for token, _ in self._read(job)]))
        said = self._tokenizer.decode(windows) if windows else []
        decoded = zip(jobs, said[::2], said[1::2], strict=True)
        told = [self._tell(job, known, whole, now_s) for job, known, whole in decoded]
        records = list(chain.from_iterable(told))
        if records or now_s >= self._beat_s:
            self._beat_s = now_s + _BEAT_S
            self._send(*(records or [{"beat": True}]))

    def _due(self, job: _Job, now_s: float) -> bool:
        """Whether to look at what was written: it may be over, or nothing was told of it for long."""
        over = job.handle.get_status() != self._genai.GenerationStatus.RUNNING
        return over or (job.handle.can_read() and (now_s >= job.next_s or bool(job.text.stops)))

    def _read(self, job: _Job) -> list[tuple[int, float]]:
        job.fresh = []
        while job.handle.can_read():
            for output in job.handle.read().values():
                job.fresh.extend(zip(output.generated_ids, output.generated_log_probs, strict=True))
                job.reason = output.finish_reason
        job.output_tokens += len(job.fresh)
        return job.fresh

    def _tell(self, job: _Job, known: str, whole: str, now_s: float) -> Iterator[dict[str, Any]]:
        """What is new of an answer."""
        status = job.handle.get_status()
        over = status != self._genai.GenerationStatus.RUNNING
        piece = job.text.take(known, whole, last=over)
        if piece or (job.logprobs and job.fresh):
            job.next_s = now_s + self._interval_s
            ids = [[token] for token, _ in job.fresh] if job.logprobs else []
            spelled = self._tokenizer.decode(ids) if ids else []
            tokens = [[text, logprob] for text, (_, logprob) in zip(spelled, job.fresh, strict=False)]
            yield {"id": job.number, "piece": piece, "tokens": tokens}
        if over or job.text.stopped:
            yield self._end(job, status)

    def _end(self, job: _Job, status: Any) -> dict[str, Any]:
        del self._jobs[job.number]
        if job.text.stopped:
            job.handle.stop()
        elif status == self._genai.GenerationStatus.IGNORED:
            return {"id": job.number, "refused": "the cache is full", "code": "runtime-engine-failed"}
        cut = job.reason == self._genai.GenerationFinishReason.LENGTH and not job.text.stopped
        counts = {"input_tokens": job.input_tokens, "output_tokens": job.output_tokens}
        return {"id": job.number, "done": {**counts, "finish_reason": "length" if cut else "stop"}}

    def _begin(self, number: int, request: dict[str, Any]) -> None:
        prompt = request.get("prompt")
        plain = prompt is not None
        ids = self._encode(prompt if plain else self._render(request["messages"]), special=plain)
        if not ids:
            raise _RefusedError("runtime-unsupported-option", "the prompt has no tokens")
        room = self._n_ctx - len(ids)
        if room < 1:
            said = f"This model's maximum context length is {self._n_ctx} tokens. However, the prompt has {len(ids)}"
            raise _RefusedError("runtime-too-long", f"{said} tokens, which exceeds the context window")
        fields = {**request["config"], "max_new_tokens": min(int(request["config"]["max_new_tokens"]), room)}
        try:
            config = self._config(fields, request.get("grammar"))
            handle = self._pipeline.add_request(number, self._tensor(self._array([ids], dtype="int64")), config)
        except (RuntimeError, TypeError, ValueError) as error:  # it checks the configuration when it takes it
            raise _RefusedError("runtime-unsupported-option", _said(error)) from error
        text = AnswerText(request["stops"])
        self._jobs[number] = _Job(number, handle, len(ids), bool(request["logprobs"]), text)
        self._send({"id": number, "begun": len(ids)})

    def _config(self, fields: dict[str, Any], grammar: str | None) -> Any:
        config = self._pipeline.get_config()
        config.apply_chat_template = False  # it was applied
        for name, value in fields.items():
            setattr(config, name, value)
        if grammar is not None:
            config.structured_output_config = self._genai.StructuredOutputConfig(grammar=grammar)
        return config

    def _tokenize(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/apply-template":
            return {"prompt": self._render(body["messages"])}
        if path == "/tokenize":
            return {"tokens": self._encode(body["content"], special=body["add_special"])}
        return {"content": self._tokenizer.decode(body["tokens"], skip_special_tokens=False)}

    def _render(self, messages: Sequence[dict[str, Any]]) -> str:
        try:
            return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        except RuntimeError as error:  # the template's own refusals, and what its interpreter does not know
            raise _RefusedError("runtime-chat-template", f"the chat template fails: {_said(error)}") from error

    def _encode(self, text: str, *, special: bool) -> list[int]:
        found = self._tokenizer.encode(text, add_special_tokens=special).input_ids
        return [int(token) for token in found.data.reshape(-1)]


def _said(error: Exception) -> str:
    """What an error says, without the place in OpenVINO's source that comes first."""
    return f"{error}".split(":\n", 1)[-1].strip() or type(error).__name__


def serve(settings: OpenVinoSettings, lines: Any, send: Send) -> int:
    """Load the model, say so, and answer requests until there are no more lines."""
    try:
        pipeline = Pipeline(settings, send)
    except (RuntimeError, ValueError, LookupError, OSError, ImportError) as error:
        send({"fatal": _said(error)})
        return 1
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in lines:
            inbox.put(json.loads(line))
        os._exit(0)  # closed, or the parent is gone: nobody waits for what is being computed

    threading.Thread(target=read, daemon=True).start()
    send({"ready": True})
    while True:
        while not inbox.empty() or not pipeline.busy:
            pipeline.take(inbox.get())
        pipeline.step()


def main() -> int:
    """Read settings and requests from standard input; answer on what was standard output."""
    send = line_to_parent()
    settings = OpenVinoSettings(**json.loads(sys.stdin.readline()))
    die_with_parent(settings.parent)
    try:
        return serve(settings, sys.stdin, send)
    except RuntimeError as error:  # of a step
        sys.stderr.write(f"\n{error}\n")
        return 1


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
