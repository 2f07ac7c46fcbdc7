"""What training and export jobs are asked and what training answers; all cross a process boundary as JSON files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from locum.schema.base import Document
from locum.schema.candidate import Candidate
from locum.schema.kinds import Kind
from locum.schema.model import Precision


class Budgets(Document):
    """Time budgets, in seconds, under which a piece of work comes to the same result.

    Attributes:
        least_s: the smallest of them.
        below_s: all of them are smaller than this; None where more time changes nothing.
    """

    least_s: float = 0.0
    below_s: float | None = None

    def hold(self, budget_s: float) -> bool:
        """Whether a budget is among them."""
        return self.least_s <= budget_s and (self.below_s is None or budget_s < self.below_s)


class TrainRequest(Document):
    """One training job.

    Attributes:
        base: folder or file of the pretrained model; None for linear.
        train: prepared split, JSON Lines of ``schema.data.Row``.
        dev: prepared split for early stopping and choices.
        labels: class names in the order of the logits' columns; of a tagger the types of its spans.
        budget_s: wall time the job may take, loading included.
        micro_batch: rows in one forward pass, None for the method's own choice; smaller values accumulate
            gradients so that the mathematics stays the same.
        threads: CPU threads to use.
        kind: of the task, which says what labels are of: texts, or tokens.
        repeat: folder of a finished training of the same candidate, whose choices are taken over: nothing is chosen on
            dev, whose rows may then be among those of ``train``. None chooses.
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
    kind: Kind = "classify"
    repeat: str | None = None


TuneMethod = Literal["full", "lora", "dora"]
ADAPTER_RANK, ADAPTER_ALPHA = 16, 32.0


class TuneRequest(Document):
    """One supervised fine-tuning of a decoder that writes answers.

    Attributes:
        base: folder or GGUF file of the pretrained decoder.
        train, dev: JSON Lines of ``Conversation``; dev is for early stopping.
        method: full tunes all weights; lora and dora tune adapters, which are merged in the end.
        rank, alpha: of the adapters: updates are scaled by ``alpha / rank``.
        targets: names of the linear layers that get adapters (``q_proj``…); None for all of them.
        layers: how many of the last layers are tuned; the others, and what comes before them, stay as they are and
            run once. None tunes everything.
        budget_s: wall time the job may take, loading included.
        threads: CPU threads to use.
        max_tokens: of a prompt and its answer; longer rows are left out, as serving answers no such prompt.
        micro_batch: rows in one forward pass at most, None for the method's own choice; smaller values accumulate
            gradients so that the mathematics stays the same.
        mixing: temperature T of the mixture of tasks: a task's share of an epoch goes by size^(1/T). 1 takes every
            row once; a large T takes as many rows from every task.
        for_task: the task that the student is for, whose dev loss alone says which weights are kept; None takes all.
        epochs, batch_rows, learning_rate: None for the method's own.
        name: of the candidate; None makes one of base and method.
    """

    base: str
    train: str
    dev: str
    method: TuneMethod
    rank: int = Field(default=ADAPTER_RANK, ge=1)
    alpha: float = Field(default=ADAPTER_ALPHA, gt=0)
    targets: tuple[str, ...] | None = None
    layers: int | None = Field(default=None, ge=1)
    budget_s: float
    seed: int
    threads: int
    max_tokens: int = Field(default=1024, ge=8)
    micro_batch: int | None = Field(default=None, ge=1)
    mixing: float = Field(default=1.0, ge=1)
    for_task: str | None = None
    epochs: int | None = Field(default=None, ge=1)
    batch_rows: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    name: str | None = None


class CurvePoint(Document):
    """One evaluation on dev while training.

    Attributes:
        dev_loss: mean cross-entropy, of a row's label or of an answer's token.
        dev_accuracy: of a classifier; of a tagger micro F1 of its spans; of a ranker nDCG at 10; None for a generator.
        dev_losses: the loss by task, where the rows name their tasks.
    """

    epoch: float
    step: int
    train_loss: float | None
    dev_loss: float | None
    dev_accuracy: float | None = None
    dev_losses: dict[str, float] = Field(default_factory=dict)
    elapsed_s: float


class RowCounts(Document):
    """What became of the conversations of a tuning.

    Attributes:
        train, dev: rows in use.
        cut: always 0; in reports of earlier builds, how many lost the beginning of their prompt.
        dropped_long: left out, since prompt and answer together do not fit ``max_tokens``.
        dropped_empty: left out, since there is no answer.
        tasks: training rows by task.
    """

    train: int
    dev: int
    cut: int = 0
    dropped_long: int = 0
    dropped_empty: int = 0
    tasks: dict[str, int] = Field(default_factory=dict)


class Trained(Document):
    """What a training job produced; written last, so its presence means the job is whole.

    Attributes:
        parameters: parameters of the trained student.
        best_epoch: the epoch whose weights were kept.
        stopped_by: schedule (all epochs run), patience (dev stopped improving), budget (time), nan (loss
            became NaN; the last good weights were kept).
        settings: the hyperparameters in force, for the report.
        dev_accuracy: of a classifier; of a tagger micro F1 of its spans; of a ranker nDCG at 10. None where dev rows
            were learned from (``TrainRequest.repeat``).
        dev_loss: of a generator: mean cross-entropy of an answer's token, of the task it is for alone where there are
            several; the curve's first point has the base's.
        dev_losses: of a generator: the same by task.
        rows: of a generator: what became of the conversations.
        files: SHA-256 of each file by name.
        resumed: how often the job went on from a checkpoint.
        same_for: the budgets that would have given this very student; None where its own alone is known to.
    """

    schema_version: Literal[1] = 1
    candidate: Candidate
    parameters: int
    best_epoch: float
    stopped_by: Literal["schedule", "patience", "budget", "nan"]
    dev_accuracy: float | None = None
    dev_loss: float | None = None
    dev_losses: dict[str, float] = Field(default_factory=dict)
    rows: RowCounts | None = None
    curve: tuple[CurvePoint, ...]
    settings: dict[str, str | int | float | bool]
    max_tokens: int
    train_s: float
    tokens_per_s: float | None
    files: dict[str, str]
    resumed: int = 0
    same_for: Budgets | None = None


ExportFormat = Literal["onnx-int8", "onnx-fp32", "gguf-q8_0", "gguf-f16"]


class ExportRequest(Document):
    """One export job.

    Attributes:
        name: of the model, for ``model.json``.
        trained: folder that a training job wrote, with ``trained.json``.
        dev: prepared split, JSON Lines of ``schema.data.Row``, in the order of ``dev_logits.npy``.
        labels: class names in the order of the logits' columns; of a tagger the types of its spans.
        threads: CPU threads to use.
        formats: what to write, in order of preference: the first that answers as the trained model did is kept.
            None takes the family's own (int8 before fp32); the linear family has one form only.
        min_agreement: share of dev rows whose label (or first candidate) must be the trained model's; of a tagger, of
            tokens and tags.
        max_accuracy_drop: loss of dev accuracy that is accepted; of a tagger, of micro F1 of its spans; of a ranker,
            of nDCG.
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
        formats: what to write, in order of preference: the first that is near enough is kept.
    """

    name: str
    base: str
    pooling: Literal["mean", "cls", "last"]
    max_tokens: int
    parameters: int
    threads: int
    min_cosine: float = 0.99
    formats: tuple[Literal["int8", "fp32"], ...] = ("int8", "fp32")


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


class Turn(Document):
    """One turn of a conversation: role (system, user, assistant) and text."""

    role: str
    content: str


class Conversation(Document):
    """A prompt with its right answer, one line of a JSON Lines file.

    Attributes:
        messages: the prompt.
        completion: what the assistant should write next, without the token that ends it.
        task: which of several tasks it is from; None where there is one.
    """

    id: str
    messages: tuple[Turn, ...]
    completion: str
    task: str | None = None


GeneratorFormat = Literal["q8_0", "f16", "q4_0", "q4_1", "q4_k"]


class GeneratorExportRequest(Document):
    """One export of a tuned decoder that writes text.

    Attributes:
        name: of the model, for ``model.json``.
        folder: the tuned decoder in the layout of Hugging Face, with its tokenizer and chat template; adapters merged.
        dev: conversations to compare on, JSON Lines of ``Conversation``.
        max_tokens: context that the model is served with, prompt and answer together; None takes its own.
        threads: CPU threads to use.
        formats: what to write, in order of preference: the first that answers as the tuned weights do is kept.
            f16 is nearly exact, q8_0 half its size; q4_0, q4_1 and q4_k are two thirds of that and rougher, and need
            a wider tolerance. On SmolLM2-135M-Instruct f16 moved a token's log-probability by 0.002 nats on average,
            q8_0 by 0.06, q4_k by 0.24.
        rows: most conversations to compare on; the first ones are taken.
        scored_tokens: most tokens of a right answer that are weighed.
        answer_tokens: most tokens of an answer that is written.
        max_mean_gap: of a token's log-probability, in nats, on average over the tokens of the right answers.
        max_perplexity_ratio: the right answers' perplexity over what the tuned weights give them.
        min_equal_answers: share of rows whose greedy answer must be the tuned weights'.
    """

    name: str
    folder: str
    dev: str
    threads: int
    max_tokens: int | None = None
    formats: tuple[GeneratorFormat, ...] = ("q8_0", "f16")
    rows: int = 48
    scored_tokens: int = 128
    answer_tokens: int = 32
    max_mean_gap: float = 0.1
    max_perplexity_ratio: float = 1.05
    min_equal_answers: float = 0.25


class GeneratorParity(Document):
    """The exported decoder against the tuned weights in PyTorch, on dev conversations, through the serving engine.

    Attributes:
        n: conversations that were compared.
        too_long: conversations left out because they do not fit the context.
        tokens: of the right answers, weighed by both.
        prompts_equal: share of rows whose prompt both read as the same tokens; an export below 1 is not kept.
        mean_gap, max_gap: absolute difference of a token's log-probability, in nats.
        perplexity_trained, perplexity_exported: of the right answers.
        perplexity_ratio: the exported over the trained.
        equal_answers: share of rows with the same greedy answer, its end included.
        first_difference: median place, in tokens, where the answers that differ begin to; None when none does.
        max_mean_gap, max_perplexity_ratio, min_equal_answers: the tolerance that was asked.
        size_mb: of the exported file.
        tried: what else was exported and why it was not kept.
    """

    n: int
    too_long: int
    engine: str
    precision: Precision
    tokens: int
    prompts_equal: float
    mean_gap: float
    max_gap: float
    perplexity_trained: float
    perplexity_exported: float
    perplexity_ratio: float
    equal_answers: float
    first_difference: float | None
    max_mean_gap: float
    max_perplexity_ratio: float
    min_equal_answers: float
    size_mb: float
    passed: bool
    tried: tuple[str, ...] = ()


class AdapterExportRequest(Document):
    """One export of a LoRA adapter to GGUF.

    Attributes:
        name: of the adapter.
        adapter: its folder in the layout of PEFT.
        base: GGUF file of the base that it was trained on.
    """

    name: str
    adapter: str
    base: str
