"""``Room``: how many tokens an LLM is given for an answer, and a second attempt with more where one was cut.

Notable: a reasoning model may spend a limit that fits the answer on its thought. Such an answer is no wrong one: it is
asked for again with more room, and what was enough is kept for the rest of the run. Where more room does not help, it
is not tried for ever. Not here: what an answer means (``tasks``), what it costs (``evaluate.spending``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from locum.core.errors import LocumError
from locum.core.progress import warn
from locum.runtime.completion import Completion, CompletionRequest
from locum.schema.task import LlmSpec
from locum.scoring.spoken import thought_unended
from locum.students.writing import answer_of
from locum.tasks.protocol import TaskKind

_FOR_THOUGHT = (2048, 8192)
"""Limits of the attempts after the first, in tokens, where the task sets none and the model seems to think."""
_FOR_PROSE = (512,)
"""The same where it wrote plain words before an answer."""
LIMIT = "token_limit"
"""Where a completion keeps the limit that it was written within, among its further facts."""
_VAIN_MAX = 3
_TOO_MUCH = frozenset({"upstream-bad-request", "runtime-too-long", "evaluate-llm-cap", "upstream-timeout"})
"""Faults of a larger limit: above what the server allows, the context holds, the cap pays for, the time allows."""


def is_cut(kind: TaskKind, completion: Completion, text: str) -> bool:
    """Whether a completion ended at its limit, or within its thought, before it came to an answer."""
    ended_early = completion.finish_reason == "length" or thought_unended(completion.text)
    return ended_early and completion.finish_reason != "content_filter" and answer_of(kind, completion, text) is None


class Room:
    """The limit of one LLM's answers, for one run; safe for several threads.

    Args:
        llm: its ``max_tokens``, where set, is the limit of every answer; None as for one without.
    """

    def __init__(self, llm: LlmSpec | None = None) -> None:
        self._fixed = llm.max_tokens if llm else None
        self._enough = 0
        self._vain = 0
        self._lock = threading.Lock()

    def may_grow(self, limit: int) -> bool:
        """Whether an answer that was cut at a limit may be asked for with a larger one."""
        return limit < (self._fixed or _FOR_THOUGHT[-1])

    def complete(
        self,
        request: CompletionRequest,
        ask: Callable[[CompletionRequest], Completion],
        cut: Callable[[Completion], bool],
    ) -> Completion:
        """Ask once, and again with more room while the answer is cut; the counts are of all attempts together.

        Args:
            request: with the limit that the answer itself needs.
            ask: sends it.
            cut: whether an answer was cut before it came to what was asked for.

        Raises:
            LocumError: the first attempt failed; or a later one, for another reason than its larger limit.
        """
        limit = self._fixed or max(request.max_tokens, self._enough)
        found = ask(replace(request, max_tokens=limit))
        tried = False
        while cut(found) and (more := self._more(limit, found)) is not None:
            try:
                again = ask(replace(request, max_tokens=more))
            except LocumError as fault:
                if fault.code not in _TOO_MUCH:
                    raise
                self._give_up(fault)
                break
            tried, limit = True, more
            found = replace(
                again,
                input_tokens=found.input_tokens + again.input_tokens,
                output_tokens=found.output_tokens + again.output_tokens,
            )
        self._learn(limit, tried=tried, enough=not cut(found))
        found.extra[LIMIT] = str(limit)
        return found

    def _more(self, limit: int, found: Completion) -> int | None:
        with self._lock:
            if self._fixed is not None or self._vain >= _VAIN_MAX:
                return None
        plain = bool(found.text.strip()) and not thought_unended(found.text)
        return next((larger for larger in (_FOR_PROSE if plain else _FOR_THOUGHT) if larger > limit), None)

    def _learn(self, limit: int, *, tried: bool, enough: bool) -> None:
        if not tried:
            return
        with self._lock:
            first = enough and self._enough == 0
            if enough:
                self._enough, self._vain = max(self._enough, limit), 0
            else:
                self._vain += 1
            vain = self._vain == _VAIN_MAX
        if first:
            warn(f"the LLM's answer was cut, and came within {limit:,} tokens: so many are allowed from now on")
        if vain:
            warn(f"the LLM's answers are cut at {limit:,} tokens, too; set llm.max_tokens to allow more")

    def _give_up(self, fault: LocumError) -> None:
        with self._lock:
            first = self._vain < _VAIN_MAX
            self._vain = self._vain + 1 if fault.code == "upstream-timeout" else _VAIN_MAX
        if first:
            warn(f"the LLM's answer was cut, and more room is not to be had: {fault.cause}")
