"""Which engine writes a plain model's text: each that can read the file is measured here, and the faster is taken.

Notable: an engine that is not taken is named with the reason. It must first begin its answers at temperature 0 with a
token that the default finds about as probable; the same text would be too much to ask, because two engines round
differently and a small model is often undecided. Then what counts is the time of a typical request (200 tokens read, 64
written), alone and beside three others, put together from measured rates. A gain of less than a tenth keeps the
default, as for classifiers (``evaluate.engines``). The measurement is kept beside the downloads, by the hash of the
file, the versions of the engines, the cores and the settings. Not here: opening (``runtime.open``).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from locum.core.cpu import usable_cores
from locum.core.errors import LocumError
from locum.core.files import content_hash, sha256_file, write_json
from locum.core.progress import note
from locum.core.text import one_line
from locum.evaluate.engines import GAIN_MIN
from locum.runtime.completion import CompletionRequest
from locum.runtime.engines import text_version_of
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import TEXT_ENGINES, open_text
from locum.runtime.protocol import Generator
from locum.schema.message import Message
from locum.schema.model import EngineName
from locum.sources.cache import cache_folder

TYPICAL_READ, TYPICAL_WRITTEN = 200, 64
"""Tokens of the request that stands for all."""
CLIENTS = 4
ALIKE_MIN = 0.75
"""The share of answers that must begin like the default's; another template, tokenizer or broken weights changes
nearly all."""

_ALTERNATIVES = 5
_LOGPROB_APART = 0.25  # of files that both read exactly it was 0.12 at most, of one with rounded offsets 0.02 to 1.3
_WRITTEN = 32
_SUBJECTS = ("the sea", "a train", "an old clock", "two friends", "a lost letter", "the desert", "a garden", "winter")
_WORDS = "river stone quiet morning letter window market bridge yellow garden story winter simple table music night"
_FORMAT = 1

Opener = Callable[[EngineName], Generator]


@dataclass(frozen=True)
class TextTrial:
    """What was found out about one engine.

    Attributes:
        prefill_per_s: tokens of a prompt of 200 that it reads in a second; 0 when it was not measured.
        decode_per_s: tokens that it writes in a second, for one request alone.
        decode_4_per_s: the same for four requests at once, together.
        reason: why it was not measured.
    """

    engine: EngineName
    version: str | None = None
    prefill_per_s: float = 0.0
    decode_per_s: float = 0.0
    decode_4_per_s: float = 0.0
    reason: str = ""

    @property
    def request_s(self) -> float:
        """Seconds of a typical request: the geometric mean of alone and beside others; infinite when not measured."""
        if not min(self.prefill_per_s, self.decode_per_s, self.decode_4_per_s) > 0:
            return math.inf
        alone_s = TYPICAL_READ / self.prefill_per_s + TYPICAL_WRITTEN / self.decode_per_s
        beside_s = TYPICAL_READ / self.prefill_per_s + TYPICAL_WRITTEN / self.decode_4_per_s
        return math.sqrt(alone_s * beside_s)

    def line(self) -> str:
        """For people."""
        if not self.prefill_per_s:
            return f"{self.engine}: {self.reason}"
        return (
            f"{self.engine} {self.version or ''}: reads {self.prefill_per_s:,.0f} tokens/s, writes "
            f"{self.decode_per_s:,.0f} alone and {self.decode_4_per_s:,.0f} for {CLIENTS} at once"
        )


@dataclass(frozen=True)
class TextChoice:
    """The engine that was taken, why, and what was found out about each."""

    engine: EngineName
    why: str
    trials: tuple[TextTrial, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"format": _FORMAT, **asdict(self)}


def choose_text_engine(
    path: Path, settings: EngineSettings, *, cache: Path | None = None, open_engine: Opener | None = None
) -> tuple[TextChoice, Generator]:
    """The engine for a GGUF file on this machine; what is found out is noted, line by line.

    Args:
        path: the file.
        settings: how it will be served.
        cache: where choices are kept; None is beside the downloads.
        open_engine: opens an engine on the file (tests pass their own).

    Returns:
        The choice, and the chosen engine, open.

    Raises:
        LocumError: the default engine failed.
    """
    open_engine = open_engine or partial(open_text, path, settings)
    kept = (cache or cache_folder()) / "engines" / f"{_key(path, settings)[:40]}.json"
    choice = _recall(kept)
    if choice is not None:
        note(f"engine taken: {choice.engine} ({choice.why}; measured before, {kept})")
        return choice, open_engine(choice.engine)
    choice, generator = _measure_all(open_engine)
    for trial in choice.trials:
        note(f"engine {trial.line()}")
    note(f"engine taken: {choice.engine} ({choice.why})")
    write_json(kept, choice.to_json())
    return choice, generator


def decide(trials: Sequence[TextTrial]) -> TextChoice:
    """The engine with the shortest typical request; the default, which comes first, unless another gains a tenth."""
    default, *others = trials
    best = min(others, key=lambda trial: trial.request_s, default=default)
    if math.isinf(best.request_s):
        return TextChoice(default.engine, "; ".join(f"{each.engine}: {each.reason}" for each in others), tuple(trials))
    share = best.request_s / default.request_s
    said = f"{best.engine} takes {share:.0%} of {default.engine}'s time for a typical request"
    if share > 1 - GAIN_MIN:
        return TextChoice(default.engine, f"{said}: kept", tuple(trials))
    return TextChoice(best.engine, said, tuple(trials))


def measure(engine: EngineName, generator: Generator) -> TextTrial:
    """Rates of reading and writing, each the better of two.

    Raises:
        LocumError: the engine failed.
    """
    generator.complete(_ask(_long_text(0), 2))  # pays for pages and buffers
    prefill = max(_prefill(generator, number) for number in (1, 2))
    alone = max(_decode(generator, [subject]) for subject in _SUBJECTS[:2])
    together = max(_decode(generator, _SUBJECTS[:CLIENTS]), _decode(generator, _SUBJECTS[CLIENTS:]))
    return TextTrial(engine, text_version_of(engine), prefill, alone, together)


def _measure_all(open_engine: Opener) -> tuple[TextChoice, Generator]:
    first, *others = TEXT_ENGINES
    opened: dict[EngineName, Generator] = {first: open_engine(first)}
    try:
        trials = [measure(first, opened[first])]
        for name in others:
            generator, trial = _candidate(name, open_engine, opened[first])
            trials.append(trial)
            if generator is not None:
                opened[name] = generator
        choice = decide(trials)
    except BaseException:
        for generator in opened.values():
            generator.close()
        raise
    chosen = opened.pop(choice.engine)
    for generator in opened.values():
        generator.close()
    return choice, chosen


def _candidate(name: EngineName, open_engine: Opener, default: Generator) -> tuple[Generator | None, TextTrial]:
    """An engine that answers as the default does, and its figures; else None, and why."""
    generator: Generator | None = None
    try:
        generator = open_engine(name)
        unlike = sum(not _begins_alike(default, generator, f"Tell me about {subject}.") for subject in _SUBJECTS)
        if unlike <= (1 - ALIKE_MIN) * len(_SUBJECTS):
            return generator, measure(name, generator)
        reason = f"begins {unlike} of {len(_SUBJECTS)} answers differently at temperature 0"
    except LocumError as error:  # not installed, or it cannot run this file: that is the answer
        reason = one_line(error.cause)
    if generator is not None:
        generator.close()
    return None, TextTrial(name, text_version_of(name), reason=reason)


def _ask(text: str, tokens: int) -> CompletionRequest:
    return CompletionRequest((Message("user", text),), max_tokens=tokens, truncate=True)  # a context may be small


def _long_text(number: int) -> str:
    """About 200 tokens that begin like no other number's."""
    words = _WORDS.split()
    return f"{number}. Write a title. " + " ".join(words[(number + 3 * k) % len(words)] for k in range(170))


def _begins_alike(default: Generator, other: Generator, text: str) -> bool:
    """Whether the first token of an engine is one that the default finds about as probable."""
    known = default.complete(replace(_ask(text, 1), logprobs=_ALTERNATIVES)).logprobs
    first = other.complete(replace(_ask(text, 1), logprobs=0)).logprobs
    if not known or not first:
        return False
    logprob = dict(known[0].top).get(first[0].token)
    return logprob is not None and abs(logprob - first[0].logprob) <= _LOGPROB_APART


def _prefill(generator: Generator, number: int) -> float:
    start_s = time.perf_counter()
    answer = generator.complete(_ask(_long_text(number), 1))
    return answer.input_tokens / (time.perf_counter() - start_s)


def _decode(generator: Generator, subjects: Sequence[str]) -> float:
    """Tokens a second after the first, summed over requests that run at the same time."""

    def write(subject: str) -> float:
        with generator.stream(_ask(f"Tell me a long story about {subject}.", _WRITTEN)) as stream:
            first_s, written = 0.0, 0
            for chunk in stream:
                first_s = first_s or time.perf_counter()
                written = chunk.final.output_tokens if chunk.final is not None else written
        return (written - 1) / max(time.perf_counter() - first_s, 1e-6)

    with ThreadPoolExecutor(len(subjects)) as pool:
        return sum(pool.map(write, subjects))


def _key(path: Path, settings: EngineSettings) -> str:
    facts = {
        "format": _FORMAT,
        "file": sha256_file(path),
        "versions": {name: text_version_of(name) for name in TEXT_ENGINES},
        "cores": usable_cores(),
        "settings": {name: str(value) for name, value in asdict(settings).items() if not name.endswith("_s")},
    }
    return content_hash(facts)


def _recall(kept: Path) -> TextChoice | None:
    """The choice made before; None when there is none, or it cannot be read."""
    try:
        document: Any = json.loads(kept.read_text(encoding="utf-8"))
        trials = tuple(TextTrial(**trial) for trial in document["trials"])
        if document["format"] != _FORMAT or document["engine"] not in TEXT_ENGINES:
            return None
        return TextChoice(document["engine"], str(document["why"]), trials)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        note(f"the choice of engine kept in {kept} cannot be read and is made anew")
        return None
