"""What a student that writes needs for one answer: prompt and answer in tokens, time, memory, with what they come from.

Notable: such an answer takes the time to read its prompt once and then, for every token, to read the weights and what
is cached of the conversation again; llama.cpp, which serves it, sets the cache of all its slots aside at the start. So
the right answers' length and the context decide, not the input's length alone. Not here: the formulas (``fit.time``,
``fit.memory``), the most that an answer may have (``pipeline.answer_limit``).
"""

from __future__ import annotations

from dataclasses import dataclass

from locum.fit import memory, time
from locum.runtime.llama_settings import STUDENT_SLOTS
from locum.schema.candidate import Estimate, Method
from locum.schema.device import DeviceProfile
from locum.schema.kinds import PROMPTED
from locum.schema.task import Task
from locum.sources.catalogue import catalogue
from locum.sources.facts import BaseFacts

CHARS_PER_TOKEN = 4.4
"""Of English text under a vocabulary of 30 to 50 thousand."""
_FRAME_TOKENS = 120  # the kind's own words and the chat template's
_STORED: tuple[memory.WeightFormat, ...] = ("q4_1", "q4_k_m", "q8_0", "f16")
_TUNED: memory.WeightFormat = "q8_0"  # the first format that an export tries


@dataclass(frozen=True)
class Writing:
    """One answer, in tokens.

    Attributes:
        read: prompt, worked examples included.
        written: a middling right answer, once more for each further sample.
        context: that prompt and answer may have together.
        kept: of what is read, the beginning that every prompt shares; the engine reads it once and keeps it.
    """

    read: int
    written: int
    context: int
    kept: int = 0


def writing(task: Task, method: Method, row_tokens: int, answer_tokens: int) -> Writing:
    """What a student of this method reads and writes for one answer.

    Args:
        task: with its instruction and how answers are written.
        method: ``few_shot`` shows as many examples as it may.
        row_tokens: of a middling input.
        answer_tokens: of a middling right answer.
    """
    shown = task.generation.examples if method == "few_shot" else 0
    shared = instruction_tokens(task) + shown * (row_tokens + answer_tokens)
    context = task.generation.context
    read = min(shared + row_tokens, context)
    kept = max(0, min(shared, read - row_tokens))
    return Writing(read, answer_tokens * (1 + task.generation.samples), context, kept)


def instruction_tokens(task: Task) -> int:
    """Tokens that every prompt of a task begins with."""
    return _FRAME_TOKENS + round(len(task.instruction) / CHARS_PER_TOKEN)


def writer_estimate(base: str, method: Method, facts: BaseFacts, answer: Writing, device: DeviceProfile) -> Estimate:
    """Size, memory and latency of a student that writes, served by llama.cpp; nothing of its training.

    Args:
        base: its name or address.
        method: prompted students are the base's own GGUF file, tuned ones are exported.
        facts: of the base.
        answer: what is read and written.
        device: that it must run on.
    """
    kept = weight_format(base, method)
    cache = min(answer.context, facts.max_tokens) * STUDENT_SLOTS
    serving = memory.serving_memory(facts, kept, tokens=answer.read, cache_tokens=cache)
    fresh = answer.read - answer.kept
    latency_ms = time.latency_ms(
        facts, kept, device, input_tokens=fresh, output_tokens=answer.written, kept_tokens=answer.kept
    )
    inputs: dict[str, str | int | float] = {
        "tokens read": answer.read,
        "of these kept": answer.kept,
        "tokens written": answer.written,
        "tokens of cache": cache,
        "format": kept,
        "parameters": facts.parameters,
    }
    speeds = {"memory GB/s": device.memory_gb_s, "matrix product GFLOP/s": device.matmul_gflops}
    inputs |= {name: round(value, 1) for name, value in speeds.items() if value is not None}
    return Estimate(
        size_mb=memory.size_mb(facts, kept), memory_mb=serving.total_mb, latency_ms=latency_ms, inputs=inputs
    )


def weight_format(base: str, method: Method) -> memory.WeightFormat:
    """How a student that writes is stored: as its base's GGUF file, or as a tuned one is exported."""
    if method not in PROMPTED:
        return _TUNED
    entry = catalogue().get(base)
    artefacts = entry.artefacts if entry else ()
    names = " ".join(name.casefold() for each in artefacts if each.format == "gguf" for name in each.files)
    for kept in _STORED:
        if kept in names:
            return kept
    return _STORED[0]
