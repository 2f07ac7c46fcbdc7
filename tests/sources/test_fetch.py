"""Sources are tried in order, everything is verified, and offline means offline."""

import pytest

from locum.core.errors import SourceError
from locum.core.files import sha256_bytes
from locum.core.progress import listening
from locum.sources.address import Parts, parse_address
from locum.sources.fetch import Request, cached, fetch, fetch_all, fetch_folder

BODY = b"text,label\nhello,1\n" * 100


def codes(problem):
    return problem.value.code


def test_a_path_is_used_in_place(tmp_path, cache):
    (tmp_path / "train.csv").write_bytes(BODY)
    assert fetch("train.csv", root=tmp_path, sha256=sha256_bytes(BODY)) == tmp_path / "train.csv"
    assert not cache.exists()


def test_a_path_with_another_hash_is_refused(tmp_path, cache):
    (tmp_path / "train.csv").write_bytes(BODY)
    with pytest.raises(SourceError) as caught:
        fetch("train.csv", root=tmp_path, sha256="0" * 64)
    assert codes(caught) == "source-checksum"


def test_a_missing_path_suggests_the_nearest(tmp_path, cache):
    (tmp_path / "train.csv").write_bytes(BODY)
    with pytest.raises(SourceError, match=r"did you mean .*train\.csv") as caught:
        fetch("tarin.csv", root=tmp_path)
    assert codes(caught) == "source-missing"


def test_a_folder_where_a_file_is_needed(tmp_path, cache):
    with pytest.raises(SourceError, match="is a folder, and a file is needed"):
        fetch(str(tmp_path))
    (tmp_path / "a").write_text("x")
    with pytest.raises(SourceError, match="is a file, and a folder is needed"):
        fetch_folder(str(tmp_path / "a"))


def test_the_next_source_is_tried_after_a_404(server, cache, tmp_path):
    server.reply("/good.csv", BODY)
    path = fetch([str(tmp_path / "none.csv"), f"{server.url}/bad.csv", f"{server.url}/good.csv"])
    assert path.read_bytes() == BODY


def test_the_next_source_is_tried_after_a_wrong_hash(server, cache):
    server.reply("/bad.csv", b"something else")
    server.reply("/good.csv", BODY)
    path = fetch([f"{server.url}/bad.csv", f"{server.url}/good.csv"], sha256=sha256_bytes(BODY))
    assert path.read_bytes() == BODY


def test_when_none_answers_every_failure_is_listed(server, cache, tmp_path):
    server.reply("/bad.csv", b"something else")
    with pytest.raises(SourceError) as caught:
        fetch([str(tmp_path / "none.csv"), f"{server.url}/gone.csv", f"{server.url}/bad.csv"], sha256="a" * 64)
    text = str(caught.value)
    assert codes(caught) == "source-unavailable"
    assert "none of 3 sources" in text
    for each in ("none.csv does not exist", "404", "has SHA-256"):
        assert each in text


def test_all_addresses_are_read_before_the_first_is_tried(server, cache):
    server.reply("/good.csv", BODY)
    with pytest.raises(SourceError) as caught:
        fetch([f"{server.url}/good.csv", "hf://nonsense"])
    assert codes(caught) == "source-address"
    assert server.seen == []


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "a" * 63])
def test_a_malformed_hash_is_refused(digest, cache):
    with pytest.raises(SourceError, match="not a SHA-256"):
        fetch("a.csv", sha256=digest)


def test_no_address_at_all(cache):
    with pytest.raises(SourceError, match="no address"):
        fetch([])


def test_first_use_is_recorded_and_held_to(server, cache):
    address = f"{server.url}/a.csv"
    server.reply("/a.csv", BODY)
    events = []
    with listening(events.append):
        path = fetch(address)
    assert any("recorded on first use" in event.label for event in events)
    path.unlink()
    server.reply("/a.csv", b"changed", etag='"v2"')
    with pytest.raises(SourceError, match="on first use") as caught:
        fetch(address)
    assert codes(caught) == "source-checksum"
    server.reply("/a.csv", BODY, etag='"v3"')
    assert fetch(address).read_bytes() == BODY


def test_a_changed_file_in_the_cache_is_fetched_again(server, cache):
    server.reply("/a.csv", BODY)
    for digest in (None, sha256_bytes(BODY)):
        path = fetch(f"{server.url}/a.csv", sha256=digest)
        path.write_bytes(b"tampered")
        assert fetch(f"{server.url}/a.csv", sha256=digest).read_bytes() == BODY


def test_a_damaged_record_is_ignored(server, cache):
    server.reply("/a.csv", BODY)
    fetch(f"{server.url}/a.csv")
    (record,) = (cache / "files").glob("*.json")
    record.write_text("{")
    assert fetch(f"{server.url}/a.csv").read_bytes() == BODY


def test_fault_65_offline_uses_paths_and_cache_only(server, cache, tmp_path, monkeypatch):
    server.reply("/a.csv", BODY)
    (tmp_path / "local.csv").write_bytes(BODY)
    fetch(f"{server.url}/a.csv")
    monkeypatch.setenv("LOCUM_OFFLINE", "1")
    asked = len(server.seen)
    assert fetch(f"{server.url}/a.csv").read_bytes() == BODY
    assert fetch(str(tmp_path / "local.csv")).read_bytes() == BODY
    assert fetch([f"{server.url}/b.csv", str(tmp_path / "local.csv")]).read_bytes() == BODY
    with pytest.raises(SourceError) as caught:
        fetch([f"{server.url}/b.csv", "pypi://some-package==1.0/a.csv", "hf://datasets/o/n/a.csv"])
    assert codes(caught) == "source-offline"
    for each in ("b.csv", "some-package", "hf://datasets/o/n/a.csv"):
        assert each in str(caught.value)
    assert len(server.seen) == asked


def test_fault_65_offline_by_argument(server, cache):
    with pytest.raises(SourceError) as caught:
        fetch(f"{server.url}/b.csv", offline=True)
    assert codes(caught) == "source-offline"
    assert server.seen == []


def test_cached_says_what_would_be_downloaded(server, cache, tmp_path):
    server.reply("/a.csv", BODY)
    assert cached(f"{server.url}/a.csv") is None
    path = fetch(f"{server.url}/a.csv")
    assert cached(f"{server.url}/a.csv") == path
    assert cached(str(tmp_path / "none.csv")) is None
    assert len(server.seen) == 1


def test_parts_are_joined_in_order_and_kept_when_interrupted(server, cache):
    pieces = [b"one" * 1000, b"two" * 1000, b"three" * 1000]
    whole = b"".join(pieces)
    for number, piece in enumerate(pieces[:2]):
        server.reply(f"/part{number}", piece)
    parts = Parts("whole.gguf", tuple(parse_address(f"{server.url}/part{number}") for number in range(3)))
    with pytest.raises(SourceError):
        fetch(parts, sha256=sha256_bytes(whole))
    server.reply("/part2", pieces[2])
    path = fetch(parts, sha256=sha256_bytes(whole))
    assert path.name == "whole.gguf"
    assert path.read_bytes() == whole
    assert len(server.gets("/part0")) == 1
    assert not list(cache.rglob("*.parts"))


def test_fetch_all_names_every_file(server, cache):
    server.reply("/a.csv", BODY)
    server.reply("/b.csv", BODY[::-1])
    found = fetch_all({name: Request(f"{server.url}/{name}.csv") for name in ("a", "b")})
    assert {name: path.read_bytes() for name, path in found.items()} == {"a": BODY, "b": BODY[::-1]}


def test_folder_over_https_needs_names_and_keeps_what_arrived(server, cache):
    files = {"config.json": sha256_bytes(b"{}"), "sub/weights.bin": sha256_bytes(BODY)}
    server.reply("/model/config.json", b"{}")
    with pytest.raises(SourceError):
        fetch_folder(f"{server.url}/model/", files)
    server.reply("/model/sub/weights.bin", BODY)
    folder = fetch_folder(f"{server.url}/model/", files)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["config.json", "weights.bin"]
    assert len(server.gets("/model/config.json")) == 1
    assert fetch_folder(f"{server.url}/model/", files, offline=True) == folder
    with pytest.raises(SourceError, match="cannot be listed"):
        fetch_folder(f"{server.url}/model/")


def test_folder_with_one_wrong_hash_is_refused_as_a_whole(server, cache):
    server.reply("/model/a", b"a")
    server.reply("/model/b", b"b")
    with pytest.raises(SourceError) as caught:
        fetch_folder(f"{server.url}/model/", {"a": sha256_bytes(b"a"), "b": sha256_bytes(b"not b")})
    assert codes(caught) == "source-checksum"
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")]


def test_a_folder_on_disk_is_checked_in_place(tmp_path, cache):
    (tmp_path / "config.json").write_bytes(b"{}")
    assert fetch_folder(str(tmp_path), {"config.json": sha256_bytes(b"{}")}) == tmp_path
    with pytest.raises(SourceError, match=r"has no tokenizer\.json"):
        fetch_folder(str(tmp_path), {"config.json": None, "tokenizer.json": None})
    with pytest.raises(SourceError, match="has SHA-256"):
        fetch_folder(str(tmp_path), {"config.json": "0" * 64})


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a*"])
def test_fault_16_a_file_name_cannot_leave_the_folder(server, cache, name):
    with pytest.raises(SourceError):
        fetch_folder(f"{server.url}/model/", {name: None})


def test_file_and_folder_addresses_are_not_mixed_up(cache):
    with pytest.raises(SourceError, match="is a folder"):
        fetch("pypi://a==1/b/")
    with pytest.raises(SourceError, match="is a file"):
        fetch_folder("hf://o/n/a.json")
