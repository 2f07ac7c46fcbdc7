"""``tag``: the spans of a text that are of given types (entities, personal data), strictly scored (CoNLL, seqeval).

Notable: an answer is a JSON list of ``[start, end, label]``, characters of the input, end exclusive, in order and
without overlap. A model that writes is asked to quote instead, because it cannot count characters: ``parse`` finds each
quote in the input, in order and at most once. A quote that is not there, or of an unknown type, is dropped, so what is
scored is what is served. Not here: token classifiers, which give spans of their own (``students``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.schema.task import Task
from locum.scoring.spans import Span, span_rows
from locum.scoring.spoken import spoken
from locum.stats.rowwise import Metric
from locum.tasks.json_answer import found_json, one_form, read_json
from locum.tasks.protocol import Decoding
from locum.tasks.written import GoldFault, Written, mean

_START = ("start", "start_position", "start_offset", "start_char", "begin")
_END = ("end", "end_position", "end_offset", "end_char", "stop")
_LABEL = ("label", "entity_type", "type", "entity_group", "entity", "tag")
_QUOTE = ("text", "entity_value", "value", "word", "quote")
_ALL = "entities"
_MAX_SPANS = 1000


class GivenSpan(NamedTuple):
    """A span as a data file has it; ``quote`` is the text it stands for, where that is given."""

    start: int
    end: int
    label: str
    quote: str | None = None


class Tag(Written):
    """Typed spans, with micro F1 over spans and the share of inputs whose spans are all right."""

    name = "tag"
    tokens = 256

    def __init__(self, task: Task, labels: tuple[str, ...], prompt: Prompt) -> None:
        super().__init__(task, types_of(labels), prompt)

    @property
    def decoding(self) -> Decoding:
        """Held to a list of quotes with a known type each."""
        label: dict[str, Any] = {"enum": list(self.labels)} if self.labels else {"type": "string"}
        entity = _object({"text": {"type": "string"}, "label": label})
        return replace(super().decoding, json_schema=_object({_ALL: {"type": "array", "items": entity}}))

    def system_addition(self) -> str:
        """The types, and the form of the answer."""
        types = "".join(f"\n- {label}" for label in self.labels)
        listed = f"Find every part of the text that is of one of these types:{types}\n\n" if types else ""
        form = '{"entities": [{"text": "its words exactly as they stand in the text", "label": "its type"}]}'
        return (
            f"{listed}Answer with JSON of this form and nothing else, in the order of the text; "
            f"the list is empty when there is nothing to find:\n{form}"
        )

    def parse(self, completion: str, text: str) -> str | None:
        """The spans that the quotes in a model's JSON stand for; None when it wrote no such JSON."""
        said = spoken(completion)
        for found in (*found_json(said), *found_json(said, "[")):
            quotes = _quotes(found.value)
            if quotes is not None:
                return write_spans(self._located(quotes[:_MAX_SPANS], text))
        return None

    def target(self, row: Row) -> str:
        """The gold spans as quotes."""
        return self.written(row.output, row.input)

    def written(self, output: str, text: str) -> str:
        """The spans as quotes."""
        quotes = [{"text": text[start:end], "label": label} for start, end, label in load_spans(output)]
        return one_form({_ALL: quotes}, self.decoding.json_schema)

    def fault(self, row: Row) -> str | None:
        """A gold answer is a list of spans within the input that do not overlap."""
        try:
            check_spans(read_spans(read_json(row.output)), row.input)
        except ValueError as problem:
            return str(problem)
        return None

    def same(self, output: str, other: str | None) -> bool:
        """Whether two answers hold the same spans."""
        return other is not None and set(load_spans(output)) == set(load_spans(other))

    def features(self, text: str, output: str) -> dict[str, float]:
        """How many spans, and which share of the input they cover."""
        spans = load_spans(output)
        covered = sum(end - start for start, end, _ in spans)
        return {"spans": float(len(spans)), "covered": covered / max(1, len(text))}

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """Micro F1 over spans, and accuracy: the share of inputs with all spans right and no others."""
        said = [None if output is None else load_spans(output) for output in outputs]
        golds = [load_spans(row.output) for row in rows]
        right = [spans is not None and set(spans) == set(gold) for spans, gold in zip(said, golds, strict=True)]
        return {
            "span_f1": span_rows([spans or [] for spans in said], golds),
            "accuracy": mean([float(each) for each in right]),
        }

    def _located(self, quotes: Sequence[tuple[str, str]], text: str) -> list[Span]:
        known = {label.casefold(): label for label in self.labels}
        spans: list[Span] = []
        for quote, said in quotes:
            label = known.get(said.strip().casefold()) if known else said.strip()
            place = _find(quote, text, spans) if label else None
            if label and place:
                spans.append((*place, label))
        return spans


def types_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The types that labels stand for: BIO tags (``O``, ``B-PERSON``, ``I-PERSON``) lose their prefixes."""
    if "O" not in labels or not all(label == "O" or label.startswith(("B-", "I-")) for label in labels):
        return tuple(labels)
    return tuple(dict.fromkeys(label[2:] for label in labels if label != "O"))


def read_spans(value: Any) -> list[GivenSpan]:
    """Spans as data files have them: a list of ``[start, end, label]`` or of objects.

    Args:
        value: parsed JSON; an object names its start, end and label, e.g. ``{"start", "end", "label"}`` or, as
            Presidio has them, ``{"start_position", "end_position", "entity_type"}``, and may quote its text.

    Raises:
        GoldFault: something else; the message says what.
    """
    if not isinstance(value, list):
        raise GoldFault("no list of spans")
    return [_read_span(each) for each in value]


def check_spans(spans: Iterable[GivenSpan], text: str) -> None:
    """Require spans within a text, of at least a character, with their quotes, that do not overlap.

    Raises:
        GoldFault: the message says which and why.
    """
    reached = 0
    for start, end, label, quote in sorted(set(spans), key=lambda span: (span.start, span.end)):
        if not 0 <= start < end <= len(text):
            raise GoldFault(f"span {start} to {end} ({label}) is not within the text of {len(text)} characters")
        if quote is not None and text[start:end] != quote:
            raise GoldFault(f"span {start} to {end} ({label}) is {text[start:end]!r} in the text and not {quote!r}")
        if start < reached:
            raise GoldFault(f"span {start} to {end} ({label}) overlaps the one before it, which ends at {reached}")
        reached = end


def write_spans(spans: Iterable[Span]) -> str:
    """Spans as an answer: a JSON list on one line, in order, each once."""
    ordered = sorted({(int(start), int(end), label) for start, end, label in spans})
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


def load_spans(output: str) -> list[Span]:
    """The spans of an answer.

    Raises:
        ValueError: it is none.
    """
    return [(span.start, span.end, span.label) for span in read_spans(read_json(output))]


def _read_span(value: Any) -> GivenSpan:
    if isinstance(value, dict):
        start, end, label, quote = (
            next((value[name] for name in names if value.get(name) is not None), None)
            for names in (_START, _END, _LABEL, _QUOTE)
        )
    elif isinstance(value, list | tuple) and len(value) == 3:
        (start, end, label), quote = value, None
    else:
        raise GoldFault(f"{str(value)[:40]!r} is no span: give [start, end, label] or an object with these")
    if not isinstance(start, int) or not isinstance(end, int) or isinstance(start, bool) or isinstance(end, bool):
        raise GoldFault(f"a span from {str(start)[:20]!r} to {str(end)[:20]!r}: places are whole numbers")
    if not isinstance(label, str) or not label.strip():
        raise GoldFault(f"span {start} to {end} has no label")
    return GivenSpan(start, end, label, quote if isinstance(quote, str) else None)


def _quotes(value: Any) -> list[tuple[str, str]] | None:
    """Text and label of each entity in a model's JSON; None when it is something else."""
    listed = value.get(_ALL) if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return None
    found: list[tuple[str, str]] = []
    for each in listed:
        text, label = (each.get("text"), each.get("label")) if isinstance(each, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(label, str):
            return None
        found.append((text, label))
    return found


def _find(quote: str, text: str, taken: Sequence[Span]) -> tuple[int, int] | None:
    """Where a quote stands: rather as written, at word boundaries, after the last span, and as early as can be."""
    words = quote.replace("\u200b", "").split()  # ``prompt.plain`` may have put it there
    if not words:
        return None
    reached = max((end for _, end, _ in taken), default=0)
    places = [found.span() for found in re.finditer(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE)]
    free = [(a, b) for a, b in places if all(b <= start or end <= a for start, end, _ in taken)]

    def worse(place: tuple[int, int]) -> tuple[bool, bool, bool, int]:
        start, end = place
        inside = text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()
        return text[start:end].split() != words, inside, start < reached, start

    return min(free, key=worse, default=None)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
