"""``BundleTarget``: a bundle behind the gateway: NAME (the cascade), NAME@local (never leaves), NAME@llm (as it is).

Notable: which text is answered is defined once, in ``input_of``: the text of the **last user message**, or the
prompt. Earlier turns and system messages are accepted, so that a client of the LLM need not change, and not read; how
many is told in the answer. An answer is one text, whatever the kind: a label, JSON, a sentence. How it comes about is
what the certificate speaks of, so temperature, seed, stop strings and lengths change nothing and are accepted; what
would have to shape the answer (tools, several choices, log-probabilities, a schema that is not the task's own) is
refused for the cascade and NAME@local, and passed on by NAME@llm. Not here: the decision (``cascade``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from locum.bundle.student import Student, describe
from locum.cascade.policy import Mode, answering_threshold
from locum.cascade.router import AuditResult
from locum.core.errors import LocumError, UpstreamError
from locum.gateway.batching import BatchedClassifier, LimitedGenerator
from locum.gateway.calls import Opened, Origin, left_out
from locum.gateway.errors import ApiError, from_engine_error, from_llm_error
from locum.gateway.metrics import Metrics
from locum.gateway.settings import Settings
from locum.gateway.targets import Operator, unknown_model
from locum.runtime.completion import Completion, CompletionRequest, FinishedStream
from locum.runtime.protocol import Embedded, Stop
from locum.schema.certificate import Answer
from locum.schema.kinds import Kind
from locum.schema.task import Task
from locum.tasks.bio import OUTSIDE

_LOG = logging.getLogger("locum.gateway")
_FORMS: dict[Kind, str] = {
    "classify": "a label",
    "tag": "a JSON list of spans",
    "extract": "a JSON object",
    "rank": "a JSON list of candidates' numbers, best first",
}
_PASSED_ON = Origin("llm", "asked for by name")
_HANDED_OVER = (
    "reasoning_effort", "verbosity", "service_tier", "safety_identifier", "prompt_cache_key", "user",
)  # fmt: skip
"""What a caller may say to the LLM that an input is handed over to: how hard to work, for whom, at which price. What is
asked, and how the answer is read, is the task's."""
_HINTS = {
    "reasoning_effort": "reasoning_effort", "reasoning.effort": "reasoning_effort",
    "verbosity": "verbosity", "text.verbosity": "verbosity",
}  # fmt: skip
"""Those of them that are otherwise left out, by the names that callers have for them."""


class BundleTarget:
    """One student, with its policy and the LLM behind it.

    Args:
        student: an open bundle; its engine and LLM are wrapped for batching and limits at ``start``.
    """

    def __init__(self, student: Student) -> None:
        self._student = student
        self._metrics: Metrics | None = None
        self._operator = Operator()
        self._max_input_chars = Settings().max_input_chars
        self._fingerprint = f"locum-{student.manifest.hashes['model'][:12]}"
        self._certificate = student.certificate.hash()[:12]
        self._form = _FORMS.get(student.task.kind, "written text")
        self._schemas = _schemas_of(student.task)
        self._modes: dict[str, Mode] = {student.name: "cascade", f"{student.name}@local": "local"}
        if student.llm is not None:
            self._modes[f"{student.name}@llm"] = "llm"

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self._student.name

    @property
    def certificate(self) -> str:
        """First 12 characters of its hash."""
        return self._certificate

    @property
    def void(self) -> str | None:
        """Why the certificate covers nothing now."""
        return self._student.void

    @property
    def problem(self) -> LocumError | None:
        """Why the engine does not load the student."""
        return self._student.problem

    @property
    def task(self) -> Task:
        """The bundle's task."""
        return self._student.task

    def start(self, settings: Settings, metrics: Metrics) -> None:
        """Read in batches, limit who is with the LLM, count audits."""
        self._metrics = metrics
        self._max_input_chars = settings.max_input_chars
        self._student.wrap(
            partial(BatchedClassifier, max_batch=settings.max_batch),
            partial(LimitedGenerator, limit=settings.llm_concurrency),
        )
        self._student.audits = self._count_audit
        self._student.alarms = self._alarm

    def _alarm(self, reason: str) -> None:
        """The certificate was ended while serving: a line in the log, and a count that an alert can watch."""
        _LOG.error("certificate ended, everything is handed over: %s", reason)
        if self._metrics is not None:
            self._metrics.certificate_ended.inc()

    def names(self) -> list[str]:
        """The cascade, the student alone, and the LLM where there is one."""
        return list(self._modes)

    def check(self, model: str) -> None:
        """Refuse a model that is not served.

        Raises:
            ApiError: 404 for an unknown model; 400 when the LLM is asked for and there is none.
        """
        self._mode(model)

    def admit(self, model: str, requests: Sequence[CompletionRequest]) -> None:
        """Refuse what would have to shape the answer, which is the student's own, as it was certified.

        Raises:
            ApiError: as ``check``; 400 ``unsupported_value``, ``empty_input`` or ``input_too_long``.
        """
        if self._mode(model) == "llm":
            return
        if len(requests) > 1:
            self._refuse("n", "there is one answer to an input")
        request = requests[0]
        if request.sent is not None and request.sent.llm_only:
            self._refuse(request.sent.llm_only[0], "the student cannot do it")
        if request.tools:
            self._refuse("tools", f"the answer is one text ({self._form}), and calls no function")
        if request.logprobs is not None:
            self._refuse("logprobs", "the answer has a confidence instead, in x-locum-confidence")
        if request.json_schema is not None and request.json_schema not in self._schemas:
            self._refuse("response_format", f"the answer has the task's own form ({self._form})")
        if request.prompt_ids is not None:
            said = "token arrays are not taken, the student reads text; send that (lm-eval: tokenized_requests=False)"
            self._refuse("prompt", said)
        for field in ("grammar", "adapter", "truncate", "echo"):
            if getattr(request, field):
                self._refuse(field, "it would shape the answer, which is the student's own, as it was certified")
        input_of(request, self._max_input_chars)

    def open(self, model: str, request: CompletionRequest, stop: Stop | None = None) -> Opened:
        """The student's answer, or by the policy the LLM's; or the LLM's as it is.

        Raises:
            ApiError: the engine or the LLM failed, and nothing uncertified takes its place.
        """
        mode = self._mode(model)
        if mode == "llm":
            return self._pass_through(request, stop)
        text, ignored = input_of(request, self._max_input_chars)
        try:
            hints = self._hints(request)
            answer = self._student(text, mode, stop, hints)
        except UpstreamError as error:
            self._count_llm_failure(error)
            raise from_llm_error(error, self._student.llm, handed_over=True) from error
        except LocumError as error:
            self._operator.tell(self.problem)
            raise from_engine_error(error) from error  # an input of another form than the kind reads is a 400
        confidence = _finite(answer.confidence)
        if self._metrics is not None and confidence is not None:
            self._metrics.confidence.observe(confidence)
        passed_on = {name for name, field in _HINTS.items() if field in hints and field not in answer.left_out}
        if answer.route != "llm":
            passed_on.clear()
        origin = self._origin(answer, confidence, ignored, left_out(request, passed_on=passed_on))
        return Opened(origin, _as_stream(answer, model), self._fingerprint)

    def forward(self, model: str, request: CompletionRequest) -> Opened | None:
        """The LLM's answer on its way, when it was asked for by name and can be asked without waiting.

        Raises:
            ApiError: as ``open``.
        """
        if self._mode(model) != "llm":
            return None
        try:
            sent = self._student.forward(request)
        except LocumError as error:
            raise self._llm_refusal(error) from error
        return None if sent is None else Opened(_passed(request), sent.stream, self._student.llm or "", sent.arrival)

    def count_failure(self, error: BaseException) -> None:
        """The LLM broke off."""
        if isinstance(error, UpstreamError):
            self._count_llm_failure(error)

    def embed(self, model: str, texts: Sequence[str], *, truncate: bool) -> Embedded:
        """As ``admit_texts``."""
        del texts, truncate
        self.admit_texts(model)

    def admit_texts(self, model: str) -> NoReturn:
        """Nothing: a student answers its task and does not embed.

        Raises:
            ApiError: always.
        """
        self.check(model)
        raise ApiError(400, "unsupported_value", f"{self.name} answers its task and does not embed", param="model")

    def describe(self) -> dict[str, Any]:
        """What is served, and whether its certificate is in force."""
        return describe(self._student)

    def shown(self) -> dict[str, Any]:
        """The task with its columns and labels, and the certificate with all that it assumes."""
        student, task = self._student, self._student.task
        certificate = student.certificate
        told = ("statement", "assumptions", "voided_by", "issued_at", "expires_at")
        return {
            **describe(student),
            "profile": task.profile,
            "instruction": task.instruction,
            "input": [task.data.input] if isinstance(task.data.input, str) else list(task.data.input),
            "labels": list(_types_of(student.labels) if task.kind == "tag" else student.labels),
            "answer_schema": task.answer_schema,
            "generates": True,
            "embeds": False,
            "threshold": answering_threshold(student.policy, certificate),
            "certificate": {"id": self._certificate, **{name: getattr(certificate, name) for name in told}},
        }

    def close(self) -> None:
        """Close the student."""
        self._student.close()

    def _mode(self, model: str) -> Mode:
        if model in self._modes:
            return self._modes[model]
        mine, _, suffix = model.partition("@")
        if mine == self.name and suffix == "llm" and self._student.llm is None:
            why = self._student.llm_problem or "the task file names none"
            raise ApiError(400, "llm_not_configured", f"there is no LLM behind {model!r}: {why}", param="model")
        raise unknown_model(model, self.names())

    def _pass_through(self, request: CompletionRequest, stop: Stop | None) -> Opened:
        try:
            stream = self._student.stream(request, stop)
        except LocumError as error:
            if stop is not None and stop.is_set:  # which is no failure of the LLM
                raise from_engine_error(error) from error
            raise self._llm_refusal(error) from error
        return Opened(_passed(request), stream, self._student.llm or "")

    def _llm_refusal(self, error: LocumError) -> ApiError:
        """What an error of the LLM becomes; the LLM may be a file on this machine, and refuse as an engine does."""
        if not isinstance(error, UpstreamError):
            refusal = from_engine_error(error)
            if refusal.status < 500 or refusal.code == "overloaded":
                return refusal
        self._count_llm_failure(error)
        if isinstance(error, UpstreamError):
            return from_llm_error(error, self._student.llm)
        return from_llm_error(UpstreamError(error.code, error.cause), self._student.llm)

    def _hints(self, request: CompletionRequest) -> dict[str, Any]:
        """What goes along when the input is handed over: nothing, where the certificate speaks of the LLM's answers."""
        if request.sent is None or self._student.certificate.llm is not None:
            return {}
        fields = request.sent.fields
        return {name: fields[name] for name in _HANDED_OVER if fields.get(name) is not None}

    def _origin(self, answer: Answer, confidence: float | None, ignored: int, left_out: tuple[str, ...]) -> Origin:
        return Origin(
            route=answer.route,
            reason=answer.reason,
            confidence=confidence,
            fields=answer.fields,
            certificate=answer.certificate,
            void=self.void,
            ignored_messages=ignored,
            left_out=left_out,
            refusal=None if answer.output is not None else f"abstain: {answer.reason or 'nobody answered'}",
        )

    def _refuse(self, param: str, why: str) -> None:
        hint = f"; ask {self.name}@llm for it" if self._student.llm is not None else ""
        raise ApiError(400, "unsupported_value", f"{param}: {why}{hint}", param=param)

    def _count_llm_failure(self, error: LocumError) -> None:
        if self._metrics is not None:
            self._metrics.llm_failures.labels(error.code).inc()

    def _count_audit(self, result: AuditResult) -> None:
        outcome = "failed" if result.failed else "agreed" if result.agrees else "differed"
        if self._metrics is not None:
            self._metrics.audits.labels(outcome).inc()


def _passed(request: CompletionRequest) -> Origin:
    """Where an answer comes from that the LLM gives as it is asked."""
    out = request.sent.left_out if request.sent is not None else ()
    return replace(_PASSED_ON, left_out=out) if out else _PASSED_ON


def _schemas_of(task: Task) -> tuple[dict[str, Any], ...]:
    """The schemas that every answer fits anyway: for extraction its own, and that of any object."""
    return (task.answer_schema or {}, {"type": "object"}) if task.kind == "extract" else ()


def _types_of(tags: Sequence[str]) -> tuple[str, ...]:
    """The labels that spans may have, from the tags of tokens."""
    return tuple(dict.fromkeys(tag[2:] for tag in tags if tag != OUTSIDE))


def input_of(request: CompletionRequest, max_chars: int) -> tuple[str, int]:
    """The text to answer, and how many of the messages are not read.

    It is the prompt, or the last user message, in the form of the task's rows: several input columns are
    ``name: value`` lines, candidates to rank are JSON. System messages, earlier turns and what an assistant said are
    not part of it, because the certificate speaks of single inputs.

    Raises:
        ApiError: 400 ``empty_input`` or ``input_too_long``.
    """
    param, text, ignored = "prompt", request.prompt, 0
    if text is None:
        users = [index for index, message in enumerate(request.messages) if message.role == "user"]
        text = request.messages[users[-1]].content if users else ""
        param, ignored = (f"messages.{users[-1]}.content" if users else "messages"), len(request.messages) - 1
    if not text.strip():
        raise ApiError(400, "empty_input", "the last user message holds no text", param=param)
    if len(text) > max_chars:
        said = f"the input has {len(text):,} characters; at most {max_chars:,} are read"
        raise ApiError(400, "input_too_long", said, param=param)
    return text, ignored


def _as_stream(answer: Answer, model: str) -> FinishedStream:
    """An answer comes in one piece, when its confidence is known; the LLM's tokens are counted, the student's not."""
    return FinishedStream(
        Completion(
            answer.output or "",
            "stop",
            answer.input_tokens,
            answer.output_tokens,
            model,
            cached_tokens=answer.cached_tokens,
            truncated_tokens=answer.truncated_tokens,
        )
    )


def _finite(confidence: float | None) -> float | None:
    return confidence if confidence is not None and math.isfinite(confidence) else None
