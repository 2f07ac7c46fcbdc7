"""How long training and answering will take, worked out before either is started.

Notable: a roofline (Williams et al. 2009, doi:10.1145/1498765.1498785): work takes as long as its arithmetic
or its memory traffic needs, whichever is more, plus a fixed overhead. A rate measured on the machine replaces
the formula as soon as there is one.
Not here: measuring latency (``evaluate``).
"""

from __future__ import annotations

from locum.fit.memory import WEIGHT_BYTES, WeightFormat, cache_bytes_per_token, embedding_parameters, kept_parameters
from locum.schema.candidate import Method
from locum.schema.device import DeviceProfile
from locum.sources.facts import BaseFacts

# share of the measured matrix-product rate that a whole model reaches; small models spend the rest on
# normalisation, softmax, copies and the optimiser
TRAINING_EFFICIENCY = 0.45
SERVING_EFFICIENCY = 0.4
OVERHEAD_MS = 0.5
# bf16 products against fp32 products on the same cores; training runs under bf16 autocast where these are there
_BF16_SPEEDUP = (("amx_bf16", 2.0), ("avx512_bf16", 1.5))
# int8 products against fp32 products on the same cores, by the instruction that does them
_INT8_SPEEDUP = (("amx_int8", 4.0), ("avx512_vnni", 3.0), ("avx_vnni", 2.5), ("i8mm", 3.0), ("dotprod", 2.0))


def forward_flops(facts: BaseFacts, tokens: int, *, sequence: int, depth: int | None = None) -> float:
    """Floating-point operations to pass tokens through a model: 2·N·tokens + 4·layers·h·s·tokens.

    N are the parameters without the embedding (Kaplan et al. 2020, arXiv:2001.08361, table 1); the second
    term is attention's scores and weighted sums over rows of s tokens.

    Args:
        facts: the base.
        tokens: in total, padding included.
        sequence: tokens in a row, s.
        depth: layers kept; None keeps all.
    """
    layers = facts.layers if depth is None else depth
    blocks = kept_parameters(facts, depth) - embedding_parameters(facts)
    return 2.0 * blocks * tokens + 4.0 * layers * facts.hidden * sequence * tokens


def training_flops(
    facts: BaseFacts,
    method: Method,
    *,
    tokens: int,
    sequence: int,
    epochs: float,
    depth: int | None = None,
    train_layers: int | None = None,
) -> float:
    """Floating-point operations to train: 3 × forward × epochs for ``full``, 1 × forward for ``head``.

    A backward pass costs twice a forward pass (Kaplan et al. 2020, §2.1). A head on a frozen body needs each
    text's features once, however many epochs the head takes. ``linear`` is not counted: 0.

    Args:
        facts: the base.
        method: how it is trained; adapters spare the half of a backward pass that weights' gradients cost.
        tokens: of the training split, padding included.
        sequence: tokens in a row.
        epochs: passes over the split.
        depth: layers kept; None keeps all.
        train_layers: how many of the last ones are tuned, the others being run once; None tunes all.
    """
    if method in ("linear", "prompt", "few_shot"):
        return 0.0
    once = forward_flops(facts, tokens, sequence=sequence, depth=depth)
    if method == "head":
        return once
    layers = facts.layers if depth is None else depth
    tuned = min(train_layers or layers, layers) / layers
    return once * (1 - tuned) + (3.0 if method == "full" else 2.0) * epochs * once * tuned


def training_seconds(flops: float, profile: DeviceProfile, *, efficiency: float = TRAINING_EFFICIENCY) -> float | None:
    """Seconds for that much training; None when the device's speed is not known."""
    if profile.matmul_gflops is None:
        return None
    return flops / (profile.matmul_gflops * 1e9 * efficiency * _fastest(_BF16_SPEEDUP, profile))


def training_seconds_at(tokens: float, tokens_per_s: float) -> float:
    """Seconds for so many tokens at a rate measured in the first steps of the training itself.

    Raises:
        ValueError: the rate is not positive.
    """
    if tokens_per_s <= 0:
        raise ValueError(f"tokens_per_s is {tokens_per_s}, and must be positive")
    return tokens / tokens_per_s


def latency_ms(
    facts: BaseFacts,
    weights: WeightFormat,
    profile: DeviceProfile,
    *,
    input_tokens: int,
    output_tokens: int = 0,
    kept_tokens: int = 0,
    depth: int | None = None,
) -> float | None:
    """Milliseconds to answer one request: overhead + max(arithmetic, weights once) + output · max(…) each.

    The input goes through at once and reads all blocks once; every written token reads them again, the output
    embedding and what is cached of the tokens before with them (of half the answer, on average).

    Args:
        facts: the base.
        weights: how weights are stored.
        profile: the device.
        input_tokens: tokens of the request.
        output_tokens: tokens that are written; 0 when it only classifies.
        kept_tokens: tokens before the input that the engine has read already, and attends to.
        depth: layers kept; None keeps all.

    Returns:
        The estimate; None when the device's speeds are not known.
    """
    if profile.matmul_gflops is None or profile.memory_gb_s is None:
        return None
    rate = profile.matmul_gflops * 1e9 * SERVING_EFFICIENCY * _speedup(weights, profile)
    bandwidth = profile.memory_gb_s * 1e9
    parameters = kept_parameters(facts, depth)
    block_bytes = (parameters - embedding_parameters(facts)) * WEIGHT_BYTES[weights]
    flops = forward_flops(facts, input_tokens, sequence=kept_tokens + input_tokens, depth=depth)
    prefill_s = max(flops / rate, block_bytes / bandwidth)
    cached = cache_bytes_per_token(facts, depth) * (kept_tokens + input_tokens + output_tokens / 2)
    each_s = max(2.0 * parameters / rate, (parameters * WEIGHT_BYTES[weights] + cached) / bandwidth)
    return OVERHEAD_MS + 1e3 * (prefill_s + output_tokens * each_s)


def _speedup(weights: WeightFormat, profile: DeviceProfile) -> float:
    """How much faster than fp32 the products are; 1 unless weights are int8 and an instruction helps."""
    return _fastest(_INT8_SPEEDUP, profile) if weights == "int8" else 1.0


def _fastest(factors: tuple[tuple[str, float], ...], profile: DeviceProfile) -> float:
    """The largest factor whose instruction set the device has; 1 when it has none of them."""
    known = profile.instructions or ()
    return max((factor for name, factor in factors if name in known), default=1.0)
