"""The peers of ``bench/generation.py``, each in a process of its own: plain llama.cpp's server, and OpenVINO GenAI.

    python bench/generation_peers.py llamacpp MODEL.gguf     serves until its standard input ends
    python bench/generation_peers.py openvino MODEL.gguf     answers workloads given as JSON lines on standard input

Notable: llama.cpp's server runs as its own command line would start it (four slots over one cache, all physical
cores, prompts kept). OpenVINO GenAI has no server: its continuous batching runs in-process, which spares it HTTP.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def llamacpp(path: str) -> None:
    """Serve with the packaged llama.cpp and its server's defaults."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel = 4
    params.kv_unified = True
    params.n_ctx = 8192
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


def openvino(path: str) -> None:
    """Answer workloads: ``{"prompts", "clients", "max_tokens"}`` in, one JSON line of figures out."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2  # GB
    scheduler.enable_prefix_caching = True
    pipeline = openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU")
    print("ready", flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        print(json.dumps(_workload(openvino_genai, pipeline, work)), flush=True)


def _workload(library: Any, pipeline: Any, work: dict[str, Any]) -> dict[str, Any]:
    config = library.GenerationConfig()
    config.max_new_tokens = work["max_tokens"]
    config.do_sample = False
    tokenizer = pipeline.get_tokenizer()
    waiting = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
        for prompt in reversed(work["prompts"])
    ]
    running: list[tuple[Any, float, list[float], list[int]]] = []
    texts: list[str] = []
    first_s: list[float] = []
    total_s: list[float] = []
    tokens, number = 0, 0
    start_s = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < work["clients"]:
            prompt = waiting.pop()
            now = time.perf_counter()
            running.append((pipeline.add_request(number, prompt, config), now, [], []))
            number += 1
        pipeline.step()
        now = time.perf_counter()
        still = []
        for handle, began, first, ids in running:
            if handle.can_read():
                for output in handle.read().values():
                    ids.extend(output.generated_ids)
                if not first:
                    first.append(now - began)
            if handle.get_status() == library.GenerationStatus.RUNNING:
                still.append((handle, began, first, ids))
            else:
                first_s.append(first[0] if first else now - began)
                total_s.append(now - began)
                tokens += len(ids)
                texts.append(tokenizer.decode(ids))
        running = still
    wall_s = time.perf_counter() - start_s
    return {"wall_s": wall_s, "tokens": tokens, "first_s": first_s, "total_s": total_s, "texts": texts}


if __name__ == "__main__":
    {"llamacpp": llamacpp, "openvino": openvino}[sys.argv[1]](sys.argv[2])
