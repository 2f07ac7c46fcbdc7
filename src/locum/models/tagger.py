"""A tagger: transformer body and a linear head over the state of every token.

Notable: it is saved in the folder of a classifier (``classifier``), whose pooling is not used. Not here: training
(``train``), the exported form (``compress``), what the tags mean (``tasks.bio``).

B rows, T tokens, D width of the body, C tags.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from locum.models.classifier import SequenceClassifier, load_student


class TokenClassifier(SequenceClassifier):
    """Body and a linear head; arguments as of ``SequenceClassifier``, the labels being tags."""

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The state of each token, ``[B, T, D]``, from ids and mask ``[B, T]``."""
        return self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``[B, T, C]`` from ids and mask ``[B, T]``."""
        return self.head(self.states(input_ids, attention_mask))


def load_tagger(folder: Path) -> TokenClassifier:
    """Read a tagger that ``save_student`` wrote, ready to answer (evaluation mode).

    Raises:
        ModelFileError: a file is missing, damaged, or they do not fit together.
    """
    saved = load_student(folder)
    tagger = TokenClassifier(saved.body, saved.architecture, saved.head.out_features, saved.pooling)
    tagger.head = saved.head
    return tagger.eval()
