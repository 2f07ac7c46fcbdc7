"""Training a tagger: a frozen body with a linear head over its tokens; or all weights, or adapters, from there on.

Notable: as for classifiers, the head is a convex fit on states that are computed once, and tuning starts from it
(LP-FT, Kumar et al. 2022); dev is scored by the F1 of whole spans, read as serving reads them. Most tokens are outside
of every span; what that costs in recall is given back by one number, added to the outside tag's bias where it helps on
dev. The cross-entropy of all tokens is plain. Not here: the loop (``loop``), what a split is (``tagged``).

B windows, T tokens, D width, C tags, N tagged tokens of a split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from locum.core.errors import LocumError, UserError
from locum.core.files import write_bytes, write_json
from locum.core.progress import note, track
from locum.core.registry import Registry
from locum.models.base_files import inspect_base, read_json
from locum.models.body import load_body
from locum.models.classifier import save_student
from locum.models.tagger import TokenClassifier, read_surface
from locum.models.tokenizer import open_tokenizer, write_tokenizer
from locum.runtime.surface import padded_forms
from locum.schema.training import Budgets, CurvePoint, TrainRequest
from locum.tasks.bio import BioTags
from locum.train import job
from locum.train.adapters import ADAPTED, adapt
from locum.train.average import Average
from locum.train.batches import micro_batches, padded, shuffled_batches, sorted_batches
from locum.train.checkpoint import CheckpointFolder
from locum.train.dropout import set_dropout
from locum.train.forward import MAX_CELLS, Machine, this_machine
from locum.train.full import tune_by_plan, tuned_settings
from locum.train.head import HEAD_NAME
from locum.train.loop import Score, Trainer
from locum.train.optimiser import classifier_optimiser
from locum.train.outcome import Clock, Outcome
from locum.train.recipe import TAG_RECIPE, Recipe, for_adapters
from locum.train.repeat import Choices, choices
from locum.train.schedule import Schedule
from locum.train.softmax import PENALTIES, SoftmaxFit, fit_softmax
from locum.train.tagged import UNTAGGED, TaggedSplit, read_tagged, span_f1_of
from locum.train.vocabulary import CompactVocabulary

METHODS = Registry(
    "method of training a tagger",
    {
        "head": "locum.train.tagging:train_head",
        "full": "locum.train.tagging:train_tuned",
        "lora": "locum.train.tagging:train_tuned",
        "dora": "locum.train.tagging:train_tuned",
    },
)
HEAD_TOKENS = 200_000
"""Tokens that the head is fitted on at most; more texts are left out of the fit, drawn by the seed."""

_EVAL_ROWS = 128
_OUTSIDE_BIASES = (0.0, -0.5, 0.5, -1.0, 1.0, -1.5, 1.5, -2.0, -2.5)


def main(request: Path, out: Path) -> None:
    """Train the tagger that a ``TrainRequest`` asks for; arguments and errors as ``train.job.run``."""
    job.run(request, out, METHODS)


@dataclass
class TagBench:
    """Everything a method needs; the ids of the splits are in the compact numbering of ``vocabulary``."""

    model: TokenClassifier
    machine: Machine
    tags: BioTags
    train: TaggedSplit
    dev: TaggedSplit
    vocabulary: CompactVocabulary

    def finish(self, out: Path, repeated: Choices | None) -> tuple[np.ndarray, float, float]:
        """Choose the outside tag's bias, restore the whole vocabulary, and save the student beside its tokenizer.

        Args:
            out: where it is saved.
            repeated: choices to take over.

        Returns:
            The dev scores in float32, ``[N, C]``; the F1 of their spans; what was added to the outside tag's bias.
        """
        scores = scores_of(self.model, self.dev, self.vocabulary.pad_id, self.machine, exact=True)
        tried = (repeated.number("outside_bias"),) if repeated else _OUTSIDE_BIASES
        bias, best = outside_bias(self.dev, scores, self.tags, tried)
        with torch.no_grad():
            self.model.head.bias[self.tags.outside] += bias
        scores[:, self.tags.outside] += np.float32(bias)
        self.model.seal_surface()
        self.vocabulary.restore()
        self.model.cpu()
        save_student(self.model, out)
        return scores, best, bias


def prepare(request: TrainRequest, out: Path) -> TagBench:
    """Check and load the base, write the tokenizer to ``out``, read and encode the splits.

    Raises:
        ModelFileError: the base cannot be used.
        UserError: the request lacks a base or types, or the base is no encoder.
    """
    name = request.candidate.name
    if request.base is None or not request.labels:
        raise UserError("train-request", f"{name} needs a base and types of spans", fix="name a base in the candidate")
    base = inspect_base(Path(request.base))
    if base.architecture.family != "encoder":
        raise UserError(
            "train-request",
            f"{name} tags tokens, and its base is a decoder ({base.architecture.model_type}), which sees only what"
            " stands before a token",
            fix="choose an encoder, such as all-MiniLM-L6-v2",
        )
    tags = BioTags.of_types(request.labels)
    torch.manual_seed(request.seed)
    body = load_body(base, request.candidate.depth)
    embeddings = body.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokenizer = open_tokenizer(write_tokenizer(base, out), request.max_tokens, embeddings)
    train, dev = (read_tagged(Path(path), tags, tokenizer) for path in (request.train, request.dev))
    if not any(train.spans):
        raise UserError("train-request", "no training row has a span", where=request.train)
    vocabulary = CompactVocabulary(body, (row for split in (train, dev) for row in split.ids), tokenizer.pad_id)
    for split in (train, dev):
        split.ids = [vocabulary.translate(row) for row in split.ids]
    machine = this_machine()
    if tokenizer.folds_surface and request.candidate.method != "head":
        read_surface(body)
    model = TokenClassifier(body, base.architecture, len(tags.names)).to(machine.device)
    return TagBench(model, machine, tags, train, dev, vocabulary)


def train_head(request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """Compute the states once, fit the head for each penalty, keep the best on dev, save the student.

    Raises:
        ModelFileError: the base cannot be used.
        LocumError: the body turns a token into NaN.
    """
    repeated = choices(request)
    bench = prepare(request, out)
    fit, curve, rows = fit_head(bench, out / "work", clock, request.seed, repeated)
    scores, span_f1, bias = bench.finish(out, repeated)
    return Outcome(
        dev_logits=scores,
        dev_accuracy=span_f1,
        parameters=bench.model.parameters_count,
        best_epoch=float(PENALTIES.index(fit.penalty) + 1),
        stopped_by="schedule",
        same_for=Budgets(),
        curve=tuple(curve),
        settings={
            "penalty": fit.penalty,
            "rows": rows,
            "outside_bias": bias,
            "cut_texts": bench.train.cut + bench.dev.cut,
            "bfloat16": bench.machine.bfloat16,
        },
    )


def train_tuned(request: TrainRequest, out: Path, clock: Clock, recipe: Recipe = TAG_RECIPE) -> Outcome:
    """Fit the head, plan the schedule, tune all weights or adapters, and save the best on dev as a student.

    Args:
        request: what is asked; its method says what is tuned.
        out: the output folder.
        clock: of the job.
        recipe: of all weights; adapters take theirs from it.

    Raises:
        ModelFileError: the base cannot be used.
        LocumError: NaN before anything was learned.
        KeyboardInterrupt: stopped on request, after a checkpoint.
    """
    repeated = choices(request)
    bench = prepare(request, out)
    adapters = None
    if request.candidate.method in ADAPTED:
        recipe, adapters = for_adapters(recipe), adapt(bench.model, request.candidate.method)
    set_dropout(bench.model.body, recipe.dropout)

    def trainer(plan: Schedule, checkpoints: CheckpointFolder) -> TaggerTrainer:
        return TaggerTrainer(bench, recipe, plan, checkpoints, clock, request.seed)

    def fit() -> object:
        return fit_head(bench, out / "work", clock, request.seed, repeated)

    lengths = bench.train.lengths, bench.dev.lengths
    tuned, reason = tune_by_plan(request, out / "work", clock, recipe, lengths, trainer, fit)
    if adapters:
        adapters.merge_and_unload()
    penalty = read_json(out / "work" / HEAD_NAME)["penalty"]
    scores, span_f1, bias = bench.finish(out, repeated)
    return Outcome(
        dev_logits=scores,
        dev_accuracy=span_f1,
        parameters=bench.model.parameters_count,
        best_epoch=tuned.progress.best_step / tuned.schedule.steps_per_epoch,
        stopped_by=reason,
        same_for=tuned.same_for,
        curve=tuned.curve,
        settings={
            **recipe.to_settings(),
            **tuned_settings(request, tuned),
            "penalty": penalty,
            "planned_steps": tuned.schedule.total_steps,
            "planned_epochs": tuned.schedule.epochs,
            "outside_bias": bias,
            "surface_forms": bench.model.reads_surface,
            "cut_texts": bench.train.cut + bench.dev.cut,
            "bfloat16": bench.machine.bfloat16,
        },
        tokens_per_s=tuned.schedule.tokens_per_s,
        resumed=tuned.progress.resumed,
    )


class TaggerTrainer(Trainer):
    """Trains one tagger by a schedule; the average of its weights is what is kept."""

    def __init__(
        self,
        bench: TagBench,
        recipe: Recipe,
        schedule: Schedule,
        checkpoints: CheckpointFolder,
        clock: Clock,
        seed: int,
    ) -> None:
        weights = [weight for weight in bench.model.parameters() if weight.requires_grad]
        super().__init__(
            bench.model,
            classifier_optimiser(bench.model, recipe),
            average=Average(weights, recipe.average_decay),
            recipe=recipe,
            schedule=schedule,
            checkpoints=checkpoints,
            clock=clock,
            seed=seed,
        )
        self.bench, self.recipe = bench, recipe

    def batches(self, epoch: int) -> list[list[int]]:
        """Windows of like length, so that little padding is computed."""
        return shuffled_batches(self.bench.train.lengths, self.recipe.batch_rows, self.seed, epoch)

    def losses(self, batch: list[int]) -> Iterator[Tensor]:
        """Mean cross-entropy of the batch's tagged tokens, in micro-batches that fit in memory."""
        split = self.bench.train
        tokens = sum(int((split.targets[row] != UNTAGGED).sum()) for row in batch)
        for rows in micro_batches(batch, split.lengths, self.schedule.micro_batch, MAX_CELLS):
            yield self._loss(rows) / max(1, tokens)

    def score(self) -> Score:
        """Loss of a dev token, and the F1 of dev's spans."""
        bench = self.bench
        scores = scores_of(bench.model, bench.dev, bench.vocabulary.pad_id, bench.machine)
        loss = functional.cross_entropy(torch.from_numpy(scores), bench.dev.tags).item()
        return Score(loss, span_f1_of(bench.dev, scores, bench.tags) if np.isfinite(loss) else None)

    def _loss(self, rows: list[int]) -> Tensor:
        """Summed over the tagged tokens."""
        bench = self.bench
        with bench.machine.autocast():
            states = token_states(bench.model, bench.train, rows, bench.vocabulary.pad_id, bench.machine)  # [M, D]
        states = functional.dropout(states, self.recipe.dropout, training=True)
        targets = torch.cat([bench.train.targets[row] for row in rows])
        targets = targets[targets != UNTAGGED].to(bench.machine.device)
        smoothing = self.recipe.label_smoothing
        return functional.cross_entropy(bench.model.head(states), targets, label_smoothing=smoothing, reduction="sum")


def token_states(model: TokenClassifier, split: TaggedSplit, rows: list[int], pad_id: int, machine: Machine) -> Tensor:
    """States in float32 of the tagged tokens of some windows, in order, ``[M, D]``."""
    ids, mask = padded([split.ids[row] for row in rows], pad_id)
    forms = None
    if model.reads_surface:
        forms = torch.from_numpy(padded_forms([split.forms[row] for row in rows], ids.shape[1])).to(machine.device)
    states = model.states(ids.to(machine.device), mask.to(machine.device), forms).float()  # [B, T, D]
    targets = [split.targets[row] for row in rows]
    tagged = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=UNTAGGED) != UNTAGGED
    return states[tagged.to(machine.device)]


@torch.no_grad()
def all_states(
    model: TokenClassifier, split: TaggedSplit, pad_id: int, machine: Machine, *, exact: bool = False, label: str = ""
) -> Tensor:
    """States of all tagged tokens of a split in order, ``[N, D]`` float32, without dropout.

    Args:
        model: its body.
        split: what to read.
        pad_id: in the split's numbering.
        machine: where it runs.
        exact: compute in float32 throughout instead of bfloat16.
        label: when given, progress is shown under it.
    """
    was_training = model.training
    model.eval()
    parts: list[Tensor] = [torch.empty(0)] * len(split.ids)
    with track(label or "evaluate", len(split.ids), "row") as tracker, machine.autocast(not exact):
        for rows in sorted_batches(split.lengths, _EVAL_ROWS, MAX_CELLS):
            states = token_states(model, split, rows, pad_id, machine).cpu()
            counts = [int((split.targets[row] != UNTAGGED).sum()) for row in rows]
            for row, part in zip(rows, states.split(counts), strict=True):
                parts[row] = part
            tracker.advance(len(rows))
    model.train(was_training)
    return torch.cat(parts)


def scores_of(
    model: TokenClassifier, split: TaggedSplit, pad_id: int, machine: Machine, *, exact: bool = False
) -> np.ndarray:
    """Scores of all tagged tokens of a split in order, ``[N, C]`` float32."""
    states = all_states(model, split, pad_id, machine, exact=exact)
    with torch.no_grad():
        return (states @ model.head.weight.cpu().T + model.head.bias.cpu()).numpy()


def fit_head(
    bench: TagBench, work: Path, clock: Clock, seed: int, repeated: Choices | None
) -> tuple[SoftmaxFit, list[CurvePoint], int]:
    """Fit the head on the body as it is and put it in place; the penalty is chosen by the F1 of dev's spans.

    Args:
        bench: body and splits.
        work: folder for states and ``head.json``, which says the penalty.
        clock: of the job.
        seed: draws the windows, where there are too many.
        repeated: choices to take over.

    Returns:
        The fit, one curve point for each penalty tried, and how many windows it was fitted on.

    Raises:
        LocumError: the body turns a token into NaN.
    """
    part = _at_most(bench.train, HEAD_TOKENS, seed)
    states = _kept_states(bench, part, work / "train_states.safetensors", "read training texts")
    dev_states = _kept_states(bench, bench.dev, work / "dev_states.safetensors", "read dev texts")
    curve: list[CurvePoint] = []
    fits: list[SoftmaxFit] = []
    with track("fit head", len(PENALTIES), "fit") as tracker:

        def on_fit(fit: SoftmaxFit) -> None:
            scores = (dev_states @ fit.weight.T + fit.bias).numpy()
            span_f1 = span_f1_of(bench.dev, scores, bench.tags)
            fits.append(fit)
            curve.append(
                CurvePoint(
                    epoch=len(fits),
                    step=len(fits),
                    train_loss=None,
                    dev_loss=fit.dev_loss,
                    dev_accuracy=span_f1,
                    elapsed_s=clock.spent_s,
                )
            )
            tracker.advance(1, penalty=fit.penalty, dev_span_f1=round(span_f1, 4))

        penalty = repeated.number("penalty") if repeated else None
        fit_softmax(states, part.tags, dev_states, bench.dev.tags, len(bench.tags.names), on_fit, penalty)
    best = max(range(len(fits)), key=lambda place: (curve[place].dev_accuracy or 0.0, -fits[place].dev_loss))
    if repeated:
        best = len(fits) - 1  # the one that was asked for
    write_json(work / HEAD_NAME, {"penalty": fits[best].penalty})
    bench.model.head.load_state_dict({"weight": fits[best].weight, "bias": fits[best].bias})
    return fits[best], curve, len(part.ids)


def outside_bias(
    split: TaggedSplit, scores: np.ndarray, tags: BioTags, tried: Sequence[float] = _OUTSIDE_BIASES
) -> tuple[float, float]:
    """What added to the outside tag's score gives the best spans, nothing where nothing is better; and their F1."""
    moved = np.zeros(scores.shape[1], dtype=np.float32)
    found: list[tuple[float, float]] = []
    for bias in tried:
        moved[tags.outside] = bias
        found.append((span_f1_of(split, scores + moved, tags), bias))
    span_f1, bias = max(found, key=lambda each: (each[0], -abs(each[1])))
    return bias, span_f1


def _at_most(split: TaggedSplit, tokens: int, seed: int) -> TaggedSplit:
    """The split, or as many of its windows, drawn by the seed, as hold so many tokens; for fitting only."""
    if len(split.offsets) <= tokens:
        return split
    order = list(range(len(split.ids)))
    random.Random(seed).shuffle(order)
    held = np.cumsum([int((split.targets[row] != UNTAGGED).sum()) for row in order])
    rows = sorted(order[: max(1, int(np.searchsorted(held, tokens, side="right")))])
    note(f"the head is fitted on {len(rows)} of {len(order)} windows", tokens=tokens)
    return replace(
        split,
        texts=[],
        spans=[],
        ids=[split.ids[row] for row in rows],
        forms=[split.forms[row] for row in rows],
        targets=[split.targets[row] for row in rows],
        owners=[],
        offsets=split.offsets[:0],
    )


def _kept_states(bench: TagBench, split: TaggedSplit, path: Path, label: str) -> Tensor:
    """States of a split, from the work folder where an earlier try left them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    if path.is_file():
        try:
            kept = load_file(path)["states"]
        except (SafetensorError, KeyError):
            note("damaged states of an earlier try are computed again", file=path.name)
        else:
            if tuple(kept.shape) == (len(split.tags), bench.model.head.in_features):
                return kept
    found = all_states(bench.model, split, bench.vocabulary.pad_id, bench.machine, label=label)
    if not bool(torch.isfinite(found).all()):
        raise LocumError(
            "train-nan", "the body turns some texts into NaN", fix="choose another base; this one is damaged"
        )
    write_bytes(path, save({"states": found}))
    return found
