"""``ModelSpec``: the ``model.json`` beside an exported model; all an engine needs to serve it.

Also ``Parity``: how the exported file compares with the trained model.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from locum.schema.base import Document
from locum.schema.candidate import Family

EngineName = Literal["linear", "onnx", "llamacpp", "openvino"]
Purpose = Literal["classify", "tag", "embed", "generate", "rank"]
Precision = Literal["int8", "fp32", "q8_0", "f16", "q4_0", "q4_1", "q4_k", "other"]


class ModelSpec(Document):
    """How to open a model folder.

    Attributes:
        engine: the runtime adapter that opens it.
        labels: class names (or tags) in the order of the logits' columns; empty unless it classifies or tags.
        max_tokens: longer inputs are cut there, and counted.
        temperature: logits are divided by it before the softmax (fitted on dev; 1.0 before that).
        purpose: what the model is for: labels of a text, tags of its tokens, a vector, text, or an order of texts.
        answer_tokens: most tokens of a written answer, where the task file does not say; None for what writes none.
        surface_forms: a tagger that reads how tokens stand in the text (``runtime.surface``) as ``token_type_ids``.
        files: SHA-256 of every file of the folder but this one.
        weights: name of the file with the weights, e.g. ``model.onnx``.
        pooling: how token embeddings become one (only engine llamacpp, where the head stands outside the file).
    """

    schema_version: Literal[1] = 1
    name: str
    engine: EngineName
    family: Family
    precision: Precision
    labels: tuple[str, ...]
    weights: str
    max_tokens: int
    parameters: int
    temperature: float = 1.0
    purpose: Purpose = "classify"
    pooling: Literal["mean", "last"] | None = None
    answer_tokens: int | None = None
    surface_forms: bool = False
    files: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _without_letter_case(cls, fields: Any) -> Any:
        """What came before ``surface_forms``: nothing for most models, and not the same for a tagger that read it."""
        if isinstance(fields, dict) and "letter_case" in fields:
            if fields["letter_case"]:
                raise ValueError("letter_case: taggers read surface_forms now; build it again")
            return {name: value for name, value in fields.items() if name != "letter_case"}
        return fields


class Parity(Document):
    """The exported model against the trained one, on the dev split, through the serving engine.

    Attributes:
        n: rows; of a tagger tokens.
        label_agreement: share of rows with the same top label (or first candidate); of a tagger, share of tokens with
            the same tag.
        mean_gap: mean absolute difference of class (or candidate) probabilities.
        max_gap: largest absolute difference of the top label's probability.
        accuracy_trained, accuracy_exported: dev accuracy of each; of a tagger micro F1 of the spans; of a ranker nDCG.
        min_agreement, max_accuracy_drop: the tolerance that was asked.
        tried: what else was exported and why it was not kept ("int8: agreement 0.91 < 0.98").
    """

    n: int
    engine: str
    precision: Precision
    label_agreement: float
    mean_gap: float
    max_gap: float
    accuracy_trained: float
    accuracy_exported: float
    min_agreement: float
    max_accuracy_drop: float
    passed: bool
    tried: tuple[str, ...] = ()
