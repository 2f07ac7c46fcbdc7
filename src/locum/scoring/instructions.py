"""IFEval: does an answer keep the instructions that a program can verify? (Zhou et al. 2023)

Notable: strict looks at the answer as it is; loose takes the best of eight variants (without its first line, last
line, asterisks), as the paper does. An empty answer keeps no instruction. Over prompts, the means of
``Followed.strict_all`` and ``loose_all`` are prompt-level accuracy; instruction-level accuracy pools all instructions
(``instruction_rows``). Not here: the 25 checks themselves (``instruction_checks``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from locum.core.errors import UserError
from locum.core.registry import nearest
from locum.scoring.counts import Floats, check_rows
from locum.scoring.instruction_checks import CHECKS
from locum.stats.rowwise import Pooled


@dataclass(frozen=True)
class Followed:
    """What one answer kept, an entry an instruction.

    Attributes:
        strict: by the answer as it is.
        loose: by the best of its variants.
    """

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]

    @property
    def strict_all(self) -> float:
        """1.0 when every instruction was kept; prompt-level, strict."""
        return float(all(self.strict))

    @property
    def loose_all(self) -> float:
        """1.0 when every instruction was kept by some variant; prompt-level, loose."""
        return float(all(self.loose))


def follow(answer: str, instructions: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> Followed:
    """Check one answer against the instructions of its prompt.

    Args:
        answer: what the model wrote.
        instructions: IFEval's names, e.g. ``length_constraints:number_words``; a language in front (``en:``) is
            taken off.
        arguments: what each instruction asks for, e.g. ``{"relation": "at least", "num_words": 300}``; an entry
            that is None counts as absent.

    Raises:
        UserError: ``scoring-instruction`` for an unknown instruction or arguments that do not fit it;
            ``core-missing-extra`` where a check needs langdetect or nltk.
    """
    if len(instructions) != len(arguments):
        cause = f"{len(instructions)} instructions and {len(arguments)} sets of arguments"
        raise UserError("scoring-instruction", cause, fix="give one set of arguments for every instruction")
    variants = _variants(answer)
    kept = [_kept(name, wanted, variants) for name, wanted in zip(instructions, arguments, strict=True)]
    return Followed(tuple(verdicts[0] for verdicts in kept), tuple(any(verdicts) for verdicts in kept))


def instruction_rows(rows: Sequence[Followed], *, loose: bool = False) -> Pooled:
    """What each row adds to instruction-level accuracy: kept and all instructions, ``[n, 2]``.

    Raises:
        UserError: ``scoring-input`` when there are no rows.
    """
    check_rows(len(rows), len(rows))
    kept = [row.loose if loose else row.strict for row in rows]
    counts = np.array([(sum(row), len(row)) for row in kept], dtype=np.float64)
    return Pooled(counts, _share)


def _share(sums: Floats) -> Floats:
    return np.divide(sums[..., 0], sums[..., 1], out=np.ones_like(sums[..., 0]), where=sums[..., 1] > 0)


def _variants(answer: str) -> list[str]:
    """The answer, then what the loose reading also looks at: first or last line away, asterisks away."""
    lines = answer.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    whole = [answer, *cut]
    return [*whole, *(variant.replace("*", "") for variant in whole)]


def _kept(name: str, wanted: Mapping[str, Any], variants: Sequence[str]) -> list[bool]:
    known = name.split(":", 1)[1] if name.count(":") == 2 else name
    if known not in CHECKS:
        close = nearest(known, CHECKS)
        hint = f"did you mean {close!r}?" if close else f"known: {', '.join(CHECKS)}"
        raise UserError("scoring-instruction", f"unknown instruction {name!r}", fix=hint)
    given = {key: value for key, value in wanted.items() if value is not None}
    try:
        return [bool(variant.strip()) and CHECKS[known](variant, **given) for variant in variants]
    except (TypeError, ValueError, AttributeError, re.error) as problem:
        raise UserError(
            "scoring-instruction", f"{name} with {given!r}: {problem}", fix="give the arguments that IFEval names"
        ) from problem
