"""``Router``: carries decisions out. The student answers, or the LLM does, or nobody.

Notable: it fails closed. When the LLM fails, its error reaches the caller; the student's answer never takes
its place, unless the operator chose that, and then the answer says that nothing covers it. Audits run beside
the answer, not before it. Everything that varies (clock, lots, observer) is passed in. Safe to use from
several threads, as far as student and LLM are. Not here: the decision itself (``cascade.policy``), HTTP.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from locum.cascade.identity import other_answering
from locum.cascade.policy import Mode, decide, void_reason
from locum.core.errors import LocumError, UpstreamError, UserError
from locum.core.progress import warn
from locum.data.normalise import NotText, normalise
from locum.runtime.completion import LEFT_OUT, AsSent, Completion, CompletionRequest
from locum.runtime.protocol import Generator, Stop
from locum.schema.certificate import Answer, Certificate, Decision, Policy
from locum.students.protocol import LocalAnswer, StudentModel
from locum.students.room import LIMIT, Room, is_cut
from locum.students.writing import answer_of, ask
from locum.tasks.protocol import TaskKind

LlmFailure = Literal["error", "uncertified"]
_AUDITS_WAITING = 64


@dataclass(frozen=True)
class AuditResult:
    """One local answer and what the LLM said to the same input.

    Attributes:
        llm: the LLM's answer; None when it could not be read, or the LLM failed or was cut (``failed``).
        same: whether the kind takes the two for one answer.
    """

    local: str
    llm: str | None
    failed: bool
    same: bool = False

    @property
    def agrees(self) -> bool | None:
        """Whether both gave one answer; None when the LLM failed."""
        return None if self.failed else self.same


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _as_trained(text: str) -> str:
    """An input as the student's training rows were: normalised; bytes that are no text become replacement marks."""
    try:
        return normalise(text)
    except NotText:
        return normalise(text.encode("utf-8", "replace").decode())


def _no_observer(_result: object) -> None:
    """Nobody watches the audits, or the certificate's end."""


class Router:
    """One bundle's student, policy and certificate, with the LLM behind them.

    Args:
        student: an open engine.
        policy: one stage, and who answers when it does not.
        certificate: what covers the local answers; None covers none.
        llm: None when there is none; then what would be handed over is abstained from.
        kind: the task, as it is put to the LLM.
        hashes: SHA-256 of what is running, by the certificate's own names.
        when_llm_fails: "error" raises its error; "uncertified" gives the student's answer, marked as covered
            by nothing.
        clock: the time.
        lots: where the random numbers for audits come from.
        on_audit: told of every audit, from another thread.
        llm_concurrency: requests to the LLM at once, within one ``answer_many``.
        room: the limit of its answers; None is one without a setting.
        ended: why the certificate was ended before; None when it was not.
        on_ended: told once why the certificate is ended for good, because another LLM answered, from any thread.

    Raises:
        UserError: the policy has other than one stage.
    """

    def __init__(
        self,
        student: StudentModel,
        policy: Policy,
        certificate: Certificate | None,
        llm: Generator | None,
        kind: TaskKind,
        *,
        hashes: Mapping[str, str],
        when_llm_fails: LlmFailure = "error",
        clock: Callable[[], datetime] = _utc_now,
        lots: random.Random | None = None,
        on_audit: Callable[[AuditResult], None] = _no_observer,
        llm_concurrency: int = 4,
        room: Room | None = None,
        ended: str | None = None,
        on_ended: Callable[[str], None] = _no_observer,
    ) -> None:
        if len(policy.stages) != 1:
            raise UserError("cascade-stages", f"this router serves one student, the policy has {len(policy.stages)}")
        self.student = student
        self.policy = policy
        self.certificate = certificate
        self.llm = llm
        self.kind = kind
        self._ended = ended
        self._on_ended = on_ended
        self._hashes = dict(hashes)
        self._when_llm_fails = when_llm_fails
        self._clock = clock
        self._lots = lots or random.Random()
        self._on_audit = on_audit
        self._llm_concurrency = max(1, llm_concurrency)
        self._room = room or Room()
        self._lock = threading.Lock()
        self._audits: ThreadPoolExecutor | None = None
        self._audits_waiting = threading.BoundedSemaphore(_AUDITS_WAITING)
        self._certificate_id = None if certificate is None else certificate.hash()[:12]
        if (void := self.void_reason()) is not None:
            warn(f"everything is handed over: {void}")

    def void_reason(self) -> str | None:
        """Why the certificate covers nothing now; None while it is in force."""
        return void_reason(self.certificate, now=self._clock(), hashes=self._hashes, ended=self._ended)

    def answer(
        self, text: str, mode: Mode = "cascade", stop: Stop | None = None, hints: Mapping[str, Any] | None = None
    ) -> Answer:
        """Answer one input.

        Args:
            text: the input.
            mode: by the policy, by the student alone (never leaves), or by the LLM alone.
            stop: lets another thread stop the LLM's answer.
            hints: further fields of OpenAI's API for an LLM behind a URL. They go with what is handed over and with no
                audit; a caller has none where the certificate speaks of the LLM.

        Raises:
            LocumError: the student failed; or the LLM did, and nothing may take its place.
        """
        return self.answer_many([text], mode, stop, hints)[0]

    def answer_many(
        self,
        texts: Sequence[str],
        mode: Mode = "cascade",
        stop: Stop | None = None,
        hints: Mapping[str, Any] | None = None,
    ) -> list[Answer]:
        """Answer several inputs, in order; the student sees them as one batch.

        Raises:
            LocumError: the student failed; or the LLM did, and nothing may take its place.
        """
        llm = partial(self._ask, stop=stop, hints=hints)
        if mode == "llm":
            return self._hand_over([(text, LocalAnswer(None, math.nan), "asked for the LLM") for text in texts], llm)
        drawn = self.student.answer([_as_trained(text) for text in texts])
        if mode == "local":
            return [self._local_only(each) for each in drawn]
        answers: list[Answer | None] = [None] * len(texts)
        handed: list[int] = []
        reasons: dict[int, str] = {}
        for index, (text, local) in enumerate(zip(texts, drawn, strict=True)):
            sure = local.confidence
            decision = self._decide(local, audited=self._drawn())
            if decision.route == "local" and local.output is not None:
                answers[index] = self._covered(local.output, local, decision)
                if decision.reason.endswith("audited"):
                    self._audit(text, local.output)
            elif decision.route == "llm" and self.llm is not None:
                handed.append(index)
                reasons[index] = decision.reason
            else:
                nobody = " and there is no LLM" if decision.route == "llm" else ""
                answers[index] = _abstained(_finite(sure), decision.reason + nobody, local.truncated_tokens)
        asked = self._hand_over([(texts[i], drawn[i], reasons[i]) for i in handed], llm)
        for index, answer in zip(handed, asked, strict=True):
            answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def close(self) -> None:
        """Wait for running audits; student and LLM belong to the caller."""
        with self._lock:
            audits, self._audits = self._audits, None
        if audits is not None:
            audits.shutdown(wait=True)

    def _decide(self, local: LocalAnswer, *, audited: bool) -> Decision:
        return decide(
            self.policy,
            self.certificate,
            [local.confidence],
            now=self._clock(),
            hashes=self._hashes,
            ended=self._ended,
            unlike=local.unlike,
            audited=audited,
        )

    def _covered(self, output: str, local: LocalAnswer, decision: Decision) -> Answer:
        return Answer(
            output=output,
            confidence=local.confidence,
            route="local",
            reason=decision.reason,
            certificate=self._certificate_id,
            truncated_tokens=local.truncated_tokens,
            fields=local.fields,
        )

    def _local_only(self, local: LocalAnswer) -> Answer:
        """The student's answer whatever its confidence; covered by the certificate only where that holds."""
        if local.output is None:
            return _abstained(None, "the student gave no answer", local.truncated_tokens)
        decision = self._decide(local, audited=False)
        if decision.route == "local":
            return self._covered(local.output, local, decision)
        return _uncovered(local, f"asked for local only: {decision.reason}")

    def _hand_over(
        self, inputs: Sequence[tuple[str, LocalAnswer, str]], llm: Callable[[str, LocalAnswer, str], Answer]
    ) -> list[Answer]:
        """The LLM's answers to ``(text, what the student answered, reason)``."""
        if len(inputs) <= 1:
            return [llm(*each) for each in inputs]
        with ThreadPoolExecutor(min(self._llm_concurrency, len(inputs))) as pool:
            asked = [pool.submit(llm, *each) for each in inputs]
            try:
                return [future.result() for future in asked]
            except BaseException:
                for future in asked:
                    future.cancel()
                raise

    def _ask(
        self, text: str, local: LocalAnswer, reason: str, stop: Stop | None, hints: Mapping[str, Any] | None
    ) -> Answer:
        try:
            output, written, cut = self._llm_answer(text, stop, hints)
        except LocumError as failure:
            if self._when_llm_fails == "error" or local.output is None:
                raise
            return _uncovered(local, f"uncertified: {reason}, and the LLM failed [{failure.code}]")
        if output is None:
            reason = "the LLM gave no answer to the task"
            if cut:
                limit = written.extra[LIMIT]
                reason = f"the LLM's text was cut at {limit} tokens, before an answer (llm.max_tokens allows more)"
        return Answer(
            output=output,
            confidence=None,
            route="abstain" if output is None else "llm",
            reason=reason,
            input_tokens=written.input_tokens,
            output_tokens=written.output_tokens,
            cached_tokens=written.cached_tokens,
            left_out=tuple(name for name in written.extra.get(LEFT_OUT, "").split(",") if name),
        )

    def _llm_answer(
        self, text: str, stop: Stop | None = None, hints: Mapping[str, Any] | None = None
    ) -> tuple[str | None, Completion, bool]:
        """The LLM's answer as read, as written, and whether it was cut before it came to one.

        Raises:
            UpstreamError: the LLM failed, whatever it is: a server, or a file on this machine.
            LocumError: ``runtime-closed``: it was stopped.
        """
        if self.llm is None:
            raise UserError(
                "cascade-no-llm", "no LLM is configured to answer this", fix="serve with an LLM, or ask NAME@local"
            )
        request = ask(self.kind, text)
        if hints:
            request = replace(request, sent=AsSent(hints, beside=True))
        llm, stopped = self.llm, stop or Stop()
        completion = self._room.complete(
            request,
            lambda asked: _read(llm, asked, stopped),
            lambda written: is_cut(self.kind, written, text),
        )
        self.watch(completion)
        return answer_of(self.kind, completion, text), completion, is_cut(self.kind, completion, text)

    def watch(self, completion: Completion) -> None:
        """End a certificate that names an LLM for good when another one has answered."""
        named = self.certificate.llm if self.certificate is not None else None
        if self.certificate is None or named is None or self._ended is not None:
            return
        why = other_answering(named, completion, asked_alike=self.certificate.kind == "regret")
        if why is None:
            return
        with self._lock:
            first, self._ended = self._ended is None, why
        if first:
            warn(f"everything is handed over from now on: {why}")
            self._on_ended(why)

    def _drawn(self) -> bool:
        """Whether this input is drawn for an audit."""
        if self.llm is None or self.policy.audit_rate <= 0:
            return False
        with self._lock:
            return self._lots.random() < self.policy.audit_rate

    def _audit(self, text: str, local: str) -> None:
        """Ask the LLM beside the answer; when too many audits wait already, this one is dropped."""
        if not self._audits_waiting.acquire(blocking=False):
            return
        with self._lock:
            if self._audits is None:
                self._audits = ThreadPoolExecutor(1, thread_name_prefix="locum-audit")
            running = self._audits.submit(self._audit_now, text, local)
        running.add_done_callback(self._audit_done)

    def _audit_now(self, text: str, local: str) -> None:
        try:
            llm, _, cut = self._llm_answer(text)
            self._on_audit(AuditResult(local, llm, failed=cut, same=self.kind.same(local, llm)))
        except LocumError:  # the caller has his answer; the observer counts the failure
            self._on_audit(AuditResult(local, None, failed=True))

    def _audit_done(self, _running: Future[None]) -> None:
        self._audits_waiting.release()


def _read(llm: Generator, request: CompletionRequest, stop: Stop) -> Completion:
    """The LLM's whole answer; ``stop`` closes it, and its error says that it was the LLM's, not the student's."""
    try:
        with llm.stream(request, stop) as stream:
            stop.calls(stream.close)
            completion = next((chunk.final for chunk in stream if chunk.final is not None), None)
    except LocumError as error:
        if isinstance(error, UpstreamError) or stop.is_set:
            raise
        raise UpstreamError(error.code, error.cause, fix=error.fix, where=error.where) from error
    if completion is None:
        if stop.is_set:
            raise LocumError("runtime-closed", "the LLM's answer was stopped")
        raise UpstreamError("upstream-broken-off", "the LLM's answer broke off before its end")
    return completion


def _uncovered(local: LocalAnswer, reason: str) -> Answer:
    """The student's answer, which no certificate covers."""
    return Answer(
        output=local.output,
        confidence=_finite(local.confidence),
        route="local",
        reason=reason,
        truncated_tokens=local.truncated_tokens,
        fields=local.fields,
    )


def _abstained(confidence: float | None, reason: str, truncated_tokens: int) -> Answer:
    """Nobody answered."""
    return Answer(output=None, confidence=confidence, route="abstain", reason=reason, truncated_tokens=truncated_tokens)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
