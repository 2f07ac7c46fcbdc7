"""What the page says about the figures: key figures, the certificate's sentence, confused pairs, order.

Notable: plain values for the template and the terminal, so that both say the same thing in the same words.
Not here: markup (``page.html.j2``), drawings (``plots``).
"""

from __future__ import annotations

from dataclasses import dataclass

from locum.cascade.wording import by_label
from locum.core.text import count_of, one_line
from locum.report import text
from locum.schema.certificate import Certificate, PromiseTest
from locum.schema.data import DataCard
from locum.schema.evaluation import Evaluation, LabelScore, WrongExample
from locum.schema.multitask import MultitaskReport
from locum.schema.report import BuildReport, CandidateReport, LlmReport

_PROMISES = {
    "selective": "at most {alpha} of the answers given locally are wrong",
    "marginal": "at most {alpha} of all traffic is answered locally and wrong",
    "regret": "the whole system scores at most {alpha} below the LLM",
}
_AGAINST = {
    "gold": "",
    "llm": " (wrong means: differs from the LLM)",
    "judge": " (wrong means: by the judge's verdict)",
}


@dataclass(frozen=True)
class Figure:
    """One key figure: what it is, the value in large type, and what stands under it."""

    name: str
    value: str
    note: str
    good: bool | None = None


@dataclass(frozen=True)
class Confused:
    """``count`` inputs of label ``gold`` were answered ``predicted``; ``share`` of that label's rows."""

    gold: str
    predicted: str
    count: int
    share: float


def chosen(report: BuildReport) -> CandidateReport | None:
    """The rung that is served, or None when nothing was built."""
    return next((rung for rung in report.ladder if rung.chosen), None)


def promise(certificate: Certificate) -> str:
    """What the certificate's kind promises, in words."""
    return _PROMISES[certificate.kind].format(alpha=text.level(certificate.max_error))


def certificate_sentence(certificate: Certificate) -> str:
    """The certificate in one sentence, for the terminal and the page."""
    against = _AGAINST[certificate.labels_from]
    if certificate.threshold is None:
        missing = certificate.labels_missing
        need = "" if missing is None else f"; about {text.count(missing)} more calibration labels would be needed"
        if missing == 0:
            need = "; as many fresh calibration labels may be enough"
        return (
            f"Nothing is certified: it could not be proved that {promise(certificate)}{against}, so every input goes "
            f"to the LLM, or to nobody{need}."
        )
    return (
        f"Certified with {text.level(certificate.confidence)} confidence: {promise(certificate)}{against}; "
        f"{text.percent(certificate.local_share)} of {text.count(certificate.n)} calibration rows were answered "
        f"locally, {text.count(certificate.errors)} of {text.count(certificate.accepted)} wrong."
        f"{by_label(certificate.local_labels)}"
    )


def headline(report: BuildReport) -> str:
    """The verdict's first sentence; what it hides stands in ``report.cautions``."""
    return report.verdict.removesuffix(" ".join(("", *report.cautions)))


def above_promise(test: PromiseTest | None) -> bool:
    """Whether more is wrong on some rows than was promised, be it by chance or not."""
    return test is not None and test.errors > test.max_error * test.rows


def promise_sentence(test: PromiseTest, data: DataCard | None = None) -> str:
    """What rows say of a promise that was proved on others; where they say more is wrong, with the likely reason.

    Args:
        test: what was counted.
        data: where a build's test and calibration rows come from; None: these are rows of somebody else.
    """
    said = _of_these_rows(test)
    if data is None:
        return said
    said = said.replace("these rows", "the test rows").replace("These rows", "The test rows")
    if not above_promise(test):
        return said
    if any(file.split == "test" for file in data.files):
        return f"{said} They come from a file of their own, which may be other traffic than what the promise is of."
    same = "They are drawn from the same rows as the calibration rows"
    if test.broken:
        return f"{said} {same}: chance does that in one build of twenty, rows that belong together in more."
    return f"{said} {same}."


def _of_these_rows(test: PromiseTest) -> str:
    what = "of the answers given locally are wrong" if test.kind == "selective" else "of all rows are local and wrong"
    share = f"{text.percent(test.errors / test.rows)} {what} ({text.count(test.errors)} of {text.count(test.rows)}"
    share += f"; 95 % interval {text.percent(test.low)} to {text.percent(test.high)})"
    if test.broken:
        return f"The promise is broken on these rows: {share}, where at most {text.level(test.max_error)} is promised."
    if above_promise(test):
        alpha = text.level(test.max_error)
        return f"More is wrong on these rows than promised: {share}, where at most {alpha} is. Chance may do that."
    return f"These rows do not speak against the promise: {share}; at most {text.level(test.max_error)} is promised."


def in_force(report: BuildReport) -> str:
    """Since when the certificate is in force, and on which rows it was proved."""
    certificate, proof = report.certificate, report.proof
    state = "In force" if certificate.threshold is not None else "It is so"
    since = f"{state} since {certificate.issued_at[:16].replace('T', ' ')} UTC"
    if proof is None:
        return f"{since}, by the build, from its {text.count(certificate.n)} calibration rows."
    said = f"{since}, by `locum certify`, from {text.count(proof.rows)} rows of {one_line(proof.file, 120)}"
    if proof.seen is None:
        said += "; nobody could check whether the student had learned from them"
    elif proof.seen or proof.near:
        said += (
            f"; the student had learned from the text of {text.count(proof.seen)} of them, as traffic repeats itself, "
        )
        said += f"and from near copies of {text.count(proof.near)}"
    further = [proof.weaker or "", skipped_sentence(proof.skipped) if proof.skipped else ""]
    return " ".join([f"{said}.", *filter(None, further)])


def skipped_sentence(rows: int) -> str:
    """What rows of a file that could not be used mean for what was proved on the others."""
    return f"{count_of(rows, 'row')} of the file could not be used (no label, say), so nothing is proved of such rows."


def verdict(
    name: str,
    size_mb: float | None,
    metric: str,
    test: Evaluation,
    certificate: Certificate,
    target: float | None,
    promise: PromiseTest | None = None,
    data: DataCard | None = None,
) -> str:
    """A build in one sentence that a manager can read, and another where more is wrong on the test rows than promised.

    Args:
        name: of the student.
        size_mb: of what is served.
        metric: the task's.
        test: on the test rows.
        certificate: what is in force.
        target: what was asked for.
        promise: what the test rows say of the certificate's promise.
        data: where the rows come from.
    """
    score = test.metrics[metric]
    size = "of unknown size" if size_mb is None else f"{size_mb:.0f} MB" if size_mb >= 1 else "under 1 MB"
    reached = f"reaches {score.value:.1%} {text.metric_name(metric)} on"
    achieved = f"is right on {score.value:.1%} of" if metric == "accuracy" else reached
    answer = f"{name} ({size}) {achieved} {test.n:,} test rows (95 % interval {score.low:.1%} to {score.high:.1%})"
    if target is not None:
        answer += (", above" if score.value >= target else ", below") + f" the target of {target:.1%}"
    if certificate.threshold is None:
        return f"{answer}; nothing is certified yet, so every input goes to the LLM, or to nobody."
    may = f"it may answer {certificate.local_share:.1%} of the traffic by itself under its certificate"
    if promise is not None and above_promise(promise):
        find = " Find out why before it is served." if promise.broken else ""
        return f"{answer}; {may}. {promise_sentence(promise, data)}{find}"
    return f"{answer}; {may}."


def key_figures(report: BuildReport) -> list[Figure]:
    """The figures a manager asks for first: quality, share answered locally, size, latency, cost."""
    rung = chosen(report)
    return [
        _quality(report, rung),
        _local(report),
        _size(rung),
        _latency(rung),
        _saving(report),
    ]


def _quality(report: BuildReport, rung: CandidateReport | None) -> Figure:
    evaluation = (rung.test or rung.dev) if rung else None
    score = text.headline(evaluation, report.metric)
    if score is None or evaluation is None:
        return Figure(text.metric_name(report.metric), text.UNKNOWN, "nothing was built", good=False)
    note = f"95 % interval {text.interval(score)}, {text.rows_of(evaluation)}"
    llm = text.headline(report.llm.test, report.metric) if report.llm else None
    if llm is not None:
        note += f"; the LLM {text.percent(llm.value)}"
    reached = None if report.target is None else score.value >= report.target
    if report.target is not None:
        note += f"; target {text.percent(report.target)}"
    return Figure(f"{text.metric_name(report.metric)} on {evaluation.split}", text.percent(score.value), note, reached)


def _local(report: BuildReport) -> Figure:
    certificate = report.certificate
    if certificate.threshold is None:
        return Figure(
            "answered locally", "0 %", "nothing is certified: every input goes to the LLM, or to nobody", good=False
        )
    confidence = text.level(certificate.confidence)
    return Figure(
        "answered locally",
        text.percent(certificate.local_share),
        f"of {text.count(certificate.n)} calibration rows; {promise(certificate)}, proved at {confidence} confidence",
        good=True,
    )


def _size(rung: CandidateReport | None) -> Figure:
    if rung is None:
        return Figure("size", text.UNKNOWN, "")
    parts = [f"{text.parameters(rung.parameters)} parameters"]
    if rung.parity is not None:
        parts.append(rung.parity.precision)
    if rung.memory_mb is not None:
        parts.append(f"{text.megabytes(rung.memory_mb)} of memory")
    return Figure("size served", text.megabytes(rung.size_mb), ", ".join(parts))


def _latency(rung: CandidateReport | None) -> Figure:
    if rung is None or rung.latency is None:
        return Figure("latency", text.UNKNOWN, "not measured")
    latency = rung.latency
    note = (
        f"p95 {text.milliseconds(latency.p95_ms)}; {text.number(latency.answers_per_s)} answers/s in batches, "
        f"{latency.threads} thread{'s' if latency.threads != 1 else ''}"
    )
    return Figure("latency (median)", text.milliseconds(latency.p50_ms), note)


def _saving(report: BuildReport) -> Figure:
    cost = report.cost
    if cost.saved_share is None:
        return Figure("cost saved", text.UNKNOWN, "the task names no LLM with a price")
    note = f"{text.money(cost.cascade_per_1000)} against {text.money(cost.llm_per_1000)} per 1,000 answers"
    return Figure("cost saved", text.percent(cost.saved_share, 0), note, cost.saved_share > 0)


def transfer_sentence(multitask: MultitaskReport) -> str:
    """What learning several tasks together did to the task at hand, in one sentence or two."""
    others = ", ".join(learned.task for learned in multitask.tasks[1:])
    if multitask.comparison is None:
        return (
            f"{multitask.student} learned {others}, too. Gain or harm was not compared: the same student tuned alone "
            "was not built."
        )
    word = {"gain": "A gain", "harm": "Harm"}.get(multitask.verdict, "No difference shown")
    return f"{word} from learning {others}, too: {multitask.comparison.verdict}"


def llm_note(llm: LlmReport) -> str:
    """What the LLM's row of the ladder says beside its figures."""
    parts = [text.rows_of(llm.test, "rows")] if llm.test else [f"no figure: {llm.missing or 'it was not asked'}"]
    if llm.failures and llm.test:
        parts.append(f"{text.count(llm.failures)} failed")
    if llm.cut and llm.test:
        parts.append(f"{text.count(llm.cut)} cut at {text.count(llm.cut_at)} tokens, neither right nor wrong")
    if llm.left_out:
        parts.append(f"its server refused {', '.join(llm.left_out)}, so it answered with its own setting")
    return "; ".join(parts)


def why_served(report: BuildReport) -> str:
    """Why this student, why the ladder ended, and whether it was trained again: whole sentences."""
    said = (one.strip() for one in (report.why_chosen, report.stopped_early or "", report.refit))
    named = {rung.candidate.name for rung in report.ladder} | {rung.candidate.base for rung in report.ladder}
    return " ".join(_sentence(one, starts_with_name=one.split()[0] in named) for one in said if one)


def _sentence(said: str, *, starts_with_name: bool) -> str:
    """What was said, with a capital letter and a full stop; a name stays as it is written."""
    first = said[0] if starts_with_name else said[0].upper()
    return f"{first}{said[1:].removesuffix('.')}."


def part_name(kind: str | None, *, many: bool = False) -> str:
    """What figures are broken down by: labels, types of span, or fields."""
    name = {"tag": "type", "extract": "field"}.get(kind or "", "label")
    return f"{name}s" if many else name


def most_confused(evaluation: Evaluation | None, limit: int = 15) -> list[Confused]:
    """Pairs of labels by how often the first is answered as the second."""
    if evaluation is None:
        return []
    pairs = [
        Confused(evaluation.labels[row], evaluation.labels[column], count, count / max(1, sum(counts)))
        for row, counts in enumerate(evaluation.confusion)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.gold, pair.predicted))[:limit]


def worst_first(evaluation: Evaluation | None) -> list[LabelScore]:
    """Labels by F1, the worst first; labels without rows come last."""
    if evaluation is None:
        return []
    return sorted(
        evaluation.per_label,
        key=lambda score: (score.support == 0, score.f1 if score.f1 is not None else 0.0, score.label),
    )


def most_certain_wrong(report: BuildReport, limit: int = 40) -> list[WrongExample]:
    """Wrong answers, the most confident first: those that the threshold does not catch."""
    return sorted(report.wrong, key=lambda example: (-example.confidence, example.id))[:limit]


def is_local(report: BuildReport, example: WrongExample) -> bool:
    """Whether this wrong answer would have been given locally."""
    threshold = report.certificate.threshold
    return threshold is not None and example.confidence >= threshold
