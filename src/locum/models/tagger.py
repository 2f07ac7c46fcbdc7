"""A tagger: transformer body and a linear head over the state of every token.

Notable: a tagger whose tokenizer folds letter case or white space reads how each token stands in the text, where BERT
takes the number of a sentence (``read_surface``): the form's embedding is added to the token's, and every
layer can use it. A tagger is saved in the folder of a classifier (``classifier``), whose pooling is not used. Not here:
training (``train``), the exported form (``compress``), what the tags mean (``tasks.bio``).

B rows, T tokens, D width of the body, C tags.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from locum.models.classifier import SequenceClassifier, load_student
from locum.runtime.surface import CASES, SPACES, SURFACES

_READS_SURFACE = "locum_reads_surface"  # in the body's config.json


class TokenClassifier(SequenceClassifier):
    """Body and a linear head; arguments as of ``SequenceClassifier``, the labels being tags."""

    @property
    def reads_surface(self) -> bool:
        """Whether it wants the surface form of each token."""
        return bool(getattr(cast("Any", self.body).config, _READS_SURFACE, False))

    def fresh_weights(self) -> list[nn.Parameter]:
        """Head, and the embedding of surface forms."""
        table = cast("Any", self.body).embeddings.token_type_embeddings.parameters() if self.reads_surface else ()
        return [*super().fresh_weights(), *table]

    def seal_surface(self) -> None:
        """Make one table of what was learned about surface forms, as a saved tagger has it."""
        embeddings = getattr(self.body, "embeddings", None)
        learned = getattr(embeddings, "token_type_embeddings", None)
        if isinstance(learned, SurfaceEmbedding):
            cast("Any", embeddings).token_type_embeddings = learned.table()

    def states(self, input_ids: Tensor, attention_mask: Tensor, forms: Tensor | None = None) -> Tensor:
        """The state of each token, ``[B, T, D]``, from ids, mask and, where it reads them, surface forms ``[B, T]``."""
        more = {} if forms is None else {"token_type_ids": forms}
        return self.body(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state

    def forward(self, input_ids: Tensor, attention_mask: Tensor, forms: Tensor | None = None) -> Tensor:
        """Logits ``[B, T, C]``; arguments as of ``states``."""
        return self.head(self.states(input_ids, attention_mask, forms))


class SurfaceEmbedding(nn.Module):
    """The embedding of a surface form: that of its letter case and that of the white space before it, added.

    Args:
        start: what every form is at first, ``[D]``.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.case, self.space = nn.Embedding(CASES, len(start)), nn.Embedding(SPACES, len(start))
        with torch.no_grad():
            self.case.weight.copy_(start.expand(CASES, -1))
            self.space.weight.zero_()
        self.to(start.device, start.dtype)

    def forward(self, forms: Tensor) -> Tensor:
        """Vectors ``[B, T, D]`` of forms ``[B, T]``."""
        return self.case(forms % CASES) + self.space(forms // CASES)

    def table(self) -> nn.Embedding:
        """The same as one table of all forms."""
        forms = torch.arange(SURFACES, device=self.case.weight.device)
        return nn.Embedding.from_pretrained(self(forms).detach(), freeze=False)


def read_surface(body: nn.Module) -> bool:
    """Let a BERT read surface forms (``runtime.surface``); they mean nothing to it until it is trained.

    Returns:
        Whether the body can: it has an embedding of token types.
    """
    embeddings = getattr(body, "embeddings", None)
    table = getattr(embeddings, "token_type_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return False
    cast("Any", embeddings).token_type_embeddings = SurfaceEmbedding(table.weight[0])
    config = cast("Any", body).config
    config.type_vocab_size = SURFACES
    setattr(config, _READS_SURFACE, True)
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
