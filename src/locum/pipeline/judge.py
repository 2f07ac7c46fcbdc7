"""Lending the task's LLM as the judge: with ``scorer: judge``, whatever scores within asks it, once for every answer.

Notable: verdicts are kept in ``judge-answers.jsonl``, keyed by model and question, so a build that is stopped pays for
none twice. Not here: what the judge is shown and how a verdict is read (``tasks.judging``, ``scoring.judge``).
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from locum.core.appended import AppendedLines, read_lines
from locum.core.files import content_hash
from locum.runtime.completion import CompletionRequest
from locum.runtime.open import open_generator
from locum.schema.message import Message
from locum.schema.task import LlmSpec, Task
from locum.tasks.judging import judging

_VERDICT_TOKENS = 200


@contextmanager
def lent_judge(
    task: Task, llm: LlmSpec | None, cache: Path, *, threads: int | None = None
) -> Generator[None, None, None]:
    """Let the task's LLM judge what is scored within; without ``scorer: judge`` nothing is opened.

    Args:
        task: asks for a judge, or does not.
        llm: who judges.
        cache: file of its answers so far; made when there is something to keep.
        threads: CPU threads for a local file.

    Raises:
        UpstreamError: the LLM may not be used (on entering), or does not answer (while scoring).
    """
    if task.scorer != "judge" or llm is None:
        yield
        return
    found = {str(line["key"]): str(line["text"]) for line in read_lines(cache) if "key" in line and "text" in line}
    lock = threading.Lock()
    with ExitStack() as stack:
        generator = stack.enter_context(closing(open_generator(llm, threads=threads)))
        kept = stack.enter_context(AppendedLines(cache))

        def complete(messages: Sequence[Message]) -> str:
            key = content_hash([generator.model, [[message.role, message.content] for message in messages]])
            if key not in found:
                request = CompletionRequest(tuple(messages), max_tokens=_VERDICT_TOKENS, whole=True)
                text = generator.complete(request).text
                with lock:
                    found[key] = text
                    kept.append({"key": key, "text": text})
            return found[key]

        with judging(complete):
            yield
