"""From the chosen student to the result: certificate on calibration, figures on test, one document.

Notable: each split is used once for what it is for. The choice sees dev only (``pipeline.pick``); the certificate sees
the chosen student on calibration only; test is read last and decides nothing.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata

import locum
from locum.bundle.write import model_hash
from locum.cascade.certify import Reference, certify
from locum.cascade.policy import make_policy
from locum.cascade.sampling import independent_draws
from locum.cascade.summary import check_promise, system_summary
from locum.core.files import content_hash
from locum.evaluate import cost
from locum.evaluate.compare import compare, compare_shares
from locum.evaluate.llm import decoding_hash
from locum.pipeline.built import BuiltStudent, Prepared
from locum.pipeline.cautions import baseline, cautions, longer_than_read
from locum.pipeline.climb import Climb, Outcome
from locum.pipeline.judge import Judges
from locum.pipeline.llm import LlmAnswers, resolve_llm, said_of_right, speaks_of, task_kind
from locum.pipeline.pick import Chosen
from locum.pipeline.transfer import multitask_reports
from locum.pipeline.workspace import Workspace
from locum.report.facts import verdict
from locum.schema.certificate import Certificate, Policy, PromiseTest
from locum.schema.data import DataCard
from locum.schema.device import DeviceProfile
from locum.schema.evaluation import Comparison
from locum.schema.judging import JudgeReport
from locum.schema.report import BuildReport, CandidateReport

_LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "onnxruntime",
    "tokenizers",
    "torch",
    "transformers",
    "xllamacpp",
    "openvino",
)
_WRONG_SHOWN = 40


@dataclass(frozen=True)
class Conclusion:
    """What a bundle is made of, beside the model."""

    student: BuiltStudent
    certificate: Certificate
    policy: Policy
    report: BuildReport


def conclude(
    work: Workspace,
    data: Prepared,
    card: DataCard,
    device: DeviceProfile,
    climbed: Climb,
    chosen: Chosen,
    llm: LlmAnswers | None,
    judge: JudgeReport | None,
    judges: Judges,
    now: datetime,
) -> Conclusion:
    """Certify and report.

    Args:
        work: the build.
        data: its prepared data.
        card: their description.
        device: what it ran on.
        climbed: the ladder, built.
        chosen: the student that is served.
        llm: the LLM's answers, when one is configured.
        judge: how far the judge's verdicts are people's, where an LLM judges.
        judges: who gave the verdicts, where an LLM judges.
        now: the certificate's date of issue.

    Raises:
        LocumError: the predictions of two students are not about the same rows.
    """
    target, student = work.task.target, chosen.student
    certificate = _certify(work, data, card, student, llm, judge, judges, now)
    policy = make_policy(certificate, student.spec.name, has_llm=work.task.llm is not None)
    system = _system(student, certificate, llm)
    constant = baseline(student)
    told = cautions(student, card, constant)
    others = (each for each in climbed.students if each.candidate != student.candidate)
    longer = longer_than_read([student, *others], card)
    promise = _promise(work, student, certificate)
    saving = cost.cost(llm.report.cost_per_1000 if llm else None, system["local_share"] or 0.0, policy.audit_rate)
    report = BuildReport(
        task=work.task.name,
        instruction=work.task.instruction,
        kind=work.task.kind,
        right_means=said_of_right(work.task, judge),
        judge=judge,
        metric=work.task.metric,
        target=target.at_least,
        verdict=" ".join([_verdict(student, work.task.metric, certificate, target.at_least, promise, card), *told]),
        cautions=told,
        baseline=constant,
        chosen=student.candidate.name,
        why_chosen=chosen.why,
        ladder=tuple(_candidate_report(outcome, student) for outcome in climbed.outcomes),
        stopped_early=climbed.stopped_early,
        refit=chosen.refit,
        answers=work.answers,
        llm=llm.report if llm else None,
        comparisons=_comparisons(climbed, student, llm, work.task.metric),
        multitask=multitask_reports(climbed.students, data.mixture, work.task.metric),
        certificate=certificate,
        promise=promise,
        system=system,
        cost=saving,
        wrong=student.wrong("test", _WRONG_SHOWN),
        shown=student.shown("test", certificate.threshold),
        data=card.model_copy(update={"warnings": (*card.warnings, *longer)}),
        device=device,
        versions=versions(),
        provenance={
            "task": work.task_hash,
            "data": data.key,
            "model": model_hash(student.served),
            "seed": str(work.task.seed),
            "threads": str(work.threads),
            **({"mixture": data.mixture.key} if data.mixture else {}),
        },
        created_at=now.isoformat(timespec="seconds"),
        wall_s=round(work.steps.spent_s, 1),
    )
    return Conclusion(student, certificate, policy, report)


def versions() -> dict[str, str]:
    """Versions of Locum, Python and the libraries that are installed."""
    found = {"locum": locum.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that this machine does not have
    return found


def _certify(
    work: Workspace,
    data: Prepared,
    card: DataCard,
    student: BuiltStudent,
    llm: LlmAnswers | None,
    judge: JudgeReport | None,
    judges: Judges,
    now: datetime,
) -> Certificate:
    dev, calibration = student.scored("dev"), student.scored("calibration")
    known = independent_draws(student.rows("dev"), work.task).positions
    kind = task_kind(work, data)
    compared = llm.calibration if llm else None
    llm_correct = compared.correct_at_best if compared else None  # before it is asked who judged
    return certify(
        work.task.guarantee,
        calibration.confidence,
        calibration.correct,
        llm_correct=llm_correct,
        llm=speaks_of(resolve_llm(work), work.task.guarantee, compared, judges),
        hashes={
            "model": model_hash(student.served),
            "task": work.task_hash,
            "calibration": content_hash({"ids": calibration.ids_hash, "data": data.key}),
            "decoding": decoding_hash(kind),
            "redaction": "none",
        },
        rare_labels=tuple(card.rare_labels),
        reference=Reference(dev.confidence[known], dev.correct[known]),
        right_means=said_of_right(work.task, judge),
        judge=judge,
        answers=student.given_labels("calibration"),
        labels=student.spec.labels,
        drawn=independent_draws(student.rows("calibration"), work.task, card.splits["calibration"].copies_left_out),
        now=now,
    )


def _system(student: BuiltStudent, certificate: Certificate, llm: LlmAnswers | None) -> dict[str, float | None]:
    test = student.scored("test")
    compared = llm.compared() if llm else None
    correct, rows = compared or (None, None)
    return system_summary(test.confidence, test.correct, certificate.threshold, llm_correct=correct, llm_rows=rows)


def _promise(work: Workspace, student: BuiltStudent, certificate: Certificate) -> PromiseTest | None:
    """What the test rows, as far as they are independent draws, say of what calibration proved."""
    test, drawn = student.scored("test"), independent_draws(student.rows("test"), work.task).positions
    return check_promise(certificate, test.confidence[drawn], test.correct[drawn], certificate.threshold)


def _candidate_report(outcome: Outcome, served: BuiltStudent) -> CandidateReport:
    """What is said of a rung; of the chosen one, as it is served."""
    candidate = outcome.candidate
    chosen = candidate.name == served.candidate.name
    student = served if chosen else outcome.student
    if student is None:
        status = "failed" if outcome.status == "failed" else "skipped"
        return CandidateReport(candidate=candidate, status=status, reason=outcome.reason)
    first = student.before or student
    return CandidateReport(
        candidate=candidate,
        status="built",
        reason=outcome.reason,
        chosen=chosen,
        parameters=student.spec.parameters,
        size_mb=round(student.measured.size_mb, 3),
        memory_mb=student.measured.memory_mb,
        trained=first.trained,
        refit=student.trained if student.before else None,
        parity=student.parity,
        engine=student.spec.engine,
        engines=student.measured.engines,
        dev=student.evaluation("dev"),
        test=student.evaluation("test") if "test" in student.answers else None,
        latency=student.measured.latency,
    )


def _comparisons(climbed: Climb, student: BuiltStudent, llm: LlmAnswers | None, metric: str) -> tuple[Comparison, ...]:
    test = student.scored("test")
    found = [
        compare(test, other.scored("test"), metric)
        for other in climbed.students
        if other.candidate != student.candidate and "test" in other.answers
    ]
    if llm is not None and (compared := llm.compared()) is not None:
        theirs, rows = compared
        groups = None if test.groups is None else test.groups[rows]
        found.append(compare_shares(test.model, test.correct[rows], llm.report.model, theirs, groups=groups))
    return tuple(found)


def _verdict(
    student: BuiltStudent,
    metric: str,
    certificate: Certificate,
    target: float | None,
    promise: PromiseTest | None,
    card: DataCard,
) -> str:
    test, size_mb = student.evaluation("test"), student.measured.size_mb
    return verdict(student.candidate.name, size_mb, metric, test, certificate, target, promise, card)
