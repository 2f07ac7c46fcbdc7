"""Downloads over HTTPS that resume, stay bounded, and go nowhere they should not.

Notable: an interrupted download leaves ``NAME.partial`` and, beside it, the server's validator; the next
attempt asks for the rest with ``Range`` and ``If-Range``, so a file that changed in between starts afresh
and two halves of different files are never joined. Redirects are followed by hand: only to https.
Not here: verification by hash (``sources.cache``), which every download still has to pass.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from locum.core.errors import SourceError
from locum.core.files import disk_errors, write_json
from locum.core.progress import Tracker, track
from locum.sources.address import HttpsAddress, is_loopback
from locum.sources.cache import require_free

_ATTEMPTS = 4
_BACKOFF_S = 0.5
_MAX_WAIT_S = 30.0
_MAX_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TryAgain(Exception):
    """An attempt failed in a way that the next one may not."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def download(url: str, target: Path, *, max_bytes: int) -> None:
    """Fetch one URL into ``target``, resuming what an earlier attempt left.

    Args:
        url: https, or http on loopback.
        target: written only when complete.
        max_bytes: refuse more than this, whether the server announces it or not.

    Raises:
        SourceError: no answer, an error status, too large, a forbidden redirect, or it kept ending early.
        DeviceError: the disk is full or not writable.
    """
    why = ""
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=False) as client:
        for attempt in range(_ATTEMPTS):
            try:
                _attempt(client, url, target, max_bytes)
                return
            except _TryAgain as problem:
                why = str(problem)
                wait_s = problem.wait_s if problem.wait_s is not None else _BACKOFF_S * 2**attempt
            except httpx.TransportError as problem:
                why, wait_s = _reason(problem), _BACKOFF_S * 2**attempt
            if attempt + 1 < _ATTEMPTS:
                time.sleep(min(wait_s, _MAX_WAIT_S))
    code = "source-truncated" if why.startswith("it ended") else "source-unavailable"
    raise SourceError(code, f"{url}: {why} ({_ATTEMPTS} attempts)", fix="try again later; it will resume")


def _attempt(client: httpx.Client, url: str, target: Path, max_bytes: int) -> None:
    partial = target.with_name(f"{target.name}.partial")
    memo = partial.with_name(f"{partial.name}.json")
    have, validator = _left_over(partial, memo, url)
    headers = {"Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    response = _follow(client, url, headers)
    try:
        if _is_other_range(response, have):
            partial.unlink(missing_ok=True)
            raise _TryAgain("it changed while it was fetched", wait_s=0.0)
        _check_status(response, url)
        start = have if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
        total = _total_bytes(response, start)
        if max(total or 0, start) > max_bytes:
            raise _too_large(url, max_bytes)
        require_free(target.parent, (total or 0) - start)
        write_json(memo, {"url": url, "validator": _validator(response)})
        with track(f"download {HttpsAddress(url).file_name}", total, "byte") as tracker:
            tracker.advance(start)
            _receive(response, partial, start, max_bytes, url, tracker)
        size = partial.stat().st_size
        if total is not None and size != total:
            raise _TryAgain(f"it ended after {size:,} of {total:,} bytes")
    finally:
        response.close()
    with disk_errors(target):
        partial.replace(target)
        memo.unlink(missing_ok=True)


def _receive(response: httpx.Response, partial: Path, start: int, max_bytes: int, url: str, tracker: Tracker) -> None:
    done = start
    with disk_errors(partial), partial.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        try:
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > max_bytes:
                    raise _too_large(url, max_bytes)
                file.write(chunk)
                tracker.advance(len(chunk))
        except httpx.RemoteProtocolError as problem:
            raise _TryAgain(f"it ended after {done:,} bytes") from problem


def _left_over(partial: Path, memo: Path, url: str) -> tuple[int, str | None]:
    """Bytes and validator of an earlier attempt; (0, None) when there is nothing that can be continued."""
    try:
        value: Any = json.loads(memo.read_text())
        if value["url"] == url and isinstance(value["validator"], str):
            return partial.stat().st_size, value["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        # nothing there, or not ours: start from the beginning
        return 0, None
    return 0, None


def _follow(client: httpx.Client, url: str, headers: dict[str, str]) -> httpx.Response:
    here = url
    for _ in range(_MAX_REDIRECTS + 1):
        response = client.send(client.build_request("GET", here, headers=headers), stream=True)
        if not response.has_redirect_location:
            return response
        response.close()
        here = _redirect_target(url, here, response.headers["Location"])
    raise SourceError("source-redirect", f"{url} was redirected more than {_MAX_REDIRECTS} times")


def _redirect_target(url: str, here: str, location: str) -> str:
    """Where to go next: https, or http when address and target are both on this machine."""
    target = urljoin(here, location)
    parts = urlsplit(target)
    local = parts.scheme == "http" and is_loopback(parts.hostname) and url.startswith("http://")
    if (parts.scheme == "https" or local) and parts.hostname and parts.username is None:
        return target
    raise SourceError(
        "source-redirect",
        f"{url} redirects to {parts.scheme}://{parts.hostname or ''}, which is not https",
        fix="use the final https:// address",
    )


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    if status in _RETRY_STATUS:
        after = response.headers.get("Retry-After", "")
        raise _TryAgain(f"the server answered {status}", float(after) if after.isdecimal() else None)
    hint = {401: "it needs a login", 403: "it is forbidden", 404: "it is not there", 410: "it is gone"}
    why = hint.get(status, "that is not an answer to a download")
    raise SourceError("source-unavailable", f"{url}: the server answered {status}: {why}", fix="check the address")


def _is_other_range(response: httpx.Response, have: int) -> bool:
    """Whether the server cannot go on where the partial file ends (200 means it starts again, and may)."""
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        return not response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    return response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def _total_bytes(response: httpx.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _validator(response: httpx.Response) -> str | None:
    """A strong ETag, else Last-Modified: what If-Range may carry (RFC 9110 §13.1.5)."""
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")


def _too_large(url: str, max_bytes: int) -> SourceError:
    return SourceError(
        "source-too-large",
        f"{url} is larger than the cap of {max_bytes / 1e6:,.0f} MB",
        fix="download it yourself if it is meant to be this large, and give the path",
    )


def _reason(problem: httpx.TransportError) -> str:
    if isinstance(problem, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(problem, httpx.RemoteProtocolError):
        return f"it ended early: {problem}"
    return str(problem) or type(problem).__name__
