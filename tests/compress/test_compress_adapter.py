"""LoRA adapters of PEFT as GGUF: base and adapter in llama.cpp against the merged weights in PyTorch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from locum.compress import gguf_adapter
from locum.compress.generator import write_decoder
from locum.compress.generator_parity import ask, compare
from locum.compress.generator_reference import Reference, TunedDecoder, read_references
from locum.compress.gguf_adapter import CONFIG_NAME, WEIGHTS_NAME, export_adapter
from locum.compress.pico import pico_generator
from locum.core.errors import CheckFailed, LocumError, ModelFileError
from locum.core.files import write_json
from locum.models.base_files import inspect_base
from locum.models.body import quiet_transformers
from locum.models.causal import load_causal, load_chat_tokenizer, save_causal
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import open_model
from locum.schema.training import GeneratorParity

pytest.importorskip("peft")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
FACTS: dict[str, Any] = {"precision": "f16", "too_long": 0, "size_mb": 1.0, "tried": ()}


@dataclass(frozen=True)
class Tuned:
    """A base as GGUF, an adapter of PEFT on it, and what the merged weights say."""

    base: Path
    adapter: Path
    merged: TunedDecoder
    references: list[Reference]


def make_tuned(root: Path, model_type: str, **options: Any) -> Tuned:
    from peft import LoraConfig, get_peft_model

    pico = pico_generator(root, model_type, rows=3)
    base = inspect_base(pico.folder)
    write_decoder(TunedDecoder(pico.folder), root / "base.gguf", kind="f16", name="base")
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | options)
    torch.manual_seed(2)
    with quiet_transformers():
        model = get_peft_model(load_causal(base), config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zeros would change nothing
                torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(root / "adapter")
        merged = model.merge_and_unload()
    save_causal(merged, load_chat_tokenizer(base), base, root / "merged", [2])
    decoder = TunedDecoder(root / "merged")
    references = read_references(decoder, pico.rows, context=256, scored_tokens=16, answer_tokens=8)
    return Tuned(root / "base.gguf", root / "adapter", decoder, references)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return make_tuned(tmp_path_factory.mktemp("llama"), "llama")


def parity(tuned: Tuned, adapters: dict[str, Path], adapter: str | None) -> GeneratorParity:
    settings = EngineSettings(n_ctx=128, slots=1, threads=1, adapters=adapters)
    model = open_model(tuned.base, settings)
    try:
        said = ask(model, tuned.references, answer_tokens=8, adapter=adapter)
    finally:
        model.close()
    written = [tuned.merged.write(row.prompt, 8, each.answer) for row, each in zip(tuned.references, said, strict=True)]
    return compare(tuned.references, written, said, tuned.merged.encode, (0.02, 1.02, 0.5), **FACTS)


@pytest.mark.engines
@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("llama", {}),
        ("qwen2", {"use_rslora": True}),
        ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 16}}),
    ],
)
def test_base_and_adapter_answer_as_the_merged_weights(
    model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    tuned = make_tuned(tmp_path, model_type, **options)
    export_adapter(tuned.adapter, tuned.base, tmp_path / "adapter.gguf")
    adapters = {"tuned": tmp_path / "adapter.gguf"}
    with_it, without = parity(tuned, adapters, "tuned"), parity(tuned, adapters, None)
    assert with_it.passed and with_it.mean_gap < 0.01, with_it
    assert without.mean_gap > 0.2 and without.equal_answers < with_it.equal_answers


@pytest.mark.engines
def test_one_base_serves_several_adapters(llama: Tuned, tmp_path: Path) -> None:
    other = make_tuned(tmp_path / "other", "llama", r=2, lora_alpha=8)
    adapters = {"one": tmp_path / "one.gguf", "two": tmp_path / "two.gguf"}
    export_adapter(llama.adapter, llama.base, adapters["one"])
    export_adapter(other.adapter, llama.base, adapters["two"])  # pico bases of one family are the same
    assert parity(llama, adapters, "one").passed and parity(other, adapters, "two").passed
    assert not parity(llama, adapters, "two").passed


def changed(tuned: Tuned, folder: Path, weights: Any = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = json.loads((tuned.adapter / CONFIG_NAME).read_text(encoding="utf-8"))
    write_json(folder / CONFIG_NAME, content | config)
    (folder / WEIGHTS_NAME).write_bytes((tuned.adapter / WEIGHTS_NAME).read_bytes())
    if weights is not None:
        from safetensors.torch import load_file, save_file

        save_file(weights(load_file(folder / WEIGHTS_NAME)), folder / WEIGHTS_NAME)
    return folder


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "loftq"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.w1"]}, "target_parameters"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"use_qalora": True}, "use_qalora"),
        ({"a_setting_of_next_year": 0.5}, "a_setting_of_next_year"),
    ],
)
def test_what_a_pair_of_matrices_cannot_say_is_refused(
    config: dict[str, Any], said: str, llama: Tuned, tmp_path: Path
) -> None:
    with pytest.raises(LocumError, match=said) as caught:
        export_adapter(changed(llama, tmp_path / "a", **config), llama.base, tmp_path / "a.gguf")
    assert caught.value.code == "compress-export" and "merged" in caught.value.fix
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize(
    "options", [{"init_lora_weights": "pissa"}, {"use_dora": True}, {"init_lora_weights": "olora"}]
)
def test_an_adapter_that_is_no_plain_lora_differs_from_peft_even_where_its_settings_are_overlooked(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = make_tuned(tmp_path, "llama", **options)
    monkeypatch.setattr(gguf_adapter, "_refuse_config", lambda *_: None)
    if "use_dora" in options:  # its magnitudes have no place; leave them out as an exporter that knows of none would
        weights = gguf_adapter._read(tuned.adapter)
        plain = {name: values for name, values in weights.items() if "magnitude" not in name}
        monkeypatch.setattr(gguf_adapter, "_read", lambda _: plain)
    with pytest.raises(CheckFailed) as caught:
        export_adapter(tuned.adapter, tuned.base, tmp_path / "a.gguf")
    assert caught.value.code == "compress-parity" and not (tmp_path / "a.gguf").exists()


def test_modules_that_peft_would_not_adapt_are_found(llama: Tuned, tmp_path: Path) -> None:
    adapter = changed(llama, tmp_path / "a", target_modules=["q_proj"])
    with pytest.raises((CheckFailed, LocumError)) as caught:
        export_adapter(adapter, llama.base, tmp_path / "a.gguf")
    assert caught.value.code == "compress-parity"


def test_plain_ways_to_begin_are_no_reason_to_refuse(tmp_path: Path) -> None:
    tuned = make_tuned(tmp_path, "llama", init_lora_weights="gaussian", use_rslora=True, alpha_pattern={"v_proj": 3})
    export_adapter(tuned.adapter, tuned.base, tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").is_file()


def test_tensors_that_are_no_pairs_are_refused(llama: Tuned, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    adapter = changed(llama, tmp_path / "a", lambda weights: weights | {name: torch.ones(64)})
    with pytest.raises(LocumError, match="lora_magnitude_vector") as caught:
        export_adapter(adapter, llama.base, tmp_path / "a.gguf")
    assert caught.value.code == "compress-export"


@pytest.mark.parametrize(
    "weights",
    [
        lambda w: {name: tensor for name, tensor in w.items() if "lora_A" in name},
        lambda w: {name: tensor[:, :3] if "lora_A" in name else tensor for name, tensor in w.items()},
        lambda w: {name.replace("layers.0", "layers.9"): tensor for name, tensor in w.items()},
        lambda w: {},
    ],
)
def test_an_adapter_of_another_base_is_refused(weights: Any, llama: Tuned, tmp_path: Path) -> None:
    def contiguous(found: Any) -> Any:
        return {name: tensor.contiguous() for name, tensor in weights(found).items()}

    with pytest.raises(ModelFileError) as caught:
        export_adapter(changed(llama, tmp_path / "a", contiguous), llama.base, tmp_path / "a.gguf")
    assert caught.value.code == "models-damaged"


def test_an_adapter_without_weights_is_refused(llama: Tuned, tmp_path: Path) -> None:
    adapter = changed(llama, tmp_path / "a")
    (adapter / WEIGHTS_NAME).unlink()
    with pytest.raises(ModelFileError, match="missing") as caught:
        export_adapter(adapter, llama.base, tmp_path / "a.gguf")
    assert caught.value.code == "models-file-missing"


def test_the_file_holds_scaled_pairs(llama: Tuned, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from safetensors.torch import load_file

    export_adapter(llama.adapter, llama.base, tmp_path / "a.gguf")
    found = {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    given = load_file(llama.adapter / WEIGHTS_NAME)
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
    np.testing.assert_array_equal(found["blk.1.ffn_down.weight.lora_a"], given[key.format("A")].numpy())
    np.testing.assert_allclose(
        found["blk.1.ffn_down.weight.lora_b"], given[key.format("B")].numpy() * 1.5, rtol=1e-6
    )  # alpha 6 over rank 4
