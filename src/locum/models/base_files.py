"""What stands in a base's folder or GGUF file, checked before anything is loaded.

Notable: a hostile or broken base is refused before PyTorch sees it: pickles, ``auto_map`` (code of the
repository), Git LFS pointers, missing shards, unsupported architectures, headers that do not fit their file, NaN and
infinity. Safetensors are read through once for the last (0.2 s for 135M weights in bfloat16). Not here: the weights of
a GGUF file, which show their values only once they are dequantised (``body``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.core.errors import ModelFileError
from locum.models.architectures import Architecture, find_architecture, find_gguf_architecture
from locum.runtime import safetensors_check
from locum.runtime.gguf_check import check_gguf, require_one_file

_JSON_BYTES_MAX = 32 << 20
_LFS_START = b"version https://git-lfs.github.com/spec/"
_PICKLE_SUFFIXES = {".bin", ".pt", ".pt2", ".pth", ".pkl", ".pickle", ".ckpt"}
_INDEX_NAME = "model.safetensors.index.json"
_WEIGHTS_NAME = "model.safetensors"


@dataclass(frozen=True)
class BaseFiles:
    """A base that passed the checks.

    Attributes:
        root: its folder (for GGUF: the folder of the file).
        gguf: name of the GGUF file in ``root``; None for a safetensors folder.
        architecture: what it is.
        config: its ``config.json``; empty for GGUF, whose metadata transformers reads itself.
    """

    root: Path
    gguf: str | None
    architecture: Architecture
    config: dict[str, Any]


def inspect_base(path: Path) -> BaseFiles:
    """Check a base and say what it is.

    Args:
        path: a folder in the layout of Hugging Face (``config.json``, safetensors, ``tokenizer.json``), or a
            GGUF file.

    Raises:
        ModelFileError: it must not or cannot be loaded; the message names the file and the fix.
    """
    if path.is_file():
        return _inspect_file(path)
    if not path.is_dir():
        raise ModelFileError("models-not-a-base", "no such folder or file", where=str(path), fix="check the path")
    config_path = path / "config.json"
    config = read_json(config_path)
    tokenizer_config = path / "tokenizer_config.json"
    refuse_remote_code(config, config_path)
    if tokenizer_config.is_file():
        refuse_remote_code(read_json(tokenizer_config), tokenizer_config)
    for weights in weight_files(path):
        check_safetensors(weights)
    architecture = find_architecture(str(config.get("model_type", "")), str(config_path))
    return BaseFiles(path, None, architecture, config)


def most_positions(path: Path) -> int | None:
    """Most tokens of a text that a base has places for; None where its configuration does not say (a GGUF file).

    The RoBERTa family counts places from after its padding token's id, so 514 of them hold 512 tokens.
    """
    try:
        config = read_json(path / "config.json")
    except ModelFileError:
        return None  # ``inspect_base`` says what is wrong with it
    stated, model_type = config.get("max_position_embeddings"), config.get("model_type")
    if not isinstance(stated, int) or stated < 1:
        return None
    if model_type in ("roberta", "xlm-roberta", "mpnet"):
        padding = config.get("pad_token_id")
        stated -= (padding if isinstance(padding, int) else 1) + 1
    return max(1, stated)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, every shard present and none a Git LFS pointer.

    Raises:
        ModelFileError: there are none (pickles are not accepted), or a shard is missing or a pointer.
    """
    index = folder / _INDEX_NAME
    if (folder / _WEIGHTS_NAME).is_file():
        names = [_WEIGHTS_NAME]
    elif index.is_file():
        names = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
    else:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in _PICKLE_SUFFIXES)
        if pickles:
            raise _pickle_error(folder / pickles[0])
        raise ModelFileError("models-file-missing", f"no {_WEIGHTS_NAME} in it", where=str(folder), fix=_COPY_AGAIN)
    for name in names:
        file = folder / name
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelFileError("models-damaged", f"shard name {name!r} is not a file of the folder", where=str(index))
        if not file.is_file():
            raise ModelFileError("models-file-missing", f"shard {name} is missing", where=str(folder), fix=_COPY_AGAIN)
    return [folder / name for name in names]


def check_safetensors(path: Path) -> None:
    """Refuse a pointer, a header that does not fit its file (size, overlaps, holes, types, counts), NaN and infinity.

    Raises:
        ModelFileError: the file is refused.
    """
    refuse_pointer(path)
    safetensors_check.refuse_nonfinite(path, code="models-damaged")


def refuse_remote_code(config: dict[str, Any], path: Path) -> None:
    """Refuse ``auto_map``: it asks to run Python of the model's repository. There is no override."""
    if "auto_map" in config:
        raise ModelFileError(
            "models-remote-code",
            "auto_map asks to run code of the model's repository, which Locum never does",
            where=str(path),
            fix="choose a base that transformers supports itself",
        )


def refuse_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer that stands in a file's place."""
    with path.open("rb") as file:
        if file.read(len(_LFS_START)) == _LFS_START:
            raise ModelFileError(
                "models-lfs-pointer",
                "this is a Git LFS pointer, not the file",
                where=str(path),
                fix="run `git lfs pull` where it was cloned, then copy it again",
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size.

    Raises:
        ModelFileError: missing, a pointer, too large, or not a JSON object.
    """
    if not path.is_file():
        raise ModelFileError("models-file-missing", f"{path.name} is missing", where=str(path.parent), fix=_COPY_AGAIN)
    refuse_pointer(path)
    if path.stat().st_size > _JSON_BYTES_MAX:
        raise ModelFileError("models-damaged", f"over {_JSON_BYTES_MAX} bytes", where=str(path))
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFileError("models-damaged", f"not JSON: {error}", where=str(path), fix=_COPY_AGAIN) from error
    if not isinstance(value, dict):
        raise ModelFileError("models-damaged", "not a JSON object", where=str(path), fix=_COPY_AGAIN)
    return value


_COPY_AGAIN = "copy or download the whole base again"


def _inspect_file(path: Path) -> BaseFiles:
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise _pickle_error(path)
    refuse_pointer(path)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelFileError(
            "models-not-a-base",
            f"starts with {magic!r}, which is not GGUF",
            where=str(path),
            fix="name a GGUF file or a folder with config.json and model.safetensors",
        )
    return BaseFiles(path.parent, path.name, find_gguf_architecture(_gguf_architecture(path), str(path)), {})


def _gguf_architecture(path: Path) -> str:
    try:
        require_one_file(path, "training")
        return check_gguf(path).architecture
    except ModelFileError as error:
        if error.code != "runtime-damaged":
            raise
        raise ModelFileError("models-damaged", error.cause, where=str(path), fix=_COPY_AGAIN) from error


def _pickle_error(path: Path) -> ModelFileError:
    return ModelFileError(
        "models-pickle",
        f"{path.name} is a pickle, which can run code when it is read",
        where=str(path),
        fix="choose a base with safetensors or GGUF weights",
    )
