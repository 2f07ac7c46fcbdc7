"""Money: what 1,000 answers cost from the LLM alone, and from the student that hands over to it.

Notable: prices are the user's, per million tokens, in the currency of the bill; without a price there is no
figure. The student's own electricity is not counted. Not here: counting tokens (``evaluate.llm``).
"""

from __future__ import annotations

from locum.schema.report import Cost
from locum.schema.task import Price


def cost_per_1000(input_tokens: int, output_tokens: int, answers: int, price: Price | None) -> float | None:
    """Price of 1,000 answers by the LLM.

    Args:
        input_tokens: over all the answers counted.
        output_tokens: likewise.
        answers: how many answers those tokens made.
        price: per million tokens.

    Returns:
        In the price's currency; None without a price or without an answer.
    """
    if price is None or answers == 0:
        return None
    return 1000 * (input_tokens * price.input + output_tokens * price.output) / 1e6 / answers


def cost(llm_per_1000: float | None, local_share: float, audit_rate: float = 0.0) -> Cost:
    """The LLM alone against the cascade.

    Args:
        llm_per_1000: price of 1,000 answers by the LLM; None when unknown.
        local_share: share of inputs that the student answers.
        audit_rate: share of those that are sent to the LLM all the same, to watch for drift.

    Raises:
        ValueError: a share is outside 0 to 1.
    """
    if not (0 <= local_share <= 1 and 0 <= audit_rate <= 1):
        raise ValueError(f"shares must lie in 0..1, not {local_share} and {audit_rate}")
    if llm_per_1000 is None:
        return Cost(llm_per_1000=None, cascade_per_1000=None, saved_share=None)
    asked = 1 - local_share + local_share * audit_rate
    return Cost(
        llm_per_1000=llm_per_1000,
        cascade_per_1000=llm_per_1000 * asked,
        saved_share=1 - asked if llm_per_1000 > 0 else None,
    )
