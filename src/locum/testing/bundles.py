"""``pico_bundle``: a bundle of a few kilobytes that verifies, opens, answers and certifies like a real one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from locum.bundle.operator_llm import remember_built
from locum.bundle.student import NO_REDACTION
from locum.bundle.write import LEARNED, model_hash, task_hash, write_bundle
from locum.cascade.policy import make_policy
from locum.data.fingerprint import write_fingerprint
from locum.evaluate.llm import decoding_hash
from locum.report.card import model_card
from locum.report.page import render
from locum.schema.bundle import Manifest
from locum.schema.certificate import Certificate
from locum.schema.taskfile import parse_task
from locum.tasks import open_kind
from locum.testing.pico import WORDS, pico_linear, pico_onnx
from locum.testing.reports import example_certificate, example_report


def pico_task(name: str = "pico", **llm: Any) -> str:
    """The text of a task file for ``WORDS``; ``llm`` fills its section of that name."""
    fields: dict[str, Any] = {
        "version": 1,
        "name": name,
        "kind": "classify",
        "instruction": "What is the message about?",
        "data": {"train": "train.csv", "input": "text", "output": "label"},
    }
    return yaml.safe_dump(fields | ({"llm": llm} if llm else {}), sort_keys=False)


def pico_bundle(
    folder: Path,
    *,
    threshold: float | None = 0.8,
    task_text: str | None = None,
    engine: str = "linear",
    issued: datetime | None = None,
    hashes: dict[str, str] | None = None,
    audit_rate: float = 0.0,
    built_here: bool = True,
) -> Manifest:
    """Write a bundle whose student scores a text by the words of ``WORDS`` in it.

    Args:
        folder: the bundle.
        threshold: certified confidence; None: nothing is certified.
        task_text: of ``pico_task``; one without an LLM when absent.
        engine: ``linear`` or ``onnx`` (needs the ``onnx`` package).
        issued: when the certificate was issued; today when absent.
        hashes: replaces hashes of the certificate, to make one that speaks of something else.
        audit_rate: share of local answers also sent to the LLM.
        built_here: it counts as built by this user, so that the LLM of its task may be called; False for one that came
            from elsewhere.
    """
    text = task_text or pico_task()
    task = parse_task(text)
    model = folder.parent / f"{folder.name}-model"
    spec = (pico_onnx if engine == "onnx" else pico_linear)(model, WORDS)
    now = issued or datetime.now(UTC)
    kind = open_kind(task, spec.labels)
    running = {
        "model": model_hash(model),
        "task": task_hash(text),
        "calibration": "0" * 64,
        "decoding": decoding_hash(kind),
        "redaction": NO_REDACTION,
    }
    certificate = _certificate(threshold, running | (hashes or {}), now)
    learned = folder.parent / f"{folder.name}-{LEARNED}"
    write_fingerprint(learned, ((f"{label}: {' '.join(words)}", 1) for label, words in WORDS.items()))
    report = example_report(2, certified=threshold is not None).model_copy(update={"task": task.name})
    if built_here:
        remember_built(task_hash(text), task.llm)
    return write_bundle(
        folder,
        task=task,
        task_text=text,
        model_folder=model,
        policy=make_policy(certificate, spec.name, has_llm=task.llm is not None, audit_rate=audit_rate),
        certificate=certificate,
        report=report,
        page=render(report),
        card=model_card(report, "Apache-2.0"),
        licence="Apache-2.0",
        hashes={"data": "0" * 64},
        learned=[learned],
    )


def _certificate(threshold: float | None, hashes: dict[str, str], issued: datetime) -> Certificate:
    return example_certificate(certified=threshold is not None).model_copy(
        update={
            "threshold": threshold,
            "hashes": hashes,
            "issued_at": issued.isoformat(),
            "expires_at": (issued + timedelta(days=180)).isoformat(),
        }
    )
