"""The wide part of a student: a linear model on hashed token n-grams, added to the logits of the deep part.

    logits = head(pooled body)  +  Σ_j idf[j]·table[j] / ‖idf‖      over the row's unigrams and bigrams j

Notable: a body that has read the whole language misses what a handful of exact words give away, and a linear model
on n-grams sees only those; their errors differ, so the sum beats both (Wide & Deep, Cheng et al. 2016,
arXiv:1606.07792). n-grams are of token ids, hashed into ``BUCKETS`` rows (Weinberger et al. 2009, arXiv:0902.2206), so
that everything runs inside the model's own graph: no second vocabulary, no second file. It costs ``BUCKETS`` × C
weights of one byte.
Not here: fitting it (``train.wide``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BUCKETS = 16_384
_UNIGRAM = 2_654_435_761  # Knuth's multiplicative hash
_BIGRAM = 2_246_822_519
_OFFSET = 97


def ngram_buckets(input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The bucket of the unigram and of the bigram that start at each token.

    Args:
        input_ids: of the whole vocabulary, ``[B, T]`` int64.

    Returns:
        Unigrams and bigrams, each ``[B, T]`` in ``0 .. BUCKETS-1``; the bigram of a row's last token means nothing.
    """
    # Remainders first: the products then stay below 2³¹, and engines that keep integers in 32 bits agree.
    folded = input_ids % BUCKETS
    first = folded * (_UNIGRAM % BUCKETS)
    following = functional.pad(folded[:, 1:], (0, 1))
    return first % BUCKETS, (first + following * (_BIGRAM % BUCKETS) + _OFFSET) % BUCKETS


class Wide(nn.Module):
    """The tables of the wide part; weights are signed bytes with one step for all, exported as they are.

    Args:
        n_labels: C.
    """

    idf: Tensor  # [BUCKETS]
    table: Tensor  # [BUCKETS, C] int8
    step: Tensor  # [1]: what one unit of the table is worth
    bias: Tensor  # [C]

    def __init__(self, n_labels: int) -> None:
        super().__init__()
        self.register_buffer("idf", torch.zeros(BUCKETS))
        self.register_buffer("table", torch.zeros(BUCKETS, n_labels, dtype=torch.int8))
        self.register_buffer("step", torch.ones(1))
        self.register_buffer("bias", torch.zeros(n_labels))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What is added to the logits.

        Args:
            input_ids: ``[B, T]``.
            attention_mask: 1 for a token, 0 for padding on the right, ``[B, T]``.

        Returns:
            ``[B, C]`` float32.
        """
        unigrams, bigrams = ngram_buckets(input_ids)
        buckets = torch.cat([unigrams, bigrams], dim=1)  # [B, 2T]
        followed = functional.pad(attention_mask[:, 1:], (0, 1))
        present = torch.cat([attention_mask, followed], dim=1).float()
        weight = self.idf[buckets] * present  # [B, 2T]
        norm = (weight * weight).sum(dim=1, keepdim=True).clamp_min(1e-12).sqrt()  # [B, 1]
        rows = self.table[buckets].float()  # [B, 2T, C]
        return ((weight / norm).unsqueeze(1) @ rows).squeeze(1) * self.step + self.bias  # [B, C]
