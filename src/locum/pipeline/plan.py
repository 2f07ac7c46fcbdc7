"""``make_plan``: what a build would do, cost and need; validates everything and downloads nothing.

Notable: the ladder is decided by the same function as in the build, from what is known without the data: local
files are counted, remote ones are assumed to hold what most task files do, and the plan says so. Its steps are those
that ``pipeline.make_*`` take for each way of making a student. Not here: how long they take (``step_times``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from locum.cascade.labels import label_arithmetic, out_of_reach, proof_sentence
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
from locum.pipeline.finished import Finished, find_finished
from locum.pipeline.forecast import ASSUMED, Expected, expect, groups_in
from locum.pipeline.history import read_history
from locum.pipeline.ladder import serves_on
from locum.pipeline.llm_forecast import forecast_llm
from locum.pipeline.others import TaskFiles, read_tasks
from locum.pipeline.rung import answers_at_once, maker
from locum.pipeline.step_times import Guess, StepTimes
from locum.pipeline.workspace import graded_addresses, split_addresses
from locum.schema.candidate import Candidate
from locum.schema.data import DataCard, Row, SplitName
from locum.schema.plan import Download, LabelNeed, Plan, PlannedMix, PlannedStep
from locum.schema.task import MultitaskSpec, Task
from locum.sources.address import PathAddress, parse_address
from locum.sources.bases import plan_base
from locum.sources.fetch import cached
from locum.stats.mixture import task_counts
from locum.tasks import open_kind

_ASSUMED_GRADED = 200
_CALIBRATION = "answer-calibration"


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
    return plan_of(files, Path(out) if out is not None else Path("runs") / files.task.name)


def plan_of(files: TaskFiles, folder: Path) -> Plan:
    """The same for tasks that have been read."""
    task, root = files.task, files.root
    warnings: list[str] = []
    data_downloads = _data_downloads(task, root)
    _check_columns(task, root)
    for other in files.others:
        data_downloads += _data_downloads(other.task, other.root, of=f" of {other.task.name}")
        _check_columns(other.task, other.root)
    here = profile_device(measure=True)
    found = find_finished(files, folder, here)
    seen = _inspected(task, root, warnings)
    expected = expect(task, seen, found.card)
    sizes = {task.name: expected.training} | {
        other.task.name: expect(
            other.task, _inspected(other.task, other.root, warnings, of=f" of {other.task.name}")
        ).training
        for other in files.others
    }
    mixed = mixture_size(sizes, task.multitask.mixing) if task.multitask else None
    size = replace(expected.size, telling=_telling(task, seen))
    ladder = found.ladder or make_ladder(task, size, Machines(here, serves_on(task, here)), mixed, root)
    ladder = tuple(_as_found(candidate, found) for candidate in ladder)
    downloads = (*data_downloads, *_base_downloads(ladder, root))
    history = read_history()
    times = StepTimes(task, expected, here, history)
    steps = _steps(files, ladder, times, mixed or expected.training, found)
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
    available = _proof_rows(task, root, expected, found.card, seen)
    labels = label_arithmetic(task.guarantee, available, "rows" if task.data.group is None else "groups")
    if out_of_reach(labels):
        warnings.append(_too_few(task, labels))
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
        learned_from=len(history.builds),
        warnings=tuple(warnings),
    )


def _as_found(candidate: Candidate, found: Finished) -> Candidate:
    """A candidate, and why it will not be built where that shows already."""
    reason = candidate.skipped or found.not_built.get(candidate.name)
    return candidate if reason is None else candidate.model_copy(update={"skipped": reason})


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


def _proof_rows(
    task: Task, root: Path, expected: Expected, card: DataCard | None, seen: Inspection | None
) -> int | None:
    """What the certificate can count, as far as is known: calibration rows, or groups where rows belong together.

    Rows without an answer are no proof, and no more rows are read than the task allows.
    """
    if card is not None:
        return expected.proof_rows
    given = split_addresses(task).get("calibration")
    if given is not None:
        local = [file for address in given if (file := cached(str(_at(address, root)))) is not None]
        if not local:
            return None
        seen = inspect(local[0], format=task.data.format, encoding=task.data.encoding)
        if not seen.complete:
            return None
        count = groups_in(task, seen) or seen.rows
        cap = task.max_held_out
    elif seen is None or expected.proof_rows is None:
        return None
    else:
        count, cap = expected.proof_rows, None
    answers = {task.data.output} if isinstance(task.data.output, str) else {*task.data.output}
    missing = max((column.missing for column in seen.columns if column.name in answers), default=0.0)
    return min(round(count * (1 - missing)), cap or count)


def _too_few(task: Task, need: LabelNeed) -> str:
    more = "raise data.max_held_out" if need.available == task.max_held_out else f"give more {need.unit}"
    needed = f"about {need.for_power_80:,} would do" + (" if all are answered" if need.kind == "selective" else "")
    return f"{proof_sentence(need)} To change that, {more} ({needed}), or allow more with guarantee.max_error"


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
    files: TaskFiles, ladder: Sequence[Candidate], times: StepTimes, mixed: DataSize, found: Finished
) -> tuple[PlannedStep, ...]:
    task, expected = files.task, times.expected

    def step(name: str, what: str, guess: Guess) -> PlannedStep:
        once = name.endswith("refit") or name == _CALIBRATION  # of the student that is chosen, once that is known
        done = found.whole if once else name in found.steps
        return PlannedStep(
            name=name, what=what, seconds=guess.seconds, done=done, sort=guess.sort, plain_s=guess.plain_s
        )

    rows = expected.training_rows + expected.rows
    steps = [
        step("data", "fetch, check, clean and split the data", times.data(rows)),
        *(
            step(f"data-{o.task.name}", f"the same with the data of {o.task.name}", times.data(rows))
            for o in files.others
        ),
        *([step("mixture", "mix the rows of the tasks", Guess(2.0))] if files.others else []),
        step("ladder", "measure the device and decide the candidates", Guess(1.0)),
    ]
    if expected.limit is not None and expected.limit.source != "task":
        steps.append(step("answers", "count the tokens of right answers", Guess(5.0)))
    budgets = training_budgets(task.kind, [each.method for each in ladder], task.budget.build_minutes * 60)
    for candidate, budget_s in zip(ladder, budgets, strict=True):
        if candidate.skipped is not None:
            continue
        name = candidate.name
        if maker(task.kind, candidate) == "prompted":
            what = f"find a prompt for {name}" if task.generation.search_calls else f"take the instruction for {name}"
            steps.append(step(f"prompt-{name}", what, times.searching(candidate, budget_s)))
        else:
            learned = mixed if candidate.multitask else expected.training
            steps += [
                step(f"train-{name}", f"train {name}", times.training(candidate, budget_s, learned)),
                step(
                    f"export-{name}",
                    "write the served file, check that it answers alike",
                    times.exporting(candidate),
                ),
            ]
        at_once = answers_at_once(task.kind, candidate)
        first, which = (expected.rows, "held-out") if at_once else (expected.held_out["dev"], "dev")
        what = f"answer {first:,} {which} rows through the engine"
        steps.append(step(f"measure-{name}", what, times.measuring(candidate, first)))
    steps += _later_answers(ladder, times, step)
    if task.kind in ("classify", "tag"):
        seconds = {each.name: each.seconds or 0.0 for each in steps}
        longest = max(
            (each.name for each in ladder if f"train-{each.name}" in seconds),
            key=lambda n: seconds[f"train-{n}"],
            default=None,
        )
        what = "train the chosen student again on train and dev, if there is time"
        if longest is not None:
            steps += [
                step("refit", what, Guess(seconds[f"train-{longest}"])),
                step("export-refit", "write it and check that it answers alike", Guess(seconds[f"export-{longest}"])),
                step("measure-refit", "answer the held-out rows again", Guess(seconds[f"measure-{longest}"])),
            ]
    return (*steps, step("certify", "certificate, report and bundle", Guess(2.0)))


def _later_answers(
    ladder: Sequence[Candidate], times: StepTimes, step: Callable[[str, str, Guess], PlannedStep]
) -> list[PlannedStep]:
    """What is answered once the choice is made: which student that will be is not known, so the slowest is assumed."""
    kind, held_out = times.task.kind, times.expected.held_out
    slow = [each for each in ladder if each.skipped is None and not answers_at_once(kind, each)]
    if not slow:
        return []
    calibration, test = held_out["calibration"], held_out["test"]
    guesses = [times.answering(each, calibration) for each in slow]
    return [
        step(
            _CALIBRATION,
            f"answer {calibration:,} rows put aside for the proof (calibration) with the chosen student",
            max(guesses, key=lambda guess: guess.seconds or 0.0),
        ),
        *(step(f"answer-test-{each.name}", f"answer {test:,} test rows", times.answering(each, test)) for each in slow),
    ]
