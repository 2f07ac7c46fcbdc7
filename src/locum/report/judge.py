"""What the page, the card and the terminal say of a judge: who judged, by what, and how far that is people's verdict.

Notable: where no answers graded by people were given, the first thing said is that this was not measured. The words
are plain text; whoever shows them escapes them. Not here: the certificate's own words (``cascade.wording``).
"""

from __future__ import annotations

from locum.core.text import count_of, visible
from locum.report import text
from locum.schema.judging import GradedFile, JudgeAgreement
from locum.schema.report import BuildReport

NOT_MEASURED = (
    "How far the judge agrees with people was not measured: the task names no answers that people graded (judge.human)."
)


def judge_sentences(report: BuildReport) -> list[str]:
    """Who judged by what, how far that is people's verdict, what was done with their answers; [] without a judge."""
    judge = report.judge
    if judge is None:
        return []
    found = [f"Answers were judged by {visible(judge.model)}, an LLM, which was asked: {visible(judge.criterion)}"]
    if report.llm is not None:
        found.append("The judge is the task's own LLM, so where the LLM is scored it judged its own answers.")
    if judge.agreement is None or judge.graded is None:
        return [*found, NOT_MEASURED]
    return [*found, _agreement(judge.agreement), _kindness(judge.agreement), _rows(judge.graded)]


def judge_line(report: BuildReport) -> str | None:
    """One line for the terminal; None without a judge."""
    judge = report.judge
    if judge is None:
        return None
    if judge.agreement is None:
        return NOT_MEASURED
    kappa = text.number(judge.agreement.kappa, 2)
    weighted = text.number(judge.agreement.kappa_quadratic, 2)
    return f"{_agreement(judge.agreement)} {_kindness(judge.agreement)} Kappa {kappa}, quadratic {weighted}."


def judge_figures(report: BuildReport) -> list[tuple[str, str, str]]:
    """Figure, value and 95 % interval (empty where there is none) of the agreement; [] where it was not measured."""
    if report.judge is None or report.judge.agreement is None:
        return []
    found, graded = report.judge.agreement, report.judge.graded
    shown = [
        ("answers that people graded", text.count(found.n), ""),
        ("verdicts that cannot be read", text.count(found.unreadable), ""),
        ("right or wrong as people say", text.percent(found.right.value), text.interval(found.right)),
        ("Cohen's kappa of right or wrong", text.number(found.kappa_right, 2), ""),
        ("the same grade", text.percent(found.equal.value), text.interval(found.equal)),
        ("Cohen's kappa of grades", text.number(found.kappa, 2), ""),
        ("the same, quadratic weights", text.number(found.kappa_quadratic, 2), ""),
        ("right to the judge, to people", f"{text.count(found.judged_right)}, {text.count(found.people_right)}", ""),
        ("right to the judge alone", text.count(found.judged_right_only), ""),
    ]
    kinder = found.kinder_by
    if kinder is not None:
        ends = f"{_signed(kinder.low)} to {_signed(kinder.high)}"
        shown.append(("judge's grade less people's, mean", _signed(kinder.value), ends))
    if graded is not None:
        shown.append(("file", f"{text.cell(graded.address)}, SHA-256 {graded.sha256[:12]}…", ""))
    return shown


def _agreement(found: JudgeAgreement) -> str:
    return (
        f"On {text.count(found.n)} answers that people graded, the judge said right or wrong as they did for "
        f"{text.percent(found.right.value)} (95 % interval {text.interval(found.right)}) and gave the same grade to "
        f"{text.percent(found.equal.value)} ({text.interval(found.equal)})."
        + (f" {text.count(found.unreadable)} of its verdicts cannot be read." if found.unreadable else "")
    )


def _kindness(found: JudgeAgreement) -> str:
    """Whether the judge is kind: its grades against people's, and what it alone takes as right."""
    kinder = found.kinder_by
    said = "Whether it is kind or strict is not known from so few verdicts."
    if kinder is not None:
        size = text.number(abs(kinder.value), 2)
        ends = f"95 % interval {_signed(kinder.low)} to {_signed(kinder.high)} grades"
        if kinder.low > 0:
            said = f"It is kinder than people, by {size} grades on average ({ends})."
        elif kinder.high < 0:
            said = f"It is stricter than people, by {size} grades on average ({ends})."
        else:
            mean = f"{_signed(kinder.value)} on average"
            said = f"It was not shown to be kinder or stricter than people ({mean}, {ends})."
    if not found.judged_right:
        return said
    alone, taken = text.count(found.judged_right_only), text.count(found.judged_right)
    return f"{said} Of {taken} answers that it takes as right, people take {alone} as wrong."


def _rows(graded: GradedFile) -> str:
    """What was done with people's answers."""
    parts: list[str] = []
    if graded.copies:
        parts.append(f"{text.count(graded.copies)} rows that say the same once more were left out.")
    if graded.skipped:
        bad = sum(graded.skipped.values())
        parts.append(f"{count_of(bad, 'bad row')} {'was' if bad == 1 else 'were'} skipped, as data.skip_bad says.")
    if graded.cut:
        parts.append(f"{text.count(graded.cut)} inputs were cut, as data.max_field_chars says.")
    seen = f"It saw a reference answer for {text.count(graded.references)} of them."
    if graded.references < graded.rows:
        seen += " In the build it sees one wherever the data has one."
    shared = [f"{text.count(count)} in {split}" for split, count in graded.also_in.items() if count]
    where = f"; inputs that also stand in the task's rows: {', '.join(shared)}" if shared else ""
    return " ".join([*parts, seen, f"They are compared with the judge alone, and no student learns from them{where}."])


def _signed(grades: float) -> str:
    """A difference in grades with its sign."""
    shown = f"{abs(grades):.2f}"
    return f"+{shown}" if grades > 0 and float(shown) else f"−{shown}" if grades < 0 and float(shown) else shown
