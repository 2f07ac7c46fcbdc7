"""The sentences of a certificate: what was proved, what must hold, what ends it.

Notable: a sentence never says more than the proof. The three kinds are worded so that they cannot be taken
for each other: of the answers given locally, of all traffic, of the LLM's own score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from locum.core.text import one_line
from locum.schema.certificate import LlmIdentity, Sampling
from locum.schema.judging import JudgeReport
from locum.schema.task import Guarantee
from locum.stats.risk import RiskBound

_WHY_NOT = {
    "no-confidence": "the student gives no usable confidence",
    "constant-confidence": "the student's confidence is the same for every row, so it cannot say when to hand over",
    "too-few-labels": "there are too few calibration labels, even if none of the answers were wrong",
    "risk-too-high": "already of the surest answers too many were wrong for a proof",
}
_WRONG = {"gold": "wrong", "llm": "other than the LLM's", "judge": "wrong by the judge's verdict"}
"""By who says what is right."""
_FEW_LABELS = 6
_NAMED = 10


def percent(share: float) -> str:
    """A share as a percentage with the digits it needs: 5 %, 0.5 %, 99.9 %."""
    return f"{100 * share:.4g} %"


def statement(
    guarantee: Guarantee,
    bound: RiskBound,
    labels_from: str,
    missing: int | None,
    right_means: str | None = None,
    judge: JudgeReport | None = None,
    local_labels: Mapping[str, int] | None = None,
    sampling: Sampling | None = None,
) -> str:
    """What was proved, in one sentence; or that nothing was, why, and what would help; then what "right" means.

    Of labels it says which ones were given: a promise about all answers says nothing about a label that never is.
    """
    defined = "" if right_means is None else f" An answer is right when {right_means}."
    if judge is not None:
        defined += f" That is the judge's verdict; {agreement(judge)}."
    sure, most = percent(guarantee.confidence), percent(guarantee.max_error)
    wrong = _WRONG[labels_from]
    sampling = sampling or Sampling()
    rows, of = _units(sampling, bound.n), _population(sampling)
    if bound.threshold is None:
        if missing is None:
            more = "more labels alone would not help"
        elif missing == 0:
            more = "as many fresh rows may be enough"
        else:
            what = "groups" if sampling.unit == "group" else "calibration labels"
            more = f"about {missing:,} more {what} would be needed"
        if bound.reason == "copies-left-out":
            whole = bound.n + sampling.copies_left_out
            why = f"{sampling.copies_left_out:,} of {whole:,} rows are copies that no independent messages explain"
            more = (
                "take the copies out of the file, name what belongs together under data.group, or say that they are "
                "separate messages with data.duplicates: keep"
            )
        elif bound.failed is not None:
            accepted, errors, allowed = bound.failed
            why = (
                f"testing began with the {accepted:,} surest answers, of which {errors:,} were {wrong} where "
                f"{allowed:,} may be, and looser thresholds are tested only after a stricter one has passed"
            )
        else:
            why = _WHY_NOT[bound.reason] if bound.n else "there are no calibration labels"
        return (
            f"Nothing is certified, so the student answers nothing by itself: {why} "
            f"({rows}, at most {most} asked with {sure} confidence; {more}).{defined}"
        )
    promise = {
        "selective": f"at most {most} of the answers given locally{of} are {wrong}",
        "marginal": f"at most {most} of all inputs{of} are answered locally and {wrong}",
        "regret": f"the share of right answers{of} is at most {100 * guarantee.max_error:.4g} points below the LLM's",
    }[guarantee.kind]
    measure = {
        "selective": f"{bound.errors:,} of those {wrong}",
        "marginal": f"{bound.errors:,} of those {wrong}",
        "regret": f"{bound.errors:,} of those right from the LLM and wrong from the student",
    }[guarantee.kind]
    return (
        f"With {sure} confidence, {promise}; on {rows} the student answered {bound.accepted:,} "
        f"({percent(round(bound.local_share, 3))}) at confidence {bound.threshold:.3f} or more, {measure}."
        f"{by_label(local_labels or {})}{defined}"
    )


def by_label(local_labels: Mapping[str, int]) -> str:
    """Which labels the answers given locally were of, as a sentence that follows another; empty where none are known.

    Of a few labels all are counted; of many, those that were never given are named.
    """
    names = {label: f"“{one_line(label, 40)}”" for label in local_labels}
    if not names:
        return ""
    if len(names) <= _FEW_LABELS:
        counts = ", ".join(f"{count or 'none'} {names[label]}" for label, count in local_labels.items())
        return f" By label, the answers given locally were: {counts}."
    never = [names[label] for label, count in local_labels.items() if not count]
    if not never:
        return f" Each of the {len(names)} labels was given locally at least once."
    shown = ", ".join(never[:_NAMED]) + (f" and {len(never) - _NAMED} more" if len(never) > _NAMED else "")
    return f" Of the {len(names)} labels, {len(never)} were never given locally: {shown}."


def _units(sampling: Sampling, n: int) -> str:
    """What was counted, n times."""
    if sampling.unit == "group":
        return f"one row of each of {n:,} {plural(sampling.group or 'group')}"
    return f"{n:,} {'distinct texts' if sampling.unit == 'text' else 'calibration rows'}"


def _population(sampling: Sampling) -> str:
    """What the statement speaks of, as the words behind "answers"; "" for all traffic."""
    if sampling.unit == "group":
        return f" in new {plural(sampling.group or 'group')}"
    return " to distinct texts" if sampling.unit == "text" else ""


def _drawn_from(sampling: Sampling) -> str:
    if sampling.unit == "group":
        many = plural(sampling.group or "group")
        return (
            f"The {many} are a random sample of those to come. Each counts once, however many rows it has: where long "
            "ones are worse, more of all answers are wrong than of these."
        )
    if sampling.unit == "text":
        return (
            "The calibration rows are a random sample of the distinct texts that will come; "
            f"{sampling.copies_left_out:,} further rows were copies and are not counted."
        )
    return "The calibration rows are a random sample of the traffic that it speaks about."


def plural(noun: str) -> str:
    """A column's name for several: conversations, companies, boxes; doc_ids."""
    shown = one_line(noun, 60)
    if shown[-1:] in ("s", "x", "z"):
        return f"{shown}es" if shown[-1] != "s" else shown
    return f"{shown[:-1]}ies" if shown[-1:] == "y" and shown[-2:-1] not in tuple("aeiou") else f"{shown}s"


def agreement(judge: JudgeReport) -> str:
    """How far a judge's verdicts are people's, as half a sentence."""
    found = judge.agreement
    if found is None:
        return "its agreement with people was not measured"
    low, high = percent(round(found.right.low, 3)), percent(round(found.right.high, 3))
    kind = ""
    if found.judged_right:
        kind = f"; of {found.judged_right:,} that it took as right, people took {found.judged_right_only:,} as wrong"
    return (
        f"on {found.n:,} answers that people graded, it agreed with them on right or wrong for "
        f"{percent(round(found.right.value, 3))} (95 % interval {low} to {high}){kind}"
    )


def assumptions(
    guarantee: Guarantee,
    labels_from: str,
    rare_labels: Sequence[str],
    statements: int,
    judge: JudgeReport | None = None,
    sampling: Sampling | None = None,
    llm: LlmIdentity | None = None,
) -> tuple[str, ...]:
    """What must hold for the statement to be true."""
    found = [
        _drawn_from(sampling or Sampling()),
        "The rows used for the proof (calibration rows) were used for nothing else: no choice was made on them.",
        "Nothing has changed since: model, tokenizer, task, decoding and redaction are those whose hashes it names.",
    ]
    if judge is not None:
        found.append(f"What is certified is the judge's verdict and not people's: {agreement(judge)}.")
    elif labels_from == "gold":
        found.append("The calibration labels are right.")
    else:
        found.append("The calibration labels were given by the LLM: it speaks of agreement with the LLM, not of truth.")
    if llm is not None:
        where = f" at {one_line(llm.base_url, 120)}" if llm.base_url else ""
        names = ", ".join(one_line(name, 80) for name in (*llm.names, *llm.versions)[:5])
        found.append(f"The LLM is {one_line(llm.model, 80)}{where}, which calls itself {names or 'nothing'}.")
        if llm.left_out:
            settings = ", ".join(one_line(name, 40) for name in llm.left_out)
            found.append(f"Its server refuses {settings}, so the LLM answered with its own setting, as it will again.")
    if guarantee.kind == "selective":
        found.append(
            "The less sure the student is, the more often it is wrong: once more than "
            f"{percent(guarantee.max_error)} of its answers are wrong, less sure ones do not bring that down again."
        )
    if guarantee.kind == "regret":
        found.append("The LLM answers as it did on the calibration rows.")
        if judge is not None:
            found.append("The judge is that LLM, and judges its own answers beside the student's.")
        found.append(
            "The more is answered locally, the more is lost against the LLM; once past the promise, it stays so."
        )
    if statements > 1:
        found.append(f"It holds together with {statements - 1} others; the confidence is that of all of them.")
    if rare_labels:
        shown = ", ".join(rare_labels[:5]) + (", …" if len(rare_labels) > 5 else "")
        found.append(
            f"It speaks of all traffic together; nothing is promised for {len(rare_labels)} rare label(s) "
            f"alone: {shown}."
        )
    return tuple(found)


def voided_by(hashes: Mapping[str, str], valid_days: int) -> tuple[str, ...]:
    """What ends it; a voided certificate hands everything over."""
    named = ", ".join(sorted(hashes))
    changed = [f"A change of any of: {named}.", f"Age: it is valid for {valid_days} days from its issue."]
    if "llm" in hashes:
        changed.append("Another LLM than it names, configured or answering, once and for good.")
    return tuple(changed)
