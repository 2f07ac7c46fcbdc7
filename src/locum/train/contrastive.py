"""A bi-encoder tuned so that a query's vector comes nearer to what is relevant to it than to all else in the batch.

Notable: candidates repeat from row to row, so rows that share candidates are put into one batch, whose candidates are
then computed once and stand against all of its queries. Rows are ordered by the least number, in a permutation that
changes every epoch, that one of their candidates has: two rows fall together the sooner, the more they share (MinHash,
Broder 1997). Where a batch does not fit in memory, vectors come first without gradients, and the gradients of the
vectors are carried through the encoder part by part: the same mathematics (GradCache, Gao et al. 2021).

Source: InfoNCE, van den Oord et al. 2018; with candidates of other rows as negatives, Henderson et al. 2017.
Not here: the loop (``loop``), the job (``ranking``).

Q queries and N candidates of a batch, D width, T tokens.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from locum.data.rankings import Rankings
from locum.models.architectures import Architecture
from locum.models.classifier import pool
from locum.train.average import Average
from locum.train.batches import padded, sorted_batches
from locum.train.checkpoint import CheckpointFolder
from locum.train.forward import MAX_CELLS, Machine
from locum.train.loop import Score, Trainer
from locum.train.optimiser import generator_optimiser
from locum.train.outcome import Clock
from locum.train.recipe import RankRecipe
from locum.train.schedule import Schedule

_EVAL_ROWS = 128
_GRAPH_CELLS = 2 * MAX_CELLS  # tokens of a batch whose activations are kept at once


class BiEncoder(nn.Module):
    """A body and pooling; the same one reads queries and candidates."""

    def __init__(self, body: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.body, self.architecture = body, architecture

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors of length one, ``[B, D]`` float32, from ids and mask ``[B, T]``."""
        output = self.body(input_ids=input_ids, attention_mask=attention_mask)
        pooled = pool(output.last_hidden_state, attention_mask, self.architecture.pooling)
        return functional.normalize(pooled, dim=1)

    @property
    def width(self) -> int:
        """D."""
        return int(cast("Any", self.body).config.hidden_size)


@dataclass
class EncodedRankings:
    """Rankings with the token ids of their queries and texts."""

    rankings: Rankings
    queries: list[list[int]]
    texts: list[list[int]]


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        rows: of the split, Q of them.
        texts: numbers of the candidates, N of them.
        positive: place in ``texts`` of the relevant candidate of each query, ``[Q]``.
        hidden: candidates that are relevant to a query too and must not count against it, ``[Q, N]``.
    """

    rows: list[int]
    texts: list[int]
    positive: Tensor
    hidden: Tensor


def info_nce(queries: Tensor, texts: Tensor, positive: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """Mean of ``-log(exp(s(q, p) / t) / Σ over texts that are not hidden from q: exp(s(q, d) / t))``, s the cosine.

    Args:
        queries: vectors of length one, ``[Q, D]``.
        texts: vectors of length one, ``[N, D]``.
        positive: place of each query's relevant text, ``[Q]``.
        hidden: texts left out of a query's sum, ``[Q, N]``; never its positive.
        temperature: t.
    """
    logits = (queries @ texts.T / temperature).masked_fill(hidden, -torch.inf)  # [Q, N]
    return functional.cross_entropy(logits, positive)


def rows_by_shared_candidates(rankings: Rankings, size: int, seed: str) -> list[list[int]]:
    """Every row once, in batches of ``size``, rows that share candidates rather together; batches in random order."""
    generator = random.Random(seed)
    numbers = list(range(len(rankings.texts)))
    generator.shuffle(numbers)
    least = [min(numbers[text] for text in places.tolist()) for places in rankings.places]
    order = list(range(len(least)))
    generator.shuffle(order)
    order.sort(key=least.__getitem__)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    generator.shuffle(batches)
    return batches


def draw_batch(rankings: Rankings, rows: Sequence[int], most: int, generator: random.Random) -> Batch:
    """A relevant candidate for each row, and irrelevant ones of the rows, until there are ``most``.

    Which of these is drawn with weights (Efraimidis and Spirakis 2006): each row counts alike however many candidates
    it has, and what several rows share is drawn the sooner.
    """
    relevant = [set(rankings.places[row][rankings.grades[row] > 0].tolist()) for row in rows]
    chosen = [generator.choice(sorted(each)) for each in relevant]
    weights: defaultdict[int, float] = defaultdict(float)
    for row, own in zip(rows, relevant, strict=True):
        others = set(rankings.places[row].tolist()) - own
        for text in sorted(others):
            weights[text] += 1 / len(others)
    texts = list(dict.fromkeys(chosen))
    drawn = [text for text in weights if text not in texts]
    drawn.sort(key=lambda text: generator.random() ** (1 / weights[text]), reverse=True)
    texts += drawn[: max(0, most - len(texts))]
    place = {text: number for number, text in enumerate(texts)}
    hidden = torch.zeros(len(rows), len(texts), dtype=torch.bool)
    for number, (own, one) in enumerate(zip(relevant, chosen, strict=True)):
        hidden[number, [place[text] for text in own if text in place and text != one]] = True
    return Batch(list(rows), texts, torch.tensor([place[text] for text in chosen]), hidden)


@torch.no_grad()
def all_vectors(model: BiEncoder, ids: Sequence[list[int]], pad_id: int, machine: Machine, *, exact: bool) -> Tensor:
    """Vectors of texts, ``[n, D]``, without dropout; ``exact`` in float32 instead of bfloat16."""
    was_training = model.training
    model.eval()
    found = torch.empty(len(ids), model.width)
    with machine.autocast(not exact):
        for rows in sorted_batches([len(each) for each in ids], _EVAL_ROWS, MAX_CELLS):
            found[rows] = _vectors(model, [ids[row] for row in rows], pad_id, machine).cpu()
    model.train(was_training)
    return found


def cosines(
    model: BiEncoder, split: EncodedRankings, pad_id: int, machine: Machine, *, exact: bool = False
) -> list[np.ndarray]:
    """The cosine of each row's query with each of its candidates."""
    queries = all_vectors(model, split.queries, pad_id, machine, exact=exact)
    texts = all_vectors(model, split.texts, pad_id, machine, exact=exact)
    return [(texts[places] @ query).numpy() for places, query in zip(split.rankings.places, queries, strict=True)]


class RankingTrainer(Trainer):
    """Tunes a bi-encoder by a schedule; the average of its weights is what is kept.

    Args:
        model: the encoder.
        train, dev: with token ids in the numbering of ``pad_id``; every row has a relevant candidate.
    """

    def __init__(
        self,
        model: BiEncoder,
        train: EncodedRankings,
        dev: EncodedRankings,
        *,
        pad_id: int,
        machine: Machine,
        recipe: RankRecipe,
        schedule: Schedule,
        checkpoints: CheckpointFolder,
        clock: Clock,
        seed: int,
    ) -> None:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        super().__init__(
            model,
            generator_optimiser(model, recipe),
            average=Average(weights, recipe.average_decay),
            recipe=recipe,
            schedule=schedule,
            checkpoints=checkpoints,
            clock=clock,
            seed=seed,
        )
        self.encoder, self.recipe, self.pad_id, self.machine = model, recipe, pad_id, machine
        self.train_split, self.dev_split = train, dev

    def batches(self, epoch: int) -> list[list[int]]:
        """Rows that share candidates, together."""
        return rows_by_shared_candidates(self.train_split.rankings, self.recipe.batch_rows, f"{self.seed}-{epoch}")

    def losses(self, batch: list[int]) -> Iterator[Tensor]:
        """The loss of a batch, in parts whose gradients add up to its own where it does not fit in memory whole."""
        generator = random.Random(f"{self.seed}-{self.progress.step}")
        drawn = draw_batch(self.train_split.rankings, batch, self.recipe.batch_texts, generator)
        ids = [self.train_split.queries[row] for row in drawn.rows]
        ids += [self.train_split.texts[text] for text in drawn.texts]
        parts = self._parts(ids, len(drawn.rows))
        seeds = torch.randint(1 << 62, (len(parts),)).tolist()
        if self.schedule.micro_batch is None and sum(map(len, ids)) <= _GRAPH_CELLS:
            yield self._loss(self._gathered(ids, parts, seeds), drawn)
            return
        with torch.no_grad():
            vectors = self._gathered(ids, parts, seeds)
        vectors = vectors.requires_grad_()
        loss = self._loss(vectors, drawn)
        (slopes,) = torch.autograd.grad(loss, vectors)
        share = loss.detach() / len(parts)
        for rows, seed in zip(parts, seeds, strict=True):
            carried = (self._part(ids, rows, seed) * slopes[rows]).sum()
            yield carried - carried.detach() + share

    def score(self) -> Score:
        """On dev: nDCG at 10, and how unlikely the relevant candidates are by the softmax of the cosines."""
        found = cosines(self.encoder, self.dev_split, self.pad_id, self.machine)
        rankings = self.dev_split.rankings
        lost = [
            -float(torch.from_numpy(row / self.recipe.temperature).log_softmax(0)[grades > 0].logsumexp(0))
            for row, grades in zip(found, rankings.grades, strict=True)
        ]
        return Score(float(np.mean(lost)), rankings.mean_ndcg(found))

    def _loss(self, vectors: Tensor, drawn: Batch) -> Tensor:
        queries, texts = vectors.split([len(drawn.rows), len(drawn.texts)])
        device = self.machine.device
        return info_nce(queries, texts, drawn.positive.to(device), drawn.hidden.to(device), self.recipe.temperature)

    def _parts(self, ids: Sequence[list[int]], queries: int) -> list[list[int]]:
        """Queries and candidates apart, which differ in length, in parts of like length."""
        lengths = [len(each) for each in ids]
        most = self.schedule.micro_batch or len(ids)
        parts = sorted_batches(lengths[:queries], most, MAX_CELLS)
        others = sorted_batches(lengths[queries:], most, MAX_CELLS)
        return parts + [[queries + row for row in rows] for rows in others]

    def _gathered(self, ids: Sequence[list[int]], parts: Sequence[list[int]], seeds: Sequence[int]) -> Tensor:
        """Vectors of everything in the batch, ``[Q + N, D]``."""
        vectors = torch.cat([self._part(ids, rows, seed) for rows, seed in zip(parts, seeds, strict=True)])
        order = torch.tensor([row for rows in parts for row in rows], device=vectors.device)
        return vectors[order.argsort()]

    def _part(self, ids: Sequence[list[int]], rows: Sequence[int], seed: int) -> Tensor:
        torch.manual_seed(seed)  # dropout's masks: the same when a part is computed again
        with self.machine.autocast():
            return _vectors(self.encoder, [ids[row] for row in rows], self.pad_id, self.machine)


def _vectors(model: BiEncoder, ids: Sequence[list[int]], pad_id: int, machine: Machine) -> Tensor:
    tokens, mask = padded(ids, pad_id)
    return model(tokens.to(machine.device), mask.to(machine.device)).float()
