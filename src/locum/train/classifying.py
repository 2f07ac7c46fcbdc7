"""Training a classifier: batches of like length, the loss of pooled vectors, accuracy on dev.

Not here: the loop (``loop``), what happens before it (``full``).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional

from locum.models.classifier import SequenceClassifier
from locum.train.average import Average
from locum.train.batches import micro_batches, shuffled_batches
from locum.train.checkpoint import CheckpointFolder
from locum.train.forward import MAX_CELLS, Encoded, Machine, logits_of, vectors
from locum.train.loop import Score, Trainer
from locum.train.optimiser import classifier_optimiser
from locum.train.outcome import Clock
from locum.train.recipe import Recipe
from locum.train.schedule import Schedule
from locum.train.softmax import scores


class ClassifierTrainer(Trainer):
    """Trains one classifier by a schedule; the average of its weights is what is kept.

    Args:
        model: with a fitted head.
        train, dev: encoded splits.
        pad_id: in the splits' numbering.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        train: Encoded,
        dev: Encoded,
        *,
        pad_id: int,
        machine: Machine,
        recipe: Recipe,
        schedule: Schedule,
        checkpoints: CheckpointFolder,
        clock: Clock,
        seed: int,
    ) -> None:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        super().__init__(
            model,
            classifier_optimiser(model, recipe),
            average=Average(weights, recipe.average_decay),
            recipe=recipe,
            schedule=schedule,
            checkpoints=checkpoints,
            clock=clock,
            seed=seed,
        )
        self.classifier, self.recipe = model, recipe
        self.train_split, self.dev_split, self.pad_id, self.machine = train, dev, pad_id, machine

    def batches(self, epoch: int) -> list[list[int]]:
        """Rows of like length, so that little padding is computed."""
        return shuffled_batches(self.train_split.lengths, self.recipe.batch_rows, self.seed, epoch)

    def losses(self, batch: list[int]) -> Iterator[Tensor]:
        """Cross-entropy with smoothed labels, in micro-batches that fit in memory."""
        for rows in micro_batches(batch, self.train_split.lengths, self.schedule.micro_batch, MAX_CELLS):
            yield self._loss(rows) * (len(rows) / len(batch))

    def score(self) -> Score:
        """Loss and accuracy on dev."""
        logits = logits_of(self.classifier, self.dev_split, self.pad_id, self.machine)
        return Score(*scores(logits, self.dev_split.targets))

    def _loss(self, rows: list[int]) -> Tensor:
        with self.machine.autocast():
            pooled = vectors(self.classifier, self.train_split, rows, self.pad_id, self.machine)  # [B, D] float32
        pooled = functional.dropout(pooled, self.recipe.dropout, training=True)
        logits = self.classifier.head(pooled)  # [B, C]
        targets = self.train_split.targets[rows].to(self.machine.device)
        return functional.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
