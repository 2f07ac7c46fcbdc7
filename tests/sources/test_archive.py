"""Hostile archives are refused as a whole and leave nothing behind."""

import io
import stat
import tarfile
import zipfile

import pytest

from locum.core.errors import SourceError
from locum.sources import archive as archive_module
from locum.sources.archive import ArchiveCaps, extract_members, safe_extract


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as opened:
        for info, content in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_zip_and_tar_round_trip(tmp_path):
    zipped = make_zip(tmp_path / "a.zip", [("a.txt", b"one"), ("b/c.txt", b"two")])
    files = safe_extract(zipped, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in files] == ["a.txt", "b/c.txt"]
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        tarred = make_tar(tmp_path / "a.tar", [("a.txt", b"one"), ("./b/c.txt", b"two")], mode)
        files = safe_extract(tarred, tmp_path / "out2")
        assert [path.read_bytes() for path in files] == [b"one", b"two"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil"])
def test_fault_16_path_traversal_in_zip_and_tar(tmp_path, name):
    zipped = make_zip(tmp_path / "a.zip", [("ok.txt", b"fine"), (name, b"evil")])
    tarred = make_tar(tmp_path / "a.tgz", [("ok.txt", b"fine"), (name, b"evil")])
    for hostile in (zipped, tarred):
        with pytest.raises(SourceError) as caught:
            safe_extract(hostile, tmp_path / "out")
        assert caught.value.code == "source-archive-unsafe"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tgz", "a.zip"]


def test_fault_16_links_and_devices_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped = make_zip(tmp_path / "a.zip", [(info, b"/etc/passwd")])
    hostile = [zipped]
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
        hostile.append(make_tar(tmp_path / f"{number}.tar", [(link("link", "/etc/passwd", kind), b"")], "w"))
    for archive in hostile:
        with pytest.raises(SourceError) as caught:
            safe_extract(archive, tmp_path / "out")
        assert caught.value.code == "source-archive-unsafe"
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_fault_16_a_member_that_stands_twice_is_refused(tmp_path):
    zipped = make_zip(tmp_path / "a.zip", [("a.txt", b"one"), ("a.txt", b"two")])
    with pytest.raises(SourceError, match="twice"):
        safe_extract(zipped, tmp_path / "out")


def test_fault_14_expansion_ratio_is_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_RATIO_FROM_BYTES", 1 << 20)
    zeros = bytes(8 << 20)
    zipped = make_zip(tmp_path / "bomb.zip", [("zeros", zeros)])
    tarred = make_tar(tmp_path / "bomb.tgz", [("zeros", zeros)])
    for bomb in (zipped, tarred):
        with pytest.raises(SourceError) as caught:
            safe_extract(bomb, tmp_path / "out")
        assert caught.value.code == "source-archive-expands"
        assert not (tmp_path / "out").exists()


def test_fault_14_total_bytes_and_members_are_capped(tmp_path):
    zipped = make_zip(tmp_path / "a.zip", [(f"{index}.bin", bytes(100)) for index in range(20)])
    with pytest.raises(SourceError, match="zip bomb"):
        safe_extract(zipped, tmp_path / "out", ArchiveCaps(max_bytes=1000))
    with pytest.raises(SourceError, match="members"):
        safe_extract(zipped, tmp_path / "out", ArchiveCaps(max_members=10))
    assert len(safe_extract(zipped, tmp_path / "out", ArchiveCaps(max_bytes=2000, max_members=20))) == 20


def test_damaged_archives_are_named(tmp_path):
    whole = make_zip(tmp_path / "a.zip", [("a.txt", b"one" * 1000)])
    content = bytearray(whole.read_bytes())
    content[45:60] = bytes(15)
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content)
    text = tmp_path / "text.zip"
    text.write_text("not an archive")
    for bad in (damaged, text):
        with pytest.raises(SourceError) as caught:
            safe_extract(bad, tmp_path / "out")
        assert caught.value.code == "source-archive-damaged"
        assert str(bad) in str(caught.value)


def test_members_of_a_wheel(tmp_path):
    wheel = make_zip(tmp_path / "w.whl", [("pkg/a.txt", b"one"), ("pkg/b/c.txt", b"two"), ("w.dist-info/RECORD", b"")])
    assert extract_members(wheel, "pkg/a.txt", tmp_path / "a.txt") == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"one"
    assert extract_members(wheel, "pkg/", tmp_path / "folder") == ["a.txt", "b/c.txt"]
    assert (tmp_path / "folder" / "b" / "c.txt").read_bytes() == b"two"


def test_a_member_that_is_not_there_names_what_is(tmp_path):
    wheel = make_zip(tmp_path / "w.whl", [("pkg/data/a.csv", b"one")])
    with pytest.raises(SourceError, match=r"pkg/data/a\.csv"):
        extract_members(wheel, "pkg/a.csv", tmp_path / "a.csv")


def test_fault_16_a_hostile_wheel_is_refused_even_for_a_good_member(tmp_path):
    wheel = make_zip(tmp_path / "w.whl", [("pkg/a.txt", b"one"), ("../evil", b"two")])
    with pytest.raises(SourceError, match="outside"):
        extract_members(wheel, "pkg/a.txt", tmp_path / "a.txt")
