"""Lending the task's LLM as the judge: with ``scorer: judge``, whatever scores within asks it, once for every answer.

Notable: verdicts are kept in ``judge-answers.jsonl``, keyed by model and question, so a build that is stopped pays for
none twice. A local file is bound to end with a grade. Answers that people graded are read and judged before anything is
trained, so what is wrong with them, or with the judge, costs no training. Not here: what the judge is shown and how a
verdict is read (``tasks.judging``, ``scoring.judge``).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from locum.core.appended import AppendedLines, read_lines
from locum.core.files import content_hash
from locum.core.progress import note, warn
from locum.data.graded import Graded, also_in, read_graded
from locum.evaluate.metrics import document
from locum.evaluate.spending import Spending
from locum.pipeline.built import Prepared
from locum.pipeline.workspace import Workspace, graded_addresses
from locum.runtime.completion import LEFT_OUT, Completion, CompletionRequest
from locum.runtime.open import open_generator
from locum.schema.judging import JudgeAgreement, JudgeReport
from locum.schema.message import Message
from locum.schema.task import SPLITS, LlmSpec, Task
from locum.scoring.judge import Agreement, agreement
from locum.sources.fetch import fetch
from locum.students.room import Room
from locum.tasks.judging import grade_answers, judging, rubric

VERDICT_TOKENS = 200
"""Most that a judge may write."""


@dataclass
class Judges:
    """Who gave the verdicts so far: names it gave itself, fingerprints it sent, settings its server refused."""

    names: set[str] = field(default_factory=set[str])
    versions: set[str] = field(default_factory=set[str])
    left_out: set[str] = field(default_factory=set[str])


@contextmanager
def lent_judge(
    task: Task, llm: LlmSpec | None, cache: Path, purse: Spending, *, threads: int | None = None
) -> Generator[Judges, None, None]:
    """Let the task's LLM judge what is scored within; without ``scorer: judge`` nothing is opened.

    Args:
        task: asks for a judge, or does not.
        llm: who judges.
        cache: file of its answers so far; made when there is something to keep.
        purse: that its verdicts are paid from.
        threads: CPU threads for a local file.

    Yields:
        Who gave the verdicts that were asked for within, as it called itself; kept verdicts that do not say who gave
        them are asked for again.

    Raises:
        UpstreamError: the LLM may not be used (on entering), does not answer or could pass its cap (while scoring).
    """
    seen = Judges()
    if task.scorer != "judge" or llm is None:
        yield seen
        return
    needed = {"key", "text", "model", "version"}
    found = {str(line["key"]): line for line in read_lines(cache) if needed <= set(line)}
    lock, room, read = threading.Lock(), Room(llm), rubric(task).read

    def cut(answer: Completion) -> bool:
        """Whether a verdict was cut before its grade."""
        return answer.finish_reason == "length" and read(answer.text).grade is None

    grammar = None if llm.base_url else rubric(task).grammar  # a service may not take one, and says so with an error
    with ExitStack() as stack:
        generator = stack.enter_context(closing(open_generator(llm, threads=threads)))
        kept = stack.enter_context(AppendedLines(cache))

        def complete(messages: Sequence[Message]) -> str:
            asked = [[message.role, message.content] for message in messages]
            key = content_hash([generator.model, asked, *([grammar] if grammar else [])])
            if key not in found:
                request = CompletionRequest(
                    tuple(messages), max_tokens=VERDICT_TOKENS, grammar=grammar, flexible=True, whole=True
                )
                answer = room.complete(request, lambda asked: purse.complete(generator, asked), cut)
                version, left_out = answer.extra.get("system_fingerprint", ""), answer.extra.get(LEFT_OUT, "")
                told = {"text": answer.text, "model": answer.model, "version": version, "left_out": left_out}
                with lock:
                    found[key] = {"key": key, **told}
                    kept.append(found[key])
            with lock:
                seen.names.add(str(found[key]["model"]))
                seen.versions.add(str(found[key]["version"]))
                seen.left_out |= set(str(found[key].get("left_out", "")).split(",")) - {""}
            return str(found[key]["text"])

        with judging(complete):
            yield seen


def read_human(work: Workspace) -> Graded | None:
    """The answers that people graded, fetched, verified and read; None where none are given.

    Raises:
        SourceError: the file cannot be had or does not verify.
        DataError: its rows cannot be used as they are.
    """
    addresses, spec = graded_addresses(work.task), work.task.judged
    if not addresses or spec is None:
        return None
    path = fetch(addresses, sha256=spec.sha256, offline=work.offline, root=work.root)
    return read_graded(path, work.task, spec, address=addresses[0])


def examine_judge(work: Workspace, data: Prepared, graded: Graded | None) -> JudgeReport | None:
    """Have the lent judge grade what people graded, and compare.

    Args:
        work: the build.
        data: its prepared data, to tell which of these answers are about inputs that also stand there.
        graded: what people graded.

    Returns:
        None where no LLM judges; without ``graded`` a report that says nothing was measured.

    Raises:
        UpstreamError: the LLM does not answer; what came is kept.
    """
    report = unmeasured(work.task)
    if report is None or graded is None:
        if report is not None:
            warn("the judge's agreement with people is not measured: judge.human names no answers that people graded")
        return report
    shared = also_in(graded.answers, data.folder, SPLITS)
    if any(shared.values()):
        where = ", ".join(f"{count} in {split}" for split, count in shared.items() if count)
        note(f"inputs of answers that people graded also stand in the task's rows ({where}); only the judge sees these")
    human = [answer.grade for answer in graded.answers]
    found = agreement(grade_answers(work.task, graded.answers), human, rubric(work.task), work.task.correct_at)
    file = graded.file.model_copy(update={"also_in": shared})
    return report.model_copy(update={"agreement": _documented(found), "graded": file})


def unmeasured(task: Task) -> JudgeReport | None:
    """Who judges a task, and by what, before anything is known of it; None where no LLM judges."""
    spec, llm = task.judged, task.llm
    if spec is None or llm is None:
        return None
    name = llm.model if llm.base_url else Path(llm.model).name
    right_from = rubric(task).right_from(task.correct_at)
    return JudgeReport(model=name, criterion=spec.criterion, grades=spec.grades, right_from=right_from)


def _documented(found: Agreement) -> JudgeAgreement:
    """The figures as a document, where what is not defined is None."""

    def known(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return JudgeAgreement(
        n=found.n,
        unreadable=found.unreadable,
        equal=document(found.equal),
        kappa=known(found.kappa),
        kappa_quadratic=known(found.kappa_quadratic),
        right=document(found.right),
        kappa_right=known(found.kappa_right),
        judged_right=found.judged_right,
        judged_right_only=found.judged_right_only,
        people_right=found.people_right,
        kinder_by=document(found.kinder_by) if found.kinder_by else None,
    )
