"""Running a student over a split and turning its predictions into an evaluation.

Notable: inputs go through the serving engine, shortest first so that a batch pads little, and come back in
their own order. An evaluation needs only the saved predictions and a temperature. Not here: the LLM
(``evaluate.llm``), timing (``evaluate.latency``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.progress import track
from locum.evaluate import metrics
from locum.evaluate.predictions import Predictions, gold_index, group_codes, ids_hash
from locum.runtime.protocol import Classifier
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import Evaluation, WrongExample


def predict(classifier: Classifier, inputs: Sequence[str], *, batch_size: int = 32) -> NDArray[np.float32]:
    """Logits for every input, in order.

    Args:
        classifier: an open engine.
        inputs: texts.
        batch_size: inputs handed over at once.

    Returns:
        ``[len(inputs), labels]``.

    Raises:
        LocumError: the engine failed.
    """
    logits = np.empty((len(inputs), len(classifier.spec.labels)), dtype=np.float32)
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
    with track(f"answer with {classifier.spec.name}", total=len(inputs), unit="row") as tracker:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            logits[chosen] = classifier.logits([inputs[index] for index in chosen])
            tracker.advance(len(chosen))
    return logits


def predict_rows(
    classifier: Classifier, rows: Sequence[Row], split: SplitName, *, path: Path | None = None, batch_size: int = 32
) -> Predictions:
    """A student's predictions on one split, saved when a path is given.

    Args:
        classifier: an open engine.
        rows: the split.
        split: its name.
        path: npz file to write; None writes nothing.
        batch_size: inputs handed over at once.

    Raises:
        LocumError: the engine failed, or the file cannot be written.
    """
    predictions = Predictions(
        model=classifier.spec.name,
        split=split,
        labels=classifier.spec.labels,
        ids_hash=ids_hash(rows),
        logits=predict(classifier, [row.input for row in rows], batch_size=batch_size),
        gold=gold_index(rows, classifier.spec.labels),
        groups=group_codes(rows),
    )
    if path is not None:
        predictions.save(path)
    return predictions


def evaluate(predictions: Predictions, temperature: float) -> Evaluation:
    """The evaluation of saved predictions.

    Args:
        predictions: of one student on one split.
        temperature: fitted on dev, never on the split itself unless that is dev.

    Raises:
        UserError: no rows.
    """
    return metrics.evaluation(
        predictions.model,
        predictions.split,
        predictions.labels,
        predictions.gold,
        predictions.predicted,
        confidence_of=(predictions.logits, temperature),
        groups=predictions.groups,
    )


def evaluate_classifier(
    classifier: Classifier,
    rows: Sequence[Row],
    split: SplitName,
    *,
    temperature: float | None = None,
    path: Path | None = None,
    batch_size: int = 32,
) -> tuple[Evaluation, Predictions]:
    """Run a student over a split and evaluate it.

    Args:
        classifier: an open engine.
        rows: the split.
        split: its name.
        temperature: None takes the one the model is served with.
        path: npz file for the predictions; None writes nothing.
        batch_size: inputs handed over at once.

    Raises:
        LocumError: no rows, the engine failed, or the file cannot be written.
    """
    predictions = predict_rows(classifier, rows, split, path=path, batch_size=batch_size)
    return evaluate(predictions, classifier.spec.temperature if temperature is None else temperature), predictions


def wrong_examples(
    predictions: Predictions, rows: Sequence[Row], temperature: float, limit: int = 20
) -> tuple[WrongExample, ...]:
    """Wrong answers for the report, the surest first; rows without a confidence are left out.

    Raises:
        ValueError: ``rows`` are not the rows of the predictions.
    """
    if ids_hash(rows) != predictions.ids_hash:
        raise ValueError(f"rows of another split than the predictions of {predictions.model!r}")
    confidence = predictions.confidence(temperature)
    wrong = np.flatnonzero(~predictions.correct & (predictions.predicted >= 0))
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    return tuple(
        WrongExample(
            id=rows[i].id,
            input=rows[i].input,
            gold=rows[i].output,
            predicted=predictions.labels[predictions.predicted[i]],
            confidence=float(confidence[i]),
        )
        for i in surest
    )
