"""``Made``: what every way of making a student hands on; and which base it was made from, by content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.core import child
from locum.core.errors import LocumError, UserError
from locum.core.files import write_json
from locum.core.progress import warn
from locum.pipeline.workspace import Workspace
from locum.schema.base import Document
from locum.schema.model import Parity
from locum.schema.training import GeneratorParity, Trained
from locum.sources.bases import changing_base
from locum.sources.catalogue import Format, catalogue

OUT_OF_MEMORY = ("core-child-killed", "train-memory")
"""Codes of a training that was killed for memory, and of one that ran out of it and could say so."""

_MICRO_BATCHES = (None, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Training:
    """A finished training: the folder of its step, and the step's key."""

    folder: Path
    key: str


@dataclass(frozen=True)
class Made:
    """A student's model folder, before it was measured.

    Attributes:
        model: folder with ``model.json``.
        key: of the step that wrote it.
        trained: None when nothing was trained.
        parity: None when what is served is the base's own file.
        training: where it can be repeated on more rows.
    """

    model: Path
    key: str
    trained: Trained | None = None
    parity: Parity | GeneratorParity | None = None
    training: Training | None = None


def base_inputs(
    work: Workspace, name: str | None, format: Format | None = None, *, may_fetch: bool = True
) -> dict[str, Any]:
    """What a step depends on through its base: the name, and the SHA-256 of the files behind it.

    Weights that were changed in place are another base, and what was made from the old ones is made again.

    Args:
        work: the build.
        name: of the base; None where there is none.
        format: the form of the base that is used; None takes the first that can be had.
        may_fetch: whether files that are not on this machine are fetched; else the name stands for them.

    Raises:
        SourceError: the base cannot be had.
    """
    known = catalogue().get(name) if name else None
    if name is None or known is not None:
        return {"base": name, **({"files": [artefact.files for artefact in known.artefacts]} if known else {})}
    path = changing_base(name, format=format, offline=work.offline, root=work.root, may_fetch=may_fetch)
    return {"base": name, **({"files": work.steps.hashes.of(path)} if path else {})}


def train_within_memory(work: Workspace, job: str, request: Document, out: Path, name: str) -> None:
    """Run a training job; when memory runs out, again from its last checkpoint with a smaller micro-batch.

    A smaller micro-batch accumulates gradients, which changes nothing in the mathematics.

    Args:
        work: the build.
        job: ``package.module:function``.
        request: with a field ``micro_batch``.
        out: folder to fill.
        name: of the candidate, for the warning.

    Raises:
        LocumError: the training failed, or one row does not fit the memory.
    """
    for position, micro_batch in enumerate(_MICRO_BATCHES):
        write_json(out / "request.json", request.model_copy(update={"micro_batch": micro_batch}).to_json())
        try:
            child.run_job(job, out / "request.json", out, log=out / "train.log", threads=work.threads)
        except LocumError as error:
            if error.code not in OUT_OF_MEMORY or position == len(_MICRO_BATCHES) - 1:
                raise
            warn(f"{name}: out of memory; trying again with {_MICRO_BATCHES[position + 1]} rows")
        else:
            return


def read_trained(folder: Path, start: str | None = None) -> Trained:
    """What a training says of the student that it left in a folder.

    Args:
        folder: of the training.
        start: the student that it started from, where that is there already.

    Raises:
        UserError: no epoch made it better than that, so it is the same student over again.
    """
    trained = Trained.from_json((folder / "trained.json").read_bytes(), str(folder))
    if start is not None and trained.best_epoch == 0:
        raise UserError(
            "train-no-gain",
            f"on dev no epoch was better than what it started from, which is {start}",
            fix="raise budget.build_minutes, give more rows, or leave this student out",
        )
    return trained
