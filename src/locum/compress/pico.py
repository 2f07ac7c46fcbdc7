"""Random students of a few kilobytes in the folders that training writes, built in milliseconds, for tests.

Notable: the labels of a classifier's dev split are the student's own answers, so its dev accuracy is 1 and every change
of label is a loss. Not here: students that know anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from locum.core.files import hash_folder, write_json, write_text
from locum.models.base_files import inspect_base
from locum.models.body import load_body, quiet_transformers
from locum.models.classifier import SequenceClassifier, load_student, save_student
from locum.models.pico import pico_base
from locum.runtime.tokenize import TextTokenizer
from locum.schema.candidate import Candidate
from locum.schema.data import Row
from locum.schema.training import Conversation, Trained, Turn

_WORDS = ["card", "cash", "pin", "lost", "blocked", "arrive", "note", "code", "my", "the", "is", "where", "12"]
LABELS = ("a", "b", "c")
MAX_TOKENS = 32
_END = 2  # <|im_end|>
_DECODERS = ("llama", "qwen2")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class PicoStudent:
    """A trained student.

    Attributes:
        folder: as a training job leaves it.
        dev: its dev split, JSON Lines.
        texts: inputs of that split.
    """

    folder: Path
    dev: Path
    texts: list[str]

    @property
    def logits(self) -> NDArray[np.float32]:
        """What it answers to its dev split, ``[n, C]``."""
        return np.load(self.folder / "dev_logits.npy")

    def load(self) -> SequenceClassifier:
        """The model in PyTorch."""
        return load_student(self.folder)


@dataclass(frozen=True)
class PicoGenerator:
    """A tuned decoder.

    Attributes:
        folder: in the layout of Hugging Face.
        dev: its dev conversations, JSON Lines.
        rows: the same, read.
    """

    folder: Path
    dev: Path
    rows: list[Conversation]


def byte_level_tokenizer(path: Path) -> None:
    """A BPE of a few hundred tokens, split as SmolLM splits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(_WORDS)] * 3, trainer)
    tokenizer.save(str(path))


def make_texts(rows: int) -> list[str]:
    """Sentences of 1 to 12 words; the lengths differ so that batches are padded."""
    draw = np.random.default_rng(3)
    return [" ".join(draw.choice(_WORDS, size=1 + row % 12)) for row in range(rows)]


def student_logits(student: SequenceClassifier, tokenizer: Path, texts: list[str]) -> NDArray[np.float32]:
    """What PyTorch answers, one text at a time: no padding takes part."""
    encoded = TextTokenizer(tokenizer, MAX_TOKENS).encode(texts)
    with torch.inference_mode():
        rows = [student(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)) for ids in encoded]
    return torch.cat(rows).numpy()


def pico_student(root: Path, model_type: str, *, depth: int | None = None, rows: int = 96) -> PicoStudent:
    """Write a student with random weights and its dev split.

    Args:
        root: gets ``base/``, ``trained/`` and ``dev.jsonl``.
        model_type: ``bert``, ``modernbert``, or a decoder of ``llama`` or ``qwen2``.
        depth: layers kept of a base's two (decoders: three).
        rows: of the dev split.
    """
    base = pico_base(root / "base", _WORDS, "llama" if model_type in _DECODERS else model_type, width=64)
    folder = root / "trained"
    if model_type in _DECODERS:
        _decoder_base(base, model_type)
    files = inspect_base(base)
    student = SequenceClassifier(load_body(files, depth), files.architecture, len(LABELS)).eval()
    torch.manual_seed(11)
    torch.nn.init.normal_(student.head.weight, std=1.0)
    torch.nn.init.zeros_(student.head.bias)
    save_student(student, folder)
    (folder / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    texts = make_texts(rows)
    logits = student_logits(student, folder / "tokenizer.json", texts)
    with torch.no_grad():  # centred logits use all labels
        student.head.bias -= torch.tensor(logits.mean(axis=0))
    save_student(student, folder)
    logits = student_logits(student, folder / "tokenizer.json", texts)
    np.save(folder / "dev_logits.npy", logits.astype(np.float32))
    gold = [LABELS[place] for place in logits.argmax(axis=1)]
    lines = [
        Row(id=f"dev:{n}", input=text, output=label).model_dump_json()
        for n, (text, label) in enumerate(zip(texts, gold, strict=True))
    ]
    write_text(root / "dev.jsonl", "\n".join(lines) + "\n")
    family = "decoder" if model_type in _DECODERS else "encoder"
    seal_trained(folder, family, student.parameters_count)
    return PicoStudent(folder, root / "dev.jsonl", texts)


def seal_trained(folder: Path, family: str, parameters: int) -> None:
    """Write ``trained.json`` over whatever the folder holds now."""
    (folder / "trained.json").unlink(missing_ok=True)
    trained = Trained(
        candidate=Candidate(name=f"pico/{family}", family=family, base="pico", method="full"),
        parameters=parameters,
        best_epoch=1.0,
        stopped_by="schedule",
        dev_accuracy=1.0,
        curve=(),
        settings={},
        max_tokens=MAX_TOKENS,
        train_s=0.1,
        tokens_per_s=None,
        files=hash_folder(folder),
    )
    write_json(folder / "trained.json", trained.to_json())


def pico_generator(root: Path, model_type: str, *, tied: bool = True, rows: int = 6) -> PicoGenerator:
    """Write a decoder that writes, with random weights, in the layout of Hugging Face.

    Args:
        root: gets ``tuned/`` and ``dev.jsonl``.
        model_type: ``llama`` or ``qwen2``.
        tied: whether the embedding is the output matrix, too.
        rows: of the dev conversations.
    """
    folder = root / "tuned"
    folder.mkdir(parents=True)
    _decoder_base(folder, model_type, writes=True, tie_word_embeddings=tied, max_position_embeddings=256)
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    )
    write_text(folder / "chat_template.jinja", CHATML)
    texts = make_texts(2 * rows)
    found = [
        Conversation(id=f"dev:{n}", messages=(Turn(role="user", content=texts[n]),), completion=texts[n + rows])
        for n in range(rows)
    ]
    write_text(root / "dev.jsonl", "".join(row.model_dump_json() + "\n" for row in found))
    return PicoGenerator(folder, root / "dev.jsonl", found)


def _vocabulary(base: Path) -> dict[str, int]:
    return Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab()


def _decoder_base(base: Path, model_type: str, *, writes: bool = False, **changed: Any) -> None:
    """Grouped heads, weights large enough to matter, and a vocabulary that GGUF can hold."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": _END,
        **changed,
    }
    byte_level_tokenizer(base / "tokenizer.json")
    torch.manual_seed(5)
    with quiet_transformers():
        body = (AutoModelForCausalLM if writes else AutoModel).from_config(AutoConfig.for_model(model_type, **sizes))
        for name, weight in body.named_parameters():
            if name.endswith("bias"):  # zeros would hide a bias that is lost
                torch.nn.init.normal_(weight, std=0.5)
        if writes:  # what is not ASCII scores 0, far from the best, so that answers are text
            unwritten = [token for text, token in _vocabulary(base).items() if not text.isascii() or token < _END]
            for embedding in (body.get_input_embeddings(), body.get_output_embeddings()):
                embedding.weight.data[unwritten] = 0.0
        body.save_pretrained(base)
