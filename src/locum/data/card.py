"""The data card as HTML: one page that stands alone, with no script and no outside request.

Notable: texts of the user's data go through jinja2's autoescape, and a value that a spreadsheet would run as a
formula when somebody copies the table gets a leading apostrophe (OWASP, "CSV Injection").
Not here: what the card says (``prepare``).
"""

from __future__ import annotations

from locum.core.text import visible
from locum.data.staging import ORDER
from locum.schema.data import DataCard

_MOST_LABELS = 300
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def cell(value: str) -> str:
    """A value safe to read and to copy: hidden characters visible, a formula made text by an apostrophe."""
    return visible(f"'{value}" if value.startswith(_FORMULA_STARTS) else value)


def render(card: DataCard) -> str:
    """The card as an HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("locum.data", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    train = card.splits["train"].labels
    most = max(train.values(), default=1)
    bars = [(label, round(100 * train.get(label, 0) / most, 1)) for label in card.labels[:_MOST_LABELS]]
    template = environment.get_template("card.html.j2")
    order = list(reversed(ORDER))
    return template.render(card=card, order=order, bars=bars, more_labels=max(0, len(card.labels) - _MOST_LABELS))
