"""Generation: Locum's servers against plain llama.cpp's server and OpenVINO GenAI, on the same file and machine.

    python bench/generation.py MODEL.gguf [MODEL.gguf …] [--draft PATH.gguf] [--llama-server PATH] [--rounds 3]

For each model, with 1, 4 and 16 clients asking real instructions (greedy, a fixed number of tokens at most): tokens per
second of all clients together, time to first token, 95th percentile of an answer; with 1 and 4 clients also while
another process keeps a core busy. Then, for Locum: prefix reuse on an instruction of about 500 tokens, and speculative
decoding (a draft model; prompt lookup) on grounded answers and code, each against the same server without it; and, only
when asked for (``--parts spins``), how long threads wait for each other before they sleep. Peers
take turns in every round, so a slow minute hits them all; figures are medians over rounds. Each decode figure stands
beside its share of what memory bandwidth allows (bytes of the weights that a token reads, over the bandwidth measured
in the same run), each prefill figure beside its share of the bf16 matrix-product peak.

Results go to ``bench/results/generation.json``, as tables that ``generation_tables`` makes. A server that cannot run is
left out, and the file says why.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import streaming
from generation_tables import CLIENTS, COPIED, PEER_COPIED, REFERENCE, RESULTS, ROUNDING, write
from public_data import ROOT, data_folder

PEERS = ROOT / "bench" / "generation_peers.py"
ADDRESS = re.compile(r"http://[0-9.]+:[0-9]+")
SPINS = (500, 1000, 2000)
BEGINNING = 24
"""Characters of an answer that are compared with the reference's."""


def main() -> None:
    """Measure what is asked for and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--draft", type=Path, help="GGUF file that drafts for the last model")
    parser.add_argument("--llama-server", type=Path, help="a llama-server built for this machine, as one more peer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--parts", nargs="*", default=["servers", "beside", "prefill", "prefix", "speculation"])
    options = parser.parse_args()
    raw: dict[str, Any] = json.loads(RESULTS.read_text())["raw"] if RESULTS.is_file() else {}
    raw["machine"] = {
        "bandwidth_gb_s": bandwidth_gb_s(),
        "bf16_gflop_s": bf16_gflop_s(),
        "cores": len(os.sched_getaffinity(0)),
    }
    for path in options.models:
        found = raw.setdefault(path.stem, {"megabytes": round(path.stat().st_size / 1e6, 1)})
        found["parameters"] = parameters(path)
        found["copy_megabytes"] = round(openvino_copy(path).stat().st_size / 1e6, 1)
        measures = {
            "servers": servers, "beside": beside, "prefill": prefill, "prefix": prefix, "speculation": speculation,
            "spins": spins,
        }  # fmt: skip
        for part in options.parts:
            found[part] = measures[part](path, options)
            write(raw)


def bandwidth_gb_s() -> float:
    """10⁹ bytes read a second by dot products over 256 MB on every core at once; best of five."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    cores = len(os.sched_getaffinity(0))
    arrays = [np.ones(32_000_000) for _ in range(cores)]
    best_s = float("inf")
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(5):
            start_s = time.perf_counter()
            list(pool.map(np.dot, arrays, arrays))
            best_s = min(best_s, time.perf_counter() - start_s)
    return cores * arrays[0].nbytes / best_s / 1e9


def bf16_gflop_s() -> float:
    """Floating-point operations per second of a bfloat16 matrix product of 2,048 rows, all cores; best of five."""
    import torch

    size = 2048
    left, right = (torch.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
    best_s = float("inf")
    for _ in range(5):
        start_s = time.perf_counter()
        left @ right
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * size**3 / best_s / 1e9


def parameters(path: Path) -> int:
    """Weights that a token is multiplied with: all matrices; an embedding table counts once, as the output matrix."""
    from gguf import GGUFReader

    shapes = {tensor.name: [int(size) for size in tensor.shape] for tensor in GGUFReader(path).tensors}
    if "output.weight" in shapes:
        del shapes["token_embd.weight"]
    return sum(shape[0] * shape[1] for shape in shapes.values() if len(shape) == 2)


def openvino_copy(path: Path) -> Path:
    """What Locum gives OpenVINO to read: the file, or its copy in Q8_0."""
    from locum.runtime.gguf_check import check_gguf
    from locum.runtime.gguf_reencode import reencoded
    from locum.runtime.openvino_generator import EXACT

    return reencoded(path, check_gguf(path), EXACT)


# -- servers ----------------------------------------------------------------------------------------------------------


def servers(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every server at every number of clients, in turns."""
    prompts = instructions()
    with contextlib.ExitStack() as running:
        ask, left_out = started(peers(path, options, options.tokens), prompts, running)
        found: dict[str, Any] = {name: {str(clients): [] for clients in CLIENTS} for name in ask}
        for turn in range(options.rounds):
            for clients in CLIENTS:
                batch = [next(prompts) for _ in range(max(4, min(16, 2 * clients)))]
                begun: dict[str, set[str]] = {}
                for name in rotated(list(ask), turn):
                    measured = ask[name](batch, clients)
                    begun[name] = {text[:BEGINNING] for text in measured["texts"]}
                    found[name][str(clients)].append(_plain(measured))
                    print(f"{path.stem} round {turn + 1} clients {clients} {name}: "
                          f"{measured['tokens_per_s']:.1f} tokens/s", file=sys.stderr)  # fmt: skip
                for name in begun.keys() - {REFERENCE} if REFERENCE in begun else ():
                    alike = len(begun[name] & begun[REFERENCE]) / len(begun[REFERENCE])
                    found[name][str(clients)][-1]["alike"] = alike
    return found | {name: {"left_out": why} for name, why in left_out.items()}


def beside(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every server, alone and while another process keeps a core busy; answers have a third of ``--tokens``."""
    tokens = max(1, options.tokens // 3)
    return alone_and_beside(peers(path, options, tokens), options)


def spins(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Locum's llama.cpp by how often its threads look for each other before they sleep, against plain llama.cpp."""
    tokens = max(1, options.tokens * 2 // 3)
    named = {REFERENCE: lambda: served([sys.executable, str(PEERS), "llamacpp", str(path)], tokens)}
    for count in SPINS:
        environment = {"GOMP_SPINCOUNT": str(count)}
        arguments = (path, tokens, "--slots", "16", "--ctx", "2048")
        named[f"Locum, {count:,} spins"] = partial(locum_serve, *arguments, environment=environment)
    return alone_and_beside(named, options)


def alone_and_beside(named: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Servers with one and four clients, alone and while another process keeps a core busy, in turns.

    Each run has prompts of its own, because servers keep what they read.
    """
    prompts = instructions()
    with contextlib.ExitStack() as running:
        ask, _ = started(named, prompts, running)
        found: dict[str, Any] = {name: {clients: {"alone": [], "beside": []} for clients in "14"} for name in ask}
        for turn in range(options.rounds):
            for clients in "14":
                first, second = ([next(prompts) for _ in range(4)] for _ in range(2))
                for name in rotated(list(ask), turn):
                    runs = found[name][clients]
                    runs["alone"].append(_plain(ask[name](first, int(clients))))
                    with busy():
                        runs["beside"].append(_plain(ask[name](second, int(clients))))
    return found


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """A process that computes without end."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


Ask = Callable[[list[str], int], dict[str, Any]]


def started(
    named: dict[str, Callable[[], Any]], prompts: Iterator[str], running: contextlib.ExitStack
) -> tuple[dict[str, Ask], dict[str, str]]:
    """The servers that start and answer, and why the others do not.

    Each answers on all its slots before anything is measured: a slot reads the template's own system message once.
    """
    batch = list(itertools.islice(prompts, CLIENTS[-1]))
    ask: dict[str, Ask] = {}
    left_out: dict[str, str] = {}
    for name, start in named.items():
        try:
            server = running.enter_context(start())
            server(batch, CLIENTS[-1])
            ask[name] = server
        except (OSError, RuntimeError) as problem:
            left_out[name] = str(problem)
            print(f"{name}: left out, {problem}", file=sys.stderr)
    return ask, left_out


def peers(path: Path, options: argparse.Namespace, tokens: int) -> dict[str, Callable[[], Any]]:
    """Name of each server to how it is started; each answer has ``tokens`` tokens at most."""
    found: dict[str, Callable[[], Any]] = {
        "Locum": lambda: locum_serve(path, tokens, "--slots", "16", "--ctx", "2048"),
        REFERENCE: lambda: served([sys.executable, str(PEERS), "llamacpp", str(path)], tokens),
        COPIED: lambda: locum_serve(path, tokens, "--engine", "openvino", "--ctx", "2048"),
        ROUNDING: lambda: openvino(path, tokens),
    }
    copy = openvino_copy(path)
    if copy != path:
        found[PEER_COPIED] = lambda: openvino(copy, tokens)
    if options.llama_server:
        binary = str(options.llama_server)
        found["Locum, native llama-server"] = lambda: locum_serve(
            path, tokens, "--slots", "16", "--ctx", "2048", environment={"LOCUM_LLAMA_SERVER": binary}
        )
        found["native llama-server"] = lambda: served([binary, "-m", str(path), "--port", "18099"], tokens)
    return found


@contextlib.contextmanager
def server(command: list[str], environment: dict[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """A server process; yields its address and the first model it serves."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        address = _wait(process)
        yield address, json.loads(urllib.request.urlopen(address + "/v1/models").read())["data"][0]["id"]
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def served(
    command: list[str], tokens: int, environment: dict[str, str] | None = None
) -> Iterator[Callable[[list[str], int], dict[str, Any]]]:
    """A server process; yields a function that asks it for ``tokens`` tokens at most."""
    with server(command, environment) as (address, model):

        def ask(prompts: list[str], clients: int) -> dict[str, Any]:
            bodies = [body(model, prompt, tokens) for prompt in prompts]
            return load(address + "/v1/chat/completions", bodies, clients)

        yield ask


def _wait(process: subprocess.Popen[str]) -> str:
    """The address that a server prints, once it answers."""
    import http.client
    import threading

    said: list[str] = []
    found: list[str] = []

    def read() -> None:
        for line in process.stdout or []:
            said.append(line)
            found.extend(ADDRESS.findall(line)[:1])

    threading.Thread(target=read, daemon=True).start()
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and process.poll() is None:
        if found:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection(found[0].removeprefix("http://"), timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return found[0]
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start: {''.join(said[-2:]).strip()[-300:]}")


def locum_serve(path: Path, tokens: int, *more: str, environment: dict[str, str] | None = None) -> Any:
    """``locum serve MODEL`` on a free port."""
    return served(serve_command(path, *more), tokens, environment)


def serve_command(path: Path, *more: str) -> list[str]:
    """The command that serves a model or a bundle on a free port."""
    return [sys.executable, "-m", "locum.cli.main", "serve", str(path), "--port", "0", *more]


@contextlib.contextmanager
def openvino(path: Path, tokens: int) -> Iterator[Callable[[list[str], int], dict[str, Any]]]:
    """OpenVINO GenAI's continuous batching in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(PEERS), "openvino", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    if process.stdin is None or process.stdout is None or "ready" not in process.stdout.readline():
        raise RuntimeError("OpenVINO GenAI is not installed (pip install 'locum[openvino]'), or cannot read the file")
    to, answers = process.stdin, process.stdout

    def ask(prompts: list[str], clients: int) -> dict[str, Any]:
        to.write(json.dumps({"prompts": prompts, "clients": clients, "max_tokens": tokens}) + "\n")
        to.flush()
        said = json.loads(answers.readline())
        found = figures(0, said["tokens"], said["wall_s"], said["first_s"], said["total_s"])
        return {**found, "texts": set(said["texts"])}

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(30)


def body(model: str, prompt: str, tokens: int) -> dict[str, Any]:
    """A greedy chat completion request."""
    return {
        "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0
    }  # fmt: skip


def load(url: str, bodies: list[dict[str, Any]], clients: int) -> dict[str, Any]:
    """Send the requests, return the figures."""
    run = streaming.run(url, bodies, clients)
    found = figures(
        sum(answer.input_tokens for answer in run.answers),
        sum(answer.output_tokens for answer in run.answers),
        run.wall_s,
        [answer.first_s for answer in run.answers],
        [answer.total_s for answer in run.answers],
    )
    found["texts"] = {answer.text for answer in run.answers}
    return found


def figures(read: int, tokens: int, wall_s: float, first_s: list[float], total_s: list[float]) -> dict[str, Any]:
    """What is kept of a run: ``read`` tokens in (0 when the server did not count them), ``tokens`` out."""
    ordered = sorted(total_s)
    return {
        "input_tokens": read / len(total_s),
        "tokens_per_s": tokens / wall_s,
        "requests_per_s": len(total_s) / wall_s,
        "first_ms": 1000 * statistics.median(first_s),
        "p95_ms": 1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


def instructions() -> Iterator[str]:
    """Real instructions of a line or two, each once."""
    rows = json.loads((data_folder() / "instructions" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    for row in rows:
        text = " ".join(filter(None, (row["instruction"], row["input"])))
        if 20 <= len(text) <= 300:
            yield text


def rotated(names: list[str], turn: int) -> list[str]:
    """The names, beginning with another one each turn."""
    turn %= len(names)
    return names[turn:] + names[:turn]


def prefill(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time to the first token of prompts of about 500 tokens that share nothing, one at a time."""
    texts = squad_contexts()
    with contextlib.ExitStack() as running:
        ask, _ = started(peers(path, options, 1), instructions(), running)
        found: dict[str, Any] = {name: [] for name in ask}
        for turn in range(options.rounds + 1):
            batch = [" ".join(_words(texts[4 * (2 * turn + number) :], 380)) for number in range(2)]
            tokens = 0
            for name in rotated(list(ask), turn):
                measured = _plain(ask[name](batch, 1))
                tokens = max(tokens, measured["input_tokens"])
                if turn > 0:  # the first round warms up
                    found[name].append(measured)
            for runs in found.values():
                if turn > 0:
                    runs[-1]["input_tokens"] = tokens  # one model, one tokenizer, one template: one count
    return found


# -- prefix reuse and speculation -------------------------------------------------------------------------------------


def prefix(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Requests per second with one long instruction before short questions: reuse against none."""
    instruction = " ".join(_words(squad_contexts(), 380))  # about 500 tokens
    questions = [row["question"] for row in squad_questions()]
    found: dict[str, Any] = {"reuse": [], "none": []}
    with (
        locum_serve(path, 4, "--ctx", "2048") as reuse,
        locum_serve(path, 4, "--ctx", "2048", "--no-prefix-reuse") as none,
    ):
        for turn in range(options.rounds):
            batch = [f"{instruction}\n\n{question}" for question in questions[8 * turn : 8 * turn + 8]]
            for name, ask in rotated_pairs({"reuse": reuse, "none": none}, turn):
                if turn == 0:
                    ask(batch[:1], 1)
                found[name].append(_plain(ask(batch, 4)))
    return found


def speculation(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of one client with a draft model or prompt lookup, against neither; answers must be equal."""
    tokens = 96
    tasks = {"grounded": _grounded(4 * options.rounds), "code": _code(4 * options.rounds)}
    ways: dict[str, tuple[str, ...]] = {"plain": (), "lookup": ("--lookup", "12")}
    if options.draft and path == options.models[-1]:
        ways["draft"] = ("--draft", str(options.draft))
    found: dict[str, Any] = {task: {way: [] for way in ways} for task in tasks}
    with contextlib.ExitStack() as running:
        servers = {way: running.enter_context(locum_serve(path, tokens, "--slots", "1", *ways[way])) for way in ways}
        for turn in range(options.rounds):
            for task, prompts in tasks.items():
                batch = prompts[4 * turn : 4 * turn + 4]
                texts = {}
                for way, ask in rotated_pairs(servers, turn):
                    measured = ask(batch, 1)
                    texts[way] = measured["texts"]
                    found[task][way].append(_plain(measured))
                for way in ways:
                    found[task][way][-1]["equal_to_plain"] = len(texts[way] & texts["plain"]) / len(texts["plain"])
    return found


def rotated_pairs(named: dict[str, Any], turn: int) -> list[tuple[str, Any]]:
    """The entries, beginning with another one each turn."""
    return [(name, named[name]) for name in rotated(list(named), turn)]


def _plain(measured: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measured.items() if key != "texts"}


def squad_questions() -> list[dict[str, str]]:
    """Questions with their passages, one from each article in turn."""
    data = json.loads((data_folder() / "squad_v1.1_dev" / "dev-v1.1.json").read_text(encoding="utf-8"))["data"]
    rows = []
    for place in range(4):
        for article in data:
            paragraph = article["paragraphs"][place]
            rows.append({"question": paragraph["qas"][0]["question"], "context": paragraph["context"]})
    return rows


def squad_contexts() -> list[str]:
    """Passages."""
    return [row["context"] for row in squad_questions()]


def _words(texts: list[str], most: int) -> list[str]:
    return [word for text in texts for word in text.split()][:most]


def _grounded(count: int) -> list[str]:
    return [
        f"{row['context']}\n\nQuote the sentences of this passage that answer the question: {row['question']}"
        for row in squad_questions()[:count]
    ]


def _code(count: int) -> list[str]:
    import gzip

    with gzip.open(data_folder() / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:count]
    return [
        f"Rewrite this Python function with type annotations and keep everything else:\n{row['prompt']}"
        f"{row['canonical_solution']}"
        for row in rows
    ]


if __name__ == "__main__":
    main()
