"""Tuning of every supported decoder at toy size, and of the smallest real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from train_toys import WORDS, write_conversations

from locum.core.cpu import usable_cores
from locum.models.architectures import ARCHITECTURES
from locum.models.base_files import inspect_base
from locum.models.body import quiet_transformers
from locum.models.causal import load_causal, load_chat_tokenizer
from locum.schema.training import Trained, TuneRequest
from locum.sources.bases import ensure_base
from locum.train import tune
from locum.train.attention import NAME, register
from locum.train.conversations import ChatEncoder
from locum.train.forward import Machine
from locum.train.generating import Decoder
from locum.train.packing import Example, pack

EXACT = Machine(torch.device("cpu"), bfloat16=False)
DECODERS = sorted(name for name, architecture in ARCHITECTURES.items() if architecture.family == "decoder")


def toy(model_type: str, attention: str) -> Any:
    """A random model of a type, with a window that its rows pass where it has one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        **{"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "sliding_window": 6},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "query_pre_attn_scalar": 16},
    }
    torch.manual_seed(7)
    with quiet_transformers():
        config = AutoConfig.for_model(model_type, **sizes)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)


def plain_loss(model: Any, rows: list[Example]) -> torch.Tensor:
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.prompt + row.answer])
        labels = ids.clone()
        labels[0, : len(row.prompt)] = -100
        total = total + model(input_ids=ids, labels=labels).loss * len(row.answer)
    return total


@pytest.mark.parametrize("model_type", DECODERS)
def test_every_decoder_packs_to_the_loss_and_gradients_of_plain_rows(model_type: str) -> None:
    torch.set_num_threads(1)
    register()
    plain, packed = toy(model_type, "eager"), toy(model_type, NAME)
    rows = [Example((*range(5, 15), last), (last, 3, 4)) for last in (20, 21, 22)] + [Example((30, 31), (32,))]
    wanted = plain_loss(plain, rows)
    found = Decoder(packed, ARCHITECTURES[model_type], EXACT).loss(pack(rows))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    wanted.backward()
    found.backward()
    slopes = dict(plain.named_parameters())
    for name, weight in packed.named_parameters():
        torch.testing.assert_close(weight.grad, slopes[name].grad, atol=1e-4, rtol=1e-3)


@pytest.mark.models
@pytest.mark.slow
def test_the_smallest_real_decoder_is_tuned_from_its_gguf_file(tmp_path: Path) -> None:
    torch.set_num_threads(usable_cores())
    path = ensure_base("SmolLM2-135M-Instruct")
    base = inspect_base(path)
    tokenizer = load_chat_tokenizer(base)
    encoder = ChatEncoder(tokenizer, 256, str(path))
    assert tokenizer.decode(encoder.ending) == "<|im_end|>"
    train = write_conversations(tmp_path / "train.jsonl", 8, 1)
    dev = write_conversations(tmp_path / "dev.jsonl", 2, 2)
    rows = encoder.read(dev).examples
    register()
    with torch.no_grad():
        model = load_causal(base)
        wanted = plain_loss(model, rows)
        model.set_attn_implementation(NAME)
        found = Decoder(model, base.architecture, EXACT).loss(pack(rows))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)
    request = TuneRequest(
        **{"base": str(path), "train": str(train), "dev": str(dev), "method": "lora", "layers": 4, "epochs": 3},
        **{"budget_s": 1e5, "seed": 1, "threads": usable_cores(), "max_tokens": 256, "batch_rows": 4},
    )
    (tmp_path / "request.json").write_text(json.dumps(request.to_json()))
    tune.main(tmp_path / "request.json", tmp_path / "out")
    trained = Trained.from_json((tmp_path / "out" / "trained.json").read_text(), "trained.json")
    assert trained.dev_loss is not None
    assert trained.dev_loss < 0.9 * trained.curve[0].dev_loss
    assert trained.settings["frozen_layers"] == 26
    student = inspect_base(tmp_path / "out")
    prompt = load_chat_tokenizer(student).apply_chat_template(
        [{"role": "user", "content": WORDS[0]}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>assistant\n")
