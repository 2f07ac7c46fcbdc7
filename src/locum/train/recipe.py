"""The hyperparameters of full tuning: one set for each family, the same for every data set.

Notable: chosen on several data sets' dev splits; ``docs/log.md`` has the alternatives and what they scored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from locum.schema.candidate import Family


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters.

    Attributes:
        epochs: at most; the time budget may plan fewer.
        batch_rows: rows in one optimiser step.
        body_rate, head_rate: peak learning rates of AdamW.
        warmup: share of the steps in which the rate rises from 0; then it falls linearly to 0.
        dropout: of hidden states, one mask a row and feature shared by all tokens (Gal and Ghahramani 2016);
            ten times cheaper on CPUs than a mask a token.
        label_smoothing: Szegedy et al. 2016.
        weight_decay: of matrices; never of embeddings, norms and biases.
        beta2: of AdamW; below the usual 0.999, since runs have few steps.
        average_decay: of the exponential moving average of the weights, which is what is evaluated and kept.
        clip_norm: gradients are scaled down to this norm.
        patience: evaluations on dev without a gain after which training stops.
        frozen_share: share of the first layers that stay as they are, and run once.
    """

    epochs: int
    batch_rows: int
    body_rate: float
    head_rate: float
    warmup: float = 0.1
    dropout: float = 0.1
    label_smoothing: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    average_decay: float = 0.98
    clip_norm: float = 1.0
    patience: int = 4
    frozen_share: float = 0.0

    def to_settings(self) -> dict[str, str | int | float | bool]:
        """The fields as settings of ``Trained``."""
        return asdict(self)


RECIPES: dict[Family, Recipe] = {
    "encoder": Recipe(epochs=10, batch_rows=64, body_rate=1e-4, head_rate=1e-3),
    "decoder": Recipe(
        epochs=3, batch_rows=16, body_rate=1e-4, head_rate=1e-3, dropout=0.0, label_smoothing=0.0, frozen_share=0.34
    ),
}
