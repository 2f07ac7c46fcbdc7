"""What learning several tasks together did, as a report tells it: for tests, documentation and design.

Notable: the figures are made up and fit each other; nothing here was measured. Not here: the rest of a report
(``reports``).
"""

from __future__ import annotations

from locum.core.files import sha256_bytes
from locum.schema.data import SourceFile
from locum.schema.evaluation import Comparison, Interval
from locum.schema.multitask import LearnedTask, MixedTask, MultitaskReport
from locum.testing.reports import wilson


def example_multitask(verdict: str = "gain") -> MultitaskReport:
    """A student of a task ``invoices`` that learned ``receipts``, too.

    Args:
        verdict: ``gain``, ``harm``, ``no difference shown`` or ``not compared``.
    """
    value = {"gain": 0.04, "harm": -0.05}.get(verdict, 0.01)
    student, alone = "SmolLM2-135M-Instruct/full-multitask", "SmolLM2-135M-Instruct/full"
    low, high = (value - 0.02, value + 0.02)
    said = f"{student} is better" if verdict == "gain" else f"{alone} is better"
    comparison = Comparison(
        a=student,
        b=alone,
        metric="field_f1",
        n=200,
        difference=Interval(value=value, low=low, high=high, method="paired bootstrap"),
        p_value=None,
        test="paired-bootstrap",
        verdict=f"{said}." if verdict in ("gain", "harm") else "No difference was shown.",
    )
    compared = verdict != "not compared"
    return MultitaskReport.model_validate(
        {
            "student": student,
            "mixing": 2.0,
            "tasks": (
                _learned("invoices", rows=900, share=0.6, losses=(2.11, 0.31), leaked=0),
                _learned("receipts", rows=400, share=0.4, losses=(1.94, 0.42), leaked=7),
            ),
            "alone": alone if compared else None,
            "score": wilson(170, 200),
            "alone_score": wilson(162, 200) if compared else None,
            "comparison": comparison if compared else None,
            "verdict": verdict,
        }
    )


def _learned(task: str, *, rows: int, share: float, losses: tuple[float, float], leaked: int) -> LearnedTask:
    file = SourceFile(
        split="train",
        address=f"{task}.jsonl",
        sha256=sha256_bytes(task.encode()),
        bytes=90_000,
        rows=rows,
        format="jsonl",
        encoding="utf-8",
    )
    places = tuple(f"{task}.jsonl:{row}" for row in range(leaked))
    mixed = MixedTask(
        task=task,
        train=rows,
        dev=120,
        leaked=leaked,
        places=places,
        only_checked=0,
        chars=180,
        data=sha256_bytes(task.encode()),
        files=(file,),
    )
    base, tuned = losses
    return LearnedTask(task=task, rows=rows, share=share, dev_loss_base=base, dev_loss=tuned, mixed=mixed)
