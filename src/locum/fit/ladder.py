"""The ladder: which candidates a task gets, in order of cost, and which of them the device or the budget rules out.

Notable: everything is decided from the catalogue's facts, the size of the data and the device's profile, before
anything is downloaded or trained; a candidate that is ruled out stays in the ladder with its reason. A decoder
is cut to the depth whose training fits its share of the time: the first layers of a pretrained decoder carry
most of what a classifier needs, and half of them cost half.
Not here: when to stop climbing (``evaluate.choose``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locum.core.errors import UserError
from locum.fit import memory, time
from locum.fit.written import CHARS_PER_TOKEN, writer_estimate, writing
from locum.schema.candidate import Candidate, Estimate, Family, Method
from locum.schema.data import SplitName
from locum.schema.device import DeviceProfile
from locum.schema.kinds import PROMPTED, TUNED, WRITING, Kind
from locum.schema.task import Budget, StudentSpec, Task
from locum.sources.address import PathAddress, parse_address
from locum.sources.bases import plan_base
from locum.sources.catalogue import catalogue
from locum.sources.facts import BaseFacts, read_facts
from locum.stats.mixture import task_counts

_ENCODER, _DECODER = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
_WRITTEN: tuple[StudentSpec, ...] = (
    StudentSpec(base=_DECODER, method="prompt"),
    StudentSpec(base=_DECODER, method="few_shot"),
    StudentSpec(base=_DECODER, method="full"),
)
AUTO: dict[Kind, tuple[StudentSpec, ...]] = {
    "classify": (
        StudentSpec(method="linear"),
        StudentSpec(base=_ENCODER, method="head"),
        StudentSpec(base=_ENCODER, method="full"),
        StudentSpec(base=_DECODER, method="full"),
    ),
    "tag": (StudentSpec(base=_ENCODER, method="head"), StudentSpec(base=_ENCODER, method="full")),
    "extract": _WRITTEN,
    "generate": _WRITTEN,
    "rank": (
        StudentSpec(method="linear"),
        StudentSpec(base=_ENCODER, method="head"),
        StudentSpec(base=_ENCODER, method="full"),
    ),
}
"""What ``students: auto`` stands for, by kind; all bases come from the package index as well as from the hub."""
MULTITASK = StudentSpec(base=_DECODER, method="full", multitask=True)
"""What comes after these where the task file names other tasks to learn from."""

RESERVE = 0.16
"""Share of the build time kept for everything that is not training: export, measuring, certificate, report."""

RESERVE_WRITTEN = 0.55
"""The same where answers are written: answering the held-out rows takes longer than training a small model."""

_WEIGHTS: dict[Method, float] = {
    "linear": 0.03,
    "head": 0.12,
    "full": 1.0,
    "lora": 1.0,
    "dora": 1.0,
    "prompt": 0.15,
    "few_shot": 0.25,
}
ASSUMED_EPOCHS: dict[Family, float] = {"linear": 1.0, "encoder": 10.0, "decoder": 2.0}
"""What the time to train is estimated for, and a depth chosen by."""
LEAST_ROWS = 10
"""Fewest rows of train, and of dev, that must say what to write where a student is tuned to write."""
_MIN_DEPTH = 4
_BATCH_ROWS = 32
PASS_TOKENS: dict[Kind, int] = {"classify": 8192, "tag": 8192, "rank": 16384, "extract": 1024, "generate": 1024}
"""Most tokens whose activations training keeps at once on a processor: larger batches are read in parts, a longer row
alone."""
_CANDIDATE_TOKENS = 256  # an encoder that ranks cuts candidates there
_TEXTS_TRAINED = 3  # that it reads for a row in training: the query and two candidates


@dataclass(frozen=True)
class DataSize:
    """How much there is to learn from.

    Attributes:
        answer_tokens: of a middling right answer, as a student writes it; None when that is not known.
        telling: rows of a split that say what to write, where answers are written and that is known; the gold answers
            of the others only check.
    """

    train_rows: int
    mean_chars: float
    labels: int
    answer_tokens: int | None = None
    telling: Mapping[SplitName, int] | None = None

    @property
    def row_tokens(self) -> int:
        """Tokens of a middling row, two special ones included."""
        return round(self.mean_chars / CHARS_PER_TOKEN) + 2

    @property
    def tokens(self) -> int:
        """Tokens in one pass over the training rows."""
        return self.train_rows * self.row_tokens


@dataclass(frozen=True)
class Machines:
    """Where a student is trained, and where it must run."""

    training: DeviceProfile
    serving: DeviceProfile


def make_ladder(
    task: Task, size: DataSize, machines: Machines, mixed: DataSize | None = None, root: Path | None = None
) -> tuple[Candidate, ...]:
    """The candidates of a task, cheapest first when they are chosen automatically.

    Args:
        task: what is asked; ``students`` names candidates, or is auto.
        size: of the training data.
        machines: that train and serve.
        mixed: of the training data of multitask students.
        root: folder that relative paths of bases start from; default: the working folder.

    Returns:
        Candidates with estimates; those ruled out have ``skipped`` set.

    Raises:
        SourceError: a base is neither in the catalogue, nor a folder, nor an address.
        UserError: a base has fewer layers than are to be kept.
    """
    wanted = students_of(task)
    budgets = training_budgets(task.kind, [spec.method for spec in wanted], task.budget.build_minutes * 60)
    ladder: list[Candidate] = []
    for spec, budget_s in zip(wanted, budgets, strict=True):
        facts = _facts(spec.base, root) if spec.base else None
        if facts is not None:
            _check_layers(spec, facts)
        learned = mixed if spec.multitask and mixed is not None else size
        candidate = _candidate(task, spec, facts, size, learned, machines, budget_s)
        reason = (
            _other_family(task.kind, candidate)
            or _nothing_to_learn(task.kind, candidate, size)
            or _over(candidate, task.budget, machines)
            or _too_shallow(candidate, budget_s)
        )
        ladder.append(candidate.model_copy(update={"skipped": reason}) if reason else candidate)
    return tuple(ladder)


def students_of(task: Task) -> tuple[StudentSpec, ...]:
    """The students that a task file names, or that its ``auto`` stands for."""
    if task.students != "auto":
        return task.students
    return (*AUTO[task.kind], MULTITASK) if task.multitask is not None else AUTO[task.kind]


def mixture_size(sizes: Mapping[str, DataSize], temperature: float) -> DataSize:
    """How much there is to learn in an epoch of several tasks.

    Args:
        sizes: by task.
        temperature: T, by which they are mixed.
    """
    counts = task_counts({task: size.train_rows for task, size in sizes.items()}, temperature)
    rows = sum(counts.values())
    chars = sum(count * sizes[task].mean_chars for task, count in counts.items())
    return DataSize(train_rows=rows, mean_chars=chars / max(1, rows), labels=0)


def training_budgets(kind: Kind, methods: Sequence[Method], build_s: float) -> list[float]:
    """Seconds that the training of each candidate may take.

    A function of the ladder alone, so that a resumed build agrees with itself; what a candidate does not need
    is left over as slack. For labels and tags a share as large as the largest is left, in which the chosen one is
    trained again.

    Args:
        kind: of the task.
        methods: of the candidates, in order.
        build_s: the whole build's time.
    """
    weights = [_WEIGHTS[method] for method in methods]
    total = sum(weights) + (max(weights, default=0.0) if kind in ("classify", "tag") else 0.0)
    reserve = RESERVE_WRITTEN if kind in ("extract", "generate") else RESERVE
    return [round(build_s * (1 - reserve) * _WEIGHTS[method] / total, 1) for method in methods]


def epochs_of(kind: Kind, candidate: Candidate) -> int:
    """Epochs that a candidate is tuned for where time allows it (``train.recipe``); 0 where nothing is tuned."""
    if candidate.method not in TUNED:
        return 0
    return 15 if kind == "tag" else 10 if candidate.family == "encoder" else 3


def affordable_depth(
    facts: BaseFacts, size: DataSize, device: DeviceProfile, budget_s: float, method: Method = "full"
) -> int:
    """The largest number of layers whose training fits the time; at least one, all when the speed is unknown."""
    for depth in range(facts.layers, 1, -1):
        needed_s = _training_seconds(facts, method, size, device, depth)
        if needed_s is None or needed_s <= budget_s:
            return depth
    return 1


def _facts(base: str, root: Path | None) -> BaseFacts | None:
    """What is known of a base without a download; None for an address that is not in the catalogue."""
    entry = catalogue().get(base)
    if entry is not None:
        return entry.facts
    plan_base(base, root=root)  # refuses a name that is nothing at all
    address = parse_address(base)
    if not isinstance(address, PathAddress):
        return None
    folder = (root or Path()) / address.path
    return read_facts(folder) if folder.is_dir() else None


def _check_layers(spec: StudentSpec, facts: BaseFacts) -> None:
    """Refuse more layers than the base has.

    Raises:
        UserError: ``models-depth``.
    """
    for word, layers in (("depth", spec.depth), ("train_layers", spec.train_layers)):
        if layers is not None and layers > facts.layers:
            more = f"{spec.base} has {facts.layers} layers, and {word} {layers} is asked for"
            fix = f"give a {word} of at most {facts.layers}, or none for all layers"
            raise UserError("models-depth", more, fix=fix)


def _download_mb(base: str) -> float:
    return (plan_base(base).size_mb or 0.0) if catalogue().get(base) is not None else 0.0


def _candidate(
    task: Task,
    spec: StudentSpec,
    facts: BaseFacts | None,
    size: DataSize,
    learned: DataSize,
    machines: Machines,
    budget_s: float,
) -> Candidate:
    """A candidate that answers rows of one size and learns from those of another, which differ for several tasks."""
    kind = task.kind
    if spec.base is None:
        estimate = Estimate(train_s=1 + size.train_rows / 2000, memory_mb=memory.SERVING_LIBRARIES_MB)
        name = "bm25" if kind == "rank" else "tfidf"
        return Candidate(name=name, family="linear", method="linear", estimate=estimate)
    depth = spec.depth
    passes = 1.0
    if kind == "rank" and spec.method not in PROMPTED:
        size, passes = _read_one_by_one(size)
        learned = size
    if facts is None:
        family: Family = "decoder" if kind in ("extract", "generate") or spec.method in PROMPTED else "encoder"
        return Candidate(
            name=_name(spec, depth),
            family=family,
            base=spec.base,
            method=spec.method,
            depth=depth,
            train_layers=spec.train_layers,
            multitask=spec.multitask,
        )
    if kind == "classify" and facts.family == "decoder" and spec.method in TUNED and depth is None:
        depth = affordable_depth(facts, size, machines.training, budget_s, spec.method)
    return Candidate(
        name=_name(spec, depth),
        family=facts.family,
        base=spec.base,
        method=spec.method,
        depth=depth,
        train_layers=spec.train_layers,
        multitask=spec.multitask,
        parameters=memory.kept_parameters(facts, depth),
        estimate=_estimate(task, spec, facts, depth, size, learned, machines, passes),
    )


def _read_one_by_one(size: DataSize) -> tuple[DataSize, float]:
    """The texts that an encoder reads where rows are queries with candidates, and how many of them make a row."""
    tokens = min(size.row_tokens, _CANDIDATE_TOKENS)
    passes = size.row_tokens / tokens
    rows = round(size.train_rows * min(passes, _TEXTS_TRAINED))
    return DataSize(train_rows=rows, mean_chars=(tokens - 2) * CHARS_PER_TOKEN, labels=size.labels), passes


def _name(spec: StudentSpec, depth: int | None) -> str:
    short = (spec.base or "").removeprefix("hf://").split("@")[0].rstrip("/").split("/")[-1]
    parts = [spec.method]
    parts += [f"{depth}L"] if depth is not None else []
    parts += [f"last{spec.train_layers}"] if spec.train_layers is not None else []
    parts += ["multitask"] if spec.multitask else []
    return f"{short}/{'-'.join(parts)}"


def _training_seconds(
    facts: BaseFacts,
    method: Method,
    size: DataSize,
    device: DeviceProfile,
    depth: int | None,
    train_layers: int | None = None,
) -> float | None:
    flops = time.training_flops(
        facts,
        method,
        tokens=size.tokens,
        sequence=size.row_tokens,
        epochs=ASSUMED_EPOCHS[facts.family],
        depth=depth,
        train_layers=train_layers,
    )
    return time.training_seconds(flops, device)


def _estimate(
    task: Task,
    spec: StudentSpec,
    facts: BaseFacts,
    depth: int | None,
    size: DataSize,
    learned: DataSize,
    machines: Machines,
    passes: float,
) -> Estimate:
    """What a student costs that writes an answer, or reads ``passes`` texts for one."""
    served = _served(task, spec, facts, depth, size, machines.serving, passes)
    trained = spec.method not in PROMPTED
    most = max(PASS_TOKENS[task.kind], learned.row_tokens)
    training = memory.training_memory(
        facts,
        spec.method,
        batch_tokens=min(most, round(_BATCH_ROWS * learned.row_tokens * min(passes, _TEXTS_TRAINED))),
        sequence=learned.row_tokens,
        depth=depth,
        train_layers=spec.train_layers,
    )
    train_s = _training_seconds(facts, spec.method, learned, machines.training, depth, spec.train_layers)
    return served.model_copy(
        update={
            "train_s": train_s if trained else None,
            "train_memory_mb": training.total_mb if trained else None,
            "download_mb": _download_mb(spec.base or ""),
        }
    )


def _served(
    task: Task,
    spec: StudentSpec,
    facts: BaseFacts,
    depth: int | None,
    size: DataSize,
    device: DeviceProfile,
    passes: float,
) -> Estimate:
    if spec.method in PROMPTED or task.kind in ("extract", "generate"):
        answer = writing(task, spec.method, size.row_tokens, size.answer_tokens or 0)
        estimate = writer_estimate(spec.base or "", spec.method, facts, answer, device)
        return estimate if size.answer_tokens is not None else estimate.model_copy(update={"latency_ms": None})
    tokens = size.row_tokens
    latency_ms = time.latency_ms(facts, "int8", device, input_tokens=tokens, depth=depth)
    return Estimate(
        size_mb=memory.size_mb(facts, "int8", depth),
        memory_mb=memory.serving_memory(facts, "int8", tokens=tokens, depth=depth).total_mb,
        latency_ms=latency_ms * passes if latency_ms is not None else None,
    )


def _other_family(kind: Kind, candidate: Candidate) -> str | None:
    """Why a base of its family cannot become such a student; None when it can."""
    writes = candidate.method in PROMPTED or kind in WRITING
    needed: Family = "decoder" if writes else "encoder"
    if candidate.base is None or candidate.family == needed or (kind == "classify" and not writes):
        return None
    if writes:
        return f"{candidate.base} is an encoder, and a student that writes its answers needs a decoder"
    return f"{candidate.base} is a decoder, and a trained student of kind {kind} needs an encoder"


def _nothing_to_learn(kind: Kind, candidate: Candidate, size: DataSize) -> str | None:
    """Why the rows teach a student that is tuned to write nothing; None when they do, or that is not known."""
    if kind not in WRITING or candidate.method in PROMPTED or size.telling is None:
        return None
    splits: tuple[tuple[SplitName, str, str], ...] = (
        ("train", "training", "there is nothing to learn from"),
        ("dev", "dev", "there is nothing to choose weights by"),
    )
    for split, name, lack in splits:
        rows = size.telling.get(split, LEAST_ROWS)
        if rows < LEAST_ROWS:
            few = f"only {rows} of the {LEAST_ROWS} {name} rows that are needed say" if rows else f"no {name} row says"
            return f"{few} what to write, so {lack}"
    return None


def _over(candidate: Candidate, budget: Budget, machines: Machines) -> str | None:
    """Which estimate is beyond what the budget or a machine allows; None when none is."""
    guess = candidate.estimate
    limits: tuple[tuple[str, float | None, float | None, str, str], ...] = (
        ("size", guess.size_mb, budget.size_mb, "MB", "budget"),
        ("memory", guess.memory_mb, budget.memory_mb, "MB", "budget"),
        ("latency", guess.latency_ms, budget.latency_ms, "ms", "budget"),
        ("memory", guess.memory_mb, memory.free_mb(machines.serving), "MB", f"device {machines.serving.name}"),
        ("training memory", guess.train_memory_mb, memory.free_mb(machines.training), "MB", "memory of this machine"),
    )
    for what, value, limit, unit, whose in limits:
        if value is not None and limit is not None and value > limit:
            over = f"its estimated {what} of {_short(value)} {unit} is over the {_short(limit)} {unit} of the {whose}"
            return over + (_length(guess) if what == "latency" else "")
    return None


def _length(guess: Estimate) -> str:
    """What makes an answer long, where one is written."""
    read, written = guess.inputs.get("tokens read"), guess.inputs.get("tokens written")
    return "" if written is None else f" (it reads about {read} tokens and writes {written})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _too_shallow(candidate: Candidate, budget_s: float) -> str | None:
    if candidate.family != "decoder" or candidate.depth is None or candidate.depth >= _MIN_DEPTH:
        return None
    return f"{budget_s:.0f} s of training allow only {candidate.depth} of its layers"
