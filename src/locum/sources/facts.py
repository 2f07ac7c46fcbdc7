"""``BaseFacts``: what is known of a pretrained model before it is loaded; read from its files if need be.

Notable: nothing here needs PyTorch. The number of parameters comes from the safetensors header, whose
length is checked before it is believed.
Not here: facts of a GGUF file (``models`` reads it with its own library).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from locum.core.errors import ModelFileError
from locum.core.strict_json import parse_object
from locum.schema.base import Document
from locum.schema.candidate import Family

_MAX_HEADER_BYTES = 100_000_000
_ENCODERS = frozenset({"bert", "distilbert", "roberta", "xlm-roberta", "modernbert", "electra", "mpnet", "deberta-v2"})


class BaseFacts(Document):
    """Size and shape of a pretrained model.

    Attributes:
        architecture: ``model_type`` of its config.json.
        parameters: all of them, embeddings included, tied weights once.
        layers: transformer blocks.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward layer.
        heads: query heads; ``key_value_heads`` of them have their own keys and values.
        vocabulary: rows of the embedding.
        max_tokens: longest input that makes sense.
    """

    family: Family
    architecture: str
    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int
    max_tokens: int


def read_facts(folder: Path) -> BaseFacts:
    """The facts of a model folder in the Hugging Face layout.

    Args:
        folder: has ``config.json`` and ``*.safetensors``.

    Returns:
        The facts.

    Raises:
        ModelFileError: a file is missing, damaged, or does not say what is needed.
    """
    path = folder / "config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        architecture = str(config["model_type"])
        return BaseFacts(
            family="encoder" if architecture in _ENCODERS else "decoder",
            architecture=architecture,
            parameters=count_parameters(folder),
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads") or heads,
            vocabulary=config["vocab_size"],
            max_tokens=config["max_position_embeddings"],
        )
    except FileNotFoundError as problem:
        raise _unreadable(path, "it is missing") from problem
    except (KeyError, TypeError) as problem:
        raise _unreadable(path, f"it does not say {problem}") from problem
    except (OSError, ValueError, ValidationError) as problem:
        raise _unreadable(path, str(problem).splitlines()[0]) from problem


def count_parameters(folder: Path) -> int:
    """Parameters in all safetensors files of a folder, from their headers.

    Raises:
        ModelFileError: there is none, or a header is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _unreadable(folder, "it has no .safetensors file")
    return sum(_parameters_of(path) for path in files)


def _parameters_of(path: Path) -> int:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise _unreadable(path, f"its header claims {length:,} bytes")
        try:
            header = parse_object(file.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            # integers are positions and counters, not weights
            return sum(math.prod(entry["shape"]) for entry in entries if "F" in entry["dtype"])
        except (ValueError, KeyError, TypeError) as problem:
            raise _unreadable(path, "its header is not what safetensors writes") from problem


def _unreadable(path: Path, why: str) -> ModelFileError:
    return ModelFileError("source-not-a-base", why, where=str(path), fix="give a folder saved by save_pretrained")
