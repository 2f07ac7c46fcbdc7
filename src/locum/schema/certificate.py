"""The certificate, the policy that carries it, and the answer that comes out.

Notable: a certificate names the hashes of everything it speaks about; ``cascade.policy`` escalates all
traffic when one of them no longer matches, or when it is older than ``expires_at``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from locum.core.text import html_table
from locum.schema.base import Document
from locum.schema.task import GuaranteeKind

Route = Literal["local", "llm", "abstain"]


class Sampling(Document):
    """What one of the n calibration rows of a certificate stands for.

    Attributes:
        unit: a message of the traffic; one of a new group; or a distinct text, however often it came.
        group: the column that names the groups.
        rows: rows that were at hand; more than n where one of each group was drawn.
        copies_left_out: further rows that were not counted, because they are copies that no independent draws explain.
    """

    unit: Literal["row", "group", "text"] = "row"
    group: str | None = None
    rows: int | None = None
    copies_left_out: int = 0


class LlmIdentity(Document):
    """An LLM by all that it tells of itself; another one by any of it ends a certificate that names it.

    Attributes:
        model: the name that it is asked by; of a local file the file's name.
        base_url: where; None for a local file.
        file: SHA-256 of the local file; None behind a URL.
        names: what it called itself in its answers.
        versions: its ``system_fingerprint`` in these; empty where it tells none.
        left_out: fields that its server refused in these (``temperature``), so that its own setting of them held.
    """

    model: str
    base_url: str | None = None
    file: str | None = None
    names: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class Certificate(Document):
    """The statement proved on the calibration split.

    Attributes:
        max_error: α (selective), or ε (marginal, regret).
        confidence: 1−δ.
        threshold: answers with at least this confidence are given locally; None when nothing certifies.
        n: calibration rows; ``accepted`` of them at or above the threshold, ``errors`` of those wrong.
        observed: the observed risk at the threshold; ``upper_bound`` its proven bound.
        local_share: share of calibration rows answered locally.
        statement: one sentence for people.
        assumptions: what must hold for it to be true.
        voided_by: what ends it.
        hashes: SHA-256 by ``model``, ``task``, ``calibration``, ``decoding``, ``redaction``; ``llm`` where it depends
            on one.
        llm: the LLM that it compares with, or whose labels or verdicts it speaks of; None where it depends on none.
        sampling: what each of the n rows stands for.
        labels_from: gold labels; labels given by the LLM (then it certifies agreement with the LLM); or the verdicts
            of a judge (then it certifies those).
        labels_missing: about how many more calibration labels it would need, when nothing certifies; 0 where as many
            fresh rows may be enough.
        slices: labels too rare for the statement to say anything about them alone.
        local_labels: how many of the answers given locally on the calibration rows were of each label, labels that were
            never given included; empty for answers that are no labels, and when nothing certifies.
    """

    schema_version: Literal[1] = 1
    kind: GuaranteeKind
    max_error: float
    confidence: float
    threshold: float | None
    n: int
    accepted: int
    errors: int
    observed: float | None
    upper_bound: float | None
    local_share: float
    method: str
    statement: str
    assumptions: tuple[str, ...]
    voided_by: tuple[str, ...]
    hashes: dict[str, str]
    sampling: Sampling = Sampling()
    llm: LlmIdentity | None = None
    labels_from: Literal["gold", "llm", "judge"] = "gold"
    labels_missing: int | None = None
    slices: tuple[str, ...] = ()
    local_labels: dict[str, int] = Field(default={})
    issued_at: str
    expires_at: str

    def _repr_html_(self) -> str:
        """For notebooks: the statement, and what it rests on."""
        facts: dict[str, object] = {
            "statement": self.statement,
            "answered locally": f"{self.local_share:.1%} of {self.n:,} calibration rows",
            "threshold": self.threshold if self.threshold is not None else "none: everything is handed over",
            "until": self.expires_at[:10],
        }
        return html_table("Certificate", facts)


class PromiseTest(Document):
    """A certificate's promise against labelled rows that it was not proved on.

    Attributes:
        max_error, confidence: what was promised.
        rows: rows that count: answers given locally (selective), or all (marginal); ``errors`` of them given locally
            and wrong.
        low, high: exact 95 % interval of their share (Clopper & Pearson 1934).
        p_value: P(at least so many errors), were the share exactly what was promised.
        broken: whether that is at most 1 − ``confidence``.
    """

    kind: GuaranteeKind
    max_error: float
    confidence: float
    rows: int
    errors: int
    low: float
    high: float
    p_value: float
    broken: bool


class Stage(Document):
    """One student of the policy and the confidence from which it answers; None: it never answers."""

    model: str
    threshold: float | None


class Policy(Document):
    """Stages in order, then the LLM, or nobody.

    Attributes:
        fallback: who answers when no stage does.
        audit_rate: share of local answers also sent to the LLM at random, so that agreement is seen on
            unbiased traffic; 0 without an LLM.
    """

    schema_version: Literal[1] = 1
    stages: tuple[Stage, ...]
    fallback: Literal["llm", "abstain"]
    audit_rate: float = Field(default=0.0, ge=0.0, le=1.0)


class Decision(Document):
    """Where one input goes and why."""

    route: Route
    stage: int | None
    reason: str


class Answer(Document):
    """What the caller gets.

    Attributes:
        output: the label; None when nobody answered.
        confidence: the student's calibrated estimate that its answer is right; None from the LLM.
        route: local, llm or abstain.
        reason: why it went there.
        certificate: the first 12 characters of the certificate's hash when the answer is covered by it.
        truncated_tokens: how many tokens of the input the student did not read, because they were over its limit; 0
            for the LLM's answers.
        input_tokens, output_tokens: read and written by the LLM; 0 for the student's answers.
        cached_tokens: how many of ``input_tokens`` the LLM did not have to read again.
        fields: the student's calibrated estimate that each field of its answer is right, by path
            (``arguments.city``, ``items[2].price``); None where there is none. No certificate speaks of fields.
        left_out: fields of the request that the LLM's server refuses.
    """

    output: str | None
    confidence: float | None
    route: Route
    reason: str = ""
    certificate: str | None = None
    truncated_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    fields: Mapping[str, float] | None = None
    left_out: tuple[str, ...] = ()
