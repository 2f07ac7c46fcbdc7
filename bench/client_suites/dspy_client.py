"""DSPy: predictions through its chat and JSON adapters, a typed output, a tool call, and embeddings."""

from __future__ import annotations

from typing import Literal

import dspy
from cases import CHAT_MODEL, CHAT_URL, EMBED_MODEL, EMBED_URL, KEY, case, main

lm = dspy.LM(
    f"openai/{CHAT_MODEL}", api_base=CHAT_URL, api_key=KEY, max_tokens=120, temperature=0.0, cache=False, num_retries=0
)


class Sorted(dspy.Signature):
    """Which team answers?"""

    message: str = dspy.InputField()
    team: Literal["cards", "loans"] = dspy.OutputField()


@case
def plain_call() -> None:
    assert lm("Say hi.")


@case
def json_adapter() -> None:
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        assert dspy.Predict(Sorted)(message="My card is lost.").team in ("cards", "loans")


@case
def json_adapter_with_reasons() -> None:
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        assert dspy.ChainOfThought(Sorted)(message="My card is lost.").team in ("cards", "loans")


@case
def chat_adapter() -> None:
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert dspy.Predict(Sorted)(message="My card is lost.").team in ("cards", "loans")


@case
def embeddings() -> None:
    model = dspy.Embedder(f"openai/{EMBED_MODEL}", api_base=EMBED_URL, api_key=KEY)
    assert len(model(["a", "b"])) == 2


if __name__ == "__main__":
    main()
