"""Log-probabilities of given continuations, read off the model instead of written by it.

Notable: the continuations are a tree of tokens. At each token where the tree goes on, one request asks for the
probabilities of the next token only, over a prompt whose beginning is kept from the request before; continuations of
one token each therefore cost one request together. llama.cpp tells the probabilities before sampling, whatever token
it takes (``post_sampling_probs`` is off), so a token that is not among the most probable ones is taken by a bias on
its logit, and its probability is still the model's own. They are float32 and reach down to exp(-103.97). Not here: a
whole vocabulary's probabilities, which llama.cpp's server tells only as megabytes of JSON.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from locum.core.errors import LocumError, UserError
from locum.runtime.llama_client import EngineRefusedError
from locum.runtime.llama_process import LlamaProcess
from locum.runtime.llama_prompt import Piece, Prompts
from locum.runtime.llama_request import TEXT_PATH, bounded, refusal, text_of
from locum.runtime.protocol import Scores, Stop

_TOP = 256
_ALL = 1 << 30
_FORCING_BIAS = 1e6
_LAST_EVENT = ["stop"]


@dataclass
class Node:
    """A place in the tree of continuations.

    Attributes:
        following: the next tokens, and the places they lead to.
        ends: which continuations end here.
    """

    following: dict[int, Node] = field(default_factory=dict[int, "Node"])
    ends: list[int] = field(default_factory=list[int])


def token_tree(continuations: Sequence[Sequence[int]]) -> Node:
    """The tree of token sequences; the root is the end of the prompt."""
    root = Node()
    for number, tokens in enumerate(continuations):
        node = root
        for token in tokens:
            node = node.following.setdefault(token, Node())
        node.ends.append(number)
    return root


def score_continuations(
    process: LlamaProcess,
    prompts: Prompts,
    pieces: Sequence[Piece],
    continuations: Sequence[str],
    fields: dict[str, Any],
    timeout_s: float,
) -> Scores:
    """Log-probability of each continuation, and whether greedy decoding would write it.

    Args:
        process: with the model.
        prompts: its tokenizer.
        pieces: the prompt.
        continuations: texts.
        fields: further fields of each request (the adapter).
        timeout_s: for all of it.

    Returns:
        Sums over tokens, natural logarithm; an empty text has 0 and is greedy.

    Raises:
        UserError: prompt and continuation together are longer than the context.
        LocumError: as ``LlamaProcess.post``.
    """
    prompt = prompts.ids(pieces)
    sequences = [_continue(prompts, pieces, prompt, continuation) for continuation in continuations]
    longest = len(prompt) + max((len(sequence) for sequence in sequences), default=0)
    if longest > prompts.n_ctx:
        raise UserError(
            "runtime-too-long",
            f"prompt and continuation have {longest} tokens, the context {prompts.n_ctx}",
            fix="shorten the prompt",
        )
    scores = np.zeros(len(sequences), dtype=np.float64)
    greedy = np.ones(len(sequences), dtype=np.bool_)
    plain = prompts.tokens("a", whole=False)[-1]
    asker = Asker(process, fields, plain, time.monotonic() + timeout_s, timeout_s)
    stack = [(token_tree(sequences), prompt, 0.0, True)]
    while stack:  # depth first, so that each prompt begins like the one before
        node, read, total, best_so_far = stack.pop()
        scores[node.ends], greedy[node.ends] = total, best_so_far
        if node.following:
            found = asker.logprobs(read, list(node.following))
            best = max(found.values())
            stack.extend(
                (child, [*read, token], total + found[token], best_so_far and found[token] == best)
                for token, child in node.following.items()
            )
    return Scores(scores, greedy)


def _continue(prompts: Prompts, pieces: Sequence[Piece], prompt: list[int], continuation: str) -> list[int]:
    """Tokens after the prompt's: of both texts in one piece, unless a token would reach across the border."""
    *before, last = pieces
    together = prompts.ids([*before, Piece(last.text + continuation)])
    if together[: len(prompt)] == prompt:
        return together[len(prompt) :]
    return prompts.tokens(continuation, whole=False)


@dataclass
class Asker:
    """Asks for probabilities of the next token.

    Attributes:
        process: with the model.
        fields: further fields of each question (the adapter).
        plain: a token that is a whole character.
        deadline_s: moment of the monotonic clock when all answers must be here, ``timeout_s`` from the beginning.
        stop: ends a question.
    """

    process: LlamaProcess
    fields: dict[str, Any]
    plain: int
    deadline_s: float
    timeout_s: float
    stop: Stop | None = None

    def logprobs(self, read: list[int], tokens: list[int]) -> dict[int, float]:
        """Log-probability as the next token: of some tokens, and of the most probable one."""
        found = self._ask(read, 1, tokens[0]) if len(tokens) == 1 else self._ask(read, _TOP, self.plain)
        for token in tokens:
            if token not in found:
                found |= self._ask(read, 1, token)
        if any(token not in found for token in tokens):  # llama.cpp tells nothing of a token that is half a character
            found |= self._ask(read, _ALL, self.plain)
        return found

    def next_token(self, read: list[int], token: int, top: int) -> tuple[float, tuple[tuple[str, float], ...]]:
        """Log-probability of a token as the next one, and the most probable ones with theirs, best first."""
        places = self._places(read, max(1, top), token)
        if not any(place["id"] == token for place in places):  # half a character
            places = self._places(read, _ALL, self.plain)
        found = _probabilities(places)
        best = [(text_of(other), bounded(other["logprob"])) for other in places[0]["top_logprobs"][:top]]
        return found[token], tuple(best)

    def _ask(self, read: list[int], top: int, taken: int) -> dict[int, float]:
        return _probabilities(self._places(read, top, taken))

    def _places(self, read: list[int], top: int, taken: int) -> list[dict[str, Any]]:
        body: dict[str, Any] = {
            "prompt": read,
            "n_predict": 1,
            "n_probs": top,
            "temperature": 0.0,
            "repeat_last_n": 0,
            "cache_prompt": True,
            "logit_bias": [[taken, _FORCING_BIAS]],
            "response_fields": _LAST_EVENT,
            **self.fields,
        }
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise LocumError("runtime-timeout", f"scoring took more than {self.timeout_s:g} s", fix="allow more time")
        try:
            events = list(
                self.process.stream(TEXT_PATH, body, left_s, self.stop)
            )  # as a stream: then reading is not silent
        except EngineRefusedError as error:
            raise refusal(error, self.process.where) from None
        return [place for event in events for place in event.get("completion_probabilities") or []]


def _probabilities(places: Sequence[dict[str, Any]]) -> dict[int, float]:
    found: dict[int, float] = {}
    for place in places:
        found[int(place["id"])] = bounded(place["logprob"])
        found |= {int(other["id"]): bounded(other["logprob"]) for other in place["top_logprobs"]}
    return found
