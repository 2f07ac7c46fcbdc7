"""``chat``: an answer in a conversation; scored by instructions that a program verifies, or by likeness to a gold one.

Notable: a gold answer is a JSON object as IFEval has it (``instruction_id_list`` and ``kwargs``; Zhou et al. 2023), and
then an answer is checked and there is nothing to learn by heart; or it is a text, which a student learns to write, and
then an answer is graded by its ROUGE-L with it, which is likeness of words and no judgement: where that is too little,
take profile custom with a judge. ``instruction`` pools instructions over rows, strictly, as IFEval's instruction-level
accuracy does; a row with a gold text counts as one instruction that is followed as far as ROUGE-L says. With the
default ``correct_at`` of 1, ``accuracy`` is IFEval's prompt-level accuracy; for gold texts, set it lower.
Not here: the checks themselves (``scoring.instructions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from locum.core.errors import UserError
from locum.schema.data import Row
from locum.scoring.counts import Floats
from locum.scoring.instructions import follow
from locum.scoring.rouge import rouge
from locum.stats.rowwise import Metric, Pooled
from locum.tasks.json_answer import read_json
from locum.tasks.written import GoldFault, Written, right_from

_NAMES, _ARGUMENTS = "instruction_id_list", "kwargs"
_SAME_FROM = 0.5
"""ROUGE-L from which two free answers are taken to say the same."""
_ENDS = (".", "!", "?", "…", '"', "”", "`", ")", "。", "！", "？")


class Chat(Written):
    """Answers to messages."""

    name = "chat"
    tokens = least = 512
    version = 2

    def target(self, row: Row) -> str | None:
        """The gold text; None when the gold answer is a list of instructions."""
        return row.output if read_checks(row.output) is None else None

    def fault(self, row: Row) -> str | None:
        """A gold answer is a text, or an object with instructions that are known and their arguments."""
        try:
            checks = read_checks(row.output)
            if checks is None:
                return None if row.output.strip() else "it is empty"
            follow("Some answer.", *checks)
        except GoldFault as problem:
            return str(problem)
        except UserError as problem:
            if problem.code != "scoring-instruction":
                raise
            return f"{problem.cause} ({problem.fix})"
        return None

    def same(self, output: str, other: str | None) -> bool:
        """Whether two answers share most of their words, in order."""
        return other is not None and (super().same(output, other) or rouge(output, [other])["rougeL"] >= _SAME_FROM)

    def features(self, text: str, output: str) -> dict[str, float]:
        """Those of every written answer, and whether it comes to an end."""
        return super().features(text, output) | {"ended": float(output.rstrip().endswith(_ENDS))}

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """Share of instructions followed, and accuracy: the share of rows whose own share reaches ``correct_at``."""
        counts = np.array([_counts(output, row.output) for output, row in zip(outputs, rows, strict=True)], np.float64)
        return {
            "instruction": Pooled(counts, _share),
            "accuracy": right_from(_share(counts).tolist(), self.task.correct_at),
        }


def read_checks(gold: str) -> tuple[list[str], list[dict[str, Any]]] | None:
    """The instructions of a gold answer and their arguments; None when it is a text.

    Raises:
        GoldFault: it names instructions, but not in IFEval's form.
    """
    if not gold.startswith("{"):
        return None
    try:
        value = read_json(gold)
    except ValueError:
        return None
    if not isinstance(value, dict) or _NAMES not in value:
        return None
    names, arguments = value[_NAMES], value.get(_ARGUMENTS)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise GoldFault(f"{_NAMES} is no list of names")
    arguments = [{} for _ in names] if arguments is None else arguments
    if not isinstance(arguments, list) or not all(isinstance(each, dict) for each in arguments):
        raise GoldFault(f"{_ARGUMENTS} is no list of objects")
    return names, arguments


def _counts(output: str | None, gold: str) -> tuple[float, float]:
    """Instructions followed, and how many there are."""
    checks = read_checks(gold)
    if checks is None:
        return (0.0 if output is None else rouge(output, [gold])["rougeL"]), 1.0
    return (0.0 if output is None else float(sum(follow(output, *checks).strict))), float(len(checks[0]))


def _share(sums: Floats) -> Floats:
    return sums[..., 0] / sums[..., 1]
