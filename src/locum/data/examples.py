"""From a raw row to an input and an output, both normalised text, or to a bad row with its reason.

Notable: one input column gives its value; several give ``name: value`` lines, an empty one for a value that is missing,
which is counted; a list of texts is read as paragraphs.
Labels may be text, numbers or true/false, also as lists of one, and become text (``1`` for 1.0, ``true``); a file that
mixes these kinds is an error that lists the odd ones out: ``1`` beside ``"one"`` is most often a mistake upstream.
Kinds without labels take any text, and lists, objects or several columns as one line of JSON; the kind says what it
cannot use. Spans are put in place in the normalised text (``spans``).
Not here: reading (``readers``), dropping duplicates (``dedupe``).
"""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from locum.core.text import one_line
from locum.data.label_sets import label_items
from locum.data.normalise import NotText, normalise
from locum.data.rows import MAX_PLACES, Faults, RawRow
from locum.data.spans import place_spans
from locum.schema.data import Row
from locum.schema.task import Task
from locum.tasks import open_kind
from locum.tasks.json_answer import read_json
from locum.tasks.tag import read_spans, write_spans

HOW, REVIEWED = "how", "page-review"
"""The member of a row's ``locum`` that says where its label comes from, and what it says of rows that a person chose on
the gateway's page and judged with the answer in sight."""
MAX_LABEL_CHARS = 256
MAX_GROUP_CHARS = 1000


class Example(NamedTuple):
    """An input and its right answer."""

    input: str
    output: str


class BadRow(Exception):
    """Why this row cannot be used, and what was seen."""


class ExampleReader:
    """Turns the raw rows of one file into examples.

    Args:
        task: the columns, the longest field, and what a right answer may be.
        faults: where unusable rows are told.
        changes: counts of normalisations, by name; added to.

    Attributes:
        cut, cut_count: the first places of inputs that were cut, and how many were.
        missing: rows taken without one of several input columns, which is absent or null there; the reason is its name.
        reviewed: places of rows that a person picked on the gateway's page and judged with the answer in sight.
        only_wrong: how many of those say that an answer was wrong and not what is right; they are not taken.
    """

    def __init__(self, task: Task, faults: Faults, changes: Counter[str]) -> None:
        spec = task.data
        self._labels = task.kind == "classify"
        self._ranked = task.kind == "rank"
        self._tagged = task.kind == "tag"
        self._kind = None if self._labels else open_kind(task)
        self._inputs = (spec.input,) if isinstance(spec.input, str) else spec.input
        self._outputs = (spec.output,) if isinstance(spec.output, str) else spec.output
        self._group = spec.group
        self._max_chars = spec.max_field_chars
        self._faults = faults
        self._changes = changes
        self._kinds: dict[str, list[str]] = {}
        self._kind_counts: Counter[str] = Counter()
        self.cut: list[str] = []
        self.cut_count = 0
        self.missing = Faults(faults.source)
        self.reviewed: set[str] = set()
        self.only_wrong = 0

    def take(self, row: RawRow) -> Example | None:
        """The row as an example, or None when it is bad; the reason goes to ``faults``."""
        said = row.columns.get("locum")
        if isinstance(said, dict) and said.get(HOW) == REVIEWED:
            if all(row.columns.get(name) is None for name in self._outputs):
                self.only_wrong += 1
                return None
            self.reviewed.add(row.place)
        try:
            text = self._input(row)
            label = self._spans(row, text) if self._tagged else self._right_answer(row, text)
            self.group_of(row)
        except BadRow as problem:
            reason, detail = problem.args
            self._faults.add(row.place, reason, detail)
            return None
        except RecursionError:
            self._faults.add(row.place, "too deeply nested")
            return None
        for name in self._inputs:
            if row.columns.get(name) is None:
                self.missing.add(row.place, name)
        return Example(text, label)

    def input_of(self, row: RawRow) -> str:
        """A row's input alone, for rows that have no right answer.

        Raises:
            BadRow: there is none, or it is no text.
        """
        try:
            return self._input(row)
        except RecursionError:
            raise BadRow("too deeply nested", "") from None

    def finish(self, skip_bad: bool) -> None:
        """Say which rows hold another kind of label than most: as bad rows, or taken as text with ``skip_bad``."""
        if len(self._kind_counts) < 2:
            return
        usual, _count = self._kind_counts.most_common(1)[0]
        for kind, places in self._kinds.items():
            if kind == usual:
                continue
            if skip_bad:
                self._changes["label_of_another_type"] += self._kind_counts[kind]
                continue
            for place in places:
                self._faults.add(place, f"the label is a {kind}, while most are {usual}s")
            unseen = self._kind_counts[kind] - len(places)
            if unseen:
                reason = f"the label is a {kind}, while most are {usual}s"
                self._faults.counts[reason] += unseen

    def _right_answer(self, row: RawRow, text: str) -> str:
        """A label; or an answer as text, several columns, lists and objects as one line of JSON."""
        if self._labels and len(self._outputs) == 1:
            return self._label(row.columns.get(self._outputs[0]), row.place)
        if self._kind is None:
            raise BadRow("a label comes from one column", ", ".join(self._outputs))
        answer = self._written(row, self._outputs)
        fault = self._kind.fault(Row(id=row.place, input=text, output=answer))
        if fault is not None:
            raise BadRow("the answer cannot be used", f"{fault} ({one_line(answer, 40)})")
        return answer

    def _written(self, row: RawRow, names: tuple[str, ...]) -> str:
        """What stands in some columns as one text."""
        found = {name: self._clean(row.columns.get(name), name) for name in names}
        value = found[names[0]] if len(found) == 1 else found
        if value is None:
            raise BadRow("no answer", "null")
        answer = value if isinstance(value, str) else orjson.dumps(value).decode()
        if len(answer) > self._max_chars:
            raise BadRow(f"the answer is longer than {self._max_chars:,} characters", one_line(answer, 40))
        return answer

    def group_of(self, row: RawRow) -> str | None:
        """What a row belongs to, as text (7.0 is 7); None where the task names no column for it.

        Raises:
            BadRow: there is none; ``take`` has told it then.
        """
        if self._group is None:
            return None
        value, column = row.columns.get(self._group), self._group
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or isinstance(value, list | dict | bytes):
            raise BadRow("no group", f"column {column!r} holds {'null' if value is None else _type_name(value)}")
        group = self._normal(str(value).lower() if isinstance(value, bool) else str(value), column)
        if not group or len(group) > MAX_GROUP_CHARS:
            raise BadRow("no group", f"column {column!r} is {'empty' if not group else 'too long to be a name'}")
        return group

    def _spans(self, row: RawRow, text: str) -> str:
        """Spans, as they stand in the normalised text."""
        raw, value = row.columns.get(self._inputs[0]), row.columns.get(self._outputs[0])
        if value is None:
            raise BadRow("no answer", "null; a text without spans has an empty list")
        try:
            given = read_spans(read_json(value) if isinstance(value, str) else value)
            spans = place_spans(raw if isinstance(raw, str) else text, given, text, self._count)
        except ValueError as problem:
            raise BadRow("the spans cannot be used", one_line(str(problem), 160)) from problem
        return write_spans((start, end, self._normal(label, self._outputs[0])) for start, end, label in spans)

    def _clean(self, value: Any, column: str) -> Any:
        """A value with all of its text normalised."""
        if isinstance(value, str):
            return self._normal(value, column)
        if isinstance(value, list | tuple):
            return [self._clean(each, column) for each in value]
        if isinstance(value, dict):
            return {str(key): self._clean(each, column) for key, each in value.items()}
        if value is None or isinstance(value, bool | int | float):
            return value
        raise BadRow("the answer is no JSON value", f"column {column!r} holds a {_type_name(value)}")

    def _input(self, row: RawRow) -> str:
        if self._ranked:
            return orjson.dumps({name: self._clean(row.columns.get(name), name) for name in self._inputs}).decode()
        if len(self._inputs) == 1:
            text = self._text(row.columns.get(self._inputs[0]), self._inputs[0], row.place)
            if not text:
                raise BadRow("empty input", "")
            return text
        values = {name: row.columns.get(name) for name in self._inputs}
        texts = {n: "" if value is None else self._text(value, n, row.place) for n, value in values.items()}
        if not any(texts.values()):
            raise BadRow("empty input", f"all of {', '.join(self._inputs)}")
        return "\n".join(f"{name}: {text}".rstrip() for name, text in texts.items())

    def _text(self, value: Any, column: str, place: str) -> str:
        if value is None:
            raise BadRow("null input", f"column {column!r}")
        if isinstance(value, bool | int | float):
            self._changes["number_as_text"] += 1
            value = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            value = "\n".join(value)
        if not isinstance(value, str):
            raise BadRow("the input is not text", f"column {column!r} holds a {_type_name(value)}")
        text = self._normal(value, column)
        if len(text) > self._max_chars:
            self.cut_count += 1
            if len(self.cut) < MAX_PLACES:
                self.cut.append(place)
            text = text[: self._max_chars].rstrip()
        return text

    def _label(self, value: Any, place: str) -> str:
        if value is None or value == "":
            raise BadRow("no label", "null" if value is None else "empty")
        listed = False
        if (items := label_items(value)) is not None:
            if len(items) != 1:
                several = "several labels in one row, and Locum learns one (multi-label is not done yet)"
                raise BadRow(several if items else "no label", one_line(str(value), 40))
            value, listed = items[0], isinstance(value, list)
        if isinstance(value, Decimal):
            value = float(value) if value % 1 else int(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise BadRow("no label", str(value))
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        kind = "list" if listed else _type_name(value)
        if kind in ("list", "fraction") and "text" in self._kinds:
            raise BadRow(f"the label is a {kind}, while others are text", one_line(str(value), 40))
        kind = "number" if kind == "fraction" else kind
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, int | float):
            text = str(value)
        elif isinstance(value, str):
            text = self._normal(value, self._outputs[0])
            if text != value:
                self._changes["label_cleaned"] += 1
        else:
            raise BadRow("the label is not a name or a number", f"{kind} {one_line(str(value), 40)}")
        if not text:
            raise BadRow("no label", "only white space")
        if len(text) > MAX_LABEL_CHARS:
            raise BadRow(f"the label is longer than {MAX_LABEL_CHARS} characters", one_line(text, 40))
        self._kind_counts[kind] += 1
        kept = self._kinds.setdefault(kind, [])
        if len(kept) < MAX_PLACES:
            kept.append(place)
        return text

    def _normal(self, value: str, column: str) -> str:
        try:
            return normalise(value, self._count)
        except NotText as error:
            raise BadRow("bytes that are not text (wrong encoding, or damaged)", f"column {column!r}") from error

    def _count(self, name: str) -> None:
        self._changes[name] += 1


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, float):
        return "fraction"
    names = {str: "text", int: "number", list: "list", dict: "object", bytes: "binary value"}
    return names.get(type(value), type(value).__name__)
