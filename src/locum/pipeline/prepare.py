"""The data step: the task's files fetched and verified, then cleaned, split and described.

Notable: the step's key is made of the files' content hashes, so a changed file is new data whatever its name. The
steps after it go by what the splits hold, not by how they came about: another guarantee prepares the data again,
and where that changes no split, nothing is trained again.
"""

from __future__ import annotations

from pathlib import Path

from locum.bundle.write import LEARNED
from locum.core.files import content_hash, sha256_file
from locum.core.progress import track
from locum.data.load import label_names
from locum.data.prepare import prepare
from locum.pipeline.built import Prepared
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace, split_addresses
from locum.schema.data import DataCard, SplitName
from locum.sources.fetch import Request, fetch_all

ALL_SPLITS: tuple[SplitName, ...] = ("dev", "calibration", "test")


def prepare_data(work: Workspace, other: str | None = None) -> tuple[Prepared, DataCard]:
    """Fetch, verify and prepare the task's data, or find it prepared.

    Args:
        work: the build.
        other: name of the task where it is not the one that the build is for; its step has a name of its own.

    Raises:
        SourceError: a file cannot be had or does not verify.
        DataError: the rows cannot be used as they are.
    """
    files = _fetch(work)
    task = work.task
    step = Step(
        f"data-{other}" if other else "data",
        f"prepare the data of {other}" if other else "prepare the data",
        {
            "files": {split: sha256_file(path) for split, path in files.items()},
            "spec": task.data.to_json(),
            "kind": task.kind,
            "guarantee": task.guarantee.to_json(),
            "seed": task.seed,
            "fingerprint": 1,  # of what is written beside the splits: what was prepared without it is prepared again
        },
    )
    addresses: dict[SplitName, str] = {
        split: _shown(tried[0], work.out) for split, tried in split_addresses(task).items()
    }
    folder = work.steps.run(step, lambda out: _prepare(work, files, addresses, out)) / "splits"
    card = DataCard.from_json((folder / "card.json").read_bytes(), str(folder / "card.json"))
    labels = tuple(label_names(folder))
    key = content_hash({"splits": {name: split.sha256 for name, split in card.splits.items()}, "labels": labels})
    return Prepared(folder, key, labels, ALL_SPLITS), card


def _shown(address: str, out: Path) -> str:
    """An address for the data card: rows that were given in memory stand in the build's own folder."""
    return Path(address).relative_to(out).as_posix() if address.startswith(f"{out}/") else address


def _prepare(work: Workspace, files: dict[SplitName, Path], addresses: dict[SplitName, str], out: Path) -> None:
    prepare(work.task, files, out / "splits", addresses=addresses, learned=out / LEARNED)


def _fetch(work: Workspace) -> dict[SplitName, Path]:
    wanted: dict[SplitName, Request] = {
        split: Request(addresses, work.task.data.sha256.get(split))
        for split, addresses in split_addresses(work.task).items()
    }
    with track("fetch the data"):
        found = fetch_all(
            {str(split): request for split, request in wanted.items()}, offline=work.offline, root=work.root
        )
    return {split: found[split] for split in wanted}
