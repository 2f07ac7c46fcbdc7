"""Encoders that rank: a base as it is, or tuned on the rows.

Notable: an encoder is written out whether it was tuned or not, so that both are held against PyTorch alike when they
are exported. Tuning begins with the base and never ends below it on dev. BM25 is fitted beside it, as the other signal
of a candidate. Not here: batches and loss (``contrastive``), the job (``ranking``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from locum.core.errors import LocumError, UserError
from locum.core.files import write_bytes
from locum.core.progress import note
from locum.data.rankings import Rankings
from locum.models.base_files import inspect_base
from locum.models.body import load_body, quiet_transformers
from locum.models.tokenizer import open_tokenizer, write_tokenizer
from locum.runtime.tokenize import TextTokenizer
from locum.schema.training import Budgets, CurvePoint, TrainRequest
from locum.train.checkpoint import CheckpointFolder
from locum.train.contrastive import BiEncoder, EncodedRankings, RankingTrainer, cosines
from locum.train.dropout import set_dropout
from locum.train.forward import Machine, this_machine
from locum.train.full import tune_by_plan
from locum.train.outcome import Clock, Outcome
from locum.train.ranking import fit_bm25, read_both
from locum.train.recipe import RANK_RECIPE, RankRecipe
from locum.train.schedule import Schedule
from locum.train.vocabulary import CompactVocabulary


@dataclass
class Bench:
    """Everything that tuning needs.

    Attributes:
        vocabulary: the compact numbering that the token ids are in.
    """

    model: BiEncoder
    machine: Machine
    train: EncodedRankings
    dev: EncodedRankings
    vocabulary: CompactVocabulary

    def finish(self, out: Path) -> tuple[np.ndarray, float]:
        """Write the encoder with its whole vocabulary.

        Returns:
            The cosines on dev, float32 ``[n, 1]``, and their nDCG.

        Raises:
            LocumError: the encoder turns a text into NaN.
        """
        found = cosines(self.model, self.dev, self.vocabulary.pad_id, self.machine, exact=True)
        flat = np.concatenate(found).astype(np.float32)[:, None]
        if not np.isfinite(flat).all():
            raise LocumError(
                "train-nan", "the encoder turns some texts into NaN", fix="choose another base; this one is damaged"
            )
        self.vocabulary.restore()
        self.model.cpu()
        _save(self.model, out)
        return flat, self.dev.rankings.mean_ndcg(found)


def head(request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """Take the base as it is.

    Raises:
        ModelFileError: the base cannot be used.
        LocumError: it turns a text into NaN.
    """
    bench, settings = _prepare(request, out, clock)
    scores, ndcg = bench.finish(out)
    point = CurvePoint(epoch=0, step=0, train_loss=None, dev_loss=None, dev_accuracy=ndcg, elapsed_s=clock.spent_s)
    return Outcome(
        dev_logits=scores,
        dev_accuracy=ndcg,
        parameters=_parameters(bench.model),
        best_epoch=0.0,
        stopped_by="schedule",
        same_for=Budgets(),
        curve=(point,),
        settings=settings,
    )


def full(request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """Tune the base and keep the weights that rank dev best, be it those that it began with.

    Raises:
        ModelFileError: the base cannot be used.
        LocumError: it turns a text into NaN.
        KeyboardInterrupt: stopped on request, after a checkpoint.
    """
    return full_with(RANK_RECIPE, request, out, clock)


def full_with(recipe: RankRecipe, request: TrainRequest, out: Path, clock: Clock) -> Outcome:
    """``full`` with other hyperparameters, for experiments and tests."""
    bench, settings = _prepare(request, out, clock)
    set_dropout(bench.model.body, recipe.dropout)

    def trainer(plan: Schedule, checkpoints: CheckpointFolder) -> RankingTrainer:
        return RankingTrainer(
            bench.model,
            bench.train,
            bench.dev,
            pad_id=bench.vocabulary.pad_id,
            machine=bench.machine,
            recipe=recipe,
            schedule=plan,
            checkpoints=checkpoints,
            clock=clock,
            seed=request.seed,
        )

    lengths = _train_lengths(bench.train, recipe), [len(ids) for ids in (*bench.dev.queries, *bench.dev.texts)]
    tuned, reason = tune_by_plan(request, out / "work", clock, recipe, lengths, trainer, lambda: None)
    scores, ndcg = bench.finish(out)
    schedule = tuned.schedule
    return Outcome(
        dev_logits=scores,
        dev_accuracy=ndcg,
        parameters=_parameters(bench.model),
        best_epoch=tuned.progress.best_step / schedule.steps_per_epoch,
        stopped_by=reason,
        same_for=tuned.same_for,
        curve=tuned.curve,
        settings={
            **settings,
            **recipe.to_settings(),
            "planned_steps": schedule.total_steps,
            "planned_epochs": schedule.epochs,
        },
        tokens_per_s=schedule.tokens_per_s,
        resumed=tuned.progress.resumed,
    )


def _prepare(request: TrainRequest, out: Path, clock: Clock) -> tuple[Bench, dict[str, str | int | float | bool]]:
    """Fit BM25, check and load the base, write the tokenizer, encode both splits; with settings for the report.

    Raises:
        ModelFileError: the base cannot be used.
        UserError: there is none, or it is no encoder.
    """
    if request.base is None:
        raise UserError("train-request", f"{request.candidate.name} needs a base", fix="name one in the candidate")
    base = inspect_base(Path(request.base))
    if base.architecture.family != "encoder":
        raise UserError(
            "train-request",
            f"{request.candidate.name}: vectors come from an encoder, and its base is a {base.architecture.family}",
            fix="name an encoder as the base, for example all-MiniLM-L6-v2",
        )
    train, dev = read_both(request)
    bm25, _ = fit_bm25(train, dev, out, clock)
    torch.manual_seed(request.seed)
    body = load_body(base, request.candidate.depth)
    embeddings = cast("Any", body).get_input_embeddings().num_embeddings
    tokenizer = open_tokenizer(write_tokenizer(base, out), request.max_tokens, embeddings)
    encoded = [_encode(tokenizer, rankings) for rankings in (train, dev)]
    every = [ids for split in encoded for ids in (*split.queries, *split.texts)]
    vocabulary = CompactVocabulary(body, every, tokenizer.pad_id)
    for split in encoded:
        split.queries = [vocabulary.translate(ids) for ids in split.queries]
        split.texts = [vocabulary.translate(ids) for ids in split.texts]
    machine = this_machine()
    model = BiEncoder(body, base.architecture).to(machine.device)
    note("encoder", texts=len(train.texts), cut=tokenizer.truncated)
    settings: dict[str, str | int | float | bool] = {
        "k1": bm25.statistics.k1,
        "b": bm25.statistics.b,
        "pooling": base.architecture.pooling,
        "texts": len(train.texts),
        "cut_texts": tokenizer.truncated,
        "bfloat16": machine.bfloat16,
    }
    return Bench(model, machine, encoded[0], encoded[1], vocabulary), settings


def _encode(tokenizer: TextTokenizer, rankings: Rankings) -> EncodedRankings:
    """Ids of each text; one padding token stands in for a text without any, as in serving."""

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return [row or [tokenizer.pad_id] for row in tokenizer.encode(texts)]

    return EncodedRankings(rankings, ids([query.query for query in rankings.queries]), ids(rankings.texts))


def _train_lengths(split: EncodedRankings, recipe: RankRecipe) -> list[int]:
    """Tokens that a row costs: its query's, and its share of the batch's candidates."""
    texts = sum(map(len, split.texts)) / len(split.texts) * min(len(split.texts), recipe.batch_texts)
    share = round(texts / min(len(split.queries), recipe.batch_rows))
    return [len(ids) + share for ids in split.queries]


def _parameters(model: BiEncoder) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _save(model: BiEncoder, folder: Path) -> None:
    """The encoder in the layout of Hugging Face; its tokenizer stands there."""
    from safetensors.torch import save

    body = cast("Any", model.body)
    with quiet_transformers():
        body.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in body.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
