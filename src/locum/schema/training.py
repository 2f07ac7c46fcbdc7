"""What training and export jobs are asked and what training answers; all cross a process boundary as JSON files."""

from __future__ import annotations

from typing import Literal

from locum.schema.base import Document
from locum.schema.candidate import Candidate


class TrainRequest(Document):
    """One training job.

    Attributes:
        base: folder or file of the pretrained model; None for linear.
        train: prepared split, JSON Lines of ``schema.data.Row``.
        dev: prepared split for early stopping and choices.
        labels: class names in the order of the logits' columns.
        budget_s: wall time the job may take, loading included.
        micro_batch: rows in one forward pass, None for the method's own choice; smaller values accumulate
            gradients so that the mathematics stays the same.
        threads: CPU threads to use.
    """

    candidate: Candidate
    base: str | None
    train: str
    dev: str
    labels: tuple[str, ...]
    budget_s: float
    seed: int
    threads: int
    micro_batch: int | None = None
    max_tokens: int = 256


class CurvePoint(Document):
    """One evaluation on dev while training."""

    epoch: float
    step: int
    train_loss: float | None
    dev_loss: float | None
    dev_accuracy: float
    elapsed_s: float


class Trained(Document):
    """What a training job produced; written last, so its presence means the job is whole.

    Attributes:
        parameters: parameters of the trained student.
        best_epoch: the epoch whose weights were kept.
        stopped_by: schedule (all epochs run), patience (dev stopped improving), budget (time), nan (loss
            became NaN; the last good weights were kept).
        settings: the hyperparameters in force, for the report.
        files: SHA-256 of each file by name.
        resumed: how often the job went on from a checkpoint.
    """

    schema_version: Literal[1] = 1
    candidate: Candidate
    parameters: int
    best_epoch: float
    stopped_by: Literal["schedule", "patience", "budget", "nan"]
    dev_accuracy: float
    curve: tuple[CurvePoint, ...]
    settings: dict[str, str | int | float | bool]
    max_tokens: int
    train_s: float
    tokens_per_s: float | None
    files: dict[str, str]
    resumed: int = 0


ExportFormat = Literal["onnx-int8", "onnx-fp32", "gguf-q8_0", "gguf-f16"]


class ExportRequest(Document):
    """One export job.

    Attributes:
        name: of the model, for ``model.json``.
        trained: folder that a training job wrote, with ``trained.json``.
        dev: prepared split, JSON Lines of ``schema.data.Row``, in the order of ``dev_logits.npy``.
        labels: class names in the order of the logits' columns.
        threads: CPU threads to use.
        formats: what to write, in order of preference: the first that answers as the trained model did is kept.
            None takes the family's own (int8 before fp32); the linear family has one form only.
        min_agreement: share of dev rows whose label must be the trained model's.
        max_accuracy_drop: loss of dev accuracy that is accepted.
    """

    name: str
    trained: str
    dev: str
    labels: tuple[str, ...]
    threads: int
    formats: tuple[ExportFormat, ...] | None = None
    min_agreement: float = 0.97
    max_accuracy_drop: float = 0.005


class EmbedderRequest(Document):
    """One export of a pretrained encoder as an embedding model.

    Attributes:
        name: of the model, for ``model.json``.
        base: folder of the encoder.
        pooling: how token vectors become one.
        max_tokens: longer texts are cut there.
        parameters: of the encoder.
        threads: CPU threads to use.
        min_cosine: how near every sample text's vector must be to PyTorch's.
    """

    name: str
    base: str
    pooling: Literal["mean", "cls", "last"]
    max_tokens: int
    parameters: int
    threads: int
    min_cosine: float = 0.99


class EmbedderParity(Document):
    """The exported embedding model against PyTorch's, on sample texts, through the serving engine.

    Attributes:
        cosine_min, cosine_mean: of the two vectors of a text.
        tried: what else was exported and why it was not kept.
    """

    n: int
    precision: Literal["int8", "fp32"]
    cosine_min: float
    cosine_mean: float
    min_cosine: float
    tried: tuple[str, ...] = ()
