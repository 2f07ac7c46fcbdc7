"""The two trainers of ``bench/training.py``, each in a process of its own that takes one step for each line it reads.

    python bench/training_sides.py SIDE JOB.json     SIDE is ours, trl or peak

Notable: both read the same token ids in the same order, so that their losses can be laid side by side; both compute in
bfloat16 with float32 weights, as they do by default. TRL keeps its defaults but for the learning rate's peak, which is
the default's, written down, and the order of the rows. Ours is given TRL's optimiser settings and the same fall of the
rate. ``peak`` measures the machine: a square product in bfloat16.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

PEAK_SIZE = 2048


def main() -> int:
    """Do one side's work."""
    import torch

    side, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    {"ours": ours, "trl": trl, "peak": peak}[side](job)
    return 0


def ours(job: dict[str, Any]) -> None:
    """Our steps, without the loop's checkpoints and evaluations around them."""
    from locum.models.base_files import inspect_base
    from locum.models.causal import load_causal
    from locum.train import loop
    from locum.train.attention import NAME, register
    from locum.train.checkpoint import CheckpointFolder
    from locum.train.forward import this_machine
    from locum.train.generating import Decoder, GeneratorTrainer
    from locum.train.outcome import Clock
    from locum.train.packing import Example, pack, packs_of
    from locum.train.recipe import TuneRecipe
    from locum.train.schedule import Schedule

    loop.rate_factor = lambda step, total, _warmup: 1 - step / total  # TRL's default: linear, no warm-up
    register()
    base = inspect_base(Path(job["base"]))
    decoder = Decoder(load_causal(base, NAME), base.architecture, this_machine())
    rows = [Example(tuple(row["prompt"]), tuple(row["answer"])) for row in job["rows"]]
    trainer = GeneratorTrainer(
        decoder,
        rows,
        [],
        states=None,
        mixing=1.0,
        recipe=TuneRecipe(epochs=1, batch_rows=job["batch"], rate=job["rate"], weight_decay=0.0, beta2=0.999),
        schedule=Schedule(job["steps"], job["steps"], None),
        checkpoints=CheckpointFolder(Path(job["folder"]) / "ours"),
        clock=Clock(1e9),
        seed=0,
    )
    body = sum(weight.numel() for weight in decoder.body.parameters() if weight is not decoder.head)
    answer("ready")
    for step in range(job["steps"]):
        batch = list(range(step * job["batch"], (step + 1) * job["batch"]))
        sys.stdin.readline()
        start = clock()
        loss = trainer.step(batch)
        packs = [pack([rows[row] for row in part]) for part in packs_of(batch, rows, None, decoder.pack_tokens)]
        flop = sum(6 * (body * len(made.ids) + decoder.head.numel() * len(made.targets)) for made in packs)
        answer({**since(start), "loss": loss, "flop": flop})


def trl(job: dict[str, Any]) -> None:
    """TRL's ``SFTTrainer`` with its defaults."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class OneStepALine(TrainerCallback):
        """Waits for a line before each step and answers with what it took; losses come with the log after it."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            answer("ready")

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            sys.stdin.readline()
            self.start = clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.taken = since(self.start)

        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            if "loss" in logs:
                answer({**self.taken, "loss": float(logs["loss"])})

    rows = [
        {"input_ids": row["prompt"] + row["answer"], "labels": [-100] * len(row["prompt"]) + row["answer"]}
        for row in job["rows"]
    ]
    config = SFTConfig(
        output_dir=str(Path(job["folder"]) / "trl"),
        max_steps=job["steps"],
        learning_rate=job["rate"],
        per_device_train_batch_size=job["batch"],
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    SFTTrainer(job["base"], args=config, train_dataset=Dataset.from_list(rows), callbacks=[OneStepALine()]).train()


def peak(job: dict[str, Any]) -> None:
    """Square products in bfloat16, a fifth of a second at a time."""
    import torch

    left, right = (torch.randn(PEAK_SIZE, PEAK_SIZE).bfloat16() for _ in range(2))
    left @ right
    answer("ready")
    for _ in range(job["steps"]):
        sys.stdin.readline()
        start, products = clock(), 0
        while time.perf_counter() - start[0] < 0.2:
            left @ right
            products += 1
        answer({**since(start), "flop": products * 2 * PEAK_SIZE**3})


def clock() -> tuple[float, float]:
    """Seconds on the wall, and of all processors."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> dict[str, float]:
    """Seconds since, and the largest resident memory so far."""
    wall, processor = clock()
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall_s": wall - start[0], "cpu_s": processor - start[1], "memory_mb": memory_mb}


def answer(value: Any) -> None:
    """One line of JSON, marked, since libraries print too."""
    print(f"@{json.dumps(value)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
