"""``Candidate``: base + method + compression, before it is built; and what it is expected to cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from locum.schema.base import Document
from locum.schema.kinds import Method as Method

Family = Literal["linear", "encoder", "decoder"]


class Estimate(Document):
    """What a candidate is expected to cost, before anything is downloaded; None where unknown.

    Attributes:
        inputs: what memory and latency were worked out from, by name; empty where that is the input's length alone.
    """

    train_s: float | None = None
    train_memory_mb: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    latency_ms: float | None = None
    download_mb: float = 0.0
    inputs: dict[str, str | int | float] = Field(default_factory=dict[str, str | int | float])


class Candidate(Document):
    """A rung of the ladder.

    Attributes:
        name: unique in a ladder, e.g. ``tfidf``, ``all-MiniLM-L6-v2/head``, ``SmolLM2-135M-Instruct/full-12L``.
        family: linear, encoder or decoder.
        base: catalogue name, folder or address of the pretrained model; None for linear.
        method: linear, head (frozen body), full (all weights tuned), lora or dora (adapters, merged), prompt, few_shot.
        depth: layers kept, counted from the first; None keeps all.
        train_layers: how many of the last layers are tuned; None tunes all.
        multitask: tuned on the rows of other tasks, too.
        parameters: parameters of the student when known beforehand.
        skipped: why it is not built; None when it is.
    """

    name: str
    family: Family
    base: str | None = None
    method: Method
    depth: int | None = None
    train_layers: int | None = None
    multitask: bool = False
    parameters: int | None = None
    estimate: Estimate = Estimate()
    skipped: str | None = None
