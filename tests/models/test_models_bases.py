"""Bases: loaded as transformers loads them, and refused when they must be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from locum.core.errors import ModelFileError
from locum.models.architectures import ARCHITECTURES, transformer_layers
from locum.models.base_files import inspect_base, weight_files
from locum.models.body import load_body
from locum.models.pico import pico_base
from locum.models.tokenizer import open_tokenizer, write_tokenizer

WORDS = ["card", "cash", "pin", "lost", "blocked"]


@pytest.fixture(params=["bert", "modernbert", "llama"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return pico_base(tmp_path / "base", WORDS, request.param, layers=3)


def refused(path: Path) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        load_body(inspect_base(path))
    assert str(path.name) in caught.value.where or str(path) in caught.value.where
    return caught.value


def test_body_equals_transformers_own_loading(base: Path) -> None:
    from transformers import AutoModel

    ids = torch.tensor([[2, 4, 5, 3], [2, 6, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    reference = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    ours = load_body(inspect_base(base)).eval()
    expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    states = ours(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4)


def test_depth_keeps_the_first_layers(base: Path) -> None:
    found = inspect_base(base)
    whole, cut = load_body(found), load_body(found, depth=2)
    kept = transformer_layers(cut, found.architecture)
    assert len(kept) == 2
    for mine, original in zip(kept, transformer_layers(whole, found.architecture), strict=False):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, original.state_dict()[name])


@pytest.mark.parametrize("depth", [0, 4])
def test_depth_out_of_range_is_refused(base: Path, depth: int) -> None:
    with pytest.raises(ModelFileError, match="not within 1 and 3"):
        load_body(inspect_base(base), depth=depth)


def test_every_architecture_is_one_that_transformers_knows() -> None:
    from transformers import AutoConfig, AutoModel

    for architecture in ARCHITECTURES.values():
        config = AutoConfig.for_model(architecture.model_type)
        assert hasattr(config, architecture.depth_field), architecture
        small = {architecture.depth_field: 2, "vocab_size": 16, "pad_token_id": 0}
        small |= {
            name: 16 for name in ("hidden_size", "intermediate_size", "dim", "hidden_dim") if hasattr(config, name)
        }
        heads = ("num_attention_heads", "n_heads", "num_key_value_heads")
        small |= {name: 2 for name in heads if hasattr(config, name)}
        module = AutoModel.from_config(AutoConfig.for_model(architecture.model_type, **small))
        assert len(transformer_layers(module, architecture)) == 2, architecture


def test_tokenizer_of_a_folder_is_copied(base: Path, tmp_path: Path) -> None:
    written = write_tokenizer(inspect_base(base), tmp_path / "out")
    assert written.read_bytes() == (base / "tokenizer.json").read_bytes()
    assert len(open_tokenizer(written, 3, 9).encode(["card cash pin lost"])[0]) == 3


def test_fault_26_pickle_weights_are_refused(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    assert refused(base).code == "models-pickle"


def test_fault_26_pickle_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"PK\x03\x04")
    assert refused(path).code == "models-pickle"


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_fault_27_nan_weights_are_refused_before_anything_is_loaded(base: Path, bad: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name][0, 0] = bad
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=f"NaN or infinity in {name!r}") as caught:
        inspect_base(base)
    assert caught.value.code == "models-nan"


def test_fault_27_nan_weights_of_a_gguf_file_are_refused(tmp_path: Path) -> None:
    from gguf import GGUFReader

    from locum.compress.gguf_export import export_gguf
    from locum.compress.pico import pico_student

    student = pico_student(tmp_path / "student", "llama", depth=2)
    path = tmp_path / "m.gguf"
    export_gguf(student.load(), student.folder / "tokenizer.json", path, kind="q8_0", name="pico")
    load_body(inspect_base(path))
    block = next(each for each in GGUFReader(path, "r+").tensors if each.tensor_type.name == "Q8_0").data
    block[0, :2] = (0x00, 0x7E)  # the scale of the first 32 weights: NaN in half precision
    block.flush()
    assert refused(path).code == "models-nan"


@pytest.mark.parametrize("damage", ["truncated", "long-header", "overlap"])
def test_fault_27_headers_that_do_not_fit_are_refused(base: Path, damage: str) -> None:
    path = base / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if damage == "truncated":
        path.write_bytes(content[:-64])
    elif damage == "long-header":
        path.write_bytes((200 << 20).to_bytes(8, "little") + content[8:])
    else:
        header = json.loads(content[8 : 8 + length])
        names = [name for name in header if name != "__metadata__"]
        header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert refused(base).code == "models-damaged"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_fault_28_remote_code_is_refused(base: Path, name: str) -> None:
    content = json.loads((base / name).read_text())
    (base / name).write_text(json.dumps({**content, "auto_map": {"AutoModel": "modeling.Evil"}}))
    (base / "modeling.py").write_text("raise SystemExit('ran')")
    assert refused(base).code == "models-remote-code"


def test_fault_30_tokenizer_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    other = pico_base(tmp_path / "other", [f"word{n}" for n in range(40)])
    with pytest.raises(ModelFileError, match="ids up to 43, the model has 9"):
        open_tokenizer(other / "tokenizer.json", 16, 9)
    assert open_tokenizer(base / "tokenizer.json", 16, 9).largest_id == 8


def test_fault_31_missing_shard_is_named(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    error = refused(base)
    assert error.code == "models-file-missing"
    assert "model-00002-of-00002.safetensors" in error.cause


def test_fault_31_lfs_pointer_is_named(base: Path) -> None:
    (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert refused(base).code == "models-lfs-pointer"


def test_shard_name_may_not_leave_the_folder(base: Path) -> None:
    (base / "model.safetensors").rename(base.parent / "x.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(ModelFileError, match="not a file of the folder"):
        weight_files(base)


def test_missing_tensor_is_refused(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    del tensors[next(name for name in tensors if ".1." in name)]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert "missing" in refused(base).cause


def test_fault_33_unsupported_architecture_lists_what_is_supported(base: Path) -> None:
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**content, "model_type": "modern-bert"}))
    error = refused(base)
    assert error.code == "models-unsupported"
    assert "nearest: modernbert" in error.cause
    assert all(name in error.fix for name in ARCHITECTURES)


def gguf_file(path: Path, architecture: str) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_fault_33_unsupported_gguf_architecture(tmp_path: Path) -> None:
    error = refused(gguf_file(tmp_path / "m.gguf", "mamba"))
    assert error.code == "models-unsupported"
    assert "llama" in error.fix


def test_gguf_is_recognised_by_its_metadata(tmp_path: Path) -> None:
    found = inspect_base(gguf_file(tmp_path / "m.gguf", "llama"))
    assert (found.gguf, found.architecture.model_type) == ("m.gguf", "llama")


def test_fault_24_damaged_gguf_is_refused(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "m.gguf", "llama")
    path.write_bytes(path.read_bytes()[:20])
    assert refused(path).code == "models-damaged"


def test_something_else_is_not_a_base(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert refused(text).code == "models-not-a-base"
    assert refused(tmp_path / "absent").code == "models-not-a-base"
    with pytest.raises(ModelFileError, match=r"config\.json is missing"):
        inspect_base(tmp_path)
