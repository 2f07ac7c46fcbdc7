"""Fine-tuning on a processor: Locum's trainer against TRL's ``SFTTrainer`` with its defaults, step by step in turns.

    python bench/training.py [--data instructions fields] [--steps 8] [--minutes 11] [--threads N]

Notable: both tune all weights of SmolLM2-135M-Instruct on the same rows in the same order, in batches of eight, TRL's
default, and at the same rate; the loss counts answers alone. The rows are Databricks' Dolly instructions with their
answers, which have nothing in common (``instructions``), and what a build makes of short texts whose fields are to be
listed, all under one instruction with a schema (``fields``). Each has a process of its own, and they take one step in
turns, so that a busy machine slows both; a ratio is the median over steps. Tokens are those of the rows, prompts and
answers, whatever padding is computed beside them. Memory is the largest resident set of a process. The share of the
peak is that of a plain product of matrices in bfloat16, measured between the steps; it goes by processor time, which
others on the machine do not take. After ``--minutes`` no further step begins.

TRL is put into ``~/.cache/locum-bench-venvs`` on the first run; it runs on the project's own PyTorch and transformers.
Results go to ``bench/results/training.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from application_data import APPLICATIONS, write_rows
from public_data import data_folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "training.json"
TRL = "1.16.0"
PEERS = Path.home() / ".cache" / "locum-bench-venvs" / f"trl-{TRL}"
MODELS = Path.home() / ".cache" / "locum-bench-models"
BASE = "SmolLM2-135M-Instruct"
BATCH, RATE = 8, 2e-5  # TRL's defaults
MAX_TOKENS = 1024
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "passive",  # a thread that waits for another leaves its core to the machine's other work
}
COLUMNS = ["trainer", "tokens/s", "against TRL", "tokens per CPU second", "peak memory", "of bf16 peak", "last loss"]


def main() -> int:
    """Prepare, measure in turns, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", choices=list(CONVERSATIONS), default=list(CONVERSATIONS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=11)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    install_trl()
    base = base_folder()
    for name in options.data:
        end_s = time.monotonic() + 60 * options.minutes
        with tempfile.TemporaryDirectory() as folder:
            job = {
                **{"base": str(base), "folder": folder, "threads": options.threads, "steps": options.steps},
                **{"batch": BATCH, "rate": RATE, "rows": rows(name, base, BATCH * options.steps)},
            }
            path = Path(folder) / "job.json"
            path.write_text(json.dumps(job), encoding="utf-8")
            steps = measure(path, options.steps, end_s)
        write(name, steps, job, options)
    return 0


def install_trl() -> None:
    """TRL alone, beside the project's own libraries."""
    if not (PEERS / "trl").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PEERS)]
        subprocess.run([*command, f"trl=={TRL}"], check=True)


def base_folder() -> Path:
    """The base in the layout of Hugging Face, dequantised once where it comes as GGUF."""
    from locum.models.base_files import inspect_base
    from locum.models.causal import load_causal, load_chat_tokenizer, save_causal
    from locum.sources.bases import ensure_base

    folder = MODELS / f"{BASE}-float32"
    if not (folder / "tokenizer.json").is_file():
        base = inspect_base(ensure_base(BASE))
        tokenizer = load_chat_tokenizer(base)
        save_causal(load_causal(base), tokenizer, base, folder, [tokenizer.eos_token_id])
    return folder


def rows(name: str, base: Path, count: int) -> list[dict[str, list[int]]]:
    """Token ids of prompts and answers, in a fixed random order; rows beyond TRL's default length are left out."""
    from locum.models.base_files import inspect_base
    from locum.models.causal import load_chat_tokenizer
    from locum.train.conversations import ChatEncoder

    conversations = CONVERSATIONS[name]()
    random.Random(0).shuffle(conversations)
    lines = (json.dumps({"id": str(number), **each}) + "\n" for number, each in enumerate(conversations))
    encoder = ChatEncoder(load_chat_tokenizer(inspect_base(base)), 1 << 20, str(base))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(lines), encoding="utf-8")
        examples = [row for row in encoder.read(path).examples if row.length <= MAX_TOKENS]
    return [{"prompt": list(row.prompt), "answer": list(row.answer)} for row in examples[:count]]


def instructions() -> list[dict[str, Any]]:
    """Dolly's instructions and answers; the set's own template around an instruction goes."""
    found: list[dict[str, Any]] = []
    lines = (data_folder() / "instructions" / "dolly_hhrlhf_small.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        instruction = row["prompt"].partition("### Instruction:\n")[2].partition("\n\n### Response:")[0]
        found.append({"messages": [{"role": "user", "content": instruction}], "completion": row["response"]})
    return found


def fields() -> list[dict[str, Any]]:
    """What a build of the application ``presidio_fields`` tunes on."""
    from locum.schema.data import Row
    from locum.schema.task import Task
    from locum.tasks import open_kind

    said = APPLICATIONS["presidio_fields"].task
    data = {"train": "train.jsonl", **said["data"]}
    kind = open_kind(Task.model_validate({"version": 1, "name": "fields", **said, "data": data}))
    with tempfile.TemporaryDirectory() as folder:
        write_rows("presidio_fields", data_folder(), Path(folder))
        lines = (Path(folder) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [Row(id="", input=row["text"], output=json.dumps(row["item"])) for row in map(json.loads, lines)]
    return [
        {
            "messages": [{"role": said.role, "content": said.content} for said in kind.messages(row.input)],
            "completion": kind.target(row),
        }
        for row in rows
    ]


CONVERSATIONS = {"instructions": instructions, "fields": fields}


def measure(job: Path, steps: int, end_s: float) -> list[dict[str, Any]]:
    """Steps of every side in turns; which side begins alternates."""
    found: list[dict[str, Any]] = []
    with contextlib.ExitStack() as running:
        sides = {name: running.enter_context(Side(name, job)) for name in ("ours", "trl", "peak")}
        for step in range(steps):
            if time.monotonic() > end_s:
                break
            order = ["ours", "peak", "trl"] if step % 2 == 0 else ["trl", "peak", "ours"]
            found.append({name: sides[name].step() for name in order})
            print(f"step {step + 1}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    return found


class Side:
    """A process that takes one step when it is asked."""

    def __init__(self, name: str, job: Path) -> None:
        self.name, self.job = name, job

    def __enter__(self) -> Side:
        path = os.pathsep.join([str(ROOT / "src"), str(PEERS)])
        self._child = subprocess.Popen(
            [sys.executable, str(ROOT / "bench" / "training_sides.py"), self.name, str(self.job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **QUIET},
        )
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def step(self) -> dict[str, float]:
        """Let it take a step; what it took."""
        if self._child.stdin is None:
            raise RuntimeError("no standard input")
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        if self._child.stdout is None:
            raise RuntimeError("no standard output")
        for line in self._child.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"{self.name} ended with {self._child.wait()}")


def write(name: str, steps: list[dict[str, Any]], job: dict[str, Any], options: argparse.Namespace) -> None:
    """Medians over steps, both loss curves, and every step; one data set's beside those of others."""
    from importlib.metadata import version

    import locum

    tokens = [
        sum(len(row["prompt"]) + len(row["answer"]) for row in job["rows"][BATCH * step : BATCH * (step + 1)])
        for step in range(len(steps))
    ]
    gaps = [step["ours"]["loss"] - step["trl"]["loss"] for step in steps]
    part = {
        "columns": COLUMNS,
        "table": [line(side, shown, steps, tokens) for side, shown in (("ours", "**Locum**"), ("trl", f"TRL {TRL}"))],
        "caption": f"{BASE}, all weights, {len(steps)} steps of {BATCH} rows ({sum(tokens):,} tokens) each, in turns; "
        "median over steps of the rate and of the ratio in the same step. The two losses differ by "
        f"{statistics.mean(abs(gap) for gap in gaps):.4f} on average and by {max(map(abs, gaps)):.4f} at most. "
        "Of bf16 peak: operations of layers and head in a CPU second, against a plain product of large matrices on the "
        f"same {options.threads} threads.",
        "losses": {side: [round(step[side]["loss"], 4) for step in steps] for side in ("ours", "trl")},
        "tokens": tokens,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"locum": locum.__version__, "trl": TRL}
        | {package: version(package) for package in ("torch", "transformers", "accelerate")},
        "steps": steps,
    }
    before = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    document = {"more": before.get("more", {}) | {name: part}}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for row in part["table"]:
        print("  ".join(f"{column}: {row[column]}" for column in COLUMNS))


def line(name: str, shown: str, steps: list[dict[str, Any]], tokens: list[int]) -> dict[str, str]:
    """One line of the table."""
    rate = statistics.median(count / step[name]["wall_s"] for count, step in zip(tokens, steps, strict=True))
    by_cpu = statistics.median(count / step[name]["cpu_s"] for count, step in zip(tokens, steps, strict=True))
    ratio = statistics.median(step["trl"]["wall_s"] / step[name]["wall_s"] for step in steps)
    memory_mb = max(step[name]["memory_mb"] for step in steps)
    share = ""
    if name == "ours":
        peak, mine = (
            statistics.median(step[side]["flop"] / step[side]["cpu_s"] for step in steps) for side in ("peak", name)
        )
        share = f"{100 * mine / peak:.0f} %"
    return {
        "trainer": shown,
        "tokens/s": f"{rate:.0f}",
        "against TRL": f"{ratio:.1f}×",
        "tokens per CPU second": f"{by_cpu:.0f}",
        "peak memory": f"{memory_mb / 1000:.1f} GB",
        "of bf16 peak": share,
        "last loss": f"{steps[-1][name]['loss']:.3f}",
    }


if __name__ == "__main__":
    sys.exit(main())
