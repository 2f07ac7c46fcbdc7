"""Files from the Hugging Face Hub, or from whatever ``HF_ENDPOINT`` names.

Notable: a token comes only from the environment (``HF_TOKEN``), never from a file that an earlier login
left; Hub downloads resume by themselves in the folder they are given.
Not here: choosing which files of a repository make a model (``sources.bases``).
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from locum.core.errors import SourceError
from locum.core.files import disk_errors
from locum.core.progress import Tracker, track
from locum.sources.address import HubAddress
from locum.sources.cache import require_free

_ETAG_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 5.0
_PUBLIC_HUB = "https://huggingface.co"


def download_from_hub(address: HubAddress, target: Path, *, max_bytes: int) -> None:
    """Fetch one file of a repository into ``target``.

    Args:
        address: a file, not a folder.
        target: written only when complete; beside it, ``NAME.hub/`` holds what a broken download left.
        max_bytes: refuse a file larger than this.

    Raises:
        SourceError: no answer, no such repository, revision or file, too large, or a login is needed.
        DeviceError: the disk is full or not writable.
    """
    from huggingface_hub import hf_hub_download

    _require_reachable(address)
    scratch = target.with_name(f"{target.name}.hub")
    wanted: dict[str, Any] = {
        "repo_id": address.repository,
        "filename": address.path,
        "repo_type": address.kind,
        "revision": address.revision,
        "local_dir": scratch,
        "token": _token(),
        "endpoint": _endpoint(),
        "etag_timeout": _ETAG_TIMEOUT_S,
    }
    with disk_errors(target), track(f"download {PurePosixPath(address.path).name}", unit="byte") as tracker:
        scratch.mkdir(parents=True, exist_ok=True)
        with _hub_errors(address):
            announced = hf_hub_download(**wanted, dry_run=True).file_size or 0
            _check_size(address, announced, max_bytes)
            require_free(scratch, announced)
            path = Path(hf_hub_download(**wanted, tqdm_class=_silent_bar(tracker)))
        _check_size(address, path.stat().st_size, max_bytes)
        path.replace(target)
        shutil.rmtree(scratch)


def _check_size(address: HubAddress, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        cause = f"{address.text} has {size / 1e6:,.0f} MB, and the cap is {max_bytes / 1e6:,.0f} MB"
        raise SourceError("source-too-large", cause, fix="download it yourself if it is meant to be this large")


def list_hub_files(address: HubAddress) -> dict[str, int | None]:
    """The files below a folder of a repository.

    Returns:
        Size in bytes by name relative to the folder; None where the hub does not say.

    Raises:
        SourceError: as in ``download_from_hub``.
    """
    from huggingface_hub import HfApi

    _require_reachable(address)
    with _hub_errors(address):
        api = HfApi(endpoint=_endpoint(), token=_token())
        repository, revision = address.repository, address.revision
        if address.kind == "dataset":
            siblings = api.dataset_info(repository, revision=revision, files_metadata=True).siblings or []
        else:
            siblings = api.model_info(repository, revision=revision, files_metadata=True).siblings or []
    inside = [file for file in siblings if file.rfilename.startswith(address.path)]
    return {file.rfilename[len(address.path) :]: file.size for file in inside}


def _token() -> str | bool:
    return os.environ.get("HF_TOKEN") or False


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _require_reachable(address: HubAddress) -> None:
    """Ask once whether the hub is there at all: huggingface_hub itself tries for some 20 seconds."""
    import httpx

    endpoint = _endpoint() or _PUBLIC_HUB
    try:
        httpx.head(endpoint, timeout=_PROBE_TIMEOUT_S)
    except httpx.TransportError as problem:
        why = f"{endpoint} cannot be reached ({problem or type(problem).__name__})"
        raise _unavailable(address, why, "check the connection, or set HF_ENDPOINT to a mirror") from problem


def _silent_bar(tracker: Tracker) -> Any:
    """A progress bar class that draws nothing and reports to ``tracker``."""
    from tqdm import tqdm

    class SilentBar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO()})
            tracker.total = self.total
            tracker.advance(self.n)

        def update(self, n: float | None = 1) -> bool | None:
            tracker.advance(n or 0)
            return super().update(n)

    return SilentBar


@contextmanager
def _hub_errors(address: HubAddress) -> Generator[None, None, None]:
    """Turn what huggingface_hub raises into our error, with what to do about it."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as problem:
        page = f"{_endpoint() or _PUBLIC_HUB}/{address.repository}"
        raise _unavailable(
            address, "its terms must be accepted", f"accept them at {page} and set HF_TOKEN"
        ) from problem
    except errors.RevisionNotFoundError as problem:
        raise _unavailable(address, f"no revision {address.revision!r}", "check the revision") from problem
    except errors.RepositoryNotFoundError as problem:
        raise _unavailable(address, "no such repository, or it is private", "check it, or set HF_TOKEN") from problem
    except errors.RemoteEntryNotFoundError as problem:
        raise _unavailable(address, "no such file in the repository", "check the path") from problem
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise  # the disk's refusal, which ``disk_errors`` names
        first_line = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise _unavailable(
            address, f"the hub does not answer ({first_line[:200]})", "check the connection"
        ) from problem


def _unavailable(address: HubAddress, why: str, fix: str) -> SourceError:
    return SourceError("source-unavailable", f"{address.text}: {why}", fix=fix)
