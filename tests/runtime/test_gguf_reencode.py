"""Files that an engine reads inexactly, encoded anew: nearly the same weights, the same metadata, made once."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from locum.core.errors import DeviceError, ModelFileError, UserError
from locum.runtime import gguf_reencode
from locum.runtime.completion import CompletionRequest, TokenLogprob
from locum.runtime.gguf_check import check_gguf
from locum.runtime.gguf_reencode import reencoded
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import open_model
from locum.runtime.openvino_generator import EXACT
from locum.schema.message import Message

gguf = pytest.importorskip("gguf")
TYPES = gguf.GGMLQuantizationType
WIDE = np.random.default_rng(0).normal(0.1, 1, (6, 256)).astype(np.float32)
BLOCKS = ("Q4_1", "Q5_0", "Q5_1")  # with and without an offset


def written(path: Path, kind: str = "Q4_1") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_file_type(3)
    writer.add_token_list(["a", "é", "c"])
    writer.add_token_scores([0.5, -1.0, 0.25])
    writer.add_array("own.numbers", [1, 2, 3])
    writer.add_bool("own.flag", True)
    blocks = gguf.quants.quantize(WIDE, TYPES[kind])
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=TYPES[kind])
    writer.add_tensor("output_norm.weight", WIDE[0])
    writer.add_tensor("output.weight", gguf.quants.quantize(WIDE, TYPES.Q8_0), raw_dtype=TYPES.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return fields, {tensor.name: (tensor.tensor_type, tensor.data) for tensor in reader.tensors}


@pytest.mark.parametrize("kind", BLOCKS)
def test_weights_stay_within_half_a_level_and_all_else_as_it_was(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "m.gguf", kind)
    copy = reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache")
    assert {name for _, _, name in check_gguf(copy).tensors} <= EXACT
    (before, tensors), (after, encoded) = contents(path), contents(copy)
    assert {**before, "general.file_type": 0} == {**after, "general.file_type": 0}
    assert after["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    for name in ("output_norm.weight", "output.weight"):
        assert tensors[name][0] == encoded[name][0]
        np.testing.assert_array_equal(tensors[name][1], encoded[name][1])
    said, heard = (gguf.quants.dequantize(data, of) for of, data in (tensors["blk.0.attn_q.weight"],
                                                                     encoded["blk.0.attn_q.weight"]))  # fmt: skip
    largest = np.abs(said.reshape(-1, 32)).max(axis=1, keepdims=True)
    assert np.all(np.abs(said - heard).reshape(-1, 32) <= 0.0045 * largest)


def test_a_file_of_exact_types_is_taken_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", "Q8_0")
    assert reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache") == path
    assert not (tmp_path / "cache").exists()


def test_the_copy_is_made_once_for_a_file_and_anew_for_a_changed_one(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf")
    first = reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache")
    stamp = first.stat().st_mtime_ns
    assert reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == stamp
    written(path, "Q5_1")
    assert reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache") != first


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m.gguf")

    def fail(*_: Any) -> Any:
        raise KeyError("stands for a kill")

    with monkeypatch.context() as patch:
        patch.setattr(gguf_reencode, "_tensor", fail)
        with pytest.raises(KeyError):
            reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    assert reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache").is_file()


def test_fault_37_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "m.gguf")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=1, used=1, free=1000))
    with pytest.raises(DeviceError) as caught:
        reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache")
    assert caught.value.code == "core-disk-full"
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_fault_33_a_type_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    strange = SimpleNamespace(name="w", tensor_type=TYPES.Q8_K, data=np.zeros((1, 292), np.uint8))
    with pytest.raises(ModelFileError, match="w is in Q8_K") as caught:
        gguf_reencode._tensor(gguf, strange, EXACT, tmp_path)
    assert caught.value.code == "runtime-unsupported"


def test_rows_that_do_not_divide_into_blocks_keep_16_bits(tmp_path: Path) -> None:
    narrow = SimpleNamespace(name="w", tensor_type=TYPES.BF16, data=np.zeros((2, 20), np.uint8))
    values, kind = gguf_reencode._tensor(gguf, narrow, EXACT, tmp_path)
    assert (kind, values.dtype, values.shape) == (TYPES.F16, np.float16, (2, 10))


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError) as caught:
        reencoded(path, check_gguf(path), EXACT, cache=tmp_path / "cache")
    assert caught.value.code == "core-missing-extra"


@pytest.mark.models
@pytest.mark.engines
def test_a_real_model_means_the_same_in_the_copy(tmp_path: Path, smollm2: Path) -> None:
    copy = reencoded(smollm2, check_gguf(smollm2), EXACT, cache=tmp_path)
    subjects = ("the sea", "a train", "two friends", "winter")
    first: list[list[TokenLogprob]] = []
    for path in (smollm2, copy):
        model = open_model(path, EngineSettings(threads=1, n_ctx=256))
        asked = [(Message("user", f"Tell me about {each}."),) for each in subjects]
        answers = [model.complete(CompletionRequest(said, max_tokens=1, logprobs=5, temperature=0)) for said in asked]
        first.append([answer.logprobs[0] for answer in answers])
        model.close()
    gaps = [abs(dict(other.top)[one.token] - one.logprob) for one, other in zip(*first, strict=True)]
    assert np.mean(gaps) < 0.1  # llama.cpp rounds activations too: on these 0.07 from float32 with the file as it is
