"""Downloads resume, stay bounded and are never joined from two different files."""

import errno
import shutil
from collections import namedtuple

import pytest

from locum.core.errors import DeviceError, SourceError
from locum.core.files import sha256_bytes
from locum.core.progress import listening
from locum.sources import cache as cache_module
from locum.sources.fetch import fetch

BODY = bytes(range(256)) * 4096


def left_over(cache):
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix not in (".json", ".lock")]


def test_download_is_verified_cached_and_reported(server, cache):
    server.reply("/a.bin", BODY)
    events = []
    with listening(events.append):
        first = fetch(f"{server.url}/a.bin", sha256=sha256_bytes(BODY))
        second = fetch(f"{server.url}/a.bin", sha256=sha256_bytes(BODY))
    assert first == second
    assert first.name == "a.bin"
    assert first.read_bytes() == BODY
    assert len(server.gets("/a.bin")) == 1
    done = [event for event in events if event.kind == "done"]
    assert [(event.done, event.total, event.unit) for event in done] == [(len(BODY), len(BODY), "byte")]


def test_a_cut_download_resumes_where_it_stopped(server, cache):
    server.reply("/a.bin", BODY, cut_after=300_000, cuts=1)
    assert fetch(f"{server.url}/a.bin").read_bytes() == BODY
    first, second = server.gets("/a.bin")
    assert "Range" not in first
    assert second["Range"] == "bytes=300000-"
    assert second["If-Range"] == '"v1"'


def test_a_later_call_resumes_what_an_earlier_one_left(server, cache):
    server.reply("/a.bin", BODY, cut_after=100_000, cuts=99)
    with pytest.raises(SourceError) as caught:
        fetch(f"{server.url}/a.bin")
    assert caught.value.code == "source-truncated"
    (partial,) = left_over(cache)
    size = partial.stat().st_size
    assert 0 < size < len(BODY)
    server.reply("/a.bin", BODY)
    assert fetch(f"{server.url}/a.bin").read_bytes() == BODY
    assert server.gets("/a.bin")[-1]["Range"] == f"bytes={size}-"


def test_a_file_that_changed_in_between_starts_afresh(server, cache):
    server.reply("/a.bin", BODY, cut_after=100_000, cuts=99)
    with pytest.raises(SourceError):
        fetch(f"{server.url}/a.bin")
    changed = BODY[::-1]
    server.reply("/a.bin", changed, etag='"v2"')
    assert fetch(f"{server.url}/a.bin").read_bytes() == changed


def test_without_a_strong_validator_nothing_is_continued(server, cache):
    server.reply("/a.bin", BODY, etag='W/"weak"', cut_after=100_000, cuts=1)
    assert fetch(f"{server.url}/a.bin").read_bytes() == BODY
    assert all("Range" not in headers for headers in server.gets("/a.bin"))


def test_a_server_that_ignores_ranges_is_fine(server, cache):
    server.reply("/a.bin", BODY, ranges=False, cut_after=100_000, cuts=1)
    assert fetch(f"{server.url}/a.bin").read_bytes() == BODY


def test_a_server_that_sends_another_range_is_not_believed(server, cache):
    server.reply("/a.bin", BODY, cut_after=100_000, cuts=99)
    with pytest.raises(SourceError):
        fetch(f"{server.url}/a.bin")
    headers = {"Content-Range": f"bytes 7-{len(BODY) - 1}/{len(BODY)}"}
    server.reply("/a.bin", BODY[7:], status=206, headers=headers, ranges=False)
    with pytest.raises(SourceError, match="changed"):
        fetch(f"{server.url}/a.bin")
    assert left_over(cache) == []


def test_a_body_without_length_is_taken_to_its_end(server, cache):
    server.reply("/a.bin", BODY, announce=False)
    assert fetch(f"{server.url}/a.bin").read_bytes() == BODY


def test_a_wrong_hash_is_refused_and_leaves_nothing(server, cache):
    server.reply("/a.bin", BODY)
    with pytest.raises(SourceError) as caught:
        fetch(f"{server.url}/a.bin", sha256="0" * 64)
    assert caught.value.code == "source-checksum"
    assert sha256_bytes(BODY) in str(caught.value)
    assert left_over(cache) == []


@pytest.mark.parametrize(("status", "word"), [(404, "not there"), (403, "forbidden"), (401, "login"), (418, "418")])
def test_error_statuses_are_named_at_once(server, cache, status, word):
    server.reply("/a.bin", b"no", status=status)
    with pytest.raises(SourceError, match=word):
        fetch(f"{server.url}/a.bin")
    assert len(server.gets("/a.bin")) == 1


def test_a_busy_server_is_asked_again_a_bounded_number_of_times(server, cache):
    server.reply("/a.bin", b"", status=503, headers={"Retry-After": "0"})
    with pytest.raises(SourceError, match="503"):
        fetch(f"{server.url}/a.bin")
    assert len(server.gets("/a.bin")) == 4


@pytest.mark.parametrize("announce", [True, False])
def test_size_cap(server, cache, announce):
    server.reply("/a.bin", BODY, announce=announce)
    with pytest.raises(SourceError) as caught:
        fetch(f"{server.url}/a.bin", max_bytes=len(BODY) - 1)
    assert caught.value.code == "source-too-large"


def test_redirects_on_this_machine_are_followed(server, cache):
    server.reply("/old", status=302, headers={"Location": "/new"}, etag=None)
    server.reply("/new", BODY)
    assert fetch(f"{server.url}/old").read_bytes() == BODY


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://192.0.2.1/a", "ftp://example.org/a", "https://me:pw@example.org/a"]
)
def test_a_redirect_to_another_scheme_is_refused(server, cache, location):
    server.reply("/old", status=302, headers={"Location": location}, etag=None)
    with pytest.raises(SourceError) as caught:
        fetch(f"{server.url}/old")
    assert caught.value.code == "source-redirect"
    assert "pw" not in str(caught.value)


def test_redirects_are_bounded(server, cache):
    server.reply("/loop", status=302, headers={"Location": "/loop"}, etag=None)
    with pytest.raises(SourceError, match="more than 5 times"):
        fetch(f"{server.url}/loop")


def test_nobody_listens(server, cache):
    server.stop()
    with pytest.raises(SourceError) as caught:
        fetch(f"{server.url}/a.bin")
    assert caught.value.code == "source-unavailable"


def test_fault_31_a_git_lfs_pointer_is_named(server, cache, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 99\n"
    server.reply("/model.safetensors", pointer)
    (tmp_path / "model.safetensors").write_bytes(pointer)
    for source in (f"{server.url}/model.safetensors", str(tmp_path / "model.safetensors")):
        with pytest.raises(SourceError) as caught:
            fetch(source)
        assert caught.value.code == "source-lfs-pointer"
        assert "git lfs pull" in str(caught.value)


def test_fault_37_a_full_disk_is_seen_before_the_download(server, cache, monkeypatch):
    server.reply("/a.bin", BODY)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _folder: usage(1, 1, 1000))
    with pytest.raises(DeviceError) as caught:
        fetch([f"{server.url}/a.bin", f"{server.url}/other"])
    assert caught.value.code == "core-disk-full"
    assert "LOCUM_CACHE" in str(caught.value)
    assert server.gets("/other") == []


def test_fault_37_a_disk_that_fills_up_keeps_what_was_there(server, cache, monkeypatch):
    server.reply("/a.bin", BODY)
    server.reply("/b.bin", BODY[::-1])
    kept = fetch(f"{server.url}/a.bin")

    def full(self, chunk_size=None):
        yield b"start"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("httpx.Response.iter_raw", full)
    with pytest.raises(DeviceError) as caught:
        fetch(f"{server.url}/b.bin")
    assert caught.value.code == "core-disk-full"
    assert kept.read_bytes() == BODY


@pytest.mark.skipif(shutil.which("true") is None, reason="needs a POSIX system")
def test_fault_38_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache's folder should be")
    server.reply("/a.bin", BODY)

    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(DeviceError) as caught:
        fetch(f"{server.url}/a.bin", cache=blocked / "cache")
    assert caught.value.code == "core-not-writable"
