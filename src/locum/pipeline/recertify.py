"""A finished bundle certified anew on fresh rows (``locum certify``).

Notable: it fails closed. Rows that the student learned from prove nothing and are refused; a proof that fails leaves in
force what was; what was is kept. The bundle is replaced whole, with every page that tells of the certificate.
Not here: the proof (``cascade.certify``), how rows are examined (``examine``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from locum.bundle.operator_llm import LlmChoice
from locum.bundle.report import read_report
from locum.bundle.student import NO_REDACTION
from locum.bundle.task import read_task
from locum.bundle.verify import verify
from locum.bundle.write import CERTIFICATE, MODEL, PREVIOUS, replace_certificate
from locum.cascade.certify import certify
from locum.cascade.policy import make_policy
from locum.cascade.sampling import independent_draws
from locum.cascade.summary import check_promise
from locum.core.errors import DataError, UserError
from locum.core.files import content_hash, sha256_file
from locum.core.progress import warn
from locum.data.fingerprint import Seen
from locum.data.labelled import read_labelled
from locum.evaluate import cost
from locum.evaluate.llm import LlmRun, decoding_hash, evaluate_llm
from locum.evaluate.spending import Spending, purse_of
from locum.pipeline.examine import examine_rows, seen_rows, with_llm
from locum.pipeline.judge import lent_judge, unmeasured
from locum.pipeline.llm import said_of_right, speaks_of
from locum.report import facts
from locum.report.card import model_card
from locum.report.page import render
from locum.report.text import level
from locum.runtime.model_files import read_spec
from locum.runtime.open import open_generator
from locum.schema.bundle import Manifest
from locum.schema.certificate import Certificate, Policy, PromiseTest
from locum.schema.data import Row, SourceFile
from locum.schema.report import BuildReport, Proof
from locum.schema.task import Guarantee, Task
from locum.students.room import Room
from locum.tasks import open_kind
from locum.tasks.protocol import TaskKind

_PLACES_SHOWN = 5
_WHATEVER_THRESHOLD = ("accuracy_student", "accuracy_student_sample", "accuracy_llm")
"""What the build saw on test rows that no threshold changes."""


@dataclass(frozen=True)
class Certified:
    """What came of certifying anew.

    Attributes:
        certificate: what was proved; its threshold is None when nothing certifies.
        before: the certificate that was in the bundle.
        replaced: whether ``certificate`` stands in its place now.
        proof: the rows.
        doubt: what the rows say of the promise of ``before``; None where that cannot be told.
    """

    certificate: Certificate
    before: Certificate
    replaced: bool
    proof: Proof
    doubt: PromiseTest | None

    def sentences(self, *, dry_run: bool = False) -> list[str]:
        """What came of it, for people: the statement, how it relates to the task, and what is in force now."""
        lines = [self.certificate.statement]
        if self.proof.weaker is not None:
            lines.append(self.proof.weaker)
        if self.proof.skipped:
            lines.append(facts.skipped_sentence(self.proof.skipped))
        if self.doubt is not None and self.doubt.broken:
            lines.append(f"Of the certificate that was in force before: {facts.promise_sentence(self.doubt)}")
        was = "The bundle hands everything over, as before"
        if self.before.threshold is not None:
            was = f"The certificate of {self.before.issued_at[:10]} stays in force"
        if self.replaced:
            lines.append(f"It is in force now; what was before is kept in the bundle, under {PREVIOUS}/.")
        elif dry_run:
            lines.append(f"A dry run, nothing was changed. {was}.")
        elif self.before.threshold is not None:
            lines.append(f"{was}; --replace ends it, and hands everything over.")
        else:
            lines.append(f"{was}.")
        return lines


def certify_bundle(
    bundle: Path,
    data: Path,
    guarantee: Guarantee | None = None,
    *,
    max_cost: float | None = None,
    llm: LlmChoice | None = None,
    llm_key_env: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    skip_bad: bool = False,
) -> Certified:
    """Prove a bundle's guarantee on fresh calibration rows; where it is proved, it takes the place of the one before.

    Args:
        bundle: the folder.
        data: labelled rows from the traffic that the bundle will see, none of which it was trained or chosen on.
        guarantee: the statement to prove; None takes the task's own.
        max_cost: most that the LLM may cost, as a judge and as what is compared with; None takes the task's own cap.
        llm: which LLM may be called, as for ``open_bundle``.
        llm_key_env: environment variable that holds its key, instead of the one that the bundle names.
        replace: put a certificate that certifies nothing in the place of the one before, too.
        dry_run: change nothing.
        skip_bad: count and skip rows that cannot be used, and say so beside the certificate, instead of stopping.

    Raises:
        ModelFileError: the bundle is refused.
        DataError: the file cannot be used, holds rows that the student learned from, or none but hand-picked ones.
        UserError: a regret guarantee without an LLM, or ``max_cost`` without the price of the task's LLM.
        UpstreamError: the LLM does not answer, or could pass its cap; what came is kept beside the file.
        DeviceError: the disk is full or cannot be written; the bundle stays as it was.
    """
    manifest = verify(bundle)
    report, named, spec = read_report(bundle), read_task(bundle), read_spec(bundle / MODEL)
    before = Certificate.from_json((bundle / CERTIFICATE).read_bytes(), str(bundle / CERTIFICATE))
    _require_other_file(report, data)
    wanted = guarantee or named.guarantee
    task = with_llm(named, manifest, llm, llm_key_env, needed=wanted.kind == "regret")
    labelled = read_labelled(data, task, spec.labels, skip_bad=skip_bad, to_prove=True)
    seen = seen_rows(bundle, labelled.every)
    _require_fresh(seen, labelled.every, data)
    rows = labelled.rows
    drawn = independent_draws(rows, task, labelled.copies_left_out)
    judge, purse = data.with_suffix(".judge-answers.jsonl"), purse_of(task.llm, "--max-cost", max_cost)
    kind = open_kind(task, spec.labels)
    with lent_judge(task, task.llm, judge, purse) as judges:
        examined = examine_rows(bundle, task, rows, "calibration")
        compared = _ask_llm(task, kind, spec.labels, rows, data, purse) if wanted.kind == "regret" else None
        llm_correct = compared.correct_at_best if compared else None  # scored while the judge is there
    judged, scored = report.judge or unmeasured(task), examined.scored
    certificate = certify(
        wanted,
        scored.confidence,
        scored.correct,
        llm_correct=llm_correct,
        right_means=said_of_right(task, judged),
        judge=judged,
        llm=speaks_of(task.llm, wanted, compared, judges),
        answers=examined.outputs if spec.purpose == "classify" else (),
        labels=spec.labels,
        drawn=drawn,
        hashes=_hashes(manifest, kind, rows),
        now=datetime.now(UTC),
    )
    proof = Proof(
        file=data.name,
        sha256=sha256_file(data),
        rows=len(rows),
        seen=len(seen.exact) if seen else None,
        near=len(seen.near) if seen else None,
        weaker=weaker(wanted, task.guarantee),
        skipped=sum(labelled.skipped.values()),
    )
    replaced = not dry_run and (replace or certificate.threshold is not None)
    if replaced:
        _put(bundle, manifest, report, certificate, proof, make_policy(certificate, spec.name, has_llm=bool(named.llm)))
    counted = drawn.positions
    doubt = check_promise(before, scored.confidence[counted], scored.correct[counted], before.threshold)
    return Certified(certificate, before, replaced, proof, doubt)


def weaker(wanted: Guarantee, own: Guarantee) -> str | None:
    """How a promise is weaker than the task's own, or another, in one sentence; None where it is at least as strong."""
    stated = f"{wanted.kind}, at most {level(wanted.max_error)} at {level(wanted.confidence)} confidence"
    of_task = f"{own.kind}, at most {level(own.max_error)} at {level(own.confidence)}"
    if wanted.kind != own.kind:
        return f"This is another promise than the task's own: {stated}, where the task asks for {of_task}."
    if wanted.max_error > own.max_error or wanted.confidence < own.confidence:
        return f"This is weaker than the task's own promise: {stated}, where the task asks for {of_task}."
    return None


def learned_files(report: BuildReport) -> list[SourceFile]:
    """Files that the served student was trained or chosen on, of other tasks, too, where it learned from these."""
    others = (mixed for each in report.multitask if each.student == report.chosen for mixed in each.tasks)
    files = [*report.data.files, *(file for other in others for file in other.mixed.files)]
    return [file for file in files if file.split in ("train", "dev")]


def _require_other_file(report: BuildReport, data: Path) -> None:
    """Refuse the very file that the bundle was built on, before anything of it is read."""
    if not data.is_file():
        return  # the reader says what is wrong with it
    given = sha256_file(data)
    for file in learned_files(report):
        if file.sha256 == given:
            raise DataError(
                "data-calibration-leak",
                f"the bundle was built on this file (its {file.split} data), so it proves nothing",
                where=str(data),
                fix="give rows that the student has never seen",
            )


def _require_fresh(seen: Seen | None, rows: Sequence[Row], data: Path) -> None:
    """Refuse rows that the student learned from, in whatever file and order they come.

    Raises:
        DataError: ``data-calibration-leak``; it names the first lines.
    """
    if seen is None:
        warn("the bundle does not record what its student learned from, so nobody can check that these rows are fresh")
        return
    if seen.near:
        places = ", ".join(rows[place].id for place in seen.near[:_PLACES_SHOWN])
        warn(f"{data.name}: near copies of rows that the student learned from", rows=len(seen.near), places=places)
    if seen.reuse is None:
        return
    places = ", ".join(rows[place].id for place in (seen.exact or seen.near)[:_PLACES_SHOWN])
    most = "" if seen.reuse.most is None else f", of fresh rows at most {seen.reuse.most:,} would"
    raise DataError(
        "data-calibration-leak",
        f"{seen.reuse.rows:,} of {seen.n:,} rows {seen.reuse.why}{most}: {places}; so these rows prove nothing",
        where=str(data),
        fix="give fresh rows of the same traffic, which the student has neither been trained nor chosen on",
    )


def _ask_llm(
    task: Task, kind: TaskKind, labels: tuple[str, ...], rows: Sequence[Row], data: Path, purse: Spending
) -> LlmRun:
    """The LLM's answers to all rows, kept beside the file."""
    if task.llm is None:
        raise UserError(
            "cascade-regret-needs-llm",
            "the bundle's task names no LLM to compare with",
            fix="choose --kind selective",
        )
    generator = open_generator(task.llm)
    try:
        cache = data.with_suffix(".llm-answers.jsonl")
        return evaluate_llm(generator, kind, rows, labels, "calibration", cache, spending=purse, room=Room(task.llm))
    finally:
        generator.close()


def _hashes(manifest: Manifest, kind: TaskKind, rows: Sequence[Row]) -> dict[str, str]:
    return {
        "model": manifest.hashes["model"],
        "task": manifest.hashes["task"],
        "calibration": content_hash([[row.input, row.output] for row in rows]),
        "decoding": decoding_hash(kind),
        "redaction": NO_REDACTION,
    }


def _put(
    bundle: Path, manifest: Manifest, report: BuildReport, certificate: Certificate, proof: Proof, policy: Policy
) -> None:
    """Put a certificate in its place, with a report, page and card that tell of it.

    What the build saw of routes on its test rows was seen at another threshold, so it is told no more.
    """
    rung = facts.chosen(report)
    verdict = report.verdict
    if rung is not None and rung.test is not None:
        verdict = facts.verdict(rung.candidate.name, rung.size_mb, report.metric, rung.test, certificate, report.target)
        verdict = " ".join([verdict, *report.cautions])
    told = report.model_copy(
        update={
            "certificate": certificate,
            "proof": proof,
            "promise": None,
            "verdict": verdict,
            "system": {name: share for name, share in report.system.items() if name in _WHATEVER_THRESHOLD},
            "cost": cost.cost(report.cost.llm_per_1000, certificate.local_share, policy.audit_rate),
        }
    )
    card = model_card(told, manifest.licence)
    replace_certificate(bundle, policy, certificate, report=told, page=render(told), card=card)
