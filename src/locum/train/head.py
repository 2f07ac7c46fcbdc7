"""A frozen body and a linear head: every text goes through the body once, then a convex fit.

Notable: on intents a frozen 22M sentence encoder comes within a point or two of tuning it, in a minute.
The vectors are kept in the work folder, so a killed job does not compute them again. Not here: tuning the
body (``full``).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from locum.core.errors import LocumError
from locum.core.files import write_bytes, write_json
from locum.core.progress import note, track
from locum.schema.training import Budgets, CurvePoint, TrainRequest
from locum.train.forward import Encoded, all_vectors
from locum.train.outcome import Clock, Outcome
from locum.train.repeat import Choices, choices
from locum.train.softmax import PENALTIES, SoftmaxFit, fit_softmax
from locum.train.workbench import Workbench, prepare

HEAD_NAME = "head.json"


def train(request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """Compute the vectors once, fit the head for each penalty, keep the best on dev, save the student.

    Raises:
        ModelFileError: the base cannot be used.
        LocumError: the body turns a text into NaN.
    """
    repeated = choices(request)
    bench = prepare(request, out)
    fit, curve = fit_head(bench, out / "work", clock, repeated)
    logits = bench.finish(out, repeated)
    return Outcome(
        dev_logits=logits.numpy(),
        parameters=bench.model.parameters_count,
        best_epoch=float(PENALTIES.index(fit.penalty) + 1),
        stopped_by="schedule",
        same_for=Budgets(),
        curve=tuple(curve),
        settings={
            "penalty": fit.penalty,
            "pooling": bench.model.pooling,
            "wide_scale": bench.wide_scale,
            "cut_texts": bench.cut,
            "bfloat16": bench.machine.bfloat16,
        },
        tokens_per_s=None,
    )


def fit_head(
    bench: Workbench, work: Path, clock: Clock, repeated: Choices | None = None
) -> tuple[SoftmaxFit, list[CurvePoint]]:
    """Fit the head on the body as it is and put it in place.

    Args:
        bench: body and splits.
        work: folder for vectors and ``head.json``, which says the penalty.
        clock: of the job.
        repeated: choices to take over.

    Returns:
        The fit, and one curve point for each penalty tried.

    Raises:
        LocumError: the body turns a text into NaN.
    """
    features = _kept_vectors(bench, bench.train, work / "train_vectors.safetensors", "read training texts")
    dev_features = _kept_vectors(bench, bench.dev, work / "dev_vectors.safetensors", "read dev texts")
    curve: list[CurvePoint] = []
    with track("fit head", len(PENALTIES), "fit") as tracker:

        def on_fit(fit: SoftmaxFit) -> None:
            curve.append(_point(len(curve) + 1, fit, clock.spent_s))
            tracker.advance(1, penalty=fit.penalty, dev_accuracy=round(fit.dev_accuracy, 4))

        n_labels = bench.model.head.out_features
        penalty = repeated.number("penalty") if repeated else None
        fit = fit_softmax(features, bench.train.targets, dev_features, bench.dev.targets, n_labels, on_fit, penalty)
    write_json(work / HEAD_NAME, {"penalty": fit.penalty})
    bench.model.head.load_state_dict({"weight": fit.weight, "bias": fit.bias})
    return fit, curve


def _kept_vectors(bench: Workbench, split: Encoded, path: Path, label: str) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    shape = (len(split.ids), bench.model.head.in_features)
    if path.is_file():
        try:
            kept = load_file(path)["vectors"]
        except (SafetensorError, KeyError):
            note("damaged vectors of an earlier try are computed again", file=path.name)
        else:
            if tuple(kept.shape) == shape:
                return kept
    found = all_vectors(bench.model, split, bench.pad_id, bench.machine, label=label)
    if not bool(torch.isfinite(found).all()):
        raise LocumError(
            "train-nan", "the body turns some texts into NaN", fix="choose another base; this one is damaged"
        )
    write_bytes(path, save({"vectors": found}))
    return found


def _point(number: int, fit: SoftmaxFit, elapsed_s: float) -> CurvePoint:
    return CurvePoint(
        epoch=number,
        step=number,
        train_loss=None,
        dev_loss=fit.dev_loss,
        dev_accuracy=fit.dev_accuracy,
        elapsed_s=elapsed_s,
    )
