"""The child's entry: a request document in, a student folder out.

The folder afterwards holds the student's files (by method), ``dev_logits.npy`` float32 ``[n_dev, C]`` (of a tagger a
row for each token of the dev split), and
``trained.json``, written last: its presence means the job is whole. Checkpoints are removed then.

Notable: started again in the same folder, it goes on from the last good checkpoint. Not here: starting the
process and retrying with half the micro-batch when memory ran out (the parent, with ``core.child``).
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from locum.core.errors import DeviceError, UserError
from locum.core.files import sha256_file, write_bytes, write_json
from locum.core.progress import note
from locum.core.registry import Registry
from locum.schema.training import Trained, TrainRequest
from locum.train.outcome import Clock, Outcome

METHODS = Registry(
    "training method",
    {
        "linear": "locum.train.linear:train",
        "head": "locum.train.head:train",
        "full": "locum.train.full:train",
        "lora": "locum.train.full:train",
        "dora": "locum.train.full:train",
    },
)
TRAINED_NAME = "trained.json"
DEV_LOGITS_NAME = "dev_logits.npy"
LOG_NAME = "tune.log"
"""Of the processes that a training starts."""

_NOT_OURS = (TRAINED_NAME, "request.json", "train.log", LOG_NAME)  # logs go on when the parent tries again
WORK_NAME = "work"
_NO_MEMORY = (
    "out of memory",  # CUDA, MPS
    "can't allocate memory",  # PyTorch's allocator for processors
    "not enough memory",  # the same on Windows
    "std::bad_alloc",  # C++
    "cublas_status_alloc_failed",
)  # in what PyTorch says, in small letters


def main(request: Path, out: Path) -> None:
    """Train the classifier that ``request`` asks for into ``out``; arguments and errors as ``run``."""
    run(request, out, METHODS)


def run(request: Path, out: Path, methods: Registry) -> None:
    """Train what ``request`` (a ``TrainRequest`` as JSON) asks for into ``out``.

    Args:
        request: the document's file.
        out: the output folder; checkpoints of an earlier try in it are used.
        methods: by the candidate's method, ``(request, out, clock) -> Outcome``.

    Raises:
        LocumError: the request, the data or the base cannot be used; NaN before anything was learned.
        KeyboardInterrupt: stopped on request, after a checkpoint.
    """
    asked = TrainRequest.from_json(request.read_bytes(), str(request), UserError)
    trained = out / TRAINED_NAME
    if trained.is_file():
        note(f"{asked.candidate.name}: trained before")
        return
    out.mkdir(parents=True, exist_ok=True)
    asked = _within_base(asked)
    _set_threads(asked)
    clock = Clock(asked.budget_s)
    with memory_errors(asked.micro_batch):
        outcome: Outcome = methods.load(asked.candidate.method)(asked, out, clock)
    _finish(asked, out, clock, outcome)


def _finish(request: TrainRequest, out: Path, clock: Clock, outcome: Outcome) -> None:
    logits = np.asarray(outcome.dev_logits, dtype=np.float32)
    buffer = io.BytesIO()
    np.save(buffer, logits, allow_pickle=False)
    write_bytes(out / DEV_LOGITS_NAME, buffer.getvalue())
    document = Trained(
        candidate=request.candidate,
        parameters=outcome.parameters,
        best_epoch=outcome.best_epoch,
        stopped_by=outcome.stopped_by,
        dev_accuracy=_dev_accuracy(request, logits, outcome),
        curve=() if request.repeat else outcome.curve,
        settings=outcome.settings,
        max_tokens=request.max_tokens,
        train_s=round(clock.spent_s, 3),
        tokens_per_s=outcome.tokens_per_s,
        files=student_files(out),
        resumed=outcome.resumed,
        same_for=outcome.same_for,
    )
    write_json(out / TRAINED_NAME, document.to_json())
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)


def student_files(out: Path) -> dict[str, str]:
    """SHA-256 of what a job wrote, by path within its folder; not of what it works with or is told by."""
    found: dict[str, str] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if name not in _NOT_OURS and not name.startswith((".", f"{WORK_NAME}/")):
            found[name] = sha256_file(path)
    return found


@contextmanager
def memory_errors(micro_batch: int | None) -> Generator[None, None, None]:
    """Turn every form of "out of memory" into ``train-memory``, on which the parent tries smaller micro-batches.

    Raises:
        DeviceError: memory ran out in the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise DeviceError(
            "train-memory",
            f"memory ran out with micro-batches of {micro_batch or 'the default size'}",
            fix="set a smaller budget.memory_mb or close other programs",
        ) from error


def _dev_accuracy(request: TrainRequest, logits: Any, outcome: Outcome) -> float | None:
    """What dev says of the student; None where it learned from dev rows."""
    if request.repeat is not None:
        return None
    if outcome.dev_accuracy is not None:
        return outcome.dev_accuracy
    from locum.train.rows import read_split

    targets = np.asarray(read_split(Path(request.dev), request.labels).targets)
    return float((logits.argmax(axis=1) == targets).mean())


def _within_base(request: TrainRequest) -> TrainRequest:
    """The request with no more tokens of a text than the base has places for; parity and serving cut there, too."""
    if request.base is None:
        return request
    from locum.models.base_files import most_positions

    most = most_positions(Path(request.base))
    return request if most is None else request.model_copy(update={"max_tokens": min(request.max_tokens, most)})


def _set_threads(request: TrainRequest) -> None:
    if request.candidate.method == "linear":
        return
    import torch

    torch.set_num_threads(request.threads)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)
