"""``ensure_base``: a catalogue name, a folder, a file or an address in; files ready for ``models`` out.

Notable: only safetensors and GGUF are accepted; a folder or repository with pickled weights alone is
refused. A name of the catalogue wins over a folder of the same name; write ``./NAME`` for the folder.
Not here: loading.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from locum.core.errors import SourceError
from locum.core.files import content_hash, write_json
from locum.core.progress import note, warn
from locum.schema.plan import Download
from locum.sources.address import Address, HubAddress, PackageAddress, PathAddress, file_name, parse_address
from locum.sources.cache import cache_folder, is_offline, refuse_lfs_pointer
from locum.sources.catalogue import Artefact, Base, Format, catalogue
from locum.sources.fetch import cached, fetch, fetch_folder
from locum.sources.hub import list_hub_files

_INDEX = "model.safetensors.index.json"
_MODEL_FILES = frozenset(
    {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "chat_template.jinja", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model",
        "sentencepiece.bpe.model", "spiece.model", "modules.json", "sentence_bert_config.json",
        "config_sentence_transformers.json", "1_Pooling/config.json", _INDEX,
    }
)  # fmt: skip


def ensure_base(
    name_or_path: str | Path,
    *,
    format: Format | None = None,
    offline: bool = False,
    cache: Path | None = None,
    root: Path | None = None,
) -> Path:
    """Make a base available on this machine, verified.

    Args:
        name_or_path: a catalogue name or alias, a folder, a ``.gguf`` file, or an address of either.
        format: for a catalogue name: the form wanted; the first that can be had when None.
        offline: use paths and the cache only (also ``LOCUM_OFFLINE=1``).
        cache: where downloads are kept; see ``sources.cache.cache_folder``.
        root: relative paths start here; the working folder when None.

    Returns:
        A folder in the Hugging Face layout, or a GGUF file. Do not write to it.

    Raises:
        SourceError: unknown, cannot be had, does not verify, or holds no weights that are safe to load.
        DeviceError: the disk is full or not writable.
    """
    base = catalogue().get(str(name_or_path))
    if base is not None:
        return _catalogue_base(base, format, is_offline(offline), cache)
    address = _own_address(name_or_path, root)
    if isinstance(address, HubAddress) and address.is_folder:
        return _hub_base(address, is_offline(offline), cache_folder(cache))
    is_file = file_name(address).endswith(".gguf")
    if isinstance(address, PackageAddress) and address.is_folder:
        path = fetch_folder(address, cache=cache, offline=offline)
    elif is_file or not isinstance(address, PathAddress):
        path = fetch(address, cache=cache, offline=offline)
    else:
        path = fetch_folder(address)
    _check_model(path)
    return path


def changing_base(
    name_or_path: str | Path,
    *,
    format: Format | None = None,
    offline: bool = False,
    root: Path | None = None,
    may_fetch: bool = True,
) -> Path | None:
    """Where a base's files lie, when its name alone does not say what is in them; None when it does.

    A name of the catalogue, a commit of a hub and a version of a package stand for one content. A path does not, nor do
    a URL and a branch, whose files are fetched.

    Args:
        name_or_path: as for ``ensure_base``.
        format: as there.
        offline: as there.
        root: as there.
        may_fetch: whether files that are not on this machine are fetched; None is returned for them otherwise.

    Raises:
        SourceError, DeviceError: as ``ensure_base``.
    """
    if catalogue().get(str(name_or_path)) is not None:
        return None
    address = _own_address(name_or_path, root)
    if isinstance(address, PackageAddress) or (isinstance(address, HubAddress) and address.is_pinned):
        return None
    if not may_fetch and not isinstance(address, PathAddress):
        return None
    return ensure_base(name_or_path, format=format, offline=offline, root=root)


def plan_base(
    name_or_path: str | Path, *, format: Format | None = None, cache: Path | None = None, root: Path | None = None
) -> Download:
    """What ``ensure_base`` would download; nothing is.

    Args:
        name_or_path: as for ``ensure_base``.
        format: as there.
        cache: as there.
        root: as there.

    Returns:
        Name, first address, size (None when it is not known) and whether it is here already.

    Raises:
        SourceError: unknown name, malformed address, or a path that does not exist.
    """
    base = catalogue().get(str(name_or_path))
    if base is None:
        address = _own_address(name_or_path, root)
        here = isinstance(address, PathAddress) or _is_here(address, cache)
        return Download(what=str(name_or_path), address=address.text, size_mb=0.0 if here else None, cached=here)
    artefact = base.artefact(format)
    first = artefact.places()[0].text
    return Download(what=base.name, address=first, size_mb=artefact.size_mb, cached=_is_cached(artefact, cache))


def _catalogue_base(base: Base, format: Format | None, offline: bool, cache: Path | None) -> Path:
    """Try the base's forms in order; a form that was not the first choice is said."""
    artefacts = [one for one in base.artefacts if format in (None, one.format)] or [base.artefact(format)]
    failures: list[SourceError] = []
    for artefact in artefacts:
        try:
            path = _artefact(artefact, cache, offline)
        except SourceError as problem:
            failures.append(problem)
            continue
        if not artefact.verified:
            warn(f"{base.name} ({artefact.format}) has no published SHA-256: the first download is trusted")
        if failures:
            warn(
                f"{base.name} is used as {artefact.format}: {artefacts[0].format} could not be had",
                why=failures[0].cause,
            )
        return path
    if len(failures) == 1:
        raise failures[0]
    lines = "".join(f"\n  - {problem}" for problem in failures)
    raise SourceError(failures[0].code, f"{base.name} could not be had:{lines}", fix=failures[-1].fix)


def _artefact(artefact: Artefact, cache: Path | None, offline: bool) -> Path:
    if artefact.format == "gguf":
        ((_name, digest),) = artefact.files.items()
        return fetch(artefact.places(), sha256=digest, cache=cache, offline=offline)
    return fetch_folder(artefact.places(), artefact.files, cache=cache, offline=offline)


def _is_cached(artefact: Artefact, cache: Path | None) -> bool:
    try:
        _artefact(artefact, cache, offline=True)
    except SourceError:
        return False  # that is the question
    return True


def _is_here(address: Address, cache: Path | None) -> bool:
    if isinstance(address, HubAddress) and address.is_folder:
        return _listing(address, cache_folder(cache)).exists()
    return not (isinstance(address, PackageAddress) and address.is_folder) and cached(address, cache=cache) is not None


def _own_address(name_or_path: str | Path, root: Path | None) -> Address:
    """A path that exists, or an address; anything else is a mistyped catalogue name."""
    text = str(name_or_path)
    address = parse_address(text)
    if not isinstance(address, PathAddress):
        return address
    path = (root / address.path) if root is not None else address.path
    if not path.exists():
        catalogue().find(text)  # raises, with the nearest name
    return PathAddress(path)


def _hub_base(address: HubAddress, offline: bool, cache: Path) -> Path:
    """A repository's model files; which ones is remembered, so that it works offline afterwards."""
    if not address.is_pinned:
        note(f"{address.text} names no full commit: what is downloaded first is kept and used from then on")
    listing = _listing(address, cache)
    if listing.exists():
        names: list[str] = json.loads(listing.read_text())
    elif offline:
        cause = f"{address.text} is not in the cache, and downloads are switched off"
        raise SourceError("source-offline", cause, fix="unset LOCUM_OFFLINE once, or give a folder")
    else:
        names = _model_files(address, sorted(list_hub_files(address)))
    folder = address if address.path else HubAddress(address.kind, address.repository, address.revision, "")
    path = fetch_folder(folder, dict.fromkeys(names), cache=cache, offline=offline)
    _check_model(path)
    write_json(listing, names)
    return path


def _listing(address: HubAddress, cache: Path) -> Path:
    return cache / "listings" / f"{content_hash(address.text)[:40]}.json"


def _model_files(address: HubAddress, names: list[str]) -> list[str]:
    weights = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if not weights:
        raise _not_a_base(address.text, names)
    single = [name for name in weights if name == "model.safetensors"]
    return sorted({*(single or weights), *(name for name in names if name in _MODEL_FILES)})


def _check_model(path: Path) -> None:
    """A GGUF file by its magic, or a folder with config.json and every safetensors shard its index names.

    Raises:
        SourceError: it is not; a missing shard or a Git LFS pointer is named.
    """
    if path.is_file():
        refuse_lfs_pointer(path, str(path))
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise SourceError("source-not-a-base", "it is not a GGUF file", where=str(path))
        return
    names = [each.name for each in path.iterdir()]
    weights = [path / name for name in names if name.endswith(".safetensors")]
    if "config.json" not in names or not weights:
        raise _not_a_base(str(path), names)
    if _INDEX in names:
        index: Any = json.loads((path / _INDEX).read_text(encoding="utf-8"))
        missing = sorted(set(index["weight_map"].values()) - set(names))
        if missing:
            cause = f"it lacks {len(missing)} of its shards: {', '.join(missing[:5])}"
            raise SourceError("source-not-a-base", cause, fix="download the model again", where=str(path))
    for weight in weights:
        refuse_lfs_pointer(weight, str(weight))


def _not_a_base(where: str, names: list[str]) -> SourceError:
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    if pickled:
        cause = f"its weights are pickled ({', '.join(pickled[:3])}), which can run code when loaded"
        fix = "save the model with safetensors (save_pretrained does) and give that folder"
        return SourceError("source-not-a-base", cause, fix=fix, where=where)
    cause = "it has no config.json with .safetensors beside it, and is no .gguf file"
    return SourceError(
        "source-not-a-base", cause, fix="give a model folder, a .gguf file or a catalogue name", where=where
    )
