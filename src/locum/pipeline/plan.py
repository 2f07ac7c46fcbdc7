"""``make_plan``: what a build would do, cost and need; validates everything and downloads nothing.

Notable: the ladder is decided by the same function as in the build, from what is known without the data: local
files are counted, remote ones are assumed to hold what most task files do, and the plan says so. Its steps are those
that ``pipeline.make_*`` take for each way of making a student. Not here: how long answering takes (``forecast``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from locum.cascade.labels import label_arithmetic
from locum.core.errors import SourceError
from locum.data.examples import ExampleReader
from locum.data.graded import read_graded
from locum.data.inspect import SAMPLE_ROWS, Inspection, inspect
from locum.data.propose import Wish
from locum.data.readers import open_table, wanted_columns
from locum.data.rows import Faults
from locum.fit.device import profile_device
from locum.fit.ladder import LEAST_ROWS, DataSize, Machines, make_ladder, mixture_size, training_budgets
from locum.pipeline.answer_limit import writes
from locum.pipeline.forecast import ASSUMED, Expected, answer_s, expect, measuring_s, searching_s
from locum.pipeline.ladder import serves_on
from locum.pipeline.llm_forecast import forecast_llm
from locum.pipeline.others import TaskFiles, read_tasks
from locum.pipeline.rung import answers_at_once, maker
from locum.pipeline.steps import slug
from locum.pipeline.workspace import graded_addresses, split_addresses
from locum.schema.candidate import Candidate
from locum.schema.data import Row, SplitName
from locum.schema.device import DeviceProfile
from locum.schema.plan import Download, Plan, PlannedMix, PlannedStep
from locum.schema.task import MultitaskSpec, Task
from locum.sources.address import PathAddress, parse_address
from locum.sources.bases import plan_base
from locum.sources.fetch import cached
from locum.stats.mixture import task_counts
from locum.tasks import open_kind

_ASSUMED_GRADED = 200
_CALIBRATION = "answer-calibration"
_EXPORT_S = {"linear": 2.0, "encoder": 25.0, "decoder": 90.0}
"""By family; a decoder's tokens are compared with those of the trained weights, which takes longest."""


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
    files = read_tasks(Path(task_file))
    task, root = files.task, files.root
    folder = Path(out) if out is not None else Path("runs") / task.name
    warnings: list[str] = []
    data_downloads = _data_downloads(task, root)
    _check_columns(task, root)
    for other in files.others:
        data_downloads += _data_downloads(other.task, other.root, of=f" of {other.task.name}")
        _check_columns(other.task, other.root)
    seen = _inspected(task, root, warnings)
    expected = expect(task, seen)
    sizes = {task.name: expected.training} | {
        other.task.name: expect(
            other.task, _inspected(other.task, other.root, warnings, of=f" of {other.task.name}")
        ).training
        for other in files.others
    }
    here = profile_device(measure=True)
    mixed = mixture_size(sizes, task.multitask.mixing) if task.multitask else None
    size = replace(expected.size, telling=_telling(task, seen))
    ladder = make_ladder(task, size, Machines(here, serves_on(task, here)), mixed, root)
    downloads = (*data_downloads, *_base_downloads(ladder, root))
    steps = _steps(files, ladder, expected, here, folder)
    asked = forecast_llm(
        task,
        ladder,
        expected.held_out,
        row_tokens=expected.size.row_tokens,
        answer_tokens=expected.answer_tokens,
        graded=_graded(task, root, warnings),
    )
    if (over := asked.over_cap(task)) is not None:
        warnings.append(over)
    available = None if seen is None or task.data.calibration is not None else expected.proof_rows
    labels = label_arithmetic(task.guarantee, available)
    if available is not None and available < labels.without_errors:
        warnings.append(_too_few(task, available, labels.without_errors))
    return Plan(
        task=task.name,
        steps=steps,
        ladder=ladder,
        downloads=downloads,
        download_mb=sum(item.size_mb or 0.0 for item in downloads if not item.cached),
        seconds=sum(step.seconds or 0.0 for step in steps if not step.done),
        budget_s=task.budget.build_minutes * 60,
        llm_calls=asked.calls,
        llm_cost=asked.cost,
        labels=labels,
        multitask=_mix(sizes, task.multitask),
        answers=expected.limit,
        warnings=tuple(warnings),
    )


def _mix(sizes: Mapping[str, DataSize], asked: MultitaskSpec | None) -> tuple[PlannedMix, ...]:
    """Each task's rows and share of an epoch; nothing when the task is learned alone."""
    if asked is None:
        return ()
    counts = task_counts({name: size.train_rows for name, size in sizes.items()}, asked.mixing)
    total = max(1, sum(counts.values()))
    return tuple(
        PlannedMix(task=name, rows=size.train_rows, share=counts[name] / total) for name, size in sizes.items()
    )


def _inspected(task: Task, root: Path, warnings: list[str], *, of: str = "") -> Inspection | None:
    """The training file, when it is here."""
    local = [
        file for address in split_addresses(task)["train"] if (file := cached(str(_at(address, root)))) is not None
    ]
    if not local:
        warnings.append(
            f"the training file{of} is not here yet: {ASSUMED.train_rows:,} rows of {ASSUMED.mean_chars:.0f} characters"
            " are assumed"
        )
        return None
    inputs, outputs = ((names,) if isinstance(names, str) else names for names in (task.data.input, task.data.output))
    said = Wish(task.kind, task.profile, inputs, outputs)
    seen = inspect(local[0], format=task.data.format, encoding=task.data.encoding, wish=said)
    if not seen.complete:
        warnings.append(f"the training file{of} was read up to row {seen.rows:,}; there is more of it")
    return seen


def _telling(task: Task, seen: Inspection | None) -> dict[SplitName, int] | None:
    """How many rows of the training file say what to write, counted until there are enough; None when that is not
    known.
    """
    if seen is None or not writes(task):
        return None
    spec, path, kind, found = task.data, Path(seen.path), open_kind(task), 0
    table = open_table(path, format=spec.format, encoding=spec.encoding, wanted=wanted_columns(spec))
    faults = Faults(str(path))  # the build tells them; a row that cannot be used teaches nothing
    examples = ExampleReader(task, faults, Counter())
    for row in islice(table.rows(faults), SAMPLE_ROWS):
        example = examples.take(row)
        if example is None:
            continue
        found += kind.target(Row(id=row.place, input=example.input, output=example.output)) is not None
        if found == LEAST_ROWS:
            return {"train": found}
    return {"train": found} if seen.complete else None


def _too_few(task: Task, available: int, needed: int) -> str:
    unit = "rows" if task.data.group is None else "groups"
    more = "raise data.max_held_out" if available == task.max_held_out else "give more rows"
    return (
        f"about {available} calibration {unit} cannot prove that at most {100 * task.guarantee.max_error:.4g} % are"
        f" wrong (that takes {needed} without an error): {more}, or allow more with guarantee.max_error"
    )


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


def _data_downloads(task: Task, root: Path, *, of: str = "") -> list[Download]:
    named = {f"data.{split}": (f"{split} data", addresses) for split, addresses in split_addresses(task).items()}
    if human := graded_addresses(task):
        named["judge.human"] = ("answers that people graded", human)
    found: list[Download] = []
    missing: list[str] = []
    for key, (what, addresses) in named.items():
        places = [str(_at(address, root)) for address in addresses]
        is_here = any(cached(place) is not None for place in places)
        if not is_here and all(isinstance(parse_address(place), PathAddress) for place in places):
            missing.append(f"{key}{of}: there is no {places[0]}")
        found.append(Download(what=f"{what}{of}", address=addresses[0], size_mb=None, cached=is_here))
    if missing:
        raise SourceError("source-missing", "; ".join(missing), fix="check the path")
    return found


def _graded(task: Task, root: Path, warnings: list[str]) -> int:
    """How many answers that people graded the judge will grade too; read when they are here, which tells their faults.

    Raises:
        DataError: the file is here and cannot be used.
    """
    spec, addresses = task.judged, graded_addresses(task)
    if spec is None:
        return 0
    if not addresses:
        warnings.append(
            "the judge's agreement with people will not be measured: name answers that people graded in judge.human"
        )
        return 0
    here = (cached(str(_at(address, root))) for address in addresses)
    file = next((found for found in here if found is not None), None)
    if file is None:
        warnings.append(f"the answers that people graded are not here yet: {_ASSUMED_GRADED} are assumed")
        return _ASSUMED_GRADED
    return len(read_graded(file, task, spec).answers)


def _base_downloads(ladder: Sequence[Candidate], root: Path) -> list[Download]:
    bases = dict.fromkeys(candidate.base for candidate in ladder if candidate.base and candidate.skipped is None)
    return [plan_base(base, root=root) for base in bases if base]


def _steps(
    files: TaskFiles, ladder: Sequence[Candidate], expected: Expected, device: DeviceProfile, folder: Path
) -> tuple[PlannedStep, ...]:
    task = files.task
    finished = {path.parent.name.rpartition("-")[0] for path in (folder / "work").glob("*/step.json")}
    finished |= {once for once in ("refit", _CALIBRATION) for name in finished if name.startswith(f"{once}-")}

    def step(name: str, what: str, seconds: float | None) -> PlannedStep:
        return PlannedStep(name=name, what=what, seconds=seconds, done=slug(name) in finished)

    steps = [
        step("data", "fetch, verify, clean and split the data", 10.0),
        *(step(f"data-{o.task.name}", f"the same with the data of {o.task.name}", 10.0) for o in files.others),
        *([step("mixture", "mix the rows of the tasks", 2.0)] if files.others else []),
        step("ladder", "measure the device and decide the candidates", 1.0),
    ]
    if expected.limit is not None and expected.limit.source != "task":
        steps.append(step("answers", "count the tokens of right answers", 5.0))
    budgets = training_budgets(task.kind, [each.method for each in ladder], task.budget.build_minutes * 60)
    for candidate, budget_s in zip(ladder, budgets, strict=True):
        if candidate.skipped is not None:
            continue
        name, each_s = candidate.name, answer_s(task, candidate, expected, device)
        if maker(task.kind, candidate) == "prompted":
            what = f"find a prompt for {name}" if task.generation.search_calls else f"take the instruction for {name}"
            steps.append(step(f"prompt-{name}", what, searching_s(task, each_s, budget_s)))
        else:
            training_s = candidate.estimate.train_s
            steps += [
                step(f"train-{name}", f"train {name}", None if training_s is None else min(training_s, budget_s)),
                step(f"export-{name}", "export and check parity", _EXPORT_S[candidate.family]),
            ]
        at_once = answers_at_once(task.kind, candidate)
        first, which = (expected.rows, "held-out") if at_once else (expected.held_out["dev"], "dev")
        what = f"answer {first:,} {which} rows through the engine"
        steps.append(step(f"measure-{name}", what, measuring_s(each_s, first)))
    steps += _later_answers(task, ladder, expected, device, step)
    if task.kind in ("classify", "tag"):
        longest_s = max((each.seconds or 0.0 for each in steps if each.name.startswith("train-")), default=0.0)
        steps.append(step("refit", "train the chosen student again on train and dev, if there is time", longest_s))
    return (*steps, step("certify", "certificate, report and bundle", 5.0))


def _later_answers(
    task: Task,
    ladder: Sequence[Candidate],
    expected: Expected,
    device: DeviceProfile,
    step: Callable[[str, str, float | None], PlannedStep],
) -> list[PlannedStep]:
    """What is answered once the choice is made: which student that will be is not known, so the slowest is assumed."""
    slow = [each for each in ladder if each.skipped is None and not answers_at_once(task.kind, each)]
    each_s = {each.name: answer_s(task, each, expected, device) for each in slow}
    if not slow:
        return []
    calibration, test = expected.held_out["calibration"], expected.held_out["test"]
    slowest_s = max((seconds for seconds in each_s.values() if seconds is not None), default=None)
    return [
        step(
            _CALIBRATION,
            f"answer {calibration:,} calibration rows with the chosen student",
            None if slowest_s is None else calibration * slowest_s,
        ),
        *(
            step(f"answer-test-{name}", f"answer {test:,} test rows", None if seconds is None else test * seconds)
            for name, seconds in each_s.items()
        ),
    ]
