"""``translate``: a text in another language; scored by chrF (Popović 2015) and BLEU (Papineni et al. 2002).

Notable: the instruction names the languages. A gold answer is a translation, or a JSON list of several. BLEU takes
the tokeniser that fits the script of all gold translations. The corpus
metrics are pooled over rows, as they are defined, in [0, 1]; what counts as correct goes by chrF of the one sentence. A
refusal is told from the translation of a sentence that says the same by the input: where that holds a no or a sorry in
one of some twenty languages, what was written is taken for a translation, since it costs more to lose a right one.
Not here: the scores themselves (``scoring.translation``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from locum.schema.data import Row
from locum.scoring.translation import bleu_rows, chrf_rows, sentence_chrf, tokeniser
from locum.stats.rowwise import Metric
from locum.tasks.written import Written, right_from, several

_NO_OR_SORRY = re.compile(
    r"n't\b|\b(?:no|not|cannot|sorry|afraid|unable"
    r"|nicht|kein\w*|leid|entschuldig\w*|leider|pas|désol\w*|regrett\w*|malheureusement|siento|lamento|disculp\w*"
    r"|não|desculp\w*|infelizmente|non|dispiace|scus\w*|purtroppo|niet|geen|spijt|helaas|nie|przykro|przepraszam"
    r"|не|нет|извини\w*|прости\w*|жаль|inte|ikke|tyvärr|beklager|ledsen|değil|üzgünüm|maalesef|tidak|maaf|không)\b"
    r"|[不没沒無无歉]|对不起|對不起|ない|ません|申し訳|ごめん|못|없|않|죄송|미안|آسف|عذر|नहीं|माफ़|क्षमा",
    re.IGNORECASE,
)
"""Words with which the languages that are translated most say no or sorry."""


class Translate(Written):
    """Translations, with chrF and BLEU."""

    name = "translate"
    addition = "Answer with the translation alone."
    tokens = 256
    version = 2

    def target(self, row: Row) -> str:
        """The first gold translation."""
        return several(row.output)[0]

    def fault(self, row: Row) -> str | None:
        """A gold answer is a translation, or a list of at least one."""
        return None if all(gold.strip() for gold in several(row.output) or ("",)) else "a gold translation is empty"

    def refused(self, said: str, text: str) -> bool:
        """Whether a model declined, and the input cannot be a sentence that does."""
        return _NO_OR_SORRY.search(text) is None and super().refused(said, text)

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
            "bleu": bleu_rows(said, golds, tokenize=tokeniser(golds)),
            "accuracy": right_from(alone, self.task.correct_at),
        }
