"""``hf://`` through huggingface_hub against a fake hub on loopback."""

import json
from collections import namedtuple

import pytest

from locum.core.errors import DeviceError, SourceError
from locum.core.files import sha256_bytes
from locum.core.progress import listening
from locum.sources import cache as cache_module
from locum.sources.fetch import fetch, fetch_folder

COMMIT = "1" * 40
FILES = {"config.json": b'{"model_type": "bert"}', "sub/data.csv": b"text,label\na,1\n" * 1000}


@pytest.fixture
def hub(server, cache, monkeypatch):
    """A hub with one model and one data set, at one commit and on main."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for api, prefix in (("models", ""), ("datasets", "datasets/")):
        for revision in (COMMIT, "main"):
            for name, body in FILES.items():
                headers = {"X-Repo-Commit": COMMIT}
                etag = f'"{sha256_bytes(body)[:40]}"'
                server.reply(f"/{prefix}o/n/resolve/{revision}/{name}", body, headers=headers, etag=etag)
        siblings = [{"rfilename": name, "size": len(body)} for name, body in FILES.items()]
        info = json.dumps({"_id": "1", "id": "o/n", "sha": COMMIT, "private": False, "siblings": siblings}).encode()
        server.reply(f"/api/{api}/o/n/revision/{COMMIT}", info, headers={"Content-Type": "application/json"})
        server.reply(f"/api/{api}/o/n", info, headers={"Content-Type": "application/json"})
    return server


@pytest.mark.parametrize("kind", ["", "datasets/"])
@pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
def test_a_file(hub, cache, kind, revision):
    events = []
    with listening(events.append):
        path = fetch(f"hf://{kind}o/n{revision}/sub/data.csv", sha256=sha256_bytes(FILES["sub/data.csv"]))
    assert path.name == "data.csv"
    assert path.read_bytes() == FILES["sub/data.csv"]
    assert path.is_file()
    assert not path.is_symlink()
    (done,) = [event for event in events if event.kind == "done"]
    assert done.label == "download data.csv"
    assert done.done == done.total == len(FILES["sub/data.csv"])
    assert not list(cache.rglob("*.hub"))


def test_a_whole_repository_and_a_folder_of_it(hub, cache):
    whole = fetch_folder(f"hf://o/n@{COMMIT}")
    assert (whole / "sub" / "data.csv").read_bytes() == FILES["sub/data.csv"]
    folder = fetch_folder(f"hf://datasets/o/n@{COMMIT}/sub/")
    assert [path.name for path in folder.iterdir()] == ["data.csv"]


def test_named_files_of_a_repository(hub, cache):
    files = {name: sha256_bytes(body) for name, body in FILES.items()}
    folder = fetch_folder(f"hf://o/n@{COMMIT}", files)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert not [path for _method, path, _headers in hub.seen if path.startswith("/api/")]


def test_a_wrong_hash_is_refused(hub, cache):
    with pytest.raises(SourceError) as caught:
        fetch(f"hf://o/n@{COMMIT}/config.json", sha256="0" * 64)
    assert caught.value.code == "source-checksum"


def test_size_cap(hub, cache):
    with pytest.raises(SourceError) as caught:
        fetch(f"hf://o/n@{COMMIT}/sub/data.csv", max_bytes=1000)
    assert caught.value.code == "source-too-large"
    assert not hub.gets(f"/o/n/resolve/{COMMIT}/sub/data.csv")


def test_fault_37_a_full_disk_is_seen_before_the_download(hub, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _folder: usage(1, 1, 1000))
    with pytest.raises(DeviceError) as caught:
        fetch(f"hf://o/n@{COMMIT}/sub/data.csv")
    assert caught.value.code == "core-disk-full"


@pytest.mark.parametrize(
    ("error", "word"),
    [
        ("RepoNotFound", "no such repository"),
        ("RevisionNotFound", "no revision"),
        ("EntryNotFound", "no such file"),
        ("GatedRepo", "terms"),
    ],
)
def test_refusals_are_named_with_a_fix(hub, cache, error, word):
    status = {"GatedRepo": 403, "RepoNotFound": 401}.get(error, 404)
    hub.reply(f"/o/n/resolve/{COMMIT}/x.json", b"", status=status, headers={"X-Error-Code": error}, etag=None)
    with pytest.raises(SourceError, match=word) as caught:
        fetch(f"hf://o/n@{COMMIT}/x.json")
    assert caught.value.fix


def test_the_token_comes_from_the_environment_only(hub, cache, monkeypatch, tmp_path):
    left_by_a_login = tmp_path / "token"
    left_by_a_login.write_text("hf_from_a_file")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(left_by_a_login))
    fetch(f"hf://o/n@{COMMIT}/config.json")
    assert all("authorization" not in {name.lower() for name in headers} for _m, _p, headers in hub.seen)
    monkeypatch.setenv("HF_TOKEN", "hf_from_the_environment")
    fetch(f"hf://datasets/o/n@{COMMIT}/config.json")
    assert any(headers.get("authorization") == "Bearer hf_from_the_environment" for _m, _p, headers in hub.seen)


def test_no_hub_at_all(hub, cache):
    hub.stop()
    with pytest.raises(SourceError) as caught:
        fetch(f"hf://o/n@{COMMIT}/config.json")
    assert caught.value.code == "source-unavailable"
