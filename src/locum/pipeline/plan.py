"""``make_plan``: what a build would do, cost and need; validates everything and downloads nothing.

Notable: the ladder is decided by the same function as in the build, from what is known without the data: local
files are counted, remote ones are assumed to hold what most task files do, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from locum.cascade.labels import label_arithmetic
from locum.core.errors import SourceError
from locum.data.inspect import inspect
from locum.data.readers import open_table, wanted_columns
from locum.fit.device import profile_device
from locum.fit.ladder import DataSize, Machines, make_ladder
from locum.pipeline.ladder import serves_on
from locum.pipeline.workspace import read_task, split_addresses
from locum.schema.candidate import Candidate
from locum.schema.plan import Download, Plan, PlannedStep
from locum.schema.task import Task
from locum.sources.address import PathAddress, parse_address
from locum.sources.bases import plan_base
from locum.sources.fetch import cached

ASSUMED = DataSize(train_rows=10_000, mean_chars=80, labels=2)
"""What is planned with when the training file is not here yet."""

_ASSUMED_TOKENS_PER_CALL = (400, 12)


def make_plan(task_file: str | Path, *, out: str | Path | None = None) -> Plan:
    """Plan a build.

    Args:
        task_file: the task file, or a folder with a ``task.yaml``.
        out: folder of the build, to see which steps are done.

    Returns:
        Steps, ladder, downloads, time, cost and labels.

    Raises:
        TaskFileError: faults in the task file, all of them together.
        SourceError: an address is malformed, a path does not exist, a base is unknown.
        DataError: a local file cannot be read, or lacks a column that the task names.
    """
    path = Path(task_file)
    task, _ = read_task(path)
    root = (path if path.is_dir() else path.parent).resolve()
    folder = Path(out) if out is not None else Path("runs") / task.name
    warnings: list[str] = []
    data_downloads = _data_downloads(task, root)
    _check_columns(task, root)
    size, available = _data_size(task, root, warnings)
    here = profile_device(measure=True)
    ladder = make_ladder(task, size, Machines(here, serves_on(task, here)))
    downloads = (*data_downloads, *_base_downloads(ladder))
    steps = _steps(ladder, folder)
    calls, cost = _llm(task)
    return Plan(
        task=task.name,
        steps=steps,
        ladder=ladder,
        downloads=downloads,
        download_mb=sum(item.size_mb or 0.0 for item in downloads if not item.cached),
        seconds=sum(step.seconds or 0.0 for step in steps if not step.done),
        budget_s=task.budget.build_minutes * 60,
        llm_calls=calls,
        llm_cost=cost,
        labels=label_arithmetic(task.guarantee, available),
        warnings=tuple(warnings),
    )


def _data_size(task: Task, root: Path, warnings: list[str]) -> tuple[DataSize, int | None]:
    """Size of the training data and the calibration rows to expect, from a local file; assumed otherwise."""
    local = [
        file for address in split_addresses(task)["train"] if (file := cached(str(_at(address, root)))) is not None
    ]
    if not local:
        warnings.append(
            f"the training file is not here yet: {ASSUMED.train_rows:,} rows of {ASSUMED.mean_chars:.0f} characters"
            " are assumed"
        )
        return ASSUMED, None
    seen = inspect(local[0], format=task.data.format, encoding=task.data.encoding)
    names = (task.data.input,) if isinstance(task.data.input, str) else task.data.input
    columns = {column.name: column for column in seen.columns}
    chars = sum(columns[name].chars for name in names if name in columns)
    output = task.data.output if isinstance(task.data.output, str) else task.data.output[0]
    labels = columns[output].distinct if output in columns else 2
    if not seen.complete:
        warnings.append(f"the training file was read up to row {seen.rows:,}; there is more of it")
    available = None if task.data.calibration is not None else min(1000, seen.rows // 5)
    return DataSize(train_rows=seen.rows, mean_chars=chars or ASSUMED.mean_chars, labels=labels), available


def _at(address: str, root: Path) -> str | Path:
    """A relative path as seen from the task file's folder; any other address as it is."""
    parsed = parse_address(address)
    return root / parsed.path if isinstance(parsed, PathAddress) else address


def _check_columns(task: Task, root: Path) -> None:
    """Open every local file, which looks for the columns that the task names."""
    spec = task.data
    for split, addresses in split_addresses(task).items():
        here = (cached(str(_at(address, root))) for address in addresses)
        file = next((found for found in here if found is not None), None)
        if file is not None:
            open_table(file, format=spec.format, encoding=spec.encoding, wanted=wanted_columns(spec), split=split)


def _data_downloads(task: Task, root: Path) -> list[Download]:
    found: list[Download] = []
    missing: list[str] = []
    for split, addresses in split_addresses(task).items():
        places = [str(_at(address, root)) for address in addresses]
        is_here = any(cached(place) is not None for place in places)
        if not is_here and all(isinstance(parse_address(place), PathAddress) for place in places):
            missing.append(f"data.{split}: there is no {places[0]}")
        found.append(Download(what=f"{split} data", address=addresses[0], size_mb=None, cached=is_here))
    if missing:
        raise SourceError("source-missing", "; ".join(missing), fix="check the path")
    return found


def _base_downloads(ladder: Sequence[Candidate]) -> list[Download]:
    bases = dict.fromkeys(candidate.base for candidate in ladder if candidate.base and candidate.skipped is None)
    return [plan_base(base) for base in bases if base]


def _steps(ladder: Sequence[Candidate], folder: Path) -> tuple[PlannedStep, ...]:
    finished = {path.parent.name.rpartition("-")[0] for path in (folder / "work").glob("*/step.json")}

    def step(name: str, what: str, seconds: float | None) -> PlannedStep:
        slug = name.replace("/", "-")
        return PlannedStep(name=name, what=what, seconds=seconds, done=slug in finished)

    steps = [
        step("data", "fetch, verify, clean and split the data", 10.0),
        step("ladder", "measure the device and decide the candidates", 1.0),
    ]
    for candidate in ladder:
        if candidate.skipped is None:
            steps += [
                step(f"train-{candidate.name}", f"train {candidate.name}", candidate.estimate.train_s),
                step(f"export-{candidate.name}", "export and check parity", 2.0 if candidate.base is None else 25.0),
                step(f"measure-{candidate.name}", "answer every split through the engine", 10.0),
            ]
    return (*steps, step("certify", "certificate, report and bundle", 5.0))


def _llm(task: Task) -> tuple[int, float | None]:
    """How many calls, and what they cost at the assumed length; None without a price."""
    if task.llm is None:
        return 0, None
    calls = task.llm.examples + (1000 if task.guarantee.kind == "regret" else 0)
    if task.llm.price is None:
        return calls, None
    read, written = _ASSUMED_TOKENS_PER_CALL
    return calls, calls * (read * task.llm.price.input + written * task.llm.price.output) / 1e6
