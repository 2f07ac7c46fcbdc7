"""Conversations whose answer follows from the prompt, requests that tune pico decoders, and a classifier's trainer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from locum.models.pico import pico_base
from locum.schema.training import TuneRequest
from locum.train.checkpoint import CheckpointFolder
from locum.train.classifying import ClassifierTrainer
from locum.train.forward import Machine
from locum.train.outcome import Clock
from locum.train.recipe import Recipe
from locum.train.schedule import Schedule
from locum.train.workbench import Workbench

EXACT = Machine(torch.device("cpu"), bfloat16=False)
WORDS = ("red", "green", "blue", "cat", "dog", "sun", "moon", "say", "what", "follows", "please")
CHAT = (
    "{% for message in messages %}{{ '<s> ' + message['role'] + ' ' + message['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> assistant ' }}{% endif %}"
)


def chat_base(folder: Path, *, layers: int = 2, template: str | None = CHAT, model_type: str = "llama") -> Path:
    """A random decoder with a chat template whose turns end with ``</s>``."""
    words = ["<s>", "</s>", "system", "user", "assistant", "###", ":", *WORDS]
    pico_base(folder, words, model_type, layers=layers)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for token in ("<s>", "</s>"):
        tokenizer["added_tokens"].append({"id": tokenizer["model"]["vocab"][token], "content": token, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    sizes = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**sizes, "tie_word_embeddings": True}))
    config: dict[str, Any] = {"model_max_length": 64, "eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_conversations(path: Path, rows: int, seed: int, *, tasks: tuple[str | None, ...] = (None,)) -> Path:
    """The answer repeats the prompt's last two words."""
    generator = random.Random(seed)
    lines = []
    for number in range(rows):
        words = generator.choices(WORDS[:7], k=generator.randint(2, 6))
        task = tasks[number % len(tasks)]
        lines.append(
            {
                "id": f"c:{number}",
                "messages": [
                    {"role": "system", "content": f"please say what follows {task or ''}".strip()},
                    {"role": "user", "content": " ".join(words)},
                ],
                "completion": " ".join(words[-2:]),
                "task": task,
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def tune_request(folder: Path, method: str = "full", **fields: Any) -> TuneRequest:
    """A request on a pico decoder; data and base are made when they are not there."""
    values: dict[str, Any] = {
        "base": str(folder / "base"),
        "train": str(folder / "train.jsonl"),
        "dev": str(folder / "dev.jsonl"),
        "method": method,
        "rank": 4,
        "alpha": 8.0,
        "budget_s": 1e5,  # so that every schedule is the recipe's, however busy the machine is
        "seed": 3,
        "threads": 1,
        "max_tokens": 48,
        "epochs": 2,
        "learning_rate": 1e-2,
    }
    if not (folder / "base").exists():
        chat_base(folder / "base")
    for split, rows in (("train", 64), ("dev", 16)):
        if not (folder / f"{split}.jsonl").exists():
            write_conversations(folder / f"{split}.jsonl", rows, len(split))
    return TuneRequest(**{**values, **fields})


def classifier_trainer(bench: Workbench, folder: Path, recipe: Recipe, schedule: Schedule) -> ClassifierTrainer:
    """A trainer in float32 that has all the time there is."""
    return ClassifierTrainer(
        bench.model,
        bench.train,
        bench.dev,
        pad_id=bench.pad_id,
        machine=EXACT,
        recipe=recipe,
        schedule=schedule,
        checkpoints=CheckpointFolder(folder / "checkpoints"),
        clock=Clock(1e9),
        seed=1,
    )
