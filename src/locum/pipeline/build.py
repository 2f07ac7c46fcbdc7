"""``build``: from a task file to a bundle. The whole of Locum in one screen.

Notable: the folder is locked for the build; every stage is a step of the cache, so the same command after a
kill goes on where it stopped and ends with the same model.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from locum.bundle.operator_llm import remember_built
from locum.bundle.write import LEARNED, task_hash, write_bundle
from locum.core.cpu import usable_cores
from locum.core.errors import Interrupted, LocumError
from locum.core.lock import folder_lock
from locum.core.progress import note, track, warn
from locum.core.text import html_table
from locum.data.graded import Graded
from locum.data.verify import verify_splits
from locum.evaluate.spending import purse_of
from locum.pipeline.answer_limit import limit_answers
from locum.pipeline.built import Prepared
from locum.pipeline.climb import climb
from locum.pipeline.conclude import Conclusion, conclude
from locum.pipeline.given import splits_given, tasks_given, with_rows
from locum.pipeline.held_out import answer_held_out
from locum.pipeline.history import remember, times_taken
from locum.pipeline.judge import Judges, examine_judge, lent_judge, read_human
from locum.pipeline.ladder import data_size, decide_ladder
from locum.pipeline.llm import answers_file, ask_llm, resolve_llm
from locum.pipeline.llm_forecast import forecast_llm
from locum.pipeline.mixture import add_mixture
from locum.pipeline.others import TaskFiles, read_tasks
from locum.pipeline.overall import Overall
from locum.pipeline.pick import pick
from locum.pipeline.plan import plan_of
from locum.pipeline.preflight import check_environment
from locum.pipeline.prepare import prepare_data
from locum.pipeline.steps import StepCache
from locum.pipeline.workspace import Workspace
from locum.report.card import model_card
from locum.report.page import render
from locum.runtime.model_files import verify_folder
from locum.schema.candidate import Candidate
from locum.schema.data import DataCard
from locum.schema.plan import Plan
from locum.schema.report import BuildReport
from locum.schema.task import Task
from locum.sources.catalogue import catalogue


@dataclass(frozen=True)
class Run:
    """A finished build.

    Attributes:
        bundle: the folder that can be served.
        report: everything the build found out.
    """

    bundle: Path
    report: BuildReport

    def to_json(self) -> dict[str, Any]:
        """The document that ``locum build --json`` prints."""
        return summary(self.report, self.bundle)

    def _repr_html_(self) -> str:
        """For notebooks: what came of the build, and where it is."""
        facts: dict[str, object] = {
            "verdict": self.report.verdict,
            "served": self.report.chosen,
            "certificate": self.report.certificate.statement,
            "bundle": self.bundle,
        }
        return html_table(f"Build of {self.report.task}", facts)


def build(
    task: str | Path | Mapping[str, Any] | Task,
    *,
    out: str | Path | None = None,
    data: Any = None,
    offline: bool = False,
) -> Run:
    """Build, prove and bundle the smallest student for a task.

    Args:
        task: the task file, or a folder with a ``task.yaml``; or what such a file says, as a dictionary or ``Task``,
            whose paths are relative to the current folder.
        data: training rows in memory (``data.frames``), or a dictionary of such for ``train``, ``dev``, ``calibration``
            and ``test``. They are written into ``data/`` of the build's folder and take the place of the files that
            the task names for these splits.
        out: folder of the build; default ``runs/NAME``. It holds ``work/`` (steps) and ``bundle/``.
        offline: download nothing.

    Returns:
        The bundle's path and the report.

    Raises:
        TaskFileError, DataError, SourceError, DeviceError: the user can mend it (exit 2).
        CheckFailed: no candidate is left, and the export of some did not answer as they did (exit 3).
        BusyError: another build holds the folder.
        Interrupted: stopped; the same call goes on from there.
    """
    given = splits_given(data)
    files = read_tasks(Path(task)) if isinstance(task, str | Path) else tasks_given(task, given)
    folder = Path(out) if out is not None else Path("runs") / files.task.name
    check_environment(files.task)
    with _graceful(), folder_lock(folder):
        files = with_rows(files, given, folder.resolve())
        asked = files.task
        steps = StepCache(folder.resolve() / "work")
        work = Workspace(
            asked,
            files.text,
            files.root,
            folder.resolve(),
            steps,
            usable_cores(),
            offline,
            files.others,
            purse=purse_of(asked.llm, "llm.max_cost in the task file"),
        )
        planned = _planned(files, folder)
        if planned is not None:
            steps.overall = Overall(planned.steps, asked.budget.build_minutes * 60)
        llm = resolve_llm(work) if asked.scorer == "judge" else None
        judge_file = answers_file(work, "judge-answers") if llm else work.out / "judge-answers.jsonl"
        with lent_judge(asked, llm, judge_file, work.purse, threads=work.threads) as judges:
            run = _build(work, judges)
        if planned is not None:
            remember(planned.steps, times_taken(steps, run.report))
        return run


def _planned(files: TaskFiles, out: Path) -> Plan | None:
    """What the build will take, for who watches it; None where the plan finds a fault, which the build then tells."""
    try:
        return plan_of(files, out)
    except LocumError:
        return None


@contextmanager
def _graceful() -> Generator[None, None, None]:
    """Ctrl-C as the error that says how to go on, wherever in the build it comes."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "core-interrupted", "stopped on request", fix="run the same command to go on from here"
        ) from None


def _build(work: Workspace, judges: Judges) -> Run:
    graded = read_human(work)
    data, card = prepare_data(work)
    data = add_mixture(work, data, card)
    device, ladder = decide_ladder(work, data, card)
    _tell_cost(work, data, card, ladder, graded)
    judge = examine_judge(work, data, graded)
    work = limit_answers(work, data, ladder)
    climbed = climb(work, data, ladder, card.noise_ceiling)
    climbed, chosen = answer_held_out(work, data, climbed, pick(work, data, climbed))
    llm = ask_llm(work, data)
    verify_splits(data.folder)
    if work.steps.overall:
        work.steps.overall.last("certify and report")
    with track("certify and report"):
        result = conclude(work, data, card, device, climbed, chosen, llm, judge, judges, datetime.now(UTC))
        bundle = _bundle(work, data, result)
    return Run(bundle, result.report)


def _tell_cost(
    work: Workspace, data: Prepared, card: DataCard, ladder: Sequence[Candidate], graded: Graded | None
) -> None:
    """Say what the LLM will be asked, before it is; nothing where the task has none."""
    if work.task.llm is None:
        return
    size = data_size(work.task, data, card)
    asked = forecast_llm(
        work.task,
        ladder,
        {name: split.rows for name, split in card.splits.items()},
        row_tokens=size.row_tokens,
        answer_tokens=size.answer_tokens or 0,
        graded=len(graded.answers) if graded else 0,
    )
    note(f"LLM: {asked.line()}; what it answered before is not asked again")
    if (over := asked.over_cap(work.task)) is not None:
        warn(over)


def _bundle(work: Workspace, data: Prepared, result: Conclusion) -> Path:
    student, report = result.student, result.report
    verify_folder(student.served)  # what is bundled is what was measured
    licence = _licence(student.candidate.base)
    out = work.out / "bundle"
    write_bundle(
        out,
        task=work.task,
        task_text=work.task_text,
        model_folder=student.served,
        policy=result.policy,
        certificate=result.certificate,
        report=report,
        page=render(report),
        card=model_card(report, licence),
        licence=licence,
        hashes={"data": data.key},
        learned=_learned(data, report),
    )
    remember_built(task_hash(work.task_text), work.task.llm)
    return out


def _learned(data: Prepared, report: BuildReport) -> list[Path]:
    """Fingerprints of what the served student learned from: the task's own rows, and those of others where it did."""
    folders = [data.folder]
    if data.mixture is not None and any(each.student == report.chosen for each in report.multitask):
        folders += data.mixture.others
    return [folder.parent / LEARNED for folder in folders]


def _licence(base: str | None) -> str:
    """The licence of the base a student comes from; the user's own data decide about the rest."""
    entry = catalogue().get(base) if base else None
    return entry.licence if entry else "unknown" if base else "none"


def summary(report: BuildReport, bundle: Path) -> dict[str, Any]:
    """A build in one JSON object (DESIGN: the contract of ``build --json``)."""

    def scores(rung: Any, split: str) -> dict[str, float] | None:
        evaluation = getattr(rung, split)
        return {name: interval.value for name, interval in evaluation.metrics.items()} if evaluation else None

    candidates = [
        {
            "name": rung.candidate.name,
            "status": rung.status,
            "reason": rung.reason,
            "chosen": rung.chosen,
            "params": rung.parameters,
            "size_mb": rung.size_mb,
            "memory_mb": rung.memory_mb,
            "dev": scores(rung, "dev"),
            "test": scores(rung, "test"),
            "latency_ms": {"p50": rung.latency.p50_ms, "p95": rung.latency.p95_ms} if rung.latency else None,
            "answers_per_s": rung.latency.answers_per_s if rung.latency else None,
            "engine": rung.engine,
            "engines": rung.engines.to_json() if rung.engines else None,
            "train_s": rung.trained.train_s if rung.trained else None,
        }
        for rung in report.ladder
    ]
    chosen = next(rung for rung in report.ladder if rung.chosen)
    return {
        "bundle": str(bundle),
        "chosen": report.chosen,
        "verdict": report.verdict,
        "cautions": list(report.cautions),
        "baseline": report.baseline.to_json() if report.baseline else None,
        "wall_s": report.wall_s,
        "candidates": candidates,
        "llm": report.llm.to_json() if report.llm else None,
        "multitask": [each.to_json() for each in report.multitask],
        "judge": report.judge.to_json() if report.judge else None,
        "certificate": report.certificate.to_json(),
        "parity": chosen.parity.to_json() if chosen.parity else None,
        "system": report.system,
        "report": str(bundle / "report.html"),
    }
