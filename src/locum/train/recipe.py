"""The hyperparameters of tuning: a set for each family of classifiers, each method for generators, and for ranking.

Notable: chosen on several data sets' dev splits; ``docs/log.md`` has the alternatives and what they scored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from locum.schema.candidate import Family
from locum.schema.training import TuneMethod


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the loop goes by, whatever it trains.

    Attributes:
        epochs: at most; the time budget may plan fewer.
        batch_rows: rows in one optimiser step.
        warmup: share of the steps in which the rate rises from 0; then it falls linearly to 0.
        weight_decay: of matrices; never of embeddings, norms and biases.
        beta2: of AdamW; below the usual 0.999, since runs have few steps.
        clip_norm: gradients are scaled down to this norm.
        patience: evaluations on dev without a gain after which training stops.
    """

    epochs: int
    batch_rows: int
    warmup: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip_norm: float = 1.0
    patience: int = 4

    def to_settings(self) -> dict[str, str | int | float | bool]:
        """The fields as settings of ``Trained``."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Recipe(Pace):
    """Hyperparameters of a classifier.

    Attributes:
        body_rate, head_rate: peak learning rates of AdamW, of the body (or its adapters) and of all weights that the
            base has not.
        dropout: of hidden states, one mask a row and feature shared by all tokens (Gal and Ghahramani 2016);
            ten times cheaper on CPUs than a mask a token.
        label_smoothing: Szegedy et al. 2016.
        average_decay: of the exponential moving average of the weights, which is what is evaluated and kept.
        frozen_share: share of the first layers that stay as they are, and run once.
    """

    body_rate: float
    head_rate: float
    dropout: float = 0.1
    label_smoothing: float = 0.1
    average_decay: float = 0.98
    frozen_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TuneRecipe(Pace):
    """Hyperparameters of a generator.

    Attributes:
        rate: peak learning rate of AdamW.
    """

    rate: float


@dataclass(frozen=True, kw_only=True)
class RankRecipe(TuneRecipe):
    """Hyperparameters of an encoder that ranks.

    Attributes:
        batch_texts: candidates that the queries of a batch are set against.
        temperature: cosines are divided by it before the softmax.
        dropout, average_decay: as in ``Recipe``.
    """

    batch_texts: int
    temperature: float
    dropout: float
    average_decay: float


RECIPES: dict[Family, Recipe] = {
    "encoder": Recipe(epochs=10, batch_rows=64, body_rate=1e-4, head_rate=1e-3),
    "decoder": Recipe(
        epochs=3, batch_rows=16, body_rate=1e-4, head_rate=1e-3, dropout=0.0, label_smoothing=0.0, frozen_share=0.34
    ),
}

TAG_RECIPE = Recipe(epochs=15, batch_rows=16, body_rate=1e-4, head_rate=1e-3, label_smoothing=0.0, patience=15)
"""Of a tagger, whose rows each hold many targets. Never stopped early: its last epochs, at small rates, are best."""

_ADAPTER_RATE = 10.0  # times that of all weights


def for_adapters(recipe: Recipe) -> Recipe:
    """What tunes adapters of the model that the recipe tunes whole: a larger rate, and no decay."""
    return replace(recipe, body_rate=_ADAPTER_RATE * recipe.body_rate, weight_decay=0.0)


TUNE_RECIPES: dict[TuneMethod, TuneRecipe] = {
    "full": TuneRecipe(epochs=3, batch_rows=16, rate=5e-5, patience=1),
    "lora": TuneRecipe(epochs=3, batch_rows=16, rate=5e-4, weight_decay=0.0, patience=1),
    "dora": TuneRecipe(epochs=3, batch_rows=16, rate=5e-4, weight_decay=0.0, patience=1),
}

RANK_RECIPE = RankRecipe(
    epochs=10,
    batch_rows=32,
    batch_texts=64,
    rate=5e-5,
    temperature=0.05,
    dropout=0.1,
    average_decay=0.98,
    patience=3,
)
