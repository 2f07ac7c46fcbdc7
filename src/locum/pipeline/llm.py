"""The prompted LLM on the task's rows: the reference row of the ladder, and what a regret certificate compares with.

Notable: its answers are kept in ``llm-answers.jsonl`` of the build's folder, so nothing is paid for twice; those of a
local file under the hash of its weights, since other weights of that name give other answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.cascade.identity import identify
from locum.core.errors import LocumError
from locum.core.files import content_hash
from locum.core.progress import warn
from locum.core.text import one_line
from locum.data.load import iterate
from locum.evaluate.cost import cost_per_1000
from locum.evaluate.llm import LlmRun, evaluate_llm, sample_positions
from locum.pipeline.built import Prepared
from locum.pipeline.judge import Judges
from locum.pipeline.workspace import Workspace
from locum.runtime.open import open_generator
from locum.schema.certificate import LlmIdentity
from locum.schema.data import Row, SplitName
from locum.schema.judging import JudgeReport
from locum.schema.kinds import judged_right_means, right_means
from locum.schema.report import LlmReport
from locum.schema.task import Guarantee, LlmSpec, Task
from locum.sources.bases import changing_base
from locum.students.room import Room
from locum.tasks import open_kind
from locum.tasks.protocol import TaskKind

_CONCURRENCY = 8
_CUT_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class LlmAnswers:
    """What the LLM answered.

    Attributes:
        positions: which test rows it was asked, rising, ``[m]``.
        test: its answers to them; None where there are none.
        calibration: its answers to every calibration row; None unless the guarantee needs them.
    """

    report: LlmReport
    positions: NDArray[np.int64]
    test: LlmRun | None
    calibration: LlmRun | None

    def compared(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]] | None:
        """Whether its answers are right and to which test rows they are; None where that says nothing of the LLM.

        Answers that were cut are left out. Where they are more than one in twenty, the others are those of easier rows,
        and nothing is compared with them.
        """
        run = self.test
        if run is None or not run.judged.any() or run.cut.sum() > _CUT_SHARE * len(run.rows):
            return None
        return run.correct[run.judged], self.positions[run.judged]


def task_kind(work: Workspace, data: Prepared) -> TaskKind:
    """The task as it is put to a prompted model."""
    return open_kind(work.task, data.labels)


def said_of_right(task: Task, judge: JudgeReport | None) -> str | None:
    """What makes an answer right, in words; None for labels, where that needs no saying."""
    if judge is not None:
        return judged_right_means(one_line(judge.model, 80), judge.right_from, judge.grades)
    return None if task.kind == "classify" else right_means(task.form, task.correct_at)


def speaks_of(llm: LlmSpec | None, guarantee: Guarantee, run: LlmRun | None, judges: Judges) -> LlmIdentity | None:
    """The LLM that a certificate depends on: that it compares with, and that judged; None where it depends on none.

    Args:
        llm: how it is configured, with the path of a local file.
        guarantee: what is proved.
        run: its answers to the calibration rows, for regret.
        judges: who gave the verdicts.
    """
    compared = run if guarantee.kind == "regret" else None
    if llm is None or (compared is None and not judges.names):
        return None
    names, versions = (compared.names, compared.versions) if compared is not None else ((), ())
    left_out = compared.left_out if compared is not None else judges.left_out
    return identify(llm, {*names, *judges.names}, {*versions, *judges.versions}, left_out)


def resolve_llm(work: Workspace) -> LlmSpec | None:
    """The task's LLM, with a local file's path taken from the task file's folder."""
    llm = work.task.llm
    if llm is None or llm.base_url is not None:
        return llm
    local = work.root / llm.model
    return llm.model_copy(update={"model": str(local)}) if local.is_file() else llm


def answers_file(work: Workspace, name: str) -> Path:
    """Where what the task's LLM wrote is kept: ``NAME.jsonl``, with the hash of a local file's weights in it.

    Raises:
        SourceError: the file cannot be had.
    """
    llm = resolve_llm(work)
    if llm is None or llm.base_url is not None:
        return work.out / f"{name}.jsonl"
    model = Path(llm.model).expanduser() if Path(llm.model).suffix == ".gguf" else llm.model
    path = changing_base(model, format="gguf", offline=work.offline)
    weights = f"-{content_hash(work.steps.hashes.of(path))[:12]}" if path else ""
    return work.out / f"{name}{weights}.jsonl"


def ask_llm(work: Workspace, data: Prepared) -> LlmAnswers | None:
    """Ask the configured LLM about a sample of the test split, and about calibration for a regret guarantee.

    Where no promise needs its answers, a student is not lost to an LLM that fails: the report says what is missing.

    Returns:
        None when no LLM is configured, or none of its answers are wanted.

    Raises:
        LocumError: a regret guarantee needs its answers, and it does not answer, or could pass its cap; what came is
            kept, the students are, and the same command goes on.
    """
    llm = resolve_llm(work)
    regret = work.task.guarantee.kind == "regret"
    if llm is None or (llm.examples == 0 and not regret):
        return None
    kind = task_kind(work, data)
    test_rows = list(iterate(data.folder, "test"))
    positions = sample_positions(test_rows, llm.examples or len(test_rows), work.task.seed)
    prompt = "\n\n".join(f"{said.role}: {said.content}" for said in kind.messages(kind.sample))
    try:
        test, calibration = _asked(work, data, llm, kind, [test_rows[position] for position in positions])
        report, _ = _report(test, prompt, llm), test.correct  # a judge is asked for both
    except LocumError as failure:
        if regret:
            lost = f"{failure.cause}; a regret promise compares with it, so nothing can be certified without"
            fix = f"the students are kept in {work.out}: mend that and run the same command, which goes on from here"
            raise type(failure)(failure.code, lost, fix=fix, where=failure.where) from failure
        why = f"{failure.cause} [{failure.code}]"
        warn(f"the LLM's row is missing: {why}; the same command asks it again")
        report = LlmReport(
            model=llm.model,
            prompt=prompt,
            test=None,
            latency=None,
            input_tokens=0,
            output_tokens=0,
            cost_per_1000=None,
            missing=one_line(why, 400),
        )
        return LlmAnswers(report, positions, None, None)
    return LlmAnswers(report, positions, test, calibration)


def _asked(
    work: Workspace, data: Prepared, llm: LlmSpec, kind: TaskKind, test_rows: list[Row]
) -> tuple[LlmRun, LlmRun | None]:
    """The LLM's answers to these rows, and to the calibration rows where a regret guarantee needs them."""
    cache = answers_file(work, "llm-answers")
    concurrency, room = _CONCURRENCY if llm.base_url else 1, Room(llm)
    generator = open_generator(llm, threads=work.threads)

    def ask(rows: list[Row], split: SplitName) -> LlmRun:
        return evaluate_llm(
            generator, kind, rows, data.labels, split, cache, concurrency=concurrency, spending=work.purse, room=room
        )

    regret = work.task.guarantee.kind == "regret"
    try:
        return ask(test_rows, "test"), ask(list(iterate(data.folder, "calibration")), "calibration") if regret else None
    finally:
        generator.close()


def _report(test: LlmRun, prompt: str, llm: LlmSpec) -> LlmReport:
    """What is said of its answers to test rows; no figure where all of them were cut."""
    cut = int(test.cut.sum())
    missing = None
    if not test.judged.any():
        missing = f"{cut:,} of {len(test.rows):,} answers were cut at up to {test.cut_at:,} tokens before an answer"
        if not cut:
            missing = f"none of {len(test.rows):,} rows got an answer"
    if cut:
        told = missing or f"{cut:,} of {len(test.rows):,} answers of the LLM were cut at up to {test.cut_at:,} tokens"
        warn(f"{told}; they count neither as right nor as wrong; set llm.max_tokens to allow more")
    return LlmReport(
        model=test.model,
        prompt=prompt,
        test=None if missing else test.evaluation(),
        latency=test.latency(),
        input_tokens=test.input_tokens,
        output_tokens=test.output_tokens,
        cost_per_1000=cost_per_1000(test.input_tokens, test.output_tokens, int(test.answered.sum()), llm.price),
        failures=test.failures,
        cut=cut,
        cut_at=test.cut_at,
        left_out=test.left_out,
        missing=missing,
    )
