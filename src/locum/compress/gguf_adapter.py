"""A LoRA adapter of PEFT as a GGUF file, so that one base in llama.cpp serves several adapters, chosen per request.

Notable: the scale (alpha over rank, or over its root) is multiplied into the second matrix, because PEFT can give each
module its own and the file has room for one. Llama's query and key rows are reordered as the base's are
(``gguf_export``). What the format cannot hold is refused: DoRA's magnitudes, whole modules, biases, embeddings, and any
setting that is not known to leave a pair of matrices what it is. What is written is compared with what PEFT computes.

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
from locum.core.errors import CheckFailed, LocumError, ModelFileError
from locum.core.files import atomic_file
from locum.core.text import one_line
from locum.models.base_files import check_safetensors, read_json
from locum.runtime.gguf_check import GgufHeader, check_gguf

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PLAIN = frozenset(
    {
        *(
            "alpha_pattern",
            "auto_mapping",
            "base_model_name_or_path",
            "corda_config",
            "ensure_weight_tying",
            "eva_config",
        ),
        *("exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform"),
        *("loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version"),
        *("qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_rslora"),
    }
)
"""Settings that choose modules, ranks and scales, or were for training alone."""
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""How matrices may have been drawn; others (PiSSA, OLoRA, CorDA, LoftQ, …) also change the base's weights."""
_TOLERANCE = 1e-3
_ROWS = 4
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
        CheckFailed: PEFT computes something else (``compress-parity``).
        ModelFileError: the adapter is damaged, or does not fit the base.
    """
    from gguf import GGUFType, GGUFWriter, Keys

    header = check_gguf(base_gguf)
    refuse_family(header.architecture)
    config = read_json(adapter / CONFIG_NAME)
    _refuse_config(config, adapter)
    weights = _read(adapter)
    tensors = adapter_tensors(weights, config, header, str(adapter))
    check_with_peft(adapter, weights, tensors, header)
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


def check_with_peft(adapter: Path, weights: Matrices, tensors: Matrices, header: GgufHeader) -> None:
    """Compare what was made of an adapter with what PEFT computes, module by module, on random weights and inputs.

    Args:
        adapter: its folder.
        weights: as PEFT names them.
        tensors: what will be written.
        header: of the base.

    Raises:
        CheckFailed: ``compress-parity``: PEFT's modules do not add the product of the two matrices.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    layers: dict[str, Matrices] = {}  # a layer at a time, for memory
    for key, values in weights.items():
        found = re.search(r"\.\d+\.", key)
        layers.setdefault(key[: found.end()] if found else key, {})[key.removeprefix(_PREFIX)] = values
    torch.manual_seed(0)
    for some in layers.values():
        first = {_module(key): values for key, values in some.items() if ".lora_A." in key}
        plain = {
            module: torch.nn.Linear(a.shape[1], len(some[f"{module}.lora_B.weight"]), bias=False)
            for module, a in first.items()
        }
        inputs = {module: torch.randn(_ROWS, layer.in_features) for module, layer in plain.items()}
        with torch.no_grad():
            before = {module: layer(inputs[module]) for module, layer in plain.items()}
            config = LoraConfig.from_pretrained(str(adapter))
            model: Any = inject_adapter_in_model(config, _skeleton(plain), "default")  # type: ignore[no-untyped-call]
            set_peft_model_state_dict(model, {key: torch.from_numpy(values) for key, values in some.items()})
            model.eval()
            for module, start in before.items():
                added = model.get_submodule(module)(inputs[module]) - start  # [rows, out]
                _compare(module, added.numpy(), inputs[module].numpy(), tensors, header, str(adapter))


def _module(key: str) -> str:
    return key.removeprefix(_PREFIX).partition(".lora_")[0]


def _skeleton(modules: dict[str, Any]) -> Any:
    """A model that holds nothing but some modules, under their names."""
    import torch

    root = torch.nn.Module()
    for name, module in modules.items():
        *path, last = name.split(".")
        at = root
        for step in path:
            if not hasattr(at, step):
                at.add_module(step, torch.nn.Module())
            at = getattr(at, step)
        at.add_module(last, module)
    return root


def _compare(
    module: str, added: NDArray[Any], rows: NDArray[Any], tensors: Matrices, header: GgufHeader, where: str
) -> None:
    target = gguf_name(f"{module.removeprefix('model.')}.weight")
    made = rows @ tensors[f"{target}.lora_a"].T @ tensors[f"{target}.lora_b"].T
    heads = _heads(target, header)
    wanted = interleave(np.ascontiguousarray(added.T), heads).T if heads else added
    gap = float(np.abs(made - wanted).max())
    size = float(max(np.abs(wanted).max(), np.abs(made).max()))
    if not gap <= _TOLERANCE * size:
        raise CheckFailed(
            "compress-parity",
            f"PEFT adds other values than the exported matrices in {module} (apart by {gap:.3g}, largest {size:.3g})",
            where=where,
            fix=_MERGE,
        )


def _refuse_config(config: dict[str, Any], adapter: Path) -> None:
    where = str(adapter)
    if config.get("peft_type") != "LORA":
        raise _refused(f"an adapter of type {config.get('peft_type')!r}", where)
    if config.get("use_dora"):
        raise _refused("DoRA: it rescales whole rows of the base, which a pair of matrices cannot say", where)
    if config.get("bias", "none") != "none" or config.get("modules_to_save") or config.get("fan_in_fan_out"):
        raise _refused("an adapter that also trains biases or whole modules", where)
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in _PLAIN_STARTS:
        said = f"init_lora_weights {one_line(str(start), 40)!r}: PEFT reads it with a change of the base's weights"
        fix = f"convert it with PEFT (save_pretrained with path_initial_model_for_weight_conversion), or {_MERGE}"
        raise _refused(said, where, fix)
    if config.get("alora_invocation_tokens"):
        raise _refused("an activated LoRA (alora_invocation_tokens), which leaves what comes before its tokens", where)
    for name, value in config.items():
        if name not in _PLAIN and value and (name, value) != ("bias", "none"):
            raise _refused(f"the setting {one_line(name, 60)} ({one_line(str(value), 40)})", where)


def _read(adapter: Path) -> Matrices:
    from safetensors.torch import load_file

    path = adapter / WEIGHTS_NAME
    if not path.is_file():
        raise ModelFileError(
            "models-file-missing", f"{WEIGHTS_NAME} is missing", where=str(adapter), fix="save the adapter again"
        )
    check_safetensors(path)
    return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}


def _refused(what: str, where: str, fix: str = _MERGE) -> LocumError:
    return LocumError("compress-export", f"a GGUF adapter has no form for {what}", where=where, fix=fix)
