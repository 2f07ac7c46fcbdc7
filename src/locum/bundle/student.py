"""``open_bundle``: a verified bundle as a student that answers; ``locum.open`` is this function.

Notable: the bundle is checked hash by hash first. Then what runs is compared with what the certificate speaks
of: another model, task, prompt or redaction, a stale certificate, and every answer is handed over, or nobody
answers, and ``student.void`` says why; another LLM than a certificate names ends it for good (``ended``). An LLM that
cannot be opened (no key in the environment) does not keep the student from serving; what would go to it is abstained
from. Not here: the decision (``cascade``), HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from locum.bundle.ended import record_end, why_ended
from locum.bundle.operator_llm import LlmChoice, operator_llm, said
from locum.bundle.task import read_task
from locum.bundle.verify import verify
from locum.bundle.write import CERTIFICATE, MODEL, POLICY
from locum.cascade.identity import other_configured
from locum.cascade.policy import Mode
from locum.cascade.router import AuditResult, LlmFailure, Router
from locum.core.errors import LocumError, UpstreamError, UserError
from locum.core.files import content_hash
from locum.core.progress import note, warn
from locum.core.text import html_table, one_line
from locum.evaluate.llm import decoding_hash
from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.open import open_generator
from locum.runtime.protocol import Classifier, CompletionStream, Forwarded, Generator, Stop, forwarder_of, problem_of
from locum.schema.bundle import Manifest
from locum.schema.certificate import Answer, Certificate, Policy
from locum.schema.task import LlmSpec, Task
from locum.students.classifier import ClassifierStudent
from locum.students.open import open_student
from locum.students.protocol import StudentModel
from locum.students.room import Room
from locum.tasks import open_kind

_BATCH = 32
NO_REDACTION = "none"
"""What ``redaction`` is in a certificate's hashes while nothing is redacted."""


class Student:
    """A small model that stands in for an LLM on one task; ``open_bundle`` makes it.

    A context manager; safe to use from several threads, as far as its engine and LLM are.

    Attributes:
        name: the bundle's name.
        task: what it does.
        manifest: what the bundle holds.
        audits: called with the result of every audit, from another thread.
        llm_problem: why there is no LLM to hand over to, where one was named.
        llm_said: who it hands over to, where, and with which key, in words.
        alarms: called once with the reason when the certificate is ended for good while serving, from any thread.
    """

    def __init__(
        self,
        task: Task,
        manifest: Manifest,
        certificate: Certificate,
        policy: Policy,
        model: StudentModel,
        llm: Generator | None,
        *,
        when_llm_fails: LlmFailure = "error",
        llm_problem: str | None = None,
        room: Room | None = None,
        ended: str | None = None,
        record: Callable[[str], object] = lambda _reason: None,
    ) -> None:
        kind = open_kind(task, model.spec.labels)
        running = {
            "model": manifest.hashes["model"],
            "task": manifest.hashes["task"],
            "decoding": decoding_hash(kind),
            "redaction": NO_REDACTION,
        }
        if certificate.llm is not None:
            running["llm"] = certificate.llm.hash()
        self.task = task
        self.manifest = manifest
        self.llm_problem = llm_problem
        self.llm_said: str | None = None
        self.audits: Callable[[AuditResult], None] = lambda _result: None
        self.alarms: Callable[[str], None] = lambda _reason: None
        self._record = record
        self._router = Router(
            model,
            policy,
            certificate,
            llm,
            kind,
            hashes=running,
            when_llm_fails=when_llm_fails,
            on_audit=self._audited,
            room=room,
            ended=ended,
            on_ended=self._ended,
        )

    @property
    def name(self) -> str:
        """The bundle's name, which is the task's."""
        return self.manifest.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels it can answer; empty for kinds without labels."""
        return self._router.student.spec.labels

    @property
    def certificate(self) -> Certificate:
        """What was proved, whether it is in force or not (``void``)."""
        if self._router.certificate is None:
            raise LocumError("core-internal", "an open bundle always has a certificate")
        return self._router.certificate

    @property
    def policy(self) -> Policy:
        """Stages, thresholds and who answers otherwise."""
        return self._router.policy

    @property
    def void(self) -> str | None:
        """Why the certificate covers nothing now; None while it is in force."""
        return self._router.void_reason()

    @property
    def problem(self) -> LocumError | None:
        """Why the student would not answer now, because its engine does not run; None where that is not known."""
        return problem_of(self._router.student)

    @property
    def llm(self) -> str | None:
        """The LLM's name; None when there is none to hand over to."""
        return self._router.llm.model if self._router.llm is not None else None

    def __call__(
        self, text: str, mode: Mode = "cascade", stop: Stop | None = None, hints: Mapping[str, Any] | None = None
    ) -> Answer:
        """Answer one input.

        Args:
            text: the input.
            mode: by the policy; ``local``, never leaving this machine, whatever the confidence; or ``llm``.
            stop: lets another thread stop the LLM's answer.
            hints: further fields of OpenAI's API for an LLM behind a URL, when it is asked.

        Raises:
            LocumError: the engine failed; or the LLM did, and nothing uncertified takes its place.
        """
        return self._router.answer(text, mode, stop, hints)

    def many(self, texts: Iterable[str], mode: Mode = "cascade") -> list[Answer]:
        """Answer several inputs: a list, a column of a DataFrame, or anything else that gives texts.

        They are read in batches of like length, which pad little, and answered in the order given.

        Raises:
            UserError: ``bundle-input``: one of them is no text, or all of them are one text.
            LocumError: as for a single input.
        """
        cells: Iterable[Any] = texts.to_pylist() if isinstance(texts, _ArrowColumn) else texts
        given: list[Any] = [cells] if isinstance(cells, str) else list(cells)
        wrong = next((each for each in enumerate(given) if not isinstance(each[1], str)), None)
        if isinstance(texts, str) or wrong is not None:
            what = "a single text" if wrong is None else f"{type(wrong[1]).__name__} at position {wrong[0]}"
            raise UserError("bundle-input", f"many() was given {what}", fix="give a list of texts, without empty cells")
        order = sorted(range(len(given)), key=lambda index: len(given[index]))
        answers: list[Answer | None] = [None] * len(given)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            found = self._router.answer_many([given[index] for index in chosen], mode)
            for index, answer in zip(chosen, found, strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def complete(self, request: CompletionRequest) -> Completion:
        """Pass a conversation through to the LLM as it is.

        Raises:
            UserError: there is no LLM.
            UpstreamError: it did not answer properly.
        """
        completion = self._llm().complete(request)
        self._router.watch(completion)
        return completion

    def stream(self, request: CompletionRequest, stop: Stop | None = None) -> CompletionStream:
        """The same, piece by piece. ``stop`` ends the wait for the first one.

        Raises:
            UserError: there is no LLM.
            UpstreamError: it did not take the request.
        """
        stream = self._llm().stream(request, stop)
        return stream if self.certificate.llm is None else _Watched(stream, self._router.watch)

    def forward(self, request: CompletionRequest) -> Forwarded | None:
        """Send a conversation to the LLM without waiting; None when that cannot be, and ``stream`` has to wait.

        Raises:
            UserError: there is no LLM.
            UpstreamError: it did not take the request.
        """
        llm = self._llm()
        forwarder = forwarder_of(llm) if self.certificate.llm is None else None  # ``stream`` looks who answers
        return None if forwarder is None else forwarder.forward(request)

    def _llm(self) -> Generator:
        if self._router.llm is None:
            why = self.llm_problem or "the task file names none"
            raise UserError("cascade-no-llm", f"there is no LLM to pass this to: {why}")
        return self._router.llm

    def wrap(
        self,
        classifier: Callable[[Classifier], Classifier] | None = None,
        llm: Callable[[Generator], Generator] | None = None,
    ) -> None:
        """Put a layer around the engine or the LLM (batching, limits), before the first answer.

        Only a student that scores labels takes a layer around its engine; other engines batch by themselves.
        """
        if classifier is not None and isinstance(self._router.student, ClassifierStudent):
            self._router.student.wrap(classifier)
        if llm is not None and self._router.llm is not None:
            self._router.llm = llm(self._router.llm)

    def _repr_html_(self) -> str:
        """For notebooks: what it is, and what covers its answers."""
        facts: dict[str, object] = {
            "does": self.task.instruction,
            "kind": self.task.kind,
            "hands over to": self.llm or "nobody: it abstains",
            "certificate": self.void or self.certificate.statement,
        }
        return html_table(f"Student {self.name}", facts)

    def close(self) -> None:
        """Release engine, connections and threads; a second call does nothing."""
        self._router.close()
        self._router.student.close()
        if self._router.llm is not None:
            self._router.llm.close()

    def _audited(self, result: AuditResult) -> None:
        self.audits(result)

    def _ended(self, reason: str) -> None:
        self._record(reason)
        self.alarms(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@runtime_checkable
class _ArrowColumn(Protocol):
    """A column of an Arrow table, which gives cells that are no Python values."""

    def to_pylist(self) -> list[Any]: ...


class _Watched:
    """A stream whose last chunk is looked at: it says who answered."""

    def __init__(self, stream: CompletionStream, watch: Callable[[Completion], None]) -> None:
        self._stream = stream
        self._watch = watch

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = next(self._stream)
        if chunk.final is not None:
            self._watch(chunk.final)
        return chunk

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def open_bundle(
    path: Path | str,
    llm: Generator | LlmChoice | None = None,
    threads: int | None = None,
    *,
    when_llm_fails: LlmFailure = "error",
    engine: str | None = None,
    llm_key_env: str | None = None,
) -> Student:
    """Open a bundle to answer with.

    Args:
        path: the bundle's folder.
        llm: who answers what is handed over: one of your own, ``"none"``, or ``"bundle"``, the one that the bundle's
            task file names, wherever it comes from. None takes that one if you built the bundle here; else the student
            abstains, and ``llm_problem`` says why.
        llm_key_env: environment variable that holds the key, instead of the one that the bundle names.
        threads: CPU threads; None takes the cores this process may use.
        when_llm_fails: "error" raises its error; "uncertified" gives the student's answer, marked as covered
            by nothing.
        engine: answer with this engine instead of the one that was measured at the build. Another one answers a
            little differently, so the certificate does not cover it.

    Returns:
        The student; ``close`` it, or use it as a context manager.

    Raises:
        ModelFileError: the bundle is refused: a hash differs, a file is missing, added or unsafe.
        UserError: the engine cannot run the student, or is not installed; or the LLM that was asked for with
            ``"bundle"`` needs the value of a variable that is no LLM's key.
        TaskFileError: its task file cannot be read by this version.
    """
    folder = Path(path)
    manifest = verify(folder)
    task = read_task(folder)
    certificate = Certificate.from_json((folder / CERTIFICATE).read_bytes(), str(folder / CERTIFICATE))
    policy = Policy.from_json((folder / POLICY).read_bytes(), str(folder / POLICY))
    model = open_student(folder / MODEL, task, threads=threads, engine=engine)
    if engine not in (None, model.spec.engine):
        warn(f"the certificate speaks of engine {model.spec.engine}, not of {engine}")
        other = content_hash([manifest.hashes["model"], engine])
        manifest = manifest.model_copy(update={"hashes": {**manifest.hashes, "model": other}})
    try:
        chosen, refused = _allowed_llm(task, manifest, llm, llm_key_env)
        generator, problem = _open_llm(chosen, threads)
        hashed = manifest.hashes["certificate"]
        student = Student(
            task,
            manifest,
            certificate,
            policy,
            model,
            generator,
            when_llm_fails=when_llm_fails,
            llm_problem=refused or problem,
            room=Room(chosen) if isinstance(chosen, LlmSpec) else None,
            ended=why_ended(folder, hashed) or _another_llm(certificate, chosen if generator else None),
            record=partial(record_end, folder, hashed),
        )
        if isinstance(chosen, LlmSpec) and generator is not None:
            student.llm_said = f"hands over to {said(chosen)}"
            note(student.llm_said)
        return student
    except BaseException:
        model.close()
        raise


def _allowed_llm(
    task: Task, manifest: Manifest, choice: Generator | LlmChoice | None, key_variable: str | None
) -> tuple[Generator | LlmSpec | None, str | None]:
    """The LLM that may be called, or None and why none may; what the operator asked for by name is an error instead."""
    if choice is not None and not isinstance(choice, LlmSpec | str):
        return choice, None
    try:
        return operator_llm(task, manifest.hashes["task"], choice, key_variable), None
    except UserError as error:
        if choice is not None or key_variable is not None:
            raise
        warn(f"the student abstains where it would hand over: {error}")
        return None, f"{error.cause} [{error.code}]"


def _another_llm(certificate: Certificate, configured: Generator | LlmSpec | None) -> str | None:
    """Why a certificate that names an LLM cannot hold with the one that is configured; None where it can."""
    named = certificate.llm
    if named is None:
        return None
    if configured is not None:
        return other_configured(named, configured)
    if certificate.kind == "regret":
        return f"the certificate compares with the LLM {one_line(named.model, 80)}, and there is none"
    return None  # whose verdicts it speaks of need not be there


def _open_llm(llm: Generator | LlmSpec | None, threads: int | None) -> tuple[Generator | None, str | None]:
    """The LLM, or None and why there is none."""
    if not isinstance(llm, LlmSpec):
        return llm, None
    try:
        return open_generator(llm, threads=threads), None
    except (UpstreamError, UserError) as error:
        warn(f"no LLM to hand over to, the student abstains instead: {error}")
        return None, f"{error.cause} [{error.code}]"


def describe(student: Student) -> dict[str, Any]:
    """An open bundle in one JSON object, for ``/ready`` and ``--json``."""
    return {
        "name": student.name,
        "kind": student.task.kind,
        "labels": len(student.labels),
        "certificate": student.certificate.hash()[:12],
        "certificate_void": student.void,
        "fallback": student.policy.fallback,
        "llm": student.llm,
        "llm_problem": student.llm_problem,
        "model": student.manifest.hashes["model"],
    }
