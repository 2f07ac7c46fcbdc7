"""What head and full tuning start from: the checked base, the encoded splits, the machine.

Notable: the student's tokenizer is written first and then used for training, so serving splits texts the
same way. Not here: the methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from locum.core.errors import UserError
from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.models.classifier import SequenceClassifier, save_student
from locum.models.tokenizer import open_tokenizer, write_tokenizer
from locum.runtime.tokenize import TextTokenizer
from locum.schema.training import TrainRequest
from locum.train.forward import Encoded, Machine, logits_of, this_machine
from locum.train.repeat import Choices
from locum.train.rows import Split, read_split
from locum.train.vocabulary import CompactVocabulary
from locum.train.wide import fit_wide


@dataclass
class Workbench:
    """Everything a method needs.

    Attributes:
        model: body with a random head.
        vocabulary: the compact numbering that the ids of the splits are in.
        cut: how many texts of both splits are longer than it reads.
        wide_scale: how much the wide part counts, once it is fitted; 0 is none.
    """

    model: SequenceClassifier
    machine: Machine
    train: Encoded
    dev: Encoded
    vocabulary: CompactVocabulary
    cut: int = 0
    wide_scale: float = 0.0

    @property
    def pad_id(self) -> int:
        """The padding id in the compact numbering."""
        return self.vocabulary.pad_id

    def finish(self, out: Path, repeated: Choices | None = None) -> Tensor:
        """Restore the whole vocabulary, add the wide part where it helps, and save the student beside its tokenizer.

        Args:
            out: where it is saved.
            repeated: choices to take over.

        Returns:
            The student's dev logits in float32, ``[n_dev, C]``.
        """
        logits = logits_of(self.model, self.dev, self.pad_id, self.machine, exact=True)
        self.vocabulary.restore()
        self.model.cpu()
        train_ids, dev_ids = ([self.vocabulary.original(row) for row in split.ids] for split in (self.train, self.dev))
        scale = repeated.number("wide_scale") if repeated else None
        self.model.wide, self.wide_scale = fit_wide(
            train_ids, self.train.targets.numpy(), dev_ids, self.dev.targets.numpy(), logits.numpy(), scale
        )
        if self.model.wide is not None:
            rows = [self.model.wide(torch.tensor([row]), torch.ones(1, len(row))) for row in dev_ids]
            logits = logits + torch.cat(rows)
        save_student(self.model, out)
        return logits


def prepare(request: TrainRequest, out: Path) -> Workbench:
    """Check and load the base, write the tokenizer to ``out``, read and encode the splits.

    Raises:
        ModelFileError: the base cannot be used.
        UserError: the request lacks a base or trains with fewer than two labels.
    """
    if request.candidate.family == "linear" or request.base is None:
        raise UserError("train-request", f"{request.candidate.name} needs a base", fix="name one in the candidate")
    base = inspect_base(Path(request.base))
    if base.architecture.family != request.candidate.family:
        raise UserError(
            "train-request",
            f"{request.candidate.name} is to be a {request.candidate.family}, its base is an"
            f" {base.architecture.family} ({base.architecture.model_type})",
            fix=f"set family: {base.architecture.family}",
        )
    train, dev = (read_split(Path(path), request.labels) for path in (request.train, request.dev))
    if len(set(train.targets)) < 2:
        raise UserError("train-request", "the training rows have only one label", where=request.train)
    torch.manual_seed(request.seed)
    body = load_body(base, request.candidate.depth)
    embeddings = body.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokenizer = open_tokenizer(write_tokenizer(base, out), request.max_tokens, embeddings)
    encoded = [_encode(tokenizer, split) for split in (train, dev)]
    vocabulary = CompactVocabulary(body, (row for split in encoded for row in split.ids), tokenizer.pad_id)
    for split in encoded:
        split.ids = [vocabulary.translate(row) for row in split.ids]
    machine = this_machine()
    model = SequenceClassifier(body, base.architecture, len(request.labels)).to(machine.device)
    return Workbench(model, machine, encoded[0], encoded[1], vocabulary, tokenizer.truncated)


def _encode(tokenizer: TextTokenizer, split: Split) -> Encoded:
    """Ids of each text; one padding token stands in for a text without any, as in serving."""
    ids = [row or [tokenizer.pad_id] for row in tokenizer.encode(split.texts)]
    return Encoded(ids, torch.tensor(split.targets, dtype=torch.long))
