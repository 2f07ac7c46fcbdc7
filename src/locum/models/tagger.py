"""A tagger: transformer body and a linear head over the state of every token.

Notable: a tagger on an uncased BERT reads the letter case of each token where BERT takes the number of a sentence
(``read_case``): its embedding is added to the token's, and every layer can use it. A tagger is saved in the folder of a
classifier (``classifier``), whose pooling is not used. Not here: training (``train``), the exported form
(``compress``), what the tags mean (``tasks.bio``).

B rows, T tokens, D width of the body, C tags.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from locum.models.classifier import SequenceClassifier, load_student
from locum.runtime.letter_case import CASES

_READS_CASE = "locum_reads_case"  # in the body's config.json


class TokenClassifier(SequenceClassifier):
    """Body and a linear head; arguments as of ``SequenceClassifier``, the labels being tags."""

    @property
    def reads_case(self) -> bool:
        """Whether it wants the letter case of each token."""
        return bool(getattr(cast("Any", self.body).config, _READS_CASE, False))

    def states(self, input_ids: Tensor, attention_mask: Tensor, cases: Tensor | None = None) -> Tensor:
        """The state of each token, ``[B, T, D]``, from ids, mask and, where it reads them, letter cases ``[B, T]``."""
        more = {} if cases is None else {"token_type_ids": cases}
        return self.body(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state

    def forward(self, input_ids: Tensor, attention_mask: Tensor, cases: Tensor | None = None) -> Tensor:
        """Logits ``[B, T, C]``; arguments as of ``states``."""
        return self.head(self.states(input_ids, attention_mask, cases))


def read_case(body: nn.Module) -> bool:
    """Let a BERT read letter cases; at first they mean nothing to it, training gives them their meaning.

    Returns:
        Whether the body can: it has an embedding of token types.
    """
    embeddings = getattr(body, "embeddings", None)
    table = getattr(embeddings, "token_type_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return False
    wider = nn.Embedding(CASES, table.embedding_dim, device=table.weight.device, dtype=table.weight.dtype)
    with torch.no_grad():
        wider.weight.copy_(table.weight[:1].expand(CASES, -1))
    cast("Any", embeddings).token_type_embeddings = wider
    config = cast("Any", body).config
    config.type_vocab_size = CASES
    setattr(config, _READS_CASE, True)
    return True


def load_tagger(folder: Path) -> TokenClassifier:
    """Read a tagger that ``save_student`` wrote, ready to answer (evaluation mode).

    Raises:
        ModelFileError: a file is missing, damaged, or they do not fit together.
    """
    saved = load_student(folder)
    tagger = TokenClassifier(saved.body, saved.architecture, saved.head.out_features, saved.pooling)
    tagger.head = saved.head
    return tagger.eval()
