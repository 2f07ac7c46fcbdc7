"""What a user must know first of a finished build: what an accuracy hides, in sentences.

Notable: everything is counted on the rows that the figures are about. The constant answer needs no model, so a student
that is not shown to beat it has learned nothing that counts. Not here: what data and certificate say of themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from locum.core.text import one_line
from locum.evaluate.answers import right
from locum.pipeline.built import BuiltStudent
from locum.report.text import metric_name
from locum.schema.data import DataCard, Row, SplitName
from locum.schema.evaluation import LabelScore
from locum.schema.model import ModelSpec
from locum.schema.report import Baseline
from locum.stats import rowwise
from locum.stats.confusion import macro_f1
from locum.stats.paired import mcnemar
from locum.tasks.rank import ranking, read_candidates
from locum.tasks.tag import write_spans

_NAMED = 5
_SHOWN_BELOW = 0.05  # p-value from which a difference is taken as shown


def baseline(student: BuiltStudent, split: SplitName = "test") -> Baseline | None:
    """What an answer without any model scores on the rows that the student is measured on.

    The most frequent label every time; no span in any text; candidates in an order drawn at random. None for answers
    that are written, where there is no such answer.

    Args:
        student: has answered the split.
        split: which rows.
    """
    rows, kind = student.rows(split), student.task.kind
    if kind == "classify":
        golds, counts = np.unique([row.output for row in rows], return_counts=True)
        label = str(golds[counts.argmax()])
        correct = np.array([row.output == label for row in rows])
        metrics = {"accuracy": float(correct.mean()), "macro_f1": _constant_macro_f1(rows, label, student.spec.labels)}
        answer = f"answering {_quoted(label)} every time"
    elif kind in ("tag", "rank"):
        outputs = [write_spans(()) if kind == "tag" else _drawn(row.input) for row in rows]
        scored = student.kind.score(outputs, rows)
        correct, metrics = right(scored), {name: rowwise.interval(metric).value for name, metric in scored.items()}
        answer = "finding nothing in any text" if kind == "tag" else "an order drawn at random"
    else:
        return None
    test = mcnemar(student.scored(split).correct, correct)
    return Baseline(answer=answer, metrics=metrics, only_student=test.only_a, only_baseline=test.only_b, p=test.p_value)


def cautions(student: BuiltStudent, card: DataCard, constant: Baseline | None) -> tuple[str, ...]:
    """Sentences for the verdict, the most important one first; none where nothing is hidden.

    Args:
        student: the one that is served.
        card: of its data.
        constant: what ``baseline`` found.
    """
    found, metric = student.evaluation("test"), student.task.metric
    tagged = student.task.kind == "tag"
    labels = found.per_label if student.task.kind in ("classify", "tag") else ()
    missed = [score for score in labels if score.support and not score.recall]
    said = [*_missed(missed, len(labels), tagged=tagged)]
    beaten = True
    if constant is not None:
        beaten = constant.p < _SHOWN_BELOW and constant.only_student > constant.only_baseline
        said.append(_compared(constant, found.metrics["accuracy"].value, metric, beaten=beaten))
    said += [*_few(labels, card, tagged=tagged), *_lost(card)]
    if student.task.kind == "classify" and (missed or not beaten):
        said.append(_hint(metric, [score.label for score in missed]))
    return tuple(said)


def longer_than_read(students: Sequence[BuiltStudent], card: DataCard) -> tuple[str, ...]:
    """For the data card: how many rows are longer than each student reads."""
    rows = sum(card.splits[split].rows for split in ("train", "dev"))
    said: list[str] = []
    for each in students:
        trained = (each.before or each).trained
        if trained is None:
            continue
        name, limit = each.candidate.name, reads(each.spec, trained.max_tokens)
        if cut := int(trained.settings.get("cut_texts", 0)):
            what = "queries and candidates" if each.task.kind == "rank" else f"of {rows:,} train and dev rows"
            said.append(f"{cut:,} {what} are longer than {name} reads ({limit}): it reads their beginning")
        if trained.rows is not None and trained.rows.dropped_long:
            said.append(
                f"{trained.rows.dropped_long:,} train and dev rows are longer than the context of {name} ({limit}) and "
                "were left out of its training; such inputs are handed over"
            )
    return tuple(said)


def reads(spec: ModelSpec, max_tokens: int) -> str:
    """How much of a text a student reads, in words."""
    if spec.purpose == "tag":
        return f"64 windows of {max_tokens:,} tokens"
    return f"{max_tokens:,} {'words' if spec.family == 'linear' else 'tokens'}"


def _constant_macro_f1(rows: Sequence[Row], label: str, labels: Sequence[str]) -> float:
    place = {name: number for number, name in enumerate(labels)}
    gold = np.array([place.get(row.output, -1) for row in rows], dtype=np.int64)
    return macro_f1(gold, np.full(len(rows), place.get(label, -1), dtype=np.int64), len(labels))


def _drawn(text: str) -> str:
    return ranking(text, [0.0] * len(read_candidates(text).texts))


def _missed(missed: Sequence[LabelScore], labels: int, *, tagged: bool) -> Iterator[str]:
    """Labels that stand in test and are never right: those that are never given, then those given elsewhere only."""
    noun, nouns = ("type", "types") if tagged else ("label", "labels")
    never = [score for score in missed if not score.predicted]
    if len(never) == 1:
        yield f"It never gives the {noun} {_quoted(never[0].label)} (0 of {never[0].support:,} found)."
    elif never:
        yield f"It never gives {len(never)} of {labels} {nouns}: {_listed(never)}."
    wrong = [score for score in missed if score.predicted]
    if wrong:
        yield f"It never gives {_listed(wrong)} where that is right."


def _listed(scores: Sequence[LabelScore]) -> str:
    ordered = sorted(scores, key=lambda score: -score.support)
    shown = ", ".join(f"{_quoted(score.label)} (0 of {score.support:,} found)" for score in ordered[:_NAMED])
    return shown + (f" and {len(scores) - _NAMED} more" if len(scores) > _NAMED else "")


def _compared(constant: Baseline, accuracy: float, metric: str, *, beaten: bool) -> str:
    other = ""
    if metric != "accuracy" and metric in constant.metrics:
        other = f" ({metric_name(metric)} {constant.metrics[metric]:.1%})"
    alone = constant.metrics["accuracy"]
    start = f"{constant.answer[0].upper()}{constant.answer[1:]} would be right on {alone:.1%} of the same rows{other}"
    if accuracy == alone:
        return f"{start}, which is as good."
    if beaten:
        return f"{start}."
    return f"{start}: it is right on {accuracy:.1%}, and is not shown to be better than that."


def _few(scores: Sequence[LabelScore], card: DataCard, *, tagged: bool) -> Iterator[str]:
    if card.rare_labels:
        rare = sorted(card.rare_labels.items(), key=lambda item: item[1])
        shown = ", ".join(f"{_quoted(label)} {count:,}" for label, count in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
        unit = "spans" if tagged else "rows"
        yield f"Labels with few {unit} in all the data: {shown}{more}; nothing is promised about these alone."
    absent = [_quoted(score.label) for score in scores if not score.support]
    if absent:
        shown = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
        yield f"No test row has {shown}: how well that is found is not known."


def _lost(card: DataCard) -> Iterator[str]:
    lost = sum(dropped.count for dropped in card.dropped if dropped.reason.startswith("bad row"))
    if lost:
        yield f"{lost:,} of {lost + sum(file.rows for file in card.files):,} rows were lost in reading."


def _hint(metric: str, missed: Sequence[str]) -> str:
    rows = f"more rows of {', '.join(map(_quoted, missed[:_NAMED]))}" if missed else "more rows of the rarer labels"
    if metric == "macro_f1":
        return f"What helps: {rows}."
    return f"Accuracy hides rare labels: set target.metric: macro_f1 in the task file, and give {rows}."


def _quoted(label: str) -> str:
    return f"“{one_line(label, 40)}”"
