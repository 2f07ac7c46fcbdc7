"""``Target``: what a gateway serves, behind one seam. ``ModelTarget``: a plain model, without policy or certificate.

Notable: a target decides who answers before it gives the first piece, so an answer's headers never change their mind.
Everything that it does may block; the gateway calls it from threads. Not here: bundles (``bundle_target``), which
bring a certificate, and with it more imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from locum.core.errors import LocumError
from locum.core.registry import nearest
from locum.core.text import one_line
from locum.gateway.access import say
from locum.gateway.calls import Opened, Origin, left_out
from locum.gateway.errors import ApiError, context_error, from_engine_error
from locum.gateway.metrics import Metrics
from locum.gateway.settings import Settings
from locum.runtime.completion import CompletionRequest
from locum.runtime.protocol import Embedded, Embedder, Generator, Stop, problem_of, unenforced_of
from locum.schema.task import Task


class Target(Protocol):
    """What is served. ``start`` comes first and once; the rest is safe to call from several threads."""

    @property
    def name(self) -> str:
        """The first of ``names``."""
        ...

    @property
    def certificate(self) -> str | None:
        """First 12 characters of the hash of its certificate; None when it has none."""
        ...

    @property
    def void(self) -> str | None:
        """Why nothing is covered by a certificate now; None while one is in force."""
        ...

    @property
    def problem(self) -> LocumError | None:
        """Why no model here would answer now, because its engine does not run; does not block."""
        ...

    @property
    def task(self) -> Task | None:
        """What it does; None for a plain model."""
        ...

    def start(self, settings: Settings, metrics: Metrics) -> None:
        """Set limits and counters."""
        ...

    def names(self) -> list[str]:
        """The models that may be asked for."""
        ...

    def check(self, model: str) -> None:
        """Refuse a model that is not served; does not block.

        Raises:
            ApiError: 404 ``model_not_found``, or 400 when it could be served with other settings.
        """
        ...

    def admit(self, model: str, requests: Sequence[CompletionRequest]) -> None:
        """Refuse what makes no sense for a model; does not block.

        Raises:
            ApiError: as ``check``, or 400 ``unsupported_value``.
        """
        ...

    def open(self, model: str, request: CompletionRequest, stop: Stop | None = None) -> Opened:
        """Decide who answers, and begin; may block, and ``stop`` ends it.

        Raises:
            ApiError: there is no answer.
        """
        ...

    def forward(self, model: str, request: CompletionRequest) -> Opened | None:
        """Begin a whole answer without waiting, for an event loop that waits for its ``arrival``; does not block.

        Returns:
            None, when that cannot be; then ``open`` is to be called from a thread.

        Raises:
            ApiError: there is no answer.
        """
        ...

    def count_failure(self, error: BaseException) -> None:
        """An answer failed after it was opened; does not block."""
        ...

    def admit_texts(self, model: str) -> None:
        """Refuse a model that is not served, or does not embed; does not block.

        Raises:
            ApiError: as ``check``, or 400 ``unsupported_value``.
        """
        ...

    def embed(self, model: str, texts: Sequence[str], *, truncate: bool) -> Embedded:
        """Vectors of texts, which are cut at the model's limit only when ``truncate`` is set; may block.

        Raises:
            ApiError: there are none; or 400 ``context_length_exceeded``.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """For ``/ready``."""
        ...

    def shown(self) -> dict[str, Any]:
        """For the page: what a person who tries it needs to know."""
        ...

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        ...


def unknown_model(model: str, names: Sequence[str]) -> ApiError:
    """The refusal of a model that is not served, with the nearest one that is."""
    close = nearest(model, names) or names[0]
    said = f"no model {one_line(model, 80)!r} is served here; did you mean {close!r}?"
    return ApiError(404, "model_not_found", said, param="model")


class Operator:
    """Whoever runs the service: told on standard error why a model's engine does not run, each reason once.

    Callers are told its code only, because a reason may speak of the machine.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, problem: LocumError | None) -> None:
        """Write a reason that is new; does not block for long, and any thread may."""
        if problem is not None and str(problem) not in self._told:
            self._told.add(str(problem))
            say("error", f"the model's engine is not running: {problem}")


class ModelTarget:
    """A plain model: everything is answered here, and nothing is certified.

    Args:
        name: what callers ask for.
        generator: writes text; None when the model cannot.
        embedder: embeds; None when the model cannot.
        facts: further facts for ``/ready`` (file, engine).

    Raises:
        ValueError: there is neither a generator nor an embedder.
    """

    def __init__(
        self,
        name: str,
        generator: Generator | None = None,
        embedder: Embedder | None = None,
        *,
        facts: dict[str, Any] | None = None,
    ) -> None:
        if generator is None and embedder is None:
            raise ValueError("a model target needs a generator or an embedder")
        self._name = one_line(name)  # a file may be called anything, and its name reaches terminals and pages
        self._generator = generator
        self._embedder = embedder
        self._facts = facts or {}
        self._operator = Operator()
        self._max_input_chars = Settings().max_input_chars

    @property
    def name(self) -> str:
        """What callers ask for."""
        return self._name

    @property
    def certificate(self) -> None:
        """None: nothing was proved about a plain model."""

    @property
    def void(self) -> None:
        """None: there is no certificate that could be void."""

    @property
    def task(self) -> None:
        """None: it answers whatever it is asked."""

    @property
    def problem(self) -> LocumError | None:
        """Why the engine does not load the model."""
        return problem_of(self._generator) or problem_of(self._embedder)

    def start(self, settings: Settings, metrics: Metrics) -> None:
        """Take the limits."""
        del metrics
        self._max_input_chars = settings.max_input_chars

    def names(self) -> list[str]:
        """One model."""
        return [self._name]

    def check(self, model: str) -> None:
        """Refuse other names.

        Raises:
            ApiError: 404 ``model_not_found``.
        """
        if model != self._name:
            raise unknown_model(model, self.names())

    def admit(self, model: str, requests: Sequence[CompletionRequest]) -> None:
        """Refuse other names, text from a model that only embeds, and input longer than the gateway reads.

        Raises:
            ApiError: 404, or 400.
        """
        self.check(model)
        if self._generator is None:
            raise ApiError(400, "unsupported_value", f"{self._name} embeds and does not write text", param="model")
        if requests[0].sent is not None and requests[0].sent.llm_only:
            name = requests[0].sent.llm_only[0]
            raise ApiError(400, "unsupported_value", f"{name}: the model here cannot do it; leave it out", param=name)
        for request in requests:
            size = (
                len(request.prompt or "")
                + len(request.prompt_ids or ())
                + sum(len(message.content) for message in request.messages)
            )
            if size > self._max_input_chars:
                said = f"the input has {size:,} characters; at most {self._max_input_chars:,} are read"
                raise context_error(said, "", param="messages" if request.prompt is None else "prompt")

    def open(self, model: str, request: CompletionRequest, stop: Stop | None = None) -> Opened:
        """Begin an answer.

        Raises:
            ApiError: the engine refuses or fails.
        """
        self.check(model)
        if self._generator is None:
            raise ApiError(400, "unsupported_value", f"{self._name} embeds and does not write text", param="model")
        try:
            stream = self._generator.stream(request, stop)
        except LocumError as error:
            self._operator.tell(self.problem)
            raise from_engine_error(error) from error
        origin = Origin("local", "a plain model", left_out=(*left_out(request), *unenforced_of(stream)))
        return Opened(origin, stream, f"locum-{self._generator.model}")

    def forward(self, model: str, request: CompletionRequest) -> None:
        """None: an engine on this machine is waited for by a thread."""

    def count_failure(self, error: BaseException) -> None:
        """Nothing: the status of the answer tells it."""

    def admit_texts(self, model: str) -> None:
        """Refuse other names, and texts where the model only writes.

        Raises:
            ApiError: 404, or 400.
        """
        self._embedder_of(model)

    def _embedder_of(self, model: str) -> Embedder:
        self.check(model)
        if self._embedder is None:
            raise ApiError(400, "unsupported_value", f"{self._name} writes text and does not embed", param="model")
        return self._embedder

    def embed(self, model: str, texts: Sequence[str], *, truncate: bool) -> Embedded:
        """Vectors of texts.

        Raises:
            ApiError: the model has none, a text is too long for it, or its engine refuses or fails.
        """
        embedder = self._embedder_of(model)
        try:
            made = embedder.read(texts)
        except LocumError as error:
            self._operator.tell(self.problem)
            raise from_engine_error(error) from error
        if not truncate and made.dropped.any():
            said = f"This model's maximum context length is {made.tokens.max()} tokens. However, a text has more"
            raise context_error(said, "shorten it, or set truncate", "input")
        return made

    def describe(self) -> dict[str, Any]:
        """Name and abilities."""
        return {
            "name": self._name,
            "kind": "model",
            "generates": self._generator is not None,
            "embeds": self._embedder is not None,
            "certificate": None,
            "certificate_void": None,
            **self._facts,
        }

    def shown(self) -> dict[str, Any]:
        """The same: there is no task, no certificate and no LLM."""
        return {**self.describe(), "llm": None}

    def close(self) -> None:
        """Close the engines."""
        for engine in (self._generator, self._embedder):
            if engine is not None:
                engine.close()
