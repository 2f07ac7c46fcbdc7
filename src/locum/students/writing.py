"""``WritingStudent``: a decoder that writes the answer, asked by its prompt.

Notable: the features of an answer come from its tokens' log-probabilities (their mean, which is the length-normalised
sequence log-probability of Malinin & Gales 2021; quantiles, because one doubtful token makes an answer wrong; entropy
over the alternatives), from how often further sampled answers agree (self-consistency, Wang et al. 2022), and from the
kind itself. Prompts go to the engine several at a time. Not here: the confidence (``students.confidence``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace

import numpy as np

from locum.core.errors import LocumError
from locum.runtime.completion import Completion, CompletionRequest, TokenLogprob
from locum.runtime.protocol import Generator, problem_of
from locum.schema.data import Row
from locum.schema.model import ModelSpec
from locum.schema.prompt import Prompt
from locum.students.fields import features_by_field, field_features
from locum.students.neighbours import Neighbours
from locum.students.protocol import Draft
from locum.tasks.protocol import Fielded, Sampled, TaskKind

ALTERNATIVES = 5
"""Alternatives asked for with each token's log-probability, for the entropy."""

TOO_LONG = "runtime-too-long"
"""Code of an input that does not fit the context; such an input has no answer."""

_SAMPLE_TEMPERATURE = 0.8
_LOWEST = -20.0


def ask(kind: TaskKind, text: str, shots: Sequence[Row] = ()) -> CompletionRequest:
    """How one input is put to a prompted model: greedy, in the kind's form, and no longer than an answer needs."""
    decoding = kind.decoding
    return CompletionRequest(
        messages=kind.messages(text, shots),
        max_tokens=decoding.max_tokens,
        temperature=0.0,
        stop=decoding.stop,
        json_schema=decoding.json_schema,
        flexible=True,
        whole=True,
    )


def answer_of(kind: TaskKind, completion: Completion, text: str) -> str | None:
    """What is read out of a completion about an input; a filtered one is no answer, nor a label that may go on."""
    if completion.finish_reason == "content_filter":
        return None
    output = kind.parse(completion.text, text)
    if completion.finish_reason == "length" and kind.name == "classify":
        return output if kind.parse(completion.text + "x", text) == output else None  # "refund" of "refund delayed"
    return output


class WritingStudent:
    """A decoder with a prompt.

    Args:
        spec: of the model folder.
        generator: the engine, open; the student closes it.
        kind: the task, with this student's prompt.
        prompt: the same prompt, for its neighbours.
        pool: rows to take neighbours from; empty when the prompt has none.
        samples: further answers drawn for the agreement; 0 for none.
        concurrency: prompts with the engine at once.
    """

    def __init__(
        self,
        spec: ModelSpec,
        generator: Generator,
        kind: TaskKind,
        prompt: Prompt,
        *,
        pool: Sequence[Row] = (),
        samples: int = 0,
        concurrency: int = 4,
    ) -> None:
        self._spec = spec
        self._generator = generator
        self._kind = kind
        self._prompt = prompt
        self._neighbours = Neighbours(pool) if prompt.neighbours and pool else None
        self._samples = samples
        self._concurrency = max(1, concurrency)

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        return self._spec

    @property
    def kind(self) -> TaskKind:
        """The task, as this student is asked."""
        return self._kind

    @property
    def problem(self) -> LocumError | None:
        """Why the engine would not answer now; None where that is not known."""
        return problem_of(self._generator)

    def draft(self, texts: Sequence[str]) -> list[Draft]:
        """Answers in order, several at once; an input that does not fit the context gets none.

        Raises:
            LocumError: the engine failed.
        """
        if len(texts) == 1:
            return [self._one(texts[0])]
        with ThreadPoolExecutor(min(self._concurrency, max(1, len(texts)))) as pool:
            waiting = [pool.submit(copy_context().run, self._one, text) for text in texts]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                for each in waiting:
                    each.cancel()
                raise

    def close(self) -> None:
        """Close the engine."""
        self._generator.close()

    def _one(self, text: str) -> Draft:
        start_s = time.perf_counter()
        shots = self._neighbours.nearest(text, self._prompt.neighbours) if self._neighbours else ()
        request = replace(ask(self._kind, text, shots), logprobs=ALTERNATIVES)
        try:
            completion = self._generator.complete(request)
        except LocumError as error:
            if error.code != TOO_LONG:
                raise
            return Draft(output=None, seconds=time.perf_counter() - start_s)  # one input's fault: it is handed over
        output = answer_of(self._kind, completion, text)
        keeps = isinstance(self._kind, Sampled)
        samples = self._sampled(request, text) if keeps or output is not None else []
        features = token_features(completion)
        if self._kind.decoding.json_schema is not None:
            features |= field_features(completion)
        fields: Mapping[str, Mapping[str, float]] = {}
        if output is not None:
            features |= self._kind.features(text, output)
            if samples:
                features["agreement"] = float(np.mean([self._kind.same(output, other) for other in samples]))
            if isinstance(self._kind, Fielded):
                fields = features_by_field(completion, output, features)
        return Draft(
            output=output,
            features=features,
            seconds=time.perf_counter() - start_s,
            input_tokens=completion.input_tokens,
            output_tokens=completion.output_tokens,
            fields=fields,
            samples=tuple(samples) if keeps else (),
        )

    def _sampled(self, request: CompletionRequest, text: str) -> list[str | None]:
        """Further answers, sampled, to see whether they agree with the greedy one.

        They are asked for with log-probabilities like the greedy one: an engine then sees one and the same prompt, and
        reads it once.
        """
        asked = [replace(request, temperature=_SAMPLE_TEMPERATURE, seed=seed) for seed in range(self._samples)]
        return [answer_of(self._kind, self._generator.complete(each), text) for each in asked]


def token_features(completion: Completion) -> dict[str, float]:
    """Numbers from a completion's tokens; log-probabilities are natural logarithms, cut at -20."""
    tokens = completion.logprobs
    found = {
        "tokens_log": float(np.log1p(completion.output_tokens)),
        "input_tokens_log": float(np.log1p(completion.input_tokens)),
        "cut": float(completion.finish_reason == "length"),
    }
    if not tokens:
        return found
    values = np.maximum([token.logprob for token in tokens], _LOWEST)
    return found | {
        "logprob_mean": float(values.mean()),
        "logprob_sum": float(values.sum()),
        "logprob_min": float(values.min()),
        "logprob_q10": float(np.quantile(values, 0.1)),
        "logprob_q25": float(np.quantile(values, 0.25)),
        "logprob_first": float(values[0]),
        "entropy_mean": float(np.mean([_entropy(token) for token in tokens])),
        "entropy_max": float(max(_entropy(token) for token in tokens)),
    }


def _entropy(token: TokenLogprob) -> float:
    """Entropy of a token's alternatives and the rest of the probability as one more, in nats."""
    shares = np.exp([logprob for _, logprob in token.top] or [token.logprob])
    rest = max(0.0, 1.0 - float(shares.sum()))
    parts = np.append(shares, rest)
    parts = parts[parts > 0]
    return float(-(parts * np.log(parts)).sum())
