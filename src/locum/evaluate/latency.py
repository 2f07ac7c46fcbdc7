"""Latency, throughput and memory of a student through the engine that serves it.

Notable: one input at a time, tokenizer included, as a request meets it; inputs are the task's own, spread
evenly over the split so that long ones count as often as they occur. Timers are monotonic. Not here:
estimates (``fit``), the gateway's own share (``bench``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from locum.core.progress import track
from locum.runtime.memory import resident_mb
from locum.schema.evaluation import Latency

_BATCH = 32

Ask = Callable[[Sequence[str]], object]
"""Answers inputs; what comes back is not looked at."""

Opened = TypeVar("Opened")


def measure(
    answer: Ask,
    texts: Sequence[str],
    *,
    threads: int,
    n: int = 200,
    warmup: int = 10,
    limit_s: float = 20.0,
    name: str = "the student",
) -> Latency:
    """Time single answers and batches.

    Args:
        answer: answers inputs through an open engine; nothing else should run on the machine.
        texts: inputs of the task.
        threads: threads the engine was opened with, for the record.
        n: single answers to time.
        warmup: answers given before timing starts.
        limit_s: most seconds for the single answers, and again for the batches; at least one of each is timed.
        name: of the student, for the progress.

    Returns:
        p50 and p95 in milliseconds, and answers a second in batches of 32.

    Raises:
        ValueError: no texts.
    """
    alone = time_singles(answer, texts, n=n, warmup=warmup, limit_s=limit_s, name=name)
    return alone.latency(_throughput(answer, texts, limit_s), threads=threads)


@dataclass(frozen=True)
class Singles:
    """How long answers take one at a time, in milliseconds; n of them were timed."""

    p50_ms: float
    p95_ms: float
    n: int

    def latency(self, answers_per_s: float, *, threads: int) -> Latency:
        """With the rate at which several are answered at once."""
        return Latency(**vars(self), answers_per_s=answers_per_s, threads=threads)


def time_singles(answer: Ask, texts: Sequence[str], *, n: int, warmup: int, limit_s: float, name: str) -> Singles:
    """Time single answers.

    To be called before the texts are answered otherwise: engines remember prompts that they have read, and answer them
    sooner. Arguments as for ``measure``.

    Raises:
        ValueError: no texts.
    """
    if not texts:
        raise ValueError("latency needs at least one text")
    chosen = [texts[k * (len(texts) - 1) // max(n - 1, 1)] for k in range(n)]
    with track(f"time {name}", total=n, unit="answer") as tracker:
        end_s = time.perf_counter() + limit_s / 4
        for text in chosen[:warmup]:
            answer([text])
            if time.perf_counter() > end_s:
                break
        single_ms: list[float] = []
        end_s = time.perf_counter() + limit_s
        for text in chosen:
            start_s = time.perf_counter()
            answer([text])
            now_s = time.perf_counter()
            single_ms.append((now_s - start_s) * 1000)
            tracker.advance()
            if now_s > end_s:
                break
    p50_ms, p95_ms = np.percentile(single_ms, [50, 95])
    return Singles(float(p50_ms), float(p95_ms), len(single_ms))


def _throughput(answer: Ask, texts: Sequence[str], limit_s: float, least_s: float = 1.0) -> float:
    """Answers a second in batches of 32; texts are gone through again until ``least_s`` is reached."""
    answered = position = 0
    start_s = time.perf_counter()
    while True:
        batch = texts[position : position + _BATCH]
        answer(batch)
        answered += len(batch)
        position = position + _BATCH if position + _BATCH < len(texts) else 0
        elapsed_s = time.perf_counter() - start_s
        if elapsed_s >= min(limit_s, least_s) and (position == 0 or elapsed_s >= limit_s):
            return answered / elapsed_s


def open_measured(
    open_engine: Callable[[], Opened], ask: Callable[[Opened], Ask], texts: Sequence[str]
) -> tuple[Opened, float | None]:
    """Open an engine, let it answer, and say how much resident memory that added.

    Child processes count, so an engine in a child is measured like one in this process. Memory that this
    process already held and could use again makes the figure too small: measure in a fresh process.

    Args:
        open_engine: opens it.
        ask: what answers inputs, of an open one.
        texts: a few inputs, the longest ones for an upper figure.

    Returns:
        The open engine and MB (10^6 bytes); None where the system does not tell.
    """
    before_mb = _family_mb()
    opened = open_engine()
    answer = ask(opened)
    for text in texts:
        answer([text])
    after_mb = _family_mb()
    if before_mb is None or after_mb is None:
        return opened, None
    return opened, max(0.0, after_mb - before_mb)


def _family_mb() -> float | None:
    """Resident memory of this process and its children, MB."""
    own_mb = resident_mb()
    return None if own_mb is None else own_mb + sum(resident_mb(pid) or 0.0 for pid in _children(os.getpid()))


def _children(pid: int) -> list[int]:
    """Process ids of all descendants, from Linux's /proc; none elsewhere."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(word) for word in file.read_text().split()]
        except OSError:  # the thread ended while we looked
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found
