"""What asking an LLM behind a URL will cost, and a cap that is never passed.

Notable: before a request is sent, the most that it can cost is set aside: a token is at least a byte, so its bytes
bound the tokens that are read, and ``max_tokens`` those that are written. When it comes back, what it did cost takes
that place. The cap therefore holds whatever the model writes. Not here: the price of what was asked
(``evaluate.cost``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from locum.core.errors import UpstreamError, UserError
from locum.runtime.completion import Completion, CompletionRequest
from locum.runtime.protocol import Generator
from locum.schema.task import LlmSpec, Price

CAP = "evaluate-llm-cap"
"""Code of the error that ends asking, because the next answer could pass the cap."""

_BYTES_PER_TOKEN = 4
"""Of English text; for the forecast only."""
_TOKENS_PER_MESSAGE = 16
"""What a chat template puts around a message, generously."""


@dataclass(frozen=True)
class Forecast:
    """What requests will come to.

    Attributes:
        input_tokens: about.
        output_tokens: at most.
        cost: at most, in the price's currency, if the input is what it is about; None without a price.
        input_cost: of reading alone, about: nothing can be had for less.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    input_cost: float | None

    def line(self) -> str:
        """In words."""
        tokens = f"about {self.input_tokens:,} tokens in, at most {self.output_tokens:,} out"
        money = "" if self.cost is None else f": at most about {self.cost:.4g}"
        return f"{self.requests:,} requests, {tokens}{money}"


def forecast(requests: Sequence[CompletionRequest], price: Price | None) -> Forecast:
    """What requests will come to.

    Args:
        requests: all of those that are still to be sent.
        price: per million tokens; None when it is not known.
    """
    read = sum(_bytes(request) // _BYTES_PER_TOKEN for request in requests)
    written = sum(request.max_tokens for request in requests)
    if price is None:
        return Forecast(len(requests), read, written, None, None)
    return Forecast(len(requests), read, written, _cost(price, read, written), _cost(price, read, 0))


class Spending:
    """Counts what a run spends, and lets nothing through that could pass its cap. Safe for several threads.

    Args:
        price: per million tokens.
        cap: most that may be spent, in the price's currency; None for no cap.
        raised_with: the setting that raises the cap, for the message that it is reached.

    Attributes:
        spent: so far.

    Raises:
        UserError: a cap without a price.
    """

    def __init__(
        self, price: Price | None = None, cap: float | None = None, *, raised_with: str = "--max-cost"
    ) -> None:
        if cap is not None and price is None:
            raise UserError(
                "cli-usage",
                "a cap on the cost needs the price of tokens",
                fix="give it: llm.price in a task file, --price INPUT OUTPUT for a benchmark",
            )
        self.price = price
        self.cap = cap
        self.raised_with = raised_with
        self.spent = 0.0
        self._aside = 0.0
        self._lock = threading.Lock()

    def check(self, expected: Forecast) -> None:
        """Refuse what the cap cannot pay for even if not a word is written.

        Raises:
            UpstreamError: ``evaluate-llm-cap``.
        """
        if self.cap is not None and expected.input_cost is not None and expected.input_cost > self.cap:
            raise UpstreamError(
                CAP,
                f"{expected.line()}; reading alone is about {expected.input_cost:.4g}, the cap is {self.cap:g}",
                fix=f"raise {self.raised_with}, or take fewer documents with --limit",
            )

    def admit(self, request: CompletionRequest) -> float:
        """Set aside the most that a request can cost; give it to ``settle`` when the answer is here.

        Raises:
            UpstreamError: ``evaluate-llm-cap``: it could pass the cap.
        """
        if self.price is None:
            return 0.0
        most = _cost(self.price, _bytes(request), request.max_tokens)
        with self._lock:
            if self.cap is not None and self.spent + self._aside + most > self.cap:
                raise UpstreamError(
                    CAP,
                    f"{self.spent:.4g} of {self.cap:g} is spent, up to {self._aside:.4g} is under way, and the next "
                    f"answer could cost up to {most:.4g}",
                    fix=f"the answers so far are kept: raise {self.raised_with} and run the same command again",
                )
            self._aside += most
        return most

    def settle(self, aside: float, completion: Completion | None) -> None:
        """Count what a request did cost; of one that failed, or was not counted by the server, the most it can."""
        if self.price is None:
            return
        cost = aside
        if completion is not None and completion.extra.get("usage") != "missing":
            cost = _cost(self.price, completion.input_tokens, completion.output_tokens)
        with self._lock:
            self._aside -= aside
            self.spent += cost

    def complete(self, generator: Generator, request: CompletionRequest) -> Completion:
        """Ask a model, if the cap allows it, and count what that cost.

        Raises:
            UpstreamError: ``evaluate-llm-cap``: nothing was asked, because it could pass the cap.
            LocumError: the model did not answer.
        """
        aside = self.admit(request)
        try:
            completion = generator.complete(request)
        except BaseException:
            self.settle(aside, None)
            raise
        self.settle(aside, completion)
        return completion


def purse_of(llm: LlmSpec | None, raised_with: str, max_cost: float | None = None) -> Spending:
    """The purse that one command pays a task's LLM from, whatever it asks it for.

    Args:
        llm: has the price and the cap; without an LLM, or without a cap, nothing is held back.
        raised_with: the setting that raises the cap.
        max_cost: a cap that takes the place of the LLM's own.

    Raises:
        UserError: ``cli-usage``: a cap is given, and no price.
    """
    price, own = (llm.price, llm.max_cost) if llm else (None, None)
    return Spending(price, own if max_cost is None else max_cost, raised_with=raised_with)


def _bytes(request: CompletionRequest) -> int:
    texts = [request.prompt or "", *(message.content for message in request.messages)]
    return sum(len(text.encode(errors="surrogatepass")) for text in texts) + _TOKENS_PER_MESSAGE * len(texts)


def _cost(price: Price, read: int, written: int) -> float:
    return (read * price.input + written * price.output) / 1e6
