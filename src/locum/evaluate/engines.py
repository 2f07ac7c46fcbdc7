"""Which engine serves a student: every one that can run it is timed on this machine, and the fastest is taken.

Notable: requests are interleaved, engine by engine on the same text, so that a slow moment of the machine costs all of
them alike. An engine must first give the default's labels; and a gain of less than a tenth keeps the default, because
it is within what a busy machine does to a timing. The choice is made before the splits are answered, so everything
that is reported and certified was answered by the engine that will serve. Not here: opening (``runtime.open``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from locum.core.errors import LocumError
from locum.core.progress import note, track
from locum.core.text import one_line
from locum.runtime.engines import engines_for, is_installed, version_of
from locum.runtime.protocol import Classifier
from locum.schema.evaluation import EngineChoice, EngineTrial
from locum.schema.model import EngineName, ModelSpec

GAIN_MIN = 0.10
MIN_AGREEMENT = 0.97  # the share that the export's parity check asks for (``schema.training.ExportRequest``)
_BATCH = 32
_COMPARED = 300
_WARMUP = 10


def choose_engine(
    spec: ModelSpec,
    default: Classifier,
    open_engine: Callable[[EngineName], Classifier],
    texts: Sequence[str],
    *,
    n: int = 200,
    limit_s: float = 20.0,
) -> tuple[EngineChoice, dict[EngineName, Classifier]]:
    """Time every engine that can run a student and answers as its own does.

    Args:
        spec: the student's ``model.json``; its engine is the default.
        default: that engine, open.
        open_engine: opens another on the same folder.
        texts: inputs of the task.
        n: single requests to each engine.
        limit_s: most seconds for the single requests of all engines, and again for the batches.

    Returns:
        The choice, and the engines that are open, the default among them: close those that are not wanted.

    Raises:
        ValueError: no texts.
        LocumError: the default engine failed.
    """
    if not texts:
        raise ValueError("a choice of engine needs at least one text")
    opened: dict[EngineName, Classifier] = {spec.engine: default}
    out: list[EngineTrial] = []
    agreement: dict[EngineName, float | None] = {spec.engine: 1.0}
    others = engines_for(spec)[1:]
    rows = min(_COMPARED, len(texts))
    compared = [texts[k * (len(texts) - 1) // max(rows - 1, 1)] for k in range(rows)]
    expected = default.logits(compared).argmax(axis=1) if any(map(is_installed, others)) else None
    for name in others:
        if expected is None or not is_installed(name):
            out.append(EngineTrial(engine=name, reason="not installed"))
            continue
        candidate, share, why = _candidate(partial(open_engine, name), compared, expected)
        if candidate is None:
            out.append(EngineTrial(engine=name, version=version_of(name), agreement=share, reason=why))
            continue
        opened[name], agreement[name] = candidate, share
    if len(opened) == 1:
        why = "no other engine can run it here"
        return EngineChoice(engine=spec.engine, default=spec.engine, n=0, why=why, trials=tuple(out)), opened
    trials = [*_trials(opened, agreement, texts, n, limit_s), *out]
    choice = decide(spec.engine, trials, n)
    note(f"engine for {spec.name}: {choice.why}")
    return choice, opened


def decide(default: EngineName, trials: Sequence[EngineTrial], n: int) -> EngineChoice:
    """The fastest engine by its median; the default unless another gains a tenth.

    Args:
        default: an engine that was timed.
        trials: what was found out about each engine.
        n: single requests that each was to be sent.
    """
    timed: dict[EngineName, float] = {
        trial.engine: trial.p50_ms for trial in trials if trial.p50_ms is not None and not trial.reason
    }
    own_ms = timed[default]
    best: EngineName = min(timed, key=lambda name: timed[name])
    shown = ", ".join(f"{name} {timed[name]:.2f} ms" for name in sorted(timed, key=lambda name: timed[name]))
    if best == default:
        why = f"{default} is the fastest ({shown})"
        return EngineChoice(engine=default, default=default, n=n, trials=tuple(trials), why=why)
    gain = 1 - timed[best] / own_ms
    if gain < GAIN_MIN:
        why = f"{default} is kept, {best} gains only {gain:.0%} ({shown})"
        return EngineChoice(engine=default, default=default, n=n, trials=tuple(trials), why=why)
    why = f"{best} answers in {timed[best] / own_ms:.0%} of {default}'s time ({shown})"
    return EngineChoice(engine=best, default=default, n=n, trials=tuple(trials), why=why)


def _candidate(
    open_engine: Callable[[], Classifier], texts: Sequence[str], expected: NDArray[np.intp]
) -> tuple[Classifier | None, float | None, str]:
    """An engine that opens and answers as the default does; else None, the share of equal labels, and why."""
    try:
        engine = open_engine()
    except LocumError as error:  # it cannot run this model: that is the answer
        return None, None, one_line(error.cause)
    try:
        share = float(np.mean(engine.logits(texts).argmax(axis=1) == expected))
    except LocumError as error:
        engine.close()
        return None, None, one_line(error.cause)
    if share < MIN_AGREEMENT:
        engine.close()
        return None, share, f"its labels are the default's on only {share:.1%} of {len(texts)} rows"
    return engine, share, ""


def _trials(
    opened: Mapping[EngineName, Classifier],
    agreement: Mapping[EngineName, float | None],
    texts: Sequence[str],
    n: int,
    limit_s: float,
) -> list[EngineTrial]:
    single_ms = _singles(opened, texts, n, limit_s)
    per_s = _batches(opened, texts, limit_s)
    found: list[EngineTrial] = []
    for name in opened:
        p50_ms, p95_ms = np.percentile(single_ms[name], [50, 95])
        found.append(
            EngineTrial(
                engine=name,
                version=version_of(name),
                p50_ms=float(p50_ms),
                p95_ms=float(p95_ms),
                n=len(single_ms[name]),
                answers_per_s=per_s[name],
                agreement=agreement[name],
            )
        )
    return found


def _singles(
    opened: Mapping[EngineName, Classifier], texts: Sequence[str], n: int, limit_s: float
) -> dict[EngineName, list[float]]:
    """Milliseconds of each single request, by engine; each text goes to every engine before the next."""
    chosen = [texts[k * (len(texts) - 1) // max(n - 1, 1)] for k in range(n)]
    found: dict[EngineName, list[float]] = {name: [] for name in opened}
    order = list(opened.items())
    for text in chosen[:_WARMUP]:
        for _, engine in order:
            engine.logits([text])
    end_s = time.perf_counter() + limit_s
    with track("time the engines", total=n, unit="answer") as tracker:
        for text in chosen:
            for name, engine in order:
                start_s = time.perf_counter()
                engine.logits([text])
                found[name].append((time.perf_counter() - start_s) * 1000)
            order.reverse()  # none of them always follows the other
            tracker.advance()
            if time.perf_counter() > end_s:
                break
    return found


def _batches(
    opened: Mapping[EngineName, Classifier], texts: Sequence[str], limit_s: float, least_s: float = 1.0
) -> dict[EngineName, float]:
    """Answers a second in batches of 32, by engine, taking turns until each had ``least_s``."""
    spent_s = dict.fromkeys(opened, 0.0)
    answered = dict.fromkeys(opened, 0)
    position = 0
    end_s = time.perf_counter() + limit_s
    while not position or (min(spent_s.values()) < least_s and time.perf_counter() < end_s):
        batch = [texts[k % len(texts)] for k in range(position, position + _BATCH)]
        position += _BATCH
        for name, engine in opened.items():
            start_s = time.perf_counter()
            engine.logits(batch)
            spent_s[name] += time.perf_counter() - start_s
            answered[name] += len(batch)
    return {name: answered[name] / spent_s[name] for name in opened}
