"""``Tally``: counts of one column while a sample of a file passes, and what they say the column is for.

Notable: columns are judged by what is in them, in any language: a label column's values repeat and are short; an input
column's values are long and mostly different; an id's are all different and have no words. English names such as
``text`` or ``label`` only break ties. Not here: what kind of task the columns make (``propose``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from locum.core.text import one_line
from locum.data.label_sets import label_items

ValueType = Literal["text", "number", "true/false", "date", "empty", "nested"]

_MOST_DISTINCT = 5_000
_SAMPLES = 3
_LOOKED_AT = 200
_MOST_LABELS = 500
_LABEL_CHARS = 80
_MIN_REPEATS = 2.0
_FEW_FRACTIONS = 20
_ITEM_REPEATS, _MOST_ITEMS = 3.0, 4.0
_OUTPUTS = (
    "label labels category class intent target output answer sentiment topic y tag gold etiqueta kategorie klasse "
    "thema etikett kategorien catégorie categorie étiquette classe sujet categoría categoria clase tema etichetta"
)
_INPUTS = (
    "text input sentence message utterance query question content body prompt description texto nachricht anfrage "
    "beschreibung frage satz inhalt texte phrase mensaje frase testo messaggio review"
)
_ASIDE = (
    "note notes notiz notizen bemerkung bemerkungen remark remarks internal resolution reply antwort lösung response "
    "explanation rationale reason reasoning"
)
OUTPUT_NAMES, INPUT_NAMES = frozenset(_OUTPUTS.split()), frozenset(_INPUTS.split())
ASIDE_NAMES = frozenset(_ASIDE.split())
"""Words in the names of texts that were written about the row later, and are not there when it is to be answered."""
PREDICTED_NAMES = frozenset("predicted prediction predictions pred preds yhat guess llm model gpt vorhersage".split())  # noqa: SIM905
"""Words in the names of columns that some model has filled."""
_PEOPLE_NAMES = frozenset("human gold true annotator annotation annotated manual".split())  # noqa: SIM905
_WORD = re.compile(r"[^\W_]+")
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([ ,].*)?|\d{1,2}:\d{2}(:\d{2})?"
    r"|\d{1,2}\.? [^\W\d]{3,9}\.?,? \d{4}|[^\W\d]{3,9}\.? \d{1,2}(st|nd|rd|th)?,? \d{4}"
)
_TECHNICAL = re.compile(
    r"[a-z][a-z0-9+.-]*://\S+|www\.\S+|[^\s@]+@[^\s@]+\.[^\s@]+|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|[0-9a-fA-F]{16,}|\+?[\d ()/.-]{7,20}|(\d{1,3}\.){3}\d{1,3}|[\w./\\-]*[/\\][\w./\\-]*\.\w{1,5}"
)
"""A web or mail address, a UUID, a hash, a telephone number, an IP address, a path of a file."""


@dataclass
class Tally:
    """Counts of one column.

    Attributes:
        filled: rows with a value.
        values: how often each value was seen, up to 5,000 different ones.
        lengths: how many values have so many characters.
        samples: the first few values, cut to one line.
        items: of lists of labels, how many rows have each item.
        lists, several: rows with a list of labels, and those with more than one.
    """

    name: str
    position: int
    filled: int = 0
    chars: int = 0
    words: int = 0
    types: Counter[str] = field(default_factory=Counter[str])
    values: Counter[str] = field(default_factory=Counter[str])
    distinct_full: bool = False
    lengths: Counter[int] = field(default_factory=Counter[int])
    samples: list[str] = field(default_factory=list[str])
    items: Counter[str] = field(default_factory=Counter[str])
    lists: int = 0
    several: int = 0

    def take(self, value: Any) -> None:
        """Count one value."""
        if (items := label_items(value)) is not None:
            different = set(map(cell_text, items))
            self.lists += 1
            self.several += len(different) > 1
            if len(self.items) < _MOST_DISTINCT:
                self.items.update(different)
        text = cell_text(value)
        if not text:
            return
        self.filled += 1
        self.chars += len(text)
        self.lengths[len(text)] += 1
        self.words += len(text.split())
        self.types[_type_of(value, text)] += 1
        start = text[:1000]
        if start in self.values or len(self.values) < _MOST_DISTINCT:
            self.values[start] += 1
        else:
            self.distinct_full = True
        if len(self.samples) < _SAMPLES and one_line(text, 80) not in self.samples:
            self.samples.append(one_line(text, 80))

    @property
    def type(self) -> ValueType:
        """What most values are."""
        return self.types.most_common(1)[0][0] if self.types else "empty"  # pyright: ignore[reportReturnType]

    @property
    def mean_chars(self) -> float:
        """Mean length of a value."""
        return self.chars / self.filled if self.filled else 0.0

    def chars_at(self, share: float) -> int:
        """The least length that a share of the values does not exceed; 0 when there is no value."""
        wanted, seen = math.ceil(share * self.filled), 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= wanted:
                return length
        return 0

    @property
    def repeats(self) -> float:
        """Rows for each distinct value."""
        return self.filled / len(self.values) if self.values else 0.0

    def label_fault(self, rows: int) -> str:
        """Why the column cannot hold labels; "" when it can."""
        if self.filled < 0.5 * rows:
            return "mostly empty"
        if self.has_several_labels:
            return f"several labels in {self.several:,} of its rows"
        if self.distinct_full or len(self.values) > _MOST_LABELS:
            return f"more than {_MOST_LABELS} different values"
        if len(self.values) < 2:
            return "one value only"
        if self.repeats < _MIN_REPEATS:
            return f"its values hardly repeat ({len(self.values):,} different in {self.filled:,} rows)"
        nested = self.type == "nested" and (self.several or self.lists < 0.8 * self.filled)
        if self.mean_chars > _LABEL_CHARS or nested or self.type == "date":
            return "its values are long or nested"
        if self.type == "number" and len(self.values) > _FEW_FRACTIONS and any(map(_is_fraction, self.values)):
            return "it holds fractions"
        return ""

    @property
    def has_several_labels(self) -> bool:
        """Whether rows have lists of labels, several in some: few different ones, of which each stands in many rows."""
        return (
            self.several > 0
            and self.lists >= 0.8 * self.filled
            and 1 < len(self.items) <= _MOST_LABELS
            and self.items.total() >= _ITEM_REPEATS * len(self.items)
            and self.items.total() <= _MOST_ITEMS * self.lists
        )

    def named(self, words: frozenset[str]) -> bool:
        """Whether one of some words stands in the column's name."""
        return not words.isdisjoint(_WORD.findall(self.name.casefold()))

    def id_reason(self, rows: int) -> str:
        """Why the column seems to be an identifier; "" when it does not."""
        if self.name.casefold() in INPUT_NAMES or self.type == "nested":
            return ""
        some = list(self.values)[:_LOOKED_AT]
        if len(some) > 1 and self.type == "text" and sum(map(_is_technical, some)) >= 0.9 * len(some):
            return "addresses, paths or codes"
        if self.filled < rows:
            return ""
        if not (self.distinct_full or len(self.values) == self.filled) or self.filled < 3:
            return ""
        if self.type == "number":
            return "a different number in every row"
        has_digits = all(any(char.isdigit() for char in value) for value in self.values)
        if self.words == self.filled and self.mean_chars <= 64 and has_digits:
            return "a different word with digits in every row"
        return ""


def by_likeness_to_labels(tallies: Sequence[Tally], rows: int) -> list[Tally]:
    """Columns that can hold labels, the most like it first: named so, filled by people, few and short values."""

    def score(tally: Tally) -> tuple[float, float, int]:
        few = 0.5 if len(tally.values) <= max(20, rows // 20) else 0.0
        return name_score(tally) * 2.0 + few, -tally.mean_chars, tally.position

    return sorted((tally for tally in tallies if tally.label_fault(rows) == ""), key=score, reverse=True)


def name_score(tally: Tally) -> float:
    """What a column's name and type say for its being the label: from about -1 to 1."""
    name = tally.name.casefold()
    exact = 1.0 * (name in OUTPUT_NAMES) - 1.0 * (name in INPUT_NAMES)
    part = 0.3 * (not exact and tally.named(OUTPUT_NAMES)) - 0.8 * (tally.named(PREDICTED_NAMES) and name != "model")
    part += 0.3 * tally.named(_PEOPLE_NAMES)
    return exact + part + (0.25 if tally.type in ("text", "true/false") else 0.0)


def by_likeness_to_input(tallies: Sequence[Tally]) -> list[Tally]:
    """Columns of text, the one most like what a student reads first: long, and different from row to row."""

    def score(tally: Tally) -> float:
        different = 1.0 if tally.distinct_full else len(tally.values) / max(1, tally.filled)
        named = 1.5 if tally.name.casefold() in INPUT_NAMES else 0.5 if tally.named(ASIDE_NAMES) else 1.0
        return named * (0.2 + different) * min(tally.mean_chars, 400.0)

    return sorted((tally for tally in tallies if tally.type == "text"), key=score, reverse=True)


def cell_text(value: Any) -> str:
    """A value as text, "" for none; a list of one label is that label."""
    if value is None or value != value:  # not a number, as pandas and Parquet write what is missing
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not value.startswith("["):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    items = label_items(value)
    return cell_text(items[0]) if items is not None and len(items) == 1 else str(value).strip()


def _type_of(value: Any, text: str) -> ValueType:
    if isinstance(value, bool) or text.casefold() in ("true", "false"):
        return "true/false"
    if isinstance(value, list | dict | bytes):
        return "nested"
    if isinstance(value, int | float) or _is_number(text):
        return "number"
    if len(text) <= 40 and _DATE.fullmatch(text):
        return "date"
    return "text"


def _is_fraction(text: str) -> bool:
    """Whether a number has a part that is no zero behind its point."""
    return bool(text.replace(",", ".").partition(".")[2].strip("0"))


def _is_technical(text: str) -> bool:
    return _TECHNICAL.fullmatch(text) is not None


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True
