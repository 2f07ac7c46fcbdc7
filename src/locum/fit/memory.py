"""Memory that training and serving need, before either is started, with the figures it was worked out from.

Notable: estimates are meant to be a little high: refusing a build that would have fitted costs a message,
starting one that does not costs hours. Each part is named, so that a refusal says what to make smaller.
Not here: measuring a running process (``evaluate``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from locum.core.errors import DeviceError
from locum.schema.candidate import Method
from locum.schema.device import DeviceProfile
from locum.sources.facts import BaseFacts

WeightFormat = Literal["fp32", "bf16", "f16", "int8", "q8_0", "q4_1", "q4_k_m"]

# bytes a weight, block scales included (ggml block layouts: 34 bytes for 32 weights, 20 for 32, 144 for 256)
WEIGHT_BYTES: dict[WeightFormat, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "f16": 2.0,
    "int8": 1.0,
    "q8_0": 34 / 32,
    "q4_1": 20 / 32,
    "q4_k_m": 0.61,
}
# resident memory of a process that has imported the libraries and loaded nothing, measured on Linux x86-64
TRAINING_LIBRARIES_MB = 400.0  # PyTorch, transformers, scikit-learn
SERVING_LIBRARIES_MB = 60.0  # ONNX Runtime or llama.cpp, tokenizers
_SHARE_OF_FREE = 0.9


@dataclass(frozen=True)
class MemoryEstimate:
    """Megabytes (10⁶ bytes) by part.

    Attributes:
        what: what needs the memory, for messages.
        parts_mb: by name, in the order they are worked out.
        inputs: the figures they were worked out from, by name.
    """

    what: str
    parts_mb: dict[str, float]
    inputs: dict[str, str | float]

    @property
    def total_mb(self) -> float:
        """Sum of the parts."""
        return sum(self.parts_mb.values())

    def explain(self) -> str:
        """One line: total, parts, inputs."""
        parts = " + ".join(f"{name} {megabytes:,.0f}" for name, megabytes in self.parts_mb.items())
        inputs = ", ".join(f"{name} {value:,}" if not isinstance(value, str) else f"{name} {value}"
                           for name, value in self.inputs.items())  # fmt: skip
        return f"{self.what}: {self.total_mb:,.0f} MB = {parts} (from {inputs})"


def embedding_parameters(facts: BaseFacts) -> int:
    """Parameters of the token embedding: vocabulary × hidden."""
    return facts.vocabulary * facts.hidden


def kept_parameters(facts: BaseFacts, depth: int | None = None) -> int:
    """Parameters left when only the first ``depth`` layers are kept: embedding + blocks · depth / layers.

    Args:
        facts: the base.
        depth: layers kept; None keeps all.

    Raises:
        ValueError: depth is not between 1 and the base's layers.
    """
    if depth is None:
        return facts.parameters
    if not 1 <= depth <= facts.layers:
        raise ValueError(f"depth {depth} is not between 1 and {facts.layers}")
    embedding = embedding_parameters(facts)
    return embedding + round((facts.parameters - embedding) * depth / facts.layers)


def activation_bytes_per_token(facts: BaseFacts, sequence: int, *, value_bytes: int = 4) -> float:
    """Bytes that one block keeps for the backward pass, for one token.

    values = 8·h + 2·h_kv + g·i + 2·heads·s

    After Korthikanti et al. 2022 (arXiv:2205.05198), §4.1, counted per tensor instead of for i = 4h: inputs of
    two norms, of the attention's projections, of its output projection and of the feed-forward layer, two
    residual sums and queries (8·h); keys and values (2·h_kv); the feed-forward layer's inner values (g·i, with
    g = 4 for a gated layer and 2 for a plain one); scores and probabilities of plain attention (2·heads·s).

    Args:
        facts: the base.
        sequence: tokens a row has, s.
        value_bytes: 4 for fp32, 2 for bf16.
    """
    key_value_width = facts.hidden * facts.key_value_heads / facts.heads
    inner = 2 if facts.architecture == "bert" else 4
    values = 8 * facts.hidden + 2 * key_value_width + inner * facts.intermediate + 2 * facts.heads * sequence
    return values * value_bytes


_THROUGH_ALL: tuple[Method, ...] = ("full", "lora", "dora")  # a backward pass goes through every layer that learns


def training_memory(
    facts: BaseFacts,
    method: Method,
    *,
    batch_tokens: int,
    sequence: int,
    depth: int | None = None,
    train_layers: int | None = None,
) -> MemoryEstimate:
    """Memory to train a candidate in fp32 with AdamW.

    full: weights 4·P + gradients 4·P' + AdamW's two moments 8·P' + activations · layers · batch tokens, with the layers
    that learn and their P' parameters (P with the embedding where all do)
    lora, dora: weights 4·P + activations as for full; what adapters add is small beside them
    head: weights 4·P + the activations of two blocks (nothing is kept for a backward pass)

    Args:
        facts: the base.
        method: what is trained; ``linear`` needs only its libraries.
        batch_tokens: tokens in one micro-batch, padding included.
        sequence: tokens in its longest row.
        depth: layers kept; None keeps all.
        train_layers: how many of the last ones are tuned; None tunes all.

    Returns:
        The estimate, by part.
    """
    layers = facts.layers if depth is None else depth
    parameters = kept_parameters(facts, depth)
    learning, learned = layers, parameters
    if train_layers is not None and train_layers < layers:
        learning = train_layers
        learned = round((parameters - embedding_parameters(facts)) * train_layers / layers)
    block_mb = activation_bytes_per_token(facts, sequence) * batch_tokens / 1e6
    parts = {"libraries": TRAINING_LIBRARIES_MB}
    if method != "linear":
        parts["weights"] = 4 * parameters / 1e6
        parts["activations"] = block_mb * (learning if method in _THROUGH_ALL else 2)
    if method == "full":
        parts["gradients"] = 4 * learned / 1e6
        parts["optimiser"] = 8 * learned / 1e6
    inputs: dict[str, str | float] = {
        "method": method,
        "parameters": parameters,
        "layers": learning,
        "hidden": facts.hidden,
        "batch tokens": batch_tokens,
        "sequence": sequence,
    }
    return MemoryEstimate("training", parts, inputs)


def serving_memory(
    facts: BaseFacts, weights: WeightFormat, *, tokens: int, depth: int | None = None, cache_tokens: int = 0
) -> MemoryEstimate:
    """Memory to serve a student.

    weights · bytes + two blocks' activations + (when it writes) key-value cache 2·layers·h_kv·2 bytes a token

    Args:
        facts: the base.
        weights: how weights are stored.
        tokens: read at once.
        depth: layers kept; None keeps all.
        cache_tokens: when it writes: the context that is set aside for all its slots together, in f16.

    Returns:
        The estimate, by part.
    """
    layers = facts.layers if depth is None else depth
    parameters = kept_parameters(facts, depth)
    parts = {
        "libraries": SERVING_LIBRARIES_MB,
        "weights": parameters * WEIGHT_BYTES[weights] / 1e6,
        "activations": 2 * activation_bytes_per_token(facts, tokens) * tokens / 1e6,
    }
    if cache_tokens:
        parts["key-value cache"] = cache_bytes_per_token(facts, depth) * cache_tokens / 1e6
    inputs: dict[str, str | float] = {"parameters": parameters, "format": weights, "layers": layers, "tokens": tokens}
    return MemoryEstimate("serving", parts, inputs)


def cache_bytes_per_token(facts: BaseFacts, depth: int | None = None) -> float:
    """Bytes of keys and values that are kept for a token: 2·layers·h_kv values in f16."""
    layers = facts.layers if depth is None else depth
    return 2 * layers * (facts.hidden * facts.key_value_heads / facts.heads) * 2


def size_mb(facts: BaseFacts, weights: WeightFormat, depth: int | None = None) -> float:
    """Size of the weights on disk in 10⁶ bytes."""
    return kept_parameters(facts, depth) * WEIGHT_BYTES[weights] / 1e6


def free_mb(profile: DeviceProfile) -> float | None:
    """What may be planned with: 90 % of what is free, else of what there is; None when neither is known."""
    known = profile.available_mb if profile.available_mb is not None else profile.memory_mb
    return None if known is None else known * _SHARE_OF_FREE


def largest_depth(facts: BaseFacts, method: Method, limit_mb: float, *, batch_tokens: int, sequence: int) -> int | None:
    """The most layers whose training fits ``limit_mb``; None when not even one does."""
    for depth in range(facts.layers, 0, -1):
        need = training_memory(facts, method, batch_tokens=batch_tokens, sequence=sequence, depth=depth)
        if need.total_mb <= limit_mb:
            return depth
    return None


def require_memory(estimate: MemoryEstimate, limit_mb: float | None, *, fix: str) -> None:
    """Refuse before the work starts what will not fit.

    Args:
        estimate: what is needed.
        limit_mb: what there is (``free_mb`` of the device, or the task's budget); None when it is not known,
            which refuses nothing.
        fix: what to make smaller.

    Raises:
        DeviceError: it does not fit; the message has the estimate, its parts and inputs, and the fix.
    """
    if limit_mb is None or estimate.total_mb <= limit_mb:
        return
    cause = f"{limit_mb:,.0f} MB of memory can be used, and {estimate.explain()}"
    raise DeviceError("fit-memory", cause, fix=fix)
