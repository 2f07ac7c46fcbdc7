"""Does the exported decoder read, weigh and write as the tuned one does? Measured through its engine.

Notable: three questions, from the strictest to the most tolerant. Prompts must be the same tokens on every row, because
another template or split is another task. The right answer's log-probabilities may differ by what rounding the weights
does, token by token. Greedy answers may part at a near tie, and one such place changes all that follows; so their share
is only a coarse bound, and the place where they part stands beside it. Not here: PyTorch (``generator_reference``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.compress.generator_reference import Reference, Written
from locum.core.errors import CheckFailed
from locum.core.progress import track
from locum.runtime.completion import CompletionRequest
from locum.runtime.llamacpp import LlamaGenerator
from locum.schema.training import GeneratorParity

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Exported:
    """What the exported decoder says about one conversation; the fields are those of ``Reference`` and ``Written``."""

    logprobs: NDArray[np.float64]
    answer: str
    ended: bool


def ask(
    model: LlamaGenerator, references: Sequence[Reference], *, answer_tokens: int, adapter: str | None = None
) -> list[Exported]:
    """Ask the exported decoder what PyTorch was asked.

    Args:
        model: the exported file, opened.
        references: what was asked, with what PyTorch said.
        answer_tokens: most tokens of a greedy answer.
        adapter: name of the adapter to answer with.

    Raises:
        CheckFailed: a prompt is read as other tokens (``compress-parity``).
        LocumError: the engine failed.
    """
    found: list[Exported] = []
    with track(f"check {model.model} on dev", total=len(references), unit="row") as tracker:
        for reference in references:
            request = CompletionRequest(reference.messages, max_tokens=answer_tokens, adapter=adapter)
            _require_same_prompt(model.prompt_tokens(request), reference)
            answer = model.complete(request)
            scores = model.score(request, reference.prefixes)
            found.append(Exported(scores, answer.text, answer.finish_reason == "stop"))
            tracker.advance(1)
    return found


def compare(
    references: Sequence[Reference],
    written: Sequence[Written],
    exported: Sequence[Exported],
    encode: Encode,
    tolerance: tuple[float, float, float],
    **facts: Any,
) -> GeneratorParity:
    """Hold the exported decoder against the tuned one.

    Args:
        references: what PyTorch said.
        written: what it answered.
        exported: what the engine said about the same rows.
        encode: token ids of a text.
        tolerance: most mean gap, most perplexity ratio, least share of equal answers.
        facts: the other fields of ``GeneratorParity`` that are not measured here.

    Returns:
        The comparison, with ``passed``.
    """
    pairs = list(zip(references, exported, strict=True))
    sizes = np.concatenate([np.diff(row.sizes, prepend=0) for row, _ in pairs])
    gaps = np.concatenate([np.abs(np.diff(row.logprobs - said.logprobs, prepend=0.0)) for row, said in pairs])
    tokens = int(sizes.sum())
    trained = _perplexity([row.logprobs for row, _ in pairs], tokens)
    ours = _perplexity([said.logprobs for _, said in pairs], tokens)
    places = [_first_difference(answer, said, encode) for answer, said in zip(written, exported, strict=True)]
    differing = [place for place in places if place is not None]
    mean_gap, equal = float(gaps.sum() / tokens), 1 - len(differing) / len(pairs)
    most_gap, most_ratio, least_equal = tolerance
    return GeneratorParity(
        n=len(pairs),
        engine="llamacpp",
        tokens=tokens,
        prompts_equal=1.0,  # ``ask`` refuses anything else
        mean_gap=mean_gap,
        max_gap=float((gaps / sizes).max()),
        perplexity_trained=trained,
        perplexity_exported=ours,
        perplexity_ratio=ours / trained,
        equal_answers=equal,
        first_difference=median(differing) if differing else None,
        max_mean_gap=most_gap,
        max_perplexity_ratio=most_ratio,
        min_equal_answers=least_equal,
        passed=mean_gap <= most_gap and ours / trained <= most_ratio and equal >= least_equal,
        **facts,
    )


def describe_failure(parity: GeneratorParity) -> str:
    """Why an export was not kept, in one line: ``q4_0: mean gap 0.081 nats over 3,100 tokens, at most 0.05``."""
    what = f"{parity.precision}:"
    if not parity.mean_gap <= parity.max_mean_gap:
        over = f"over {parity.tokens:,} tokens, at most {parity.max_mean_gap:g}"
        return f"{what} mean gap {parity.mean_gap:.3f} nats {over}"
    if not parity.perplexity_ratio <= parity.max_perplexity_ratio:
        return (
            f"{what} perplexity {parity.perplexity_ratio:.3f} times the tuned, at most {parity.max_perplexity_ratio:g}"
        )
    share, least = 100 * parity.equal_answers, 100 * parity.min_equal_answers
    return f"{what} the same answer on {share:.0f} % of {parity.n} rows, at least {least:.0f} %"


def _require_same_prompt(found: list[int], reference: Reference) -> None:
    if found == reference.prompt:
        return
    pairs = zip(found, reference.prompt, strict=False)
    shorter = min(len(found), len(reference.prompt))
    place = next((at for at, (ours, theirs) in enumerate(pairs) if ours != theirs), shorter)
    raise CheckFailed(
        "compress-parity",
        f"the exported model reads a prompt as other tokens: {found[place : place + 4]} instead of "
        f"{reference.prompt[place : place + 4]} from token {place} of {len(reference.prompt)} on",
        where=reference.messages[-1].content[:80],
        fix="give the model the chat template and tokenizer of its base, unchanged",
    )


def _perplexity(totals: Sequence[NDArray[np.float64]], tokens: int) -> float:
    """Of all right answers together: exp of the mean negative log-probability of a token."""
    return math.exp(-sum(float(total[-1]) for total in totals) / tokens)


def _first_difference(written: Written, said: Exported, encode: Encode) -> int | None:
    """The token where two answers part; None when they are the same and both ended, or neither."""
    theirs, ours = _whole(written.answer), _whole(said.answer)
    if theirs == ours and written.ended == said.ended:
        return None
    first, second = encode(theirs), encode(ours)
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _whole(text: str) -> str:
    """Without half a character at the end, which engines hold back, and without outer space, which they cut."""
    return text.rstrip("\ufffd").strip()
