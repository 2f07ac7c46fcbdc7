"""A build report that looks like a real one, from a seeded simulation: for tests, documentation and design.

Notable: every figure follows from simulated answers, so accuracy, confusion, per-label scores, reliability
and risk-coverage agree with each other as they do after a build. Nothing here was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.core.files import sha256_bytes
from locum.schema.candidate import Candidate, Family, Method
from locum.schema.certificate import Certificate
from locum.schema.data import DataCard, Dropped, SourceFile, SplitCard
from locum.schema.device import DeviceProfile
from locum.schema.evaluation import (
    Calibration,
    Comparison,
    Evaluation,
    Interval,
    LabelScore,
    Latency,
    ReliabilityBin,
    RiskPoint,
    WrongExample,
)
from locum.schema.judging import GradedFile, JudgeAgreement, JudgeReport
from locum.schema.model import Parity
from locum.schema.report import BuildReport, CandidateReport, Cost, LlmReport
from locum.schema.training import Trained

_BANKING = (
    "card_arrival",
    "card_linking",
    "exchange_rate",
    "card_payment_wrong_exchange_rate",
    "extra_charge_on_statement",
    "pending_cash_withdrawal",
    "fiat_currency_support",
    "card_delivery_estimate",
    "automatic_top_up",
    "card_not_working",
    "exchange_via_app",
    "lost_or_stolen_card",
    "age_limit",
    "pin_blocked",
    "contactless_not_working",
    "top_up_failed",
    "balance_not_updated_after_bank_transfer",
    "transfer_timing",
    "declined_transfer",
    "why_verify_identity",
)


_DEVICE = DeviceProfile(
    name="this",
    source="measured",
    system="Linux 6.1",
    cpu="Intel(R) Xeon(R) Platinum",
    architecture="x86_64",
    cores=2,
    memory_mb=24_000,
    available_mb=21_500,
    instructions=("avx2", "avx512f", "avx512_vnni"),
    matmul_gflops=210,
    memory_gb_s=24,
)


@dataclass(frozen=True)
class _Answers:
    """Simulated answers: gold and predicted label indices and confidence, each ``[n]``."""

    gold: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        return self.gold == self.predicted


def example_labels(n: int) -> tuple[str, ...]:
    """``n`` label names; two are ``benign`` and ``injection``."""
    if n == 2:
        return ("benign", "injection")
    return tuple(_BANKING[i] if i < len(_BANKING) else f"topic_{i:02d}_{_BANKING[i % 20]}" for i in range(n))


def _simulate(n: int, labels: int, accuracy: float, seed: int) -> _Answers:
    random = np.random.default_rng(seed)
    gold = random.integers(0, labels, n)
    chance = np.clip(random.beta(accuracy * 9, (1 - accuracy) * 9, n), 0.02, 0.999)
    right = random.random(n) < chance
    neighbour = (gold + random.choice([1, 1, 1, 2, 5], n)) % labels
    predicted = np.where(right, gold, neighbour)
    return _Answers(gold, np.where(predicted == gold, gold, predicted), np.maximum(chance, 1 / labels))


def wilson(right: int, n: int) -> Interval:
    """Wilson's score interval of a share."""
    p, z = right / n, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return Interval(value=p, low=max(0.0, middle - half), high=min(1.0, middle + half), method="wilson")


def _label_scores(answers: _Answers, labels: tuple[str, ...]) -> tuple[LabelScore, ...]:
    scores: list[LabelScore] = []
    for index, name in enumerate(labels):
        support = int(np.sum(answers.gold == index))
        predicted = int(np.sum(answers.predicted == index))
        both = int(np.sum((answers.gold == index) & (answers.predicted == index)))
        precision = both / predicted if predicted else None
        recall = both / support if support else None
        f1 = 2 * both / (support + predicted) if support + predicted else None
        scores.append(
            LabelScore(label=name, support=support, predicted=predicted, precision=precision, recall=recall, f1=f1)
        )
    return tuple(scores)


def _calibration(answers: _Answers) -> Calibration:
    bins: list[ReliabilityBin] = []
    for low in np.arange(0, 1, 0.1):
        inside = (answers.confidence >= low) & (answers.confidence < low + 0.1)
        if n := int(inside.sum()):
            share = wilson(int(answers.right[inside].sum()), n)
            mean = float(answers.confidence[inside].mean())
            bins.append(
                ReliabilityBin(
                    low=float(low),
                    high=float(low + 0.1),
                    n=n,
                    confidence=mean,
                    accuracy=share.value,
                    accuracy_low=share.low,
                    accuracy_high=share.high,
                )
            )
    total = len(answers.gold)
    ece = sum(b.n / total * abs(b.accuracy - b.confidence) for b in bins)
    brier = float(np.mean((answers.confidence - answers.right) ** 2))
    return Calibration(temperature=1.31, ece=ece, brier=brier, nll=0.31, auroc=0.871, reliability=tuple(bins))


def _risk_coverage(answers: _Answers) -> tuple[RiskPoint, ...]:
    order = np.argsort(-answers.confidence, kind="stable")
    wrong = np.cumsum(~answers.right[order])
    n = len(order)
    places = np.unique(np.linspace(n // 50, n - 1, 60).astype(int))
    return tuple(
        RiskPoint(
            threshold=float(answers.confidence[order[i]]), coverage=float((i + 1) / n), risk=float(wrong[i] / (i + 1))
        )
        for i in places
    )


def _evaluation(model: str, answers: _Answers, labels: tuple[str, ...], split: str = "test") -> Evaluation:
    n = len(answers.gold)
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (answers.gold, answers.predicted), 1)
    scores = _label_scores(answers, labels)
    accuracy = wilson(int(answers.right.sum()), n)
    macro = float(np.mean([score.f1 or 0.0 for score in scores]))
    half = (accuracy.high - accuracy.low) / 2
    return Evaluation(
        model=model,
        split="test" if split == "test" else "dev",
        n=n,
        labels=labels,
        metrics={
            "accuracy": accuracy,
            "macro_f1": Interval(
                value=macro, low=max(0.0, macro - half), high=min(1.0, macro + half), method="bootstrap"
            ),
        },
        per_label=scores,
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
        calibration=_calibration(answers),
        risk_coverage=_risk_coverage(answers),
    )


def example_certificate(*, certified: bool = True, kind: str = "selective") -> Certificate:
    """A certificate of 5 % at 95 % confidence; without a threshold when not ``certified``."""
    hashes = {name: sha256_bytes(name.encode()) for name in ("model", "task", "calibration", "decoding", "redaction")}
    return Certificate.model_validate(
        {
            "kind": kind,
            "max_error": 0.05,
            "confidence": 0.95,
            "threshold": 0.81 if certified else None,
            "n": 1000,
            "accepted": 842 if certified else 0,
            "errors": 29 if certified else 0,
            "observed": 29 / (1000 if kind == "marginal" else 842) if certified else None,
            "upper_bound": 0.0467 if certified else None,
            "local_share": 0.842 if certified else 0.0,
            "method": "fixed-sequence testing, exact binomial (Clopper–Pearson)",
            "statement": "With 95 % confidence, at most 5 % of the answers given locally are wrong.",
            "assumptions": ("Future inputs come from where the calibration rows came from.", "The labels are right."),
            "voided_by": ("another model, prompt or redaction", "its age"),
            "hashes": hashes,
            "labels_missing": None if certified else 420,
            "slices": ("topic_21_card_linking",) if certified else (),
            "issued_at": "2026-01-15T10:00:00+00:00",
            "expires_at": "2026-07-14T10:00:00+00:00",
        }
    )


_RUNGS: tuple[tuple[str, Family, Method, float, float, float, float, int], ...] = (
    # name, family, method, accuracy lost against the best, MB, p50 ms, training s, parameters
    ("tfidf", "linear", "linear", 0.055, 1.9, 0.31, 1.4, 480_000),
    ("all-MiniLM-L6-v2/head", "encoder", "head", 0.012, 23.1, 1.9, 38, 22_713_216),
    ("all-MiniLM-L6-v2/full", "encoder", "full", 0.0, 23.1, 1.9, 412, 22_713_216),
    ("SmolLM2-135M-Instruct/full-12L", "decoder", "full", 0.004, 82.4, 14.8, 655, 81_200_000),
)


def _rung(index: int, best: float, labels: tuple[str, ...], n: int, chosen: str) -> tuple[CandidateReport, _Answers]:
    name, family, method, loss, size_mb, p50_ms, train_s, parameters = _RUNGS[index]
    answers = _simulate(n, len(labels), best - loss, seed=10 + index)
    candidate = Candidate(name=name, family=family, base=None if family == "linear" else name, method=method)
    dev = _evaluation(name, _simulate(500, len(labels), best - loss, seed=50 + index), labels, "dev")
    trained = Trained(
        candidate=candidate,
        parameters=parameters,
        best_epoch=4,
        stopped_by="patience",
        dev_accuracy=dev.metrics["accuracy"].value,
        curve=(),
        settings={"lr": 2e-5},
        max_tokens=64,
        train_s=train_s,
        tokens_per_s=9000,
        files={},
    )
    parity = Parity(
        n=500,
        engine="onnx",
        precision="int8",
        label_agreement=0.994,
        mean_gap=0.0004,
        max_gap=0.031,
        accuracy_trained=dev.metrics["accuracy"].value,
        accuracy_exported=dev.metrics["accuracy"].value - 0.001,
        min_agreement=0.98,
        max_accuracy_drop=0.01,
        passed=True,
        tried=("int8 per tensor: agreement 0.961 < 0.98",) if index == 2 else (),
    )
    report = CandidateReport(
        candidate=candidate,
        status="built",
        chosen=name == chosen,
        parameters=parameters,
        size_mb=size_mb,
        memory_mb=size_mb * 2.4,
        trained=trained,
        parity=parity,
        engine="onnx",
        dev=dev,
        test=_evaluation(name, answers, labels),
        latency=Latency(p50_ms=p50_ms, p95_ms=p50_ms * 1.4, n=200, answers_per_s=1400 / p50_ms, threads=2),
    )
    return report, answers


def _data_card(task: str, labels: tuple[str, ...], seed: int = 0) -> DataCard:
    random = np.random.default_rng(seed)
    counts = {name: int(random.integers(35, 190)) for name in labels}
    sizes = {"train": sum(counts.values()), "dev": 500, "calibration": 1000, "test": 3080}
    splits = {
        name: SplitCard(
            rows=rows,
            sha256=sha256_bytes(name.encode()),
            labels=counts if name == "train" else {label: max(1, rows // len(labels)) for label in labels},
            chars_p50=47,
            chars_p95=132,
            chars_max=433,
        )
        for name, rows in sizes.items()
    }
    file = SourceFile(
        split="train",
        address="data/train.csv",
        sha256=sha256_bytes(b"train"),
        bytes=839_073,
        rows=10_003,
        format="csv",
        encoding="utf-8",
    )
    return DataCard.model_validate(
        {
            "task": task,
            "files": (file, file.model_copy(update={"split": "test", "address": "data/test.csv", "rows": 3080})),
            "input": ("text",),
            "output": "category",
            "labels": labels,
            "splits": splits,
            "dropped": (Dropped(reason="near duplicate of a test row", count=41, places=("train.csv:17",)),),
            "normalised": {"zero_width": 3, "line_endings": 0},
            "duplicates": {"exact_within": 6, "near_within": 58, "exact_across": 2, "near_across": 39},
            "contradictions": 4,
            "noise_ceiling": 0.9991,
            "rare_labels": {labels[-1]: 3},
            "warnings": ("41 training rows that also stand in the test file, or nearly, were removed.",),
            "seed": seed,
        }
    )


def _comparisons(rungs: list[tuple[CandidateReport, _Answers]]) -> tuple[Comparison, ...]:
    found: list[Comparison] = []
    first, ours = rungs[2]
    for other, theirs in (rungs[0], rungs[1], rungs[3]):
        gain = ours.right.astype(float) - theirs.right
        mean, half = float(gain.mean()), 1.96 * float(gain.std() / np.sqrt(len(gain)))
        clear = abs(mean) > half
        found.append(
            Comparison(
                a=first.candidate.name,
                b=other.candidate.name,
                metric="accuracy",
                n=len(gain),
                difference=Interval(value=mean, low=mean - half, high=mean + half, method="paired bootstrap"),
                p_value=0.0002 if clear else 0.38,
                test="mcnemar-midp",
                verdict="the first is better" if clear and mean > 0 else "no difference shown",
            )
        )
    return tuple(found)


def _llm(teacher: _Answers, labels: tuple[str, ...]) -> LlmReport:
    return LlmReport(
        model="Qwen2.5-Coder-1.5B-Instruct",
        prompt="Which banking intent does the message express?\nAnswer with one label.",
        test=_evaluation("llm", teacher, labels),
        latency=Latency(p50_ms=620, p95_ms=1100, n=200, answers_per_s=1.6, threads=2),
        input_tokens=91_000,
        output_tokens=1_400,
        cost_per_1000=0.072,
        failures=1,
    )


def example_report(n_labels: int = 77, *, certified: bool = True, llm: bool = True, seed: int = 0) -> BuildReport:
    """A whole build report.

    Args:
        n_labels: 77 looks like Banking77, 2 like a prompt guard.
        certified: whether a threshold was found.
        llm: whether an LLM with a price was configured.
        seed: of the simulated data card.
    """
    labels = example_labels(n_labels)
    task, best, n = ("prompt-guard", 0.968, 2000) if n_labels == 2 else ("banking77", 0.941, 3080)
    chosen = "all-MiniLM-L6-v2/full"
    rungs = [_rung(index, best, labels, n, chosen) for index in range(len(_RUNGS))]
    served, answers = rungs[2]
    skipped = CandidateReport(
        candidate=Candidate(name="SmolLM2-360M-Instruct/full", family="decoder", base="SmolLM2-360M", method="full"),
        status="skipped",
        reason="training would take 41 minutes, the build has 15",
    )
    wrong = tuple(
        WrongExample(
            id=f"test.csv:{row + 2}",
            input=f"I was told it would be here by now, can you look into number {row} for me?",
            gold=labels[answers.gold[row]],
            predicted=labels[answers.predicted[row]],
            confidence=float(answers.confidence[row]),
        )
        for row in np.flatnonzero(~answers.right)[:60]
    )
    accuracy = served.test.metrics["accuracy"].value if served.test else 0.0
    local = answers.confidence >= 0.81
    teacher = _simulate(200, n_labels, 0.76, seed=99)
    return BuildReport(
        task=task,
        instruction="Which banking intent does the message express?"
        if n_labels > 2
        else "Is this message a prompt injection?",
        kind="classify",
        metric="accuracy",
        target=0.93,
        verdict=(
            f"A model of 23 MB answers {100 * accuracy:.1f} % of messages rightly in 1.9 ms on this machine, above the "
            f"target of 93 %, and can take over {100 * local.mean():.0f} % of the traffic with a guarantee."
        ),
        chosen=chosen,
        why_chosen="It is the smallest candidate within the target on dev; the next larger is not measurably better.",
        ladder=(*(rung for rung, _ in rungs), skipped),
        stopped_early=None,
        llm=_llm(teacher, labels) if llm else None,
        comparisons=_comparisons(rungs),
        certificate=example_certificate(certified=certified),
        system={
            "local_share": float(local.mean()) if certified else 0.0,
            "error_local": float((~answers.right[local]).mean()) if certified else None,
            "accuracy_system": 0.951 if llm else None,
        },
        cost=Cost(llm_per_1000=0.072, cascade_per_1000=0.0114, saved_share=0.842)
        if llm
        else Cost(llm_per_1000=None, cascade_per_1000=None, saved_share=None),
        wrong=wrong,
        data=_data_card(task, labels, seed),
        device=_DEVICE,
        versions={"locum": "0.1.0", "python": "3.11.9", "onnxruntime": "1.31.1", "numpy": "2.4.6", "torch": "2.13.0"},
        provenance={
            "command": f"locum build {task}.yaml --out runs/{task}",
            "task": sha256_bytes(b"task"),
            "data": sha256_bytes(b"data"),
            "model": sha256_bytes(b"model"),
        },
        created_at="2026-01-15T10:12:44+00:00",
        wall_s=741.3,
    )


def example_judge(*, measured: bool = True) -> JudgeReport:
    """A judge that is kinder than people; without an agreement when not ``measured``."""
    judge = JudgeReport(model="large-model", criterion="Is the answer right and polite?", grades=5, right_from=4)
    if not measured:
        return judge
    agreement = JudgeAgreement(
        n=200,
        unreadable=3,
        equal=wilson(120, 200),
        kappa=0.48,
        kappa_quadratic=0.66,
        right=wilson(170, 200),
        kappa_right=0.69,
        judged_right=130,
        judged_right_only=20,
        people_right=120,
        kinder_by=Interval(value=0.31, low=0.18, high=0.44, method="student"),
    )
    graded = GradedFile(
        address="judged.csv",
        sha256=sha256_bytes(b"judged"),
        bytes=48_213,
        rows=200,
        format="csv",
        encoding="utf-8",
        copies=2,
        references=150,
        also_in={"train": 40, "dev": 0, "calibration": 7, "test": 9},
    )
    return judge.model_copy(update={"agreement": agreement, "graded": graded})


def judged_report(*, measured: bool = True, llm: bool = True) -> BuildReport:
    """A report of a task whose answers are written and judged: no labels, and the verdicts of ``example_judge``."""
    report = example_report(2, llm=llm)
    without = {"labels": (), "per_label": (), "confusion": ()}

    def graded(rung: CandidateReport) -> CandidateReport:
        evaluations = {"dev": rung.dev, "test": rung.test}
        return rung.model_copy(update={k: e and e.model_copy(update=without) for k, e in evaluations.items()})

    return report.model_copy(
        update={
            "kind": "generate",
            "right_means": "the judge, large-model, gives it grade 4 or more of 5",
            "judge": example_judge(measured=measured),
            "ladder": tuple(graded(rung) for rung in report.ladder),
            "certificate": report.certificate.model_copy(update={"labels_from": "judge"}),
        }
    )
