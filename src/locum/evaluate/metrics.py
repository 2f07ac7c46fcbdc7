"""Metrics of one model on one split, each with a 95 % interval.

Notable: an answer that is no label (column -1) counts as wrong and as missed by its gold label, and is
nobody's false positive; a gold label that the model does not know counts as wrong. All statistics are
``locum.stats``'; this module counts, and puts them into documents. Not here: comparing models
(``evaluate.compare``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import UserError
from locum.evaluate.scored import count_groups
from locum.schema import evaluation as documents
from locum.schema.data import Row, SplitName
from locum.scoring.fields import Leaf, field_name, leaves
from locum.scoring.translation import Translations
from locum.stats import bootstrap, calibration, confusion, intervals, ranking, rowwise
from locum.tasks.json_answer import read_json
from locum.tasks.tag import load_spans

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_RISK_POINTS = 200
_MOST_FIELDS = 60  # the most frequent ones; an object may have any number of keys
Part = TypeVar("Part")


def evaluation(
    model: str,
    split: SplitName,
    labels: tuple[str, ...],
    gold: Ints,
    predicted: Ints,
    *,
    confidence_of: tuple[NDArray[np.float32], float] | None = None,
    groups: Ints | None = None,
) -> documents.Evaluation:
    """Everything that is said about one model on one split.

    Args:
        model: its name.
        split: which rows.
        labels: class names; columns count into them.
        gold: right column per row, ``[n]``; -1 where the gold label is none of ``labels``.
        predicted: answered column per row, ``[n]``; -1 where the answer is no label.
        confidence_of: logits ``[n, labels]`` and temperature, when the model has them.
        groups: a number per row, the same for rows that belong together; intervals are then about groups.

    Raises:
        UserError: no rows.
    """
    if len(gold) == 0:
        raise UserError("evaluate-no-rows", f"no rows of {split} to evaluate {model!r} on", fix="give at least one row")
    matrix = confusion.confusion(gold, predicted, len(labels))
    calibrated, risk = (None, ()) if confidence_of is None else _confidence(gold, predicted, *confidence_of)
    return documents.Evaluation(
        model=model,
        split=split,
        n=len(gold),
        labels=labels,
        metrics=_label_metrics(gold, predicted, matrix, groups),
        per_label=_per_label(matrix, labels),
        confusion=tuple(tuple(int(count) for count in row[:-1]) for row in matrix[:-1]),
        calibration=calibrated,
        risk_coverage=risk,
        invalid=int((predicted < 0).sum()),
        groups=count_groups(groups),
    )


def _label_metrics(gold: Ints, predicted: Ints, matrix: Ints, groups: Ints | None) -> dict[str, documents.Interval]:
    right = (gold == predicted) & (gold >= 0)
    if groups is None:
        accuracy = intervals.wilson(int(right.sum()), len(gold))
        macro_f1 = bootstrap.confusion_interval(matrix, confusion.macro_f1_of_labels)
    else:
        statistic = rowwise.Coded(confusion.macro_f1_of_rows(gold, predicted, len(matrix) - 1), len(gold))
        accuracy = rowwise.interval(rowwise.Mean(right.astype(np.float64)), groups=groups)
        macro_f1 = rowwise.interval(statistic, groups=groups)
    return {"accuracy": document(accuracy), "macro_f1": document(macro_f1)}


def scored_evaluation(
    model: str,
    split: SplitName,
    scores: Mapping[str, rowwise.Metric],
    n: int,
    *,
    confidence: Floats | None = None,
    correct: NDArray[np.bool_] | None = None,
    fields: tuple[Floats, NDArray[np.bool_]] | None = None,
    invalid: int = 0,
    groups: Ints | None = None,
) -> documents.Evaluation:
    """What is said about one model on one split when its answers are no labels.

    Args:
        model: its name.
        split: which rows.
        scores: the task's metrics over the rows.
        n: rows.
        confidence: calibrated, ``[n]``, when the model has one.
        correct: whether each answer is right, same rows; given with ``confidence``.
        fields: confidence of every field of the answers and whether it is right, when fields have one.
        invalid: answers that are none.
        groups: a number per row, the same for rows that belong together; intervals are then about groups.

    Raises:
        UserError: no rows.
    """
    if n == 0:
        raise UserError("evaluate-no-rows", f"no rows of {split} to evaluate {model!r} on", fix="give at least one row")
    calibrated, risk = None, ()
    if confidence is not None and correct is not None:
        known = np.isfinite(confidence)
        calibrated = _calibration(confidence, correct, known, 1.0, None) if known.any() else None
        risk = _thinned(ranking.risk_coverage(confidence, correct))
    return documents.Evaluation(
        model=model,
        split=split,
        n=n,
        labels=(),
        metrics={name: document(rowwise.interval(metric, groups=groups)) for name, metric in scores.items()},
        per_label=(),
        confusion=(),
        calibration=calibrated,
        field_calibration=_calibration(*fields, np.isfinite(fields[0]), 1.0, None) if fields else None,
        risk_coverage=risk,
        invalid=invalid,
        signatures={name: metric.signature for name, metric in scores.items() if isinstance(metric, Translations)},
        groups=count_groups(groups),
    )


def document(interval: Any) -> documents.Interval:
    """An interval of ``locum.stats`` as the document that reports carry."""
    return documents.Interval(value=interval.value, low=interval.low, high=interval.high, method=interval.method)


def _per_label(matrix: Ints, labels: tuple[str, ...]) -> tuple[documents.LabelScore, ...]:
    supports, answered, hits = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    return tuple(
        documents.LabelScore(
            label=label,
            support=int(supports[k]),
            predicted=int(answered[k]),
            precision=_ratio(hits[k], answered[k]),
            recall=_ratio(hits[k], supports[k]),
            f1=_ratio(2 * hits[k], supports[k] + answered[k]),
        )
        for k, label in enumerate(labels)
    )


def per_type(
    outputs: Sequence[str | None], rows: Sequence[Row], types: Sequence[str], groups: Ints | None = None
) -> tuple[documents.LabelScore, ...]:
    """How well spans of each type are found: exact spans, each once.

    Args:
        outputs: answers of a kind that tags; None is no answer.
        rows: with the right spans, same order.
        types: to report.
        groups: a number per row, the same for rows that belong together.
    """
    said = [Counter(set(load_spans(output)) if output is not None else ()) for output in outputs]
    gold = [Counter(set(load_spans(row.output))) for row in rows]
    return _parts(said, gold, lambda span: span[2], types, groups)


def per_field(
    outputs: Sequence[str | None], rows: Sequence[Row], groups: Ints | None = None
) -> tuple[documents.LabelScore, ...]:
    """How well each field of an object is answered, the places in a list together (``items[].price``).

    Args:
        outputs: JSON answers; None is no answer.
        rows: with the right objects, same order.
        groups: a number per row, the same for rows that belong together.
    """
    said = [leaves(read_json(output)) if output is not None else Counter[Leaf]() for output in outputs]
    gold = [leaves(read_json(row.output)) for row in rows]
    count = Counter(field_name(leaf) for counter in (*gold, *said) for leaf in counter.elements())
    names = [name for name, _ in count.most_common(_MOST_FIELDS)]
    return _parts(said, gold, field_name, names, groups)


def _parts(
    said: Sequence[Counter[Part]],
    gold: Sequence[Counter[Part]],
    name_of: Callable[[Part], str],
    names: Sequence[str],
    groups: Ints | None,
) -> tuple[documents.LabelScore, ...]:
    """Precision, recall and F1 of parts of answers, by the name of the part."""
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(gold), 3))  # right, answered, gold
    for row, (answered, wanted) in enumerate(zip(said, gold, strict=True)):
        for column, parts in enumerate((answered & wanted, answered, wanted)):
            for part, number in parts.items():
                if (at := place.get(name_of(part))) is not None:
                    counts[at, row, column] += number
    return tuple(_part(name, each, groups) for name, each in zip(names, counts, strict=True))


def _part(name: str, counts: Floats, groups: Ints | None) -> documents.LabelScore:
    """The figures of one part, from right, answered and gold by row, ``[n, 3]``.

    A share of counted things has Wilson's interval. F1 is 2J / (1 + J) of the Jaccard index J, the share of right ones
    among all that were answered or wanted, and rises with it, so its ends are those of J. Where rows belong together,
    groups are drawn instead.
    """
    right, answered, wanted = (int(total) for total in counts.sum(axis=0))
    union = answered + wanted - right
    values = {"precision": _ratio(right, answered), "recall": _ratio(right, wanted), "f1": _ratio(right, union)}
    within: dict[str, documents.Interval] = {}
    for figure, share in values.items():
        if share is None:
            continue
        of = {"precision": answered, "recall": wanted, "f1": union}[figure]
        if groups is None:
            found = intervals.wilson(right, of)
        else:
            columns = {
                "precision": counts[:, 1],
                "recall": counts[:, 2],
                "f1": counts[:, 1] + counts[:, 2] - counts[:, 0],
            }
            pairs = np.column_stack([counts[:, 0], columns[figure]])
            found = rowwise.interval(rowwise.Pooled(pairs, _share_of_counts), groups=groups)
        ends = [_f1_of_jaccard(end) if figure == "f1" else end for end in (share, found.low, found.high)]
        within[figure] = documents.Interval(value=ends[0], low=ends[1], high=ends[2], method=found.method)
    return documents.LabelScore(
        label=name,
        support=wanted,
        predicted=answered,
        right=right,
        precision=values["precision"],
        recall=values["recall"],
        f1=within["f1"].value if "f1" in within else None,
        within=within,
    )


def _share_of_counts(sums: Floats) -> Floats:
    """Right over all, of sums ``[..., 2]``; 0 of none."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _f1_of_jaccard(share: float) -> float:
    return 2 * share / (1 + share)


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _confidence(
    gold: Ints, predicted: Ints, logits: NDArray[np.float32], temperature: float
) -> tuple[documents.Calibration | None, tuple[documents.RiskPoint, ...]]:
    """Calibration (on the rows that have a confidence) and the risk-coverage curve (on all rows)."""
    scored = predicted >= 0
    right = (gold == predicted) & scored
    claimed = np.full(len(gold), np.nan)
    if scored.any():  # a sum of rounded probabilities may pass 1 by 1e-16
        claimed[scored] = np.minimum(calibration.softmax(logits[scored], temperature).max(axis=1), 1.0)
    known = scored & (gold >= 0)
    curve = _thinned(ranking.risk_coverage(claimed, right))
    if not known.any():
        return None, curve
    nll = calibration.nll(logits[known], gold[known], temperature)
    return _calibration(claimed, right, scored, temperature, nll), curve


def _calibration(
    claimed: Floats, right: NDArray[np.bool_], rows: NDArray[np.bool_], temperature: float, nll: float | None
) -> documents.Calibration:
    """How far claimed confidences can be believed, on the rows that have one; ``nll`` None: that of right and wrong."""
    sure, came_true = claimed[rows], right[rows]
    if nll is None:
        said = np.where(came_true, sure, 1 - sure)
        nll = float(-np.log(np.maximum(said, np.finfo(np.float64).tiny)).mean())
    return documents.Calibration(
        temperature=temperature,
        ece=calibration.ece(sure, came_true),
        brier=calibration.brier(sure, came_true),
        nll=nll,
        auroc=ranking.auroc(claimed, right),
        reliability=tuple(
            documents.ReliabilityBin(**vars(part)) for part in calibration.reliability_curve(sure, came_true)
        ),
    )


def _thinned(curve: ranking.RiskCoverage) -> tuple[documents.RiskPoint, ...]:
    """At most 200 points of a risk-coverage curve, evenly by coverage, the last one kept."""
    count = len(curve.thresholds)
    wanted = np.linspace(0, 1, _RISK_POINTS) * (curve.coverage[-1] if count else 0)
    kept = np.unique(np.searchsorted(curve.coverage, wanted).clip(0, count - 1)) if count else []
    return tuple(
        documents.RiskPoint(
            threshold=float(curve.thresholds[i]), coverage=float(curve.coverage[i]), risk=float(curve.risk[i])
        )
        for i in kept
    )
