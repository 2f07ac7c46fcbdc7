"""The harness's tasks: found by name, given local rows, run over a model, and read as statistics of documents.

Notable: with ``limit`` the documents are drawn by lot, while the harness takes the first ones, which in HellaSwag are
all of one kind; so an interval speaks of the whole benchmark. Worked examples are the harness's own choice, by its own
seed. A metric stays what the harness makes of it: its mean, or whatever function of the documents it names. Not here:
asking (``harness``), files (``harness_data``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task as harness_task
import numpy as np
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from jinja2 import UndefinedError
from lm_eval.api.metrics import mean
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from locum.core.errors import DataError, SourceError, UserError
from locum.core.files import content_hash
from locum.core.progress import note, warn
from locum.core.registry import nearest
from locum.evaluate.harness import HarnessModel
from locum.evaluate.harness_data import PLAIN, Local, local_rows
from locum.evaluate.scored import Scored
from locum.sources.cache import is_offline
from locum.stats.inputs import Floats, Ints
from locum.stats.rowwise import Coded, Mean, Metric

_FEW_SHOT_SEED = 1234
"""The harness's own."""
_SPLIT_FIELDS = ("training_split", "validation_split", "test_split", "fewshot_split")
_DEFINITIONS = Path(harness_task.__file__).parent.parent / "tasks"


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A benchmark that was asked for, with its data.

    Attributes:
        parts: the harness's task objects by name.
        remark: what differs from the published data set.
    """

    name: str
    parts: Mapping[str, Any]
    remark: str

    @property
    def of(self) -> int:
        """How many documents there are."""
        return sum(len(task.eval_docs) for task in self.parts.values())

    @property
    def version(self) -> str:
        """Of the definition."""
        return ", ".join(sorted({str(task.VERSION) for task in self.parts.values()}))

    @property
    def few_shot(self) -> int:
        """How many worked examples a prompt has."""
        return max(int(task.get_config("num_fewshot") or 0) for task in self.parts.values())

    def higher_is_better(self, metric: str) -> bool:
        """Whether more of a metric is better."""
        first = next(iter(self.parts.values()))
        return bool(first.higher_is_better().get(metric.partition(",")[0], True))

    def headline(self, metrics: Sequence[str]) -> str:
        """The metric that is usually published: normalised accuracy, else the first of which more is better."""
        if "acc_norm" in metrics:
            return "acc_norm"
        return next((metric for metric in metrics if self.higher_is_better(metric)), metrics[0])


def open_benchmarks(
    names: Sequence[str], *, data: Path | None, work: Path, few_shot: int | None = None
) -> list[Benchmark]:
    """Find tasks, and their rows.

    Args:
        names: tasks, groups or tags of the harness, or YAML files of its form.
        data: folder of local files; None lets the harness load each data set from the hub.
        work: where rows are written for the harness.
        few_shot: worked examples in each prompt; None takes the task's own number, which is 0 if it says nothing.

    Raises:
        UserError: there is no such task.
        DataError: a file is missing, lacks columns, or there are none to take worked examples from.
    """
    with _quiet():
        manager = _manager(names)
        found = [_open(manager, name, data, work, few_shot) for name in dict.fromkeys(names)]
    for benchmark in found:
        for task in benchmark.parts.values():
            _refuse_what_is_more_than_text(benchmark.name, task)
            fixed = task.get_config("num_fewshot")
            if few_shot is not None and fixed == 0 and few_shot:
                warn(f"{benchmark.name} takes no worked examples: its definition says so")
            elif few_shot is not None or fixed is None:
                task.set_config(key="num_fewshot", value=few_shot or 0)
        if benchmark.remark:
            note(f"{benchmark.name}: {benchmark.remark}")
    return found


def run_benchmarks(
    model: HarnessModel, name: str, benchmarks: Sequence[Benchmark], *, limit: int | None = None, chat: bool = False
) -> list[Scored]:
    """Ask a model about every document.

    Args:
        model: who is asked.
        name: its name in reports.
        benchmarks: of ``open_benchmarks``.
        limit: documents of each part, drawn by lot; None takes all.
        chat: put prompts as conversations, through the model's chat template.

    Returns:
        What it scored, one entry a benchmark; metrics are named as the harness does, with the filter behind a comma.

    Raises:
        DataError: a column that a task needs is not there.
        LocumError: as ``HarnessModel``.
    """
    tasks = {part: task for benchmark in benchmarks for part, task in benchmark.parts.items()}
    for task in tasks.values():
        task.set_fewshot_seed(seed=_FEW_SHOT_SEED)
    chosen = {part: _lots(len(task.eval_docs), limit) for part, task in tasks.items()}
    model.chosen = chosen
    with _quiet(), _data_errors("the tasks"):
        results = evaluate(
            lm=model,
            task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
            samples=chosen,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    documents: Any = (results or {}).get("samples")
    return [_scored(name, benchmark, {part: documents[part] for part in benchmark.parts}) for benchmark in benchmarks]


def _scored(name: str, benchmark: Benchmark, documents: Mapping[str, Sequence[Mapping[str, Any]]]) -> Scored:
    rows = [row for part in benchmark.parts for row in sorted(documents[part], key=lambda row: row["doc_id"])]
    filters = list(dict.fromkeys(str(row["filter"]) for row in rows))
    by_filter = {each: [row for row in rows if row["filter"] == each] for each in filters}
    metrics: dict[str, Metric] = {}
    for each, some in by_filter.items():
        for metric in some[0]["metrics"]:
            if all(metric in row for row in some):
                key = metric if each == "none" else f"{metric},{each}"
                metrics[key] = _metric([row[metric] for row in some], _aggregation(benchmark, metric))
    first = by_filter[filters[0]]
    headline = metrics[benchmark.headline(list(metrics))]
    right = headline.values > 0 if isinstance(headline, Mean) else np.zeros(len(first), dtype=np.bool_)
    return Scored(
        model=name,
        split="test",
        ids_hash=content_hash([[row["doc_id"], row["doc_hash"]] for row in first]),
        correct=right,
        confidence=np.full(len(first), np.nan),
        metrics=metrics,
    )


def _aggregation(benchmark: Benchmark, metric: str) -> Callable[[Sequence[Any]], float]:
    first = next(iter(benchmark.parts.values()))
    return first.aggregation().get(metric, mean)


def _metric(values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float]) -> Metric:
    """Documents' values as a statistic of documents; what is no mean is worked out by the harness's own function."""
    if aggregate is mean:
        return Mean(np.asarray(values, dtype=np.float64))

    def statistic(rows: Ints) -> Floats:
        return np.array([aggregate([values[place] for place in some]) for some in rows], dtype=np.float64)

    return Coded(statistic, len(values))


def _lots(count: int, limit: int | None) -> list[int]:
    """Numbers of documents, rising: all, or the same lots each time; a larger limit keeps those of a smaller one."""
    order = np.random.default_rng(0).permutation(count)
    return sorted(order[:limit].tolist())


def _manager(names: Sequence[str]) -> Any:
    """The harness's index: of the tasks whose plain files are known, or of all, which takes seconds to read."""
    known = sorted({plain.definitions for plain in PLAIN.values()})
    manager = TaskManager(include_defaults=False, include_path=[_DEFINITIONS / folder for folder in known])
    if all(_is_file(name) or name in manager.task_index for name in names):
        return manager
    note("reading the definitions of the harness's tasks")
    manager = TaskManager()
    for name in names:
        if not _is_file(name) and name not in manager.task_index:
            close = nearest(name, manager.task_index)
            fix = f"did you mean {close!r}?" if close else "`lm-eval ls tasks` lists them"
            raise UserError("core-unknown-name", f"the harness has no task {name!r}", fix=fix)
    return manager


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def _open(manager: Any, name: str, data: Path | None, work: Path, few_shot: int | None) -> Benchmark:
    if data is None or _is_file(name):
        if is_offline() and not _is_file(name):
            fix = "give its files with --data FOLDER, or unset LOCUM_OFFLINE"
            raise SourceError("source-offline", f"the data set of {name} is on the hub, and downloads are off", fix=fix)
        with _data_errors(name):
            return Benchmark(name, manager.load([name])["tasks"], "")
    members: list[dict[str, Any]] = []
    remarks: list[str] = []
    for leaf in _leaves(manager, name):
        config = manager.task_index[leaf].cfg
        local = local_rows(leaf, config, data, work)
        members.append(_override(leaf, config, local, work, few_shot))
        remarks.append(local.remark)
    with _data_errors(name):
        loaded = manager.load([{"group": f"local-{name}", "task": members}])["tasks"]
    return Benchmark(name, loaded, "; ".join(sorted(filter(None, set(remarks)))))


def _refuse_what_is_more_than_text(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        fix = "build a task of profile code: it runs such code in a sandbox"
        raise UserError("runtime-unsupported-option", f"{name} runs code that the model writes, unguarded", fix=fix)
    if getattr(task, "MULTIMODAL", False):
        raise UserError("runtime-unsupported-option", f"{name} needs more than text", fix="leave it out")


def _leaves(manager: Any, name: str) -> list[str]:
    """The tasks that a name stands for: itself, or the members of a group or tag."""
    entry = manager.task_index[name]
    kind = entry.kind.name
    if kind == "TASK":
        return [name]
    members = sorted(entry.tags) if kind == "TAG" else (entry.cfg or {}).get("task", ())
    if kind == "PY_TASK" or not all(isinstance(member, str) for member in members):
        cause = f"{name} defines its tasks in a way that local files cannot be put into"
        raise UserError("runtime-unsupported-option", cause, fix="name its tasks one by one, or leave out --data")
    return [leaf for member in members for leaf in _leaves(manager, member)]


def _override(leaf: str, config: Mapping[str, Any], local: Local, work: Path, few_shot: int | None) -> dict[str, Any]:
    """The fields of a definition that say where its rows are; everything else stays the harness's."""
    settings = {field: config.get(field) for field in _SPLIT_FIELDS} | dict(local.settings)
    shots = config.get("num_fewshot") if few_shot is None or config.get("num_fewshot") == 0 else few_shot
    source = settings["fewshot_split"] or settings["training_split"] or settings["validation_split"]
    if shots and source not in local.files:
        raise DataError(
            "data-missing",
            f"{leaf} takes its {shots} worked examples from the {source} split, which has no file",
            fix=f"put it at {leaf}/{source}.jsonl below --data, or add --few-shot 0",
        )
    present = {field: split if split in local.files else None for field, split in settings.items()}
    return {
        "task": leaf,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(path) for split, path in local.files.items()},
            "cache_dir": str(work / "arrow"),
        },
        **present,
    }


@contextmanager
def _data_errors(what: str) -> Generator[None, None, None]:
    """What the harness raises of data that do not fit becomes ours."""
    fix = "see docs/benchmarks.md for the columns that a task needs"
    try:
        yield
    except (UndefinedError, KeyError, ValueError) as error:
        cause = f"the rows of {what} lack a column, or hold another type: {str(error)[:300]}"
        raise DataError("data-columns", cause, fix=fix) from error
    except ImportError as error:
        raise UserError("core-missing-extra", f"{what}: {error}", fix="install what it names with pip") from error
    except (DatasetGenerationError, DatasetNotFoundError, OSError) as error:
        raise DataError(
            "data-missing",
            f"the data set of {what} cannot be loaded: {type(error).__name__}: {str(error)[:300]}",
            fix="give its files with --data FOLDER, or mend the connection to the hub",
        ) from error


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Progress goes through ``core.progress``: neither the harness nor datasets writes to the terminal meanwhile."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    shown = datasets.are_progress_bars_disabled()
    bar: Any = harness_task.tqdm
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    harness_task.tqdm = partial(bar, disable=True)  # it has no switch
    try:
        yield
    finally:
        harness_task.tqdm = bar
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not shown:
            datasets.enable_progress_bars()
