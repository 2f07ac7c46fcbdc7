"""``bench``: models on the tasks of EleutherAI's lm-evaluation-harness, compared on the same documents.

Notable: one model is open at a time. Each answer is kept in ``OUT/answers`` under the hash of the model's file, so a
run that was stopped goes on, and another model can be added later for its own cost only. All models are put the same
prompts: as conversations as soon as one of them is behind a URL, else as plain text, which is what published figures
are of. Not here: asking and scoring (``evaluate.harness``, ``evaluate.harness_tasks``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from locum.core.errors import UserError
from locum.core.extras import install_command
from locum.core.files import content_hash, sha256_file, write_json
from locum.evaluate.compare import compare
from locum.evaluate.metrics import document
from locum.evaluate.spending import Spending
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.model_files import verify_folder
from locum.runtime.open import open_generator, open_model, require_purpose
from locum.runtime.protocol import Generator
from locum.schema.bench import BenchComparison, BenchModel, BenchReport, BenchScore, BenchTask
from locum.schema.task import LlmSpec
from locum.sources.bases import ensure_base
from locum.stats.multiplicity import holm
from locum.stats.rowwise import interval

if TYPE_CHECKING:
    from locum.evaluate.harness_tasks import Benchmark
    from locum.evaluate.scored import Scored

_URL_CONCURRENCY = 8
_TIMEOUT_S = 600.0
"""For one document, waiting in line included: a small machine writes a long answer for minutes."""


@dataclass(frozen=True)
class BenchSettings:
    """How benchmarks are run.

    Attributes:
        data: folder of local files; None lets the harness load data sets from the hub.
        limit: documents of each task, drawn by lot; None takes all.
        few_shot: worked examples in each prompt; None takes the task's own number.
        chat: prompts as conversations; None: if one of the models is behind a URL.
        max_cost: most that a model behind a URL may cost in this run; needs its price.
        threads: CPU threads of a local model; None takes the cores this process may use.
        n_ctx: context of a local model, in tokens.
        slots: documents that a local model works on at the same time.
    """

    data: Path | None = None
    limit: int | None = None
    few_shot: int | None = None
    chat: bool | None = None
    max_cost: float | None = None
    threads: int | None = None
    n_ctx: int = 4096
    slots: int = 4


@dataclass(frozen=True)
class _Target:
    """A model to ask: a GGUF file, or without ``path`` an LLM behind its URL."""

    name: str
    llm: LlmSpec
    path: Path | None = None

    @property
    def sha256(self) -> str:
        """What its answers are kept under."""
        if self.path is not None:
            return sha256_file(self.path)
        return content_hash({"base_url": self.llm.base_url, "model": self.llm.model})

    def open(self, settings: BenchSettings) -> Generator:
        """Open it."""
        if self.path is None:
            return open_generator(self.llm)
        engine = EngineSettings(
            threads=settings.threads, n_ctx=settings.n_ctx, slots=settings.slots, timeout_s=_TIMEOUT_S
        )
        return open_model(self.path, engine)


def bench(
    targets: Sequence[str | Path | LlmSpec], tasks: Sequence[str], *, out: Path, settings: BenchSettings | None = None
) -> BenchReport:
    """Run benchmarks on models, and compare the models in pairs.

    A share of right answers is compared by McNemar's mid-p test, any other metric by a paired bootstrap; p-values are
    adjusted by Holm over the tasks of each pair of models.

    Args:
        targets: each a GGUF file, a name of the catalogue, a bundle or model folder whose model writes, or an LLM.
        tasks: names of the harness: tasks, groups or tags; or YAML files of its form.
        out: folder for answers, rows and ``bench.json``.
        settings: how to run; default: all documents, from the hub.

    Returns:
        The report, which stands in ``OUT/bench.json`` too.

    Raises:
        UserError: the harness is not installed, there is no such task or model, or a model cannot do a task.
        DataError: rows are missing, or do not fit a task.
        UpstreamError: the LLM does not answer, or its cap is reached; answers are kept, and the same call goes on.
    """
    require_harness()
    if not targets or not tasks:
        raise UserError("cli-usage", "there is no model to ask, or no task", fix="name at least one of each")
    settings = settings or BenchSettings()
    asked = _targets(targets)
    purses = [None if target.path else Spending(target.llm.price, settings.max_cost) for target in asked]
    from locum.evaluate.harness_tasks import open_benchmarks

    benchmarks = open_benchmarks(tasks, data=settings.data, work=out / "data", few_shot=settings.few_shot)
    chat = any(purses) if settings.chat is None else settings.chat
    found: list[list[Scored]] = []
    models: list[BenchModel] = []
    for target, purse in zip(asked, purses, strict=True):
        sha256 = target.sha256
        found.append(_run(target, sha256, benchmarks, out, settings, chat=chat, spending=purse))
        spent = purse.spent if purse and purse.price else None
        models.append(BenchModel(name=target.name, sha256=sha256, place="url" if purse else "local", spent=spent))
    report = _report(models, benchmarks, found, chat)
    write_json(out / "bench.json", report.to_json())
    return report


def require_harness() -> None:
    """Refuse where lm-evaluation-harness is not installed.

    Raises:
        UserError: ``core-missing-extra``.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "core-missing-extra",
            "benchmarks need lm_eval (lm-evaluation-harness), which this environment does not have",
            fix=install_command("bench"),
        )


def _targets(given: Sequence[str | Path | LlmSpec]) -> list[_Target]:
    """What each target stands for; names that stand twice get a number."""
    found: list[_Target] = []
    for each in given:
        target = _target(each)
        twins = sum(other.name.partition("#")[0] == target.name for other in found)
        found.append(replace(target, name=f"{target.name}#{twins + 1}") if twins else target)
    return found


def _target(given: str | Path | LlmSpec) -> _Target:
    if isinstance(given, LlmSpec):
        return _Target(given.model, given) if given.base_url else _target(given.model)
    folder = Path(given).expanduser()
    if folder.is_dir():
        return _folder_target(folder)
    is_file = folder.suffix == ".gguf"
    path = ensure_base(folder if is_file else str(given), format="gguf")
    return _local(folder.stem if is_file else str(given), path)


def _folder_target(folder: Path) -> _Target:
    """The model of a bundle, or of a model folder; what writes is a GGUF file."""
    name, model = folder.resolve().name, folder
    if not (folder / "model.json").is_file():
        from locum.bundle.verify import verify
        from locum.bundle.write import MODEL

        name, model = verify(folder).name, folder / MODEL
    spec = verify_folder(model)
    require_purpose(model, spec, "generate")
    return _local(name, model / spec.weights)


def _local(name: str, path: Path) -> _Target:
    return _Target(name, LlmSpec(model=str(path)), path)


def _run(
    target: _Target,
    sha256: str,
    benchmarks: Sequence[Benchmark],
    out: Path,
    settings: BenchSettings,
    *,
    chat: bool,
    spending: Spending | None,
) -> list[Scored]:
    from locum.evaluate.harness import HarnessModel
    from locum.evaluate.harness_answers import AnswerFile
    from locum.evaluate.harness_tasks import run_benchmarks

    generator = target.open(settings)
    try:
        with AnswerFile(out / "answers" / f"{sha256[:16]}.jsonl", sha256) as answers:
            concurrency = _URL_CONCURRENCY if spending else settings.slots
            model = HarnessModel(generator, answers, concurrency=concurrency, spending=spending)
            return run_benchmarks(model, target.name, benchmarks, limit=settings.limit, chat=chat)
    finally:
        generator.close()


def _report(
    models: Sequence[BenchModel], benchmarks: Sequence[Benchmark], found: Sequence[Sequence[Scored]], chat: bool
) -> BenchReport:
    import lm_eval

    tasks: list[BenchTask] = []
    scores: list[BenchScore] = []
    for place, benchmark in enumerate(benchmarks):
        first = found[0][place]
        tasks.append(
            BenchTask(
                name=benchmark.name,
                parts=tuple(benchmark.parts),
                version=benchmark.version,
                few_shot=benchmark.few_shot,
                n=first.n,
                of=benchmark.of,
                headline=benchmark.headline(list(first.metrics)),
                remark=benchmark.remark,
            )
        )
        scores.extend(
            BenchScore(
                task=benchmark.name,
                model=one[place].model,
                metric=metric,
                higher_is_better=benchmark.higher_is_better(metric),
                score=document(interval(statistic)),
            )
            for one in found
            for metric, statistic in one[place].metrics.items()
        )
    return BenchReport(
        harness=f"lm_eval {lm_eval.__version__}",
        chat=chat,
        models=tuple(models),
        tasks=tuple(tasks),
        scores=tuple(scores),
        comparisons=tuple(_comparisons(tasks, benchmarks, found)),
    )


def _comparisons(
    tasks: Sequence[BenchTask], benchmarks: Sequence[Benchmark], found: Sequence[Sequence[Scored]]
) -> list[BenchComparison]:
    """Every pair of models on every task, by its headline metric; p-values adjusted over a pair's tasks."""
    made: list[BenchComparison] = []
    for first, second in combinations(found, 2):
        pairs = [
            (task.name, compare(a, b, task.headline))
            for task, benchmark, a, b in zip(tasks, benchmarks, first, second, strict=True)
            if benchmark.higher_is_better(task.headline)
        ]
        tested = [one.p_value for _, one in pairs if one.p_value is not None]
        adjusted = iter(holm(tested).tolist() if tested else ())
        made.extend(
            BenchComparison(task=name, comparison=one, p_holm=None if one.p_value is None else next(adjusted))
            for name, one in pairs
        )
    return made
