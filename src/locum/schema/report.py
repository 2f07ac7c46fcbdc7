"""``BuildReport``: everything a build found out; ``report.json`` and the HTML page are this document."""

from __future__ import annotations

from typing import Literal

from locum.schema.answers import AnswerLimit
from locum.schema.base import Document
from locum.schema.candidate import Candidate
from locum.schema.certificate import Certificate, PromiseTest
from locum.schema.data import DataCard
from locum.schema.device import DeviceProfile
from locum.schema.evaluation import Comparison, EngineChoice, Evaluation, Latency, ShownExample, WrongExample
from locum.schema.judging import JudgeReport
from locum.schema.model import Parity
from locum.schema.multitask import MultitaskReport
from locum.schema.training import GeneratorParity, Trained


class CandidateReport(Document):
    """One rung of the ladder after the build.

    Attributes:
        status: built; skipped (ruled out beforehand) or failed.
        reason: why it was skipped or failed; of a built one, why it has not answered test.
        size_mb: what is served, MB (10^6 bytes).
        memory_mb: resident memory the engine added when it opened and answered.
        engine: the one that serves it, and answered everything that is reported.
        engines: how that was chosen; None when nothing was.
        refit: of the chosen one, where it was trained again on train and dev together: what is served, and of which
            size, latency and test speak. ``trained`` and dev are those of before.
    """

    candidate: Candidate
    status: Literal["built", "skipped", "failed"]
    reason: str = ""
    chosen: bool = False
    parameters: int | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    trained: Trained | None = None
    refit: Trained | None = None
    parity: Parity | GeneratorParity | None = None
    engine: str | None = None
    engines: EngineChoice | None = None
    dev: Evaluation | None = None
    test: Evaluation | None = None
    latency: Latency | None = None


class LlmReport(Document):
    """The prompted LLM on (a sample of) the test rows.

    Attributes:
        test: over the rows that got an answer, whole or wrong; None where there is none (``missing`` says why).
        failures: rows without an answer.
        cut: rows whose answer was cut, at ``cut_at`` tokens at most, before it came to an answer; they count as neither
            right nor wrong.
        left_out: fields that its server refused (``temperature``), so that its own setting of them holds.
        missing: why nothing is known of it, in words.
    """

    model: str
    prompt: str
    test: Evaluation | None
    latency: Latency | None
    input_tokens: int
    output_tokens: int
    cost_per_1000: float | None
    failures: int = 0
    cut: int = 0
    cut_at: int = 0
    left_out: tuple[str, ...] = ()
    missing: str | None = None


class Cost(Document):
    """Money per 1,000 answers: all by the LLM, against locally with hand-over; None without a price."""

    llm_per_1000: float | None
    cascade_per_1000: float | None
    saved_share: float | None


class Baseline(Document):
    """What an answer without any model scores on the test rows; a student must beat it to be worth anything.

    Attributes:
        answer: what it is, in words.
        metrics: its scores by name.
        only_student, only_baseline: rows that one of the two has right and the other wrong.
        p: two-sided p-value that the two are as good (McNemar, mid-p).
    """

    answer: str
    metrics: dict[str, float]
    only_student: int
    only_baseline: int
    p: float


class Proof(Document):
    """The rows that a certificate was proved on after the build, by ``locum certify``.

    Attributes:
        file: its name; ``sha256`` of its content.
        rows: labelled rows that were used.
        seen: of these, rows with a text that the student learned from, as traffic repeats itself; ``near`` those nearly
            so. None when the bundle does not record what was learned, so that nobody could check.
        weaker: how the promise is weaker than the task's own, in words; None where it is not.
        skipped: rows of the file that could not be used.
    """

    file: str
    sha256: str
    rows: int
    seen: int | None
    near: int | None
    weaker: str | None = None
    skipped: int = 0


class BuildReport(Document):
    """The whole result of one build.

    Attributes:
        verdict: what a manager must know: one sentence, then the cautions.
        cautions: sentences of the verdict on what its figure hides: labels never given, what a constant answer scores,
            rows lost in reading; and what to do.
        baseline: that constant answer; None for answers that are written.
        system: route shares and accuracy of the cascade on the test split (``local_share``,
            ``error_local``, ``accuracy_system`` when an LLM answered).
        right_means: what makes an answer right, in words; None for labels.
        answers: how long a written answer may be; None for kinds that write none.
        judge: who judged, and how far that is people's verdict; None where no LLM judges.
        stopped_early: why the ladder ended before its last rung, if it did.
        refit: whether the chosen student was trained again on train and dev together, in one sentence; empty for kinds
            where that is not done.
        certificate: what is in force.
        proof: where it comes from, when that is not the build; ``system`` then says nothing of routes.
        promise: whether the test rows break what the certificate promises; None where that cannot be told.
        multitask: one for each student that was tuned on several tasks.
        shown: a test row to try the bundle with; None where there is none of a moderate length.
    """

    schema_version: Literal[1] = 1
    task: str
    instruction: str
    kind: str
    right_means: str | None = None
    judge: JudgeReport | None = None
    metric: str
    target: float | None
    verdict: str
    cautions: tuple[str, ...] = ()
    baseline: Baseline | None = None
    chosen: str
    why_chosen: str
    ladder: tuple[CandidateReport, ...]
    stopped_early: str | None
    refit: str = ""
    answers: AnswerLimit | None = None
    llm: LlmReport | None
    comparisons: tuple[Comparison, ...]
    multitask: tuple[MultitaskReport, ...] = ()
    certificate: Certificate
    proof: Proof | None = None
    promise: PromiseTest | None = None
    system: dict[str, float | None]
    cost: Cost
    wrong: tuple[WrongExample, ...]
    shown: ShownExample | None = None
    data: DataCard
    device: DeviceProfile
    versions: dict[str, str]
    provenance: dict[str, str]
    created_at: str
    wall_s: float
