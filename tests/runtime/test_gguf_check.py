"""GGUF headers: good ones are read, every way of lying is refused before an engine sees it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.core.errors import ModelFileError
from locum.runtime.gguf_check import check_gguf, require_one_file
from locum.runtime.gguf_read import MAX_ARRAY_STRINGS
from locum.runtime.gguf_vocabulary import wordpiece

U32, BOOL, STRING, ARRAY, U64 = 4, 7, 8, 9, 10


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


PAIRS = [
    pair("general.architecture", STRING, text("llama")),
    pair("llama.embedding_length", U32, struct.pack("<I", 4)),
    pair("llama.context_length", U32, struct.pack("<I", 128)),
    pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("bc")),
    pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ2f", 6, 2, 0.0, 1.0)),
]
TENSORS = [tensor("a.weight", (4, 3), 0, 0), tensor("b.weight", (32, 2), 8, 64)]  # 48 bytes, padded; 68 bytes


def gguf(
    pairs: list[bytes] = PAIRS,
    tensors: list[bytes] = TENSORS,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 64 + 68,
    alignment: int = 32,
) -> bytes:
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    header = magic + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return header + b"\0" * (-len(header) % alignment) + b"\0" * data


def check(tmp_path: Path, content: bytes, name: str = "model.gguf") -> Any:
    (tmp_path / name).write_bytes(content)
    return check_gguf(tmp_path / name)


def refusal(tmp_path: Path, content: bytes, words: str) -> str:
    """The code of the error, which must say ``words``."""
    with pytest.raises(ModelFileError, match=words) as caught:
        check(tmp_path, content)
    return caught.value.code


def test_a_good_header_is_read(tmp_path: Path) -> None:
    header = check(tmp_path, gguf())
    assert (header.architecture, header.embedding_length, header.context_length) == ("llama", 4, 128)
    assert header.tensors == [("a.weight", (4, 3), "F32"), ("b.weight", (32, 2), "Q8_0")]
    assert header.parameters == 12 + 64
    assert header.metadata["tokenizer.ggml.tokens"] == 2


def test_the_real_writer_agrees(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("gguf")
    writer = library.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_embedding_length(64)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("x", numpy.ones((3, 64), dtype=numpy.float32))
    writer.add_tensor("y", numpy.ones((5,), dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = check_gguf(tmp_path / "model.gguf")
    assert header.tensors == [("x", (64, 3), "F32"), ("y", (5,), "F16")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gguf(magic=b"GGML"), "does not start with GGUF"),
        (b"GGUF", "no model"),
        (gguf(counts=(2**63, 5)), "do not fit"),
        (gguf(counts=(2, 2**62)), "do not fit"),
        (gguf([*PAIRS, PAIRS[0]]), "stands twice"),
        (gguf(PAIRS[1:]), "general.architecture"),
        (gguf([*PAIRS, pair("x", 99, b"")]), "unknown type"),
        (gguf([*PAIRS, pair("x", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "array of type"),
        (gguf([*PAIRS, pair("x", ARRAY, struct.pack("<IQ", U64, 2**61))]), "do not fit"),
        (gguf([*PAIRS, pair("x", STRING, struct.pack("<Q", 2**64 - 1))]), "claims"),
        (gguf([*PAIRS, pair("general.alignment", U32, struct.pack("<I", 24))]), "power of two"),
        (gguf([*PAIRS, pair("general.alignment", U32, struct.pack("<I", 0))]), "power of two"),
        (gguf([*PAIRS, pair("general.alignment", U64, struct.pack("<Q", 32))]), "power of two in 32 bits"),
        (gguf([*PAIRS, pair("general.alignment", BOOL, b"\1")]), "power of two"),
        (gguf([*PAIRS, pair("", U32, struct.pack("<I", 1))]), "is empty"),
        (gguf([*PAIRS, pair("k" * 70_000, U32, struct.pack("<I", 1))]), "too long"),
        (gguf([*PAIRS[:4], pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQf", 6, 1, 0.0))]), "the 2 tokens"),
        (gguf([*PAIRS[:4], pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ2I", U32, 2, 0, 0))]), "the 2 tokens"),
        (gguf([*PAIRS, pair("tokenizer.ggml.token_type", U32, struct.pack("<I", 2))]), "the 2 tokens"),
        (gguf([PAIRS[0], PAIRS[4]]), "the None tokens"),
        (gguf([PAIRS[0], pair("llama.embedding_length", U32, struct.pack("<I", 0))]), "no model has"),
        (gguf([PAIRS[0], pair("llama.block_count", U32, struct.pack("<I", 2**32 - 1))]), "no model has"),
        (gguf([PAIRS[0], pair("llama.block_count", STRING, text("12"))]), "no model has"),
        (gguf(tensors=[TENSORS[0], tensor("a.weight", (32, 2), 8, 64)]), "stands twice"),
        (gguf(tensors=[tensor("n" * 64, (4, 3), 0, 0)]), "too long"),
        (gguf(tensors=[tensor("", (4, 3), 0, 0)]), "empty"),
        (gguf(tensors=[tensor("a\0b", (4, 3), 0, 0)]), "zero byte"),
        (gguf(tensors=[tensor("a", (4, 0), 0, 0)]), "holds nothing"),
        (gguf(tensors=[tensor("a", (1, 1, 1, 1, 1), 0, 0)]), "5 dimensions"),
        (gguf(tensors=[TENSORS[0], tensor("b", (32, 2), 8, 65)]), "offset 65"),
        (gguf(tensors=[TENSORS[0], tensor("b", (32, 2), 8, 0)]), "offset 0"),
        (gguf(tensors=[tensor("a", (31, 2), 8, 0)]), "blocks of 32"),
        (gguf()[:100], "claims"),
    ],
)
def test_fault_24_lies_in_the_header_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    assert refusal(tmp_path, content, words) == "runtime-damaged"


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ((4, 2**40), "claims"),
        ((2**32, 2**31), "overflow"),
        ((2**62, 4, 4), "overflow"),
        ((2**63, 1), "overflow"),
        ((4, 20), "after the end"),
    ],
)
def test_fault_25_tensors_beyond_the_file_are_refused(tmp_path: Path, dims: tuple[int, ...], words: str) -> None:
    assert refusal(tmp_path, gguf(tensors=[tensor("a", dims, 0, 0)]), words) == "runtime-damaged"


@pytest.mark.parametrize("missing", [1, 32, 131])
def test_fault_25_a_truncated_file_is_refused(tmp_path: Path, missing: int) -> None:
    assert refusal(tmp_path, gguf()[:-missing], f"{missing} bytes after the end") == "runtime-damaged"


@pytest.mark.parametrize("version", [1, 4, 99])
def test_fault_33_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    assert refusal(tmp_path, gguf(version=version), f"version {version}") == "runtime-unsupported"


def test_fault_33_big_endian_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, gguf(version=3 << 24), "big-endian") == "runtime-unsupported"


def test_fault_33_an_unknown_quantisation_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        check(tmp_path, gguf(tensors=[tensor("a", (32,), 77, 0)]))
    assert caught.value.code == "runtime-unsupported"
    assert "Q4_K" in caught.value.fix and "77" in caught.value.cause


def shards(folder: Path, *, later: int = 1, count: int = 2, told: int = 2) -> Path:
    """A model in two files as llama.cpp's tools write it: all metadata in the first only; returns the first."""

    def split(number: int) -> list[bytes]:
        total = pair("split.tensors.count", 5, struct.pack("<i", told))
        places = (("split.no", number), ("split.count", count))
        return [*(pair(key, 2, struct.pack("<H", value)) for key, value in places), total]

    first = folder / "m-00001-of-00002.gguf"
    first.write_bytes(gguf([*PAIRS, *split(0)], TENSORS[:1], data=48))
    second = gguf(split(later), [tensor("b.weight", (32, 2), 8, 0)], data=68)
    (folder / "m-00002-of-00002.gguf").write_bytes(second)
    return first


def test_a_split_model_tells_what_it_is_in_its_first_file_alone(tmp_path: Path) -> None:
    header = check_gguf(shards(tmp_path))
    assert (header.architecture, [name for name, _, _ in header.tensors]) == ("llama", ["a.weight", "b.weight"])
    assert header.parameters == 12 + 64


def test_a_later_file_of_a_split_model_is_told_which_is_the_first(tmp_path: Path) -> None:
    first = shards(tmp_path)
    with pytest.raises(ModelFileError, match="file 2 of 2") as caught:
        check_gguf(tmp_path / "m-00002-of-00002.gguf")
    assert caught.value.fix == f"give the first file: {first.name}"


@pytest.mark.parametrize("wrong", [{"later": 2}, {"told": 3}])
def test_files_that_are_not_one_model_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_gguf(shards(tmp_path, **wrong))
    assert caught.value.code == "runtime-mismatch"


def test_a_file_that_says_no_architecture_and_only_claims_to_be_a_later_one_is_refused(tmp_path: Path) -> None:
    lonely = gguf([pair("split.no", 2, struct.pack("<H", 1)), *PAIRS[1:]])
    assert refusal(tmp_path, lonely, "header file 2") == "runtime-mismatch"


def test_what_takes_one_file_refuses_a_split_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="in 2") as caught:
        require_one_file(shards(tmp_path), "training")
    assert "--merge" in caught.value.fix
    (tmp_path / "whole.gguf").write_bytes(gguf())
    require_one_file(tmp_path / "whole.gguf", "training")


def test_fault_31_a_missing_shard_is_named(tmp_path: Path) -> None:
    first = shards(tmp_path)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.gguf is missing"):
        check_gguf(first)


def test_fault_31_a_damaged_second_shard_is_refused(tmp_path: Path) -> None:
    first = shards(tmp_path)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"GGUF garbage and nothing else, really")
    with pytest.raises(ModelFileError, match="m-00002"):
        check_gguf(first)


def test_a_shard_under_another_name_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path, gguf([*PAIRS, pair("split.count", 2, struct.pack("<H", 2))]), "one of 2 files")
        == "runtime-mismatch"
    )


def test_fault_26_a_pickle_named_gguf_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"\x80\x04" + b"\0" * 40, "pickle") == "runtime-pickle"


def test_fault_24_memory_and_time_are_bounded_whatever_the_counts_say(tmp_path: Path) -> None:
    strings = pair("x", ARRAY, struct.pack("<IQ", STRING, MAX_ARRAY_STRINGS + 1))
    path = tmp_path / "model.gguf"
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + strings
    with path.open("wb") as file:  # sparse: the length is there, the bytes are not
        file.write(start)
        file.truncate(len(start) + 8 * (MAX_ARRAY_STRINGS + 1))
    with pytest.raises(ModelFileError, match="no model has"):
        check_gguf(path)
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 2**25))
        file.truncate(2**30)
    with pytest.raises(ModelFileError, match="no model has"):
        check_gguf(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_gguf(tmp_path / "none.gguf")
    assert caught.value.code == "runtime-file-missing"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fault_24_no_bytes_make_the_reader_fail_otherwise(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(gguf())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check(tmp_path, bytes(content))
    except ModelFileError as error:
        assert error.code.startswith("runtime-")


def test_the_wordpiece_of_a_file_keeps_vowels_and_splits_as_its_vocabulary_did(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers.implementations")
    syllables = [
        "\u1100",
        "\u1100\u1161\u11bc",
        "\u1100\u1169\u11bc",
        "\u0928",
        "\u0928\u093e\u092e",
        "\u0928\u092e\u0940",
    ]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "river", "ball", "##s", "a", ",", *syllables, "##\u1161", "##\u0940"]
    stored = [each if each[0] == "[" else each[2:] if each[:2] == "##" else f"\u2581{each}" for each in words]
    listed = struct.pack("<IQ", STRING, len(stored)) + b"".join(text(each) for each in stored)
    named = pair("tokenizer.ggml.model", STRING, text("bert"))
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([PAIRS[0], named, pair("tokenizer.ggml.tokens", ARRAY, listed)]))
    ours = wordpiece(path, check_gguf(path))
    assert ours is not None
    theirs = tokenizers.BertWordPieceTokenizer({word: place for place, word in enumerate(words)}, lowercase=True)
    for said in ("Rivers, a ball", "\uac15", "\uacf5", "\ub098\ubb34", "\u0928\u093e\u092e \u0928\u092e\u0940", ""):
        assert ours.encode(said).ids == theirs.encode(said).ids
    assert ours.encode("\uac15").ids != ours.encode("\uacf5").ids
    assert wordpiece(tmp_path / "m.gguf", check(tmp_path, gguf())) is None
