"""``extract``: a JSON object with the fields that a schema names; a tool call is one with ``name`` and ``arguments``.

Notable: engines that can are held to the schema while they write; what any model wrote is read from prose or a Markdown
block too, and is an answer only when the schema allows it. Answers have one form: one line, keys in the schema's order,
which is also what a student learns to write. Not here: the scores (``scoring.fields``), how sure a field is
(``students.fields``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.schema.task import Task
from locum.scoring.fields import exact_match, field_rows, leaves, right_fields, valid, why_invalid
from locum.scoring.spoken import spoken
from locum.stats.rowwise import Metric
from locum.tasks.json_answer import found_json, one_form, read_json
from locum.tasks.protocol import Decoding
from locum.tasks.written import Written, mean


class Extract(Written):
    """Fields by a schema: micro F1 of fields, exact match, and the share of valid answers.

    Raises:
        UserError: ``scoring-schema``, the task's schema is malformed.
    """

    name = "extract"
    tokens = 256
    spread = 2.0  # JSON that is laid out over lines

    def __init__(self, task: Task, labels: tuple[str, ...], prompt: Prompt) -> None:
        self.schema: Mapping[str, Any] = task.answer_schema or {}
        valid({}, self.schema)  # a malformed schema is told before anything is read or trained
        super().__init__(task, labels, prompt)

    @property
    def decoding(self) -> Decoding:
        """Held to the schema."""
        return replace(super().decoding, json_schema=dict(self.schema))

    def system_addition(self) -> str:
        """The schema."""
        schema = json.dumps(self.schema, ensure_ascii=False, separators=(",", ":"))
        return f"Answer with one JSON object that this schema allows, and nothing else:\n{schema}"

    def parse(self, completion: str, text: str) -> str | None:
        """The first object that the schema allows, in its one form."""
        del text
        allowed = (found.value for found in found_json(spoken(completion)) if valid(found.value, self.schema))
        value = next(allowed, None)
        return None if value is None else one_form(value, self.schema)

    def target(self, row: Row) -> str:
        """The gold object in its one form."""
        return one_form(read_json(row.output), self.schema)

    def fault(self, row: Row) -> str | None:
        """A gold answer is a JSON object that the schema allows."""
        try:
            value = read_json(row.output)
        except ValueError as problem:
            return str(problem)
        if not isinstance(value, dict):
            return "no JSON object"
        why = why_invalid(value, self.schema)
        return None if why is None else f"answer_schema does not allow it: {why}"

    def same(self, output: str, other: str | None) -> bool:
        """Whether two answers hold the same fields with the same values."""
        return other is not None and exact_match(read_json(output), read_json(other)) == 1.0

    def features(self, text: str, output: str) -> dict[str, float]:
        """How many fields, and which share of the texts in them stands in the input; 1 when none is text."""
        flat = leaves(read_json(output))
        said = [str(value).casefold() for _, (kind, value) in flat.elements() if kind == "text"]
        given = " ".join(text.casefold().split())
        return {
            "fields": float(flat.total()),
            "fields_in_input": sum(value in given for value in said) / len(said) if said else 1.0,
        }

    def right_fields(self, output: str, row: Row) -> dict[str, bool]:
        """Whether each field equals the gold one, by its path; as micro F1 counts them."""
        return right_fields(read_json(output), read_json(row.output))

    def score(self, outputs: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Metric]:
        """Micro F1 of fields, share of answers that equal the gold one, share that the schema allows."""
        values = [None if output is None else read_json(output) for output in outputs]
        golds = [read_json(row.output) for row in rows]
        pairs = list(zip(values, golds, strict=True))
        return {
            "field_f1": field_rows(values, golds),
            "accuracy": mean([0.0 if value is None else exact_match(value, gold) for value, gold in pairs]),
            "valid": mean([0.0 if value is None else valid(value, self.schema) for value in values]),
        }
