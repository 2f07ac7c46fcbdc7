"""``summarise``: a text, shortened; scored by ROUGE (Lin 2004).

Notable: a gold answer is a summary, or a JSON list of several, of which each score takes the nearest. ROUGE counts
words that are shared, not facts that are right: what counts as correct (ROUGE-L from ``target.correct_at``) is likeness
to the gold summary and no more. Texts in other scripts
than Latin are told apart by their own words. Not here: the scores themselves (``scoring.rouge``).
"""

from __future__ import annotations

from collections.abc import Sequence

from locum.schema.data import Row
from locum.scoring.rouge import KINDS, rouge
from locum.stats.rowwise import Metric
from locum.tasks.written import Written, mean, right_from, several

_NOTHING = dict.fromkeys(KINDS, 0.0)


class Summarise(Written):
    """Summaries, graded by ROUGE-L."""

    name = "summarise"
    addition = "Answer with the summary alone, in the language of the text."
    tokens = 160
    version = 2

    def target(self, row: Row) -> str:
        """The first gold summary."""
        return several(row.output)[0]

    def fault(self, row: Row) -> str | None:
        """A gold answer is a summary, or a list of at least one."""
        return None if all(gold.strip() for gold in several(row.output) or ("",)) else "a gold summary is empty"

    def same(self, output: str, other: str | None) -> bool:
        """Whether one would count as correct if the other were the gold summary."""
        return other is not None and rouge(output, [other])["rougeL"] >= self.task.correct_at

    def features(self, text: str, output: str) -> dict[str, float]:
        """Those of every written answer, and the summary's length as a share of the text's."""
        return super().features(text, output) | {"length_share": len(output) / max(1, len(text))}

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """ROUGE-L, -1 and -2, and accuracy: the share whose ROUGE-L reaches ``target.correct_at``."""
        pairs = zip(outputs, rows, strict=True)
        scores = [_NOTHING if output is None else rouge(output, several(row.output)) for output, row in pairs]
        longest = [score["rougeL"] for score in scores]
        return {
            "rouge_l": mean(longest),
            "rouge_1": mean([score["rouge1"] for score in scores]),
            "rouge_2": mean([score["rouge2"] for score in scores]),
            "accuracy": right_from(longest, self.task.correct_at),
        }
