"""A LoRA adapter of PEFT as a GGUF file, so that one base in llama.cpp serves several adapters, chosen per request.

Notable: the scale (alpha over rank, or over its root) is multiplied into the second matrix, because PEFT can give each
module its own and the file has room for one. Llama's query and key rows are reordered as the base's are
(``gguf_export``). What the format cannot hold is refused: DoRA's magnitudes, whole modules, biases, embeddings. Not
here: merging an adapter into its base, QLoRA's base weights.

Shapes: r rank; a ``[r, in]``, b ``[out, r]``.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.compress.gguf_export import gguf_name, interleave, interleaved_heads, refuse_family
from locum.core.errors import LocumError, ModelFileError
from locum.core.files import atomic_file
from locum.models.base_files import check_safetensors, read_json
from locum.runtime.gguf_check import GgufHeader, check_gguf

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
_MERGE = "export the merged weights instead: `locum export FOLDER --as gguf`"

Matrices = dict[str, NDArray[np.float32]]


def export_adapter(adapter: Path, base_gguf: Path, out: Path, *, name: str = "adapter") -> None:
    """Write a LoRA adapter for a base that is served as GGUF.

    Args:
        adapter: folder in the layout of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``.
        base_gguf: the base that it was trained on, in any format of GGUF.
        out: file to write, ``NAME.gguf``.
        name: ``general.name``.

    Raises:
        LocumError: GGUF has no form for it (``compress-export``): DoRA, another kind of adapter, whole modules.
        ModelFileError: the adapter is damaged, or does not fit the base.
    """
    from gguf import GGUFType, GGUFWriter, Keys

    header = check_gguf(base_gguf)
    refuse_family(header.architecture)
    config = read_json(adapter / CONFIG_NAME)
    _refuse_config(config, adapter)
    tensors = adapter_tensors(_read(adapter), config, header, str(adapter))
    with atomic_file(out) as partial:  # the writer opens the file by its name
        writer = GGUFWriter(partial.name, header.architecture)
        writer.add_type(GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        for tensor_name, values in tensors.items():
            writer.add_tensor(tensor_name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def adapter_tensors(weights: Matrices, config: dict[str, Any], header: GgufHeader, where: str) -> Matrices:
    """An adapter's matrices under their GGUF names, scaled, in ggml's order of rows.

    Args:
        weights: as PEFT names them.
        config: ``adapter_config.json``.
        header: of the base.
        where: the adapter, for messages.

    Raises:
        LocumError: a tensor has no form in GGUF.
        ModelFileError: a module lacks one of its matrices, or they do not fit the base's.
    """
    modules: dict[str, Matrices] = {}
    for key, values in weights.items():
        found = _LORA.fullmatch(key.removeprefix(_PREFIX))
        if found is None:
            raise _refused(f"tensor {key!r}", where)
        modules.setdefault(found["module"], {})[found["part"]] = values
    if not modules:
        raise ModelFileError("models-damaged", "the adapter holds no matrices", where=where, fix="train it again")
    shapes = {name: dims for name, dims, _ in header.tensors}
    tensors: Matrices = {}
    for module, pair in sorted(modules.items()):
        target = gguf_name(f"{module.removeprefix('model.')}.weight")
        if set(pair) != {"A", "B"} or (pair["A"].shape[1], pair["B"].shape[0]) != shapes.get(target):
            sizes = {part: values.shape for part, values in pair.items()}
            cause = f"module {module} has {sizes}, the base's {target} is {shapes.get(target, 'absent')}"
            raise ModelFileError("models-damaged", cause, where=where, fix="name the base that it was trained on")
        b = pair["B"] * np.float32(_scale(config, module, len(pair["A"])))
        heads = _heads(target, header)
        tensors[f"{target}.lora_a"] = np.ascontiguousarray(pair["A"])
        tensors[f"{target}.lora_b"] = np.ascontiguousarray(interleave(b, heads) if heads else b)
    return tensors


def _heads(target: str, header: GgufHeader) -> int:
    queries = int(header.metadata[f"{header.architecture}.attention.head_count"])
    keys = int(header.metadata.get(f"{header.architecture}.attention.head_count_kv", queries))
    return interleaved_heads(target, header.architecture, queries, keys)


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """What a module's product is multiplied by, as PEFT does (rsLoRA: Kalajdzievski 2023, arXiv 2312.03732)."""
    alpha = float(config["lora_alpha"])
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})$", module):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _refuse_config(config: dict[str, Any], adapter: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise _refused(f"an adapter of type {config.get('peft_type')!r}", str(adapter))
    if config.get("use_dora"):
        raise _refused("DoRA: it rescales whole rows of the base, which a pair of matrices cannot say", str(adapter))
    if config.get("bias", "none") != "none" or config.get("modules_to_save") or config.get("fan_in_fan_out"):
        raise _refused("an adapter that also trains biases or whole modules", str(adapter))


def _read(adapter: Path) -> Matrices:
    from safetensors.torch import load_file

    path = adapter / WEIGHTS_NAME
    if not path.is_file():
        raise ModelFileError(
            "models-file-missing", f"{WEIGHTS_NAME} is missing", where=str(adapter), fix="save the adapter again"
        )
    check_safetensors(path)
    return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}


def _refused(what: str, where: str) -> LocumError:
    return LocumError("compress-export", f"a GGUF adapter has no form for {what}", where=where, fix=_MERGE)
