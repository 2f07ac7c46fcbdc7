"""``translate``: a text in another language; scored by chrF (Popović 2015) and BLEU (Papineni et al. 2002).

Notable: the instruction names the languages. A gold answer is a translation, or a JSON list of several. The corpus
metrics are pooled over rows, as they are defined, in [0, 1]; what counts as correct goes by chrF of the one sentence.
Not here: the scores themselves (``scoring.translation``).
"""

from __future__ import annotations

from collections.abc import Sequence

from locum.schema.data import Row
from locum.scoring.translation import bleu_rows, chrf_rows, sentence_chrf
from locum.stats.rowwise import Metric
from locum.tasks.written import Written, right_from, several


class Translate(Written):
    """Translations, with chrF and BLEU."""

    name = "translate"
    addition = "Answer with the translation alone."
    tokens = 256

    def target(self, row: Row) -> str:
        """The first gold translation."""
        return several(row.output)[0]

    def fault(self, row: Row) -> str | None:
        """A gold answer is a translation, or a list of at least one."""
        return None if all(gold.strip() for gold in several(row.output) or ("",)) else "a gold translation is empty"

    def same(self, output: str, other: str | None) -> bool:
        """Whether one would count as correct if the other were the gold translation."""
        return other is not None and sentence_chrf(output, [other]) >= self.task.correct_at

    def features(self, text: str, output: str) -> dict[str, float]:
        """Those of every written answer (words left as they were among them), and both lengths' ratio."""
        return super().features(text, output) | {"length_share": len(output) / max(1, len(text))}

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """Corpus chrF and BLEU, and accuracy: the share whose own chrF reaches ``target.correct_at``."""
        said = [output or "" for output in outputs]
        golds = [several(row.output) for row in rows]
        alone = [sentence_chrf(each, gold) for each, gold in zip(said, golds, strict=True)]
        return {
            "chrf": chrf_rows(said, golds),
            "bleu": bleu_rows(said, golds),
            "accuracy": right_from(alone, self.task.correct_at),
        }
