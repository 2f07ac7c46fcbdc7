"""How figures and user text are written, the same on the page, in the card and in the terminal.

Notable: unknown is an en dash, never a zero; a minus is U+2212, so no figure looks like a formula; text
from the data set is shown with its hidden characters spelled out and cannot start a spreadsheet formula.
"""

from __future__ import annotations

import math
import re

from locum.core.text import one_line, visible
from locum.schema.evaluation import Comparison, Evaluation, Interval

UNKNOWN = "–"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_METRIC_NAMES = {
    "macro_f1": "macro-F1",
    "span_f1": "span F1",
    "field_f1": "field F1",
    **{f"pass_at_{k}": f"pass@{k}" for k in (1, 5, 10, 50)},
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "chrf": "chrF",
    "bleu": "BLEU",
    "ndcg_at_10": "nDCG@10",
    "mrr_at_10": "MRR@10",
    "recall_at_10": "recall@10",
}


def metric_name(metric: str) -> str:
    """The metric in words."""
    return _METRIC_NAMES.get(metric, metric.replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits, thousands grouped; an en dash when unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace("-", "−")


def percent(share: float | None, places: int = 1) -> str:
    """A share as a percentage; never rounded up to 100 % or down to 0 % when it is neither."""
    if share is None or not math.isfinite(share):
        return UNKNOWN
    shown = round(100 * share, places)
    if shown >= 100 > 100 * share:
        shown = 100 - 10**-places
    if shown <= 0 < 100 * share:
        return f"<{10**-places:.{places}f} %"
    text = f"{shown:.{places}f}".replace("-", "−")
    return f"{text.removesuffix('.' + '0' * places) if share in (0, 1) else text} %"


def level(share: float) -> str:
    """A promised level as short as it can be written: ``5 %``, ``2.5 %``."""
    return f"{round(100 * share, 4):g} %"


def interval(value: Interval | None) -> str:
    """``92.9–94.8 %``: the ends of a 95 % interval of a share."""
    if value is None:
        return UNKNOWN
    return f"{percent(value.low).removesuffix(' %')}–{percent(value.high)}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    shown = round(100 * difference, 1)
    sign = "+" if shown > 0 else "−" if shown < 0 else "±"
    return f"{sign}{abs(shown):.1f}"


def milliseconds(value: float | None) -> str:
    """A latency."""
    if value is None:
        return UNKNOWN
    return f"{number(value / 1000)} s" if value >= 10_000 else f"{number(value, 2 if value < 100 else 3)} ms"


def megabytes(value: float | None) -> str:
    """A size, MB = 10^6 bytes."""
    if value is None:
        return UNKNOWN
    return f"{number(value / 1000)} GB" if value >= 1000 else f"{number(value)} MB"


def seconds(value: float | None) -> str:
    """A duration: ``0.4 s``, ``48 s``, ``7 min 5 s``, ``2 h 3 min``."""
    if value is None:
        return UNKNOWN
    if value < 60:
        return f"{number(value, 2)} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(value: int | None) -> str:
    """A count with thousands grouped."""
    return UNKNOWN if value is None else f"{value:,}".replace("-", "−")


def rows_of(evaluation: Evaluation, what: str | None = None) -> str:
    """How many rows were measured, and of how many groups: ``600 test rows (60 groups)``."""
    rows = f"{count(evaluation.n)} {f'{evaluation.split} rows' if what is None else what}"
    return rows if evaluation.groups is None else f"{rows} ({_groups(evaluation.groups)})"


def rows_compared(comparison: Comparison) -> str:
    """How many rows two models were compared on, for a column of counts: ``600 (60 groups)``."""
    rows = count(comparison.n)
    return rows if comparison.groups is None else f"{rows} ({_groups(comparison.groups)})"


def _groups(number: int) -> str:
    return f"{count(number)} group{'' if number == 1 else 's'}"


def parameters(value: int | None) -> str:
    """A number of weights as people say it: ``22.7 M``."""
    if value is None:
        return UNKNOWN
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{number(value / scale)} {letter}"
    return str(value)


def money(value: float | None) -> str:
    """A price in the currency of the user's bill, which Locum does not know."""
    return UNKNOWN if value is None else number(value, 3)


def p_value(value: float | None) -> str:
    """A p-value; small ones as a bound."""
    if value is None:
        return UNKNOWN
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def cell(text: str) -> str:
    """User text for a table cell: hidden characters spelled, and never the start of a formula.

    A cell that a reader copies into a spreadsheet must not run: a leading ``= + - @`` gets an apostrophe
    (OWASP, CSV injection).
    """
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def excerpt(text: str, limit: int = 400) -> str:
    """An example's text in quotation marks, on one line, cut to ``limit`` characters."""
    return f"“{one_line(text, limit)}”"


def short_name(name: str, limit: int = 24) -> str:
    """A candidate's name cut in the middle, so that base and method both stay readable."""
    shown = re.sub(r"\s+", " ", visible(name))
    if len(shown) <= limit:
        return shown
    tail = limit // 2
    return f"{shown[: limit - tail - 1]}…{shown[-tail:]}"


def headline(evaluation: Evaluation | None, metric: str) -> Interval | None:
    """The metric that choices went by, where it was measured."""
    return evaluation.metrics.get(metric) if evaluation is not None else None
