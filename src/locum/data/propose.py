"""``propose``: which kind of task a file's columns make: kind, profile and columns, with the reason.

Notable: a proposal is tried before it is made: its task reads the sample as a build would (``examples``), and one that
cannot read most rows is not proposed. What a user has said narrows the choice; what is said in full is taken as it is.
Structure goes first (spans, candidates, objects, tests), then labels, then written answers. Of columns that could be
labels the one that the text tells best is taken (``telling``). Not here: looking at the file (``inspect``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from locum.core.errors import LocumError
from locum.core.text import one_line
from locum.data.answer_schema import schema_of
from locum.data.examples import Example, ExampleReader
from locum.data.profiles import guess_profile
from locum.data.rows import Faults, RawRow
from locum.data.shapes import Shape
from locum.data.tally import (
    OUTPUT_NAMES,
    PREDICTED_NAMES,
    Tally,
    by_likeness_to_input,
    by_likeness_to_labels,
    name_score,
)
from locum.data.telling import Told, told_by
from locum.data.turns import PICKS
from locum.schema.data import Row
from locum.schema.kinds import Kind, Profile
from locum.schema.task import Task
from locum.tasks.json_answer import read_json
from locum.tasks.rank import read_grades

_WORD = re.compile(r"[^\W_]+")
_READ_SHARE = 0.8
_TRIED_ROWS = 100
_TRIED_COLUMNS = 3
_WRITTEN = (
    "answer answers output response completion target summary highlights translation reply solution label gold "
    "assistant chosen"
)
_WRITTEN_NAMES = frozenset(_WRITTEN.split())
_OBJECT_NAMES = _WRITTEN_NAMES | frozenset("json item call object fields extracted entities function".split())  # noqa: SIM905
_TESTS, _SOLUTIONS = ("test", "tests", "test_list"), ("canonical_solution", "solution", "code")
_CHECKS = ("instruction_id_list", "kwargs")
_ASKING = frozenset({"question", "query"})
_ABOUT_ROWS = frozenset("title source split domain subject language lang difficulty level dataset url".split())  # noqa: SIM905
_TITLES = frozenset("title subject headline heading betreff titel titre objet sujet titulo título asunto".split())  # noqa: SIM905
_DESCRIPTIONS, _NAMES = frozenset({"description", "beschreibung"}), frozenset({"name", "product"})
"""What a text is about stands in its name where it describes a thing; elsewhere a name is somebody's."""
_TRIED_LABELS = 6
_LEAST_GAIN = 0.2
"""Numbers of many values are labels only where the text tells this much of them; else they are amounts or answers."""
_TOLD_GAIN = 0.05
_MANY_NUMBERS = 30
_ONCE_SHARE = 0.1
_COPY_AGREES = 0.5
_MIN_TITLE_REPEATS = 3.0
_CANDIDATES = frozenset("candidates choices options items passages documents products".split())  # noqa: SIM905


@dataclass(frozen=True)
class Wish:
    """What the user has said already; empty where nothing."""

    kind: Kind | None = None
    profile: Profile | None = None
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A kind of task and its columns.

    Attributes:
        answer_schema: for extract, a draft made from the sample.
        fault: the first fault of a sample row, for a proposal that was taken as the user said it; else "".
        told: for classify, how well the input tells each column that was tried as the label.
        copies: columns that say nearly the same as the output.
    """

    kind: Kind
    profile: Profile | None
    input: tuple[str, ...]
    output: tuple[str, ...]
    why: str
    answer_schema: dict[str, Any] | None = None
    fault: str = ""
    told: Mapping[str, Told] = field(default_factory=dict[str, Told])
    copies: tuple[str, ...] = ()


def propose(
    tallies: Sequence[Tally],
    sample: Sequence[RawRow],
    rows: int,
    wish: Wish,
    *,
    shape: Shape | None = None,
    texts: Sequence[Mapping[str, str]] = (),
) -> Proposal | None:
    """The most likely task, or None when no columns make one.

    Args:
        tallies: of all columns.
        sample: some rows; members of objects that are lists may be columns of their own (``with_members``).
        rows: rows that the tallies counted.
        wish: what is not to be changed.
        shape: what the file is known as; it says what the user has not.
        texts: rows from all over the file as texts by column, to see what the input tells.
    """
    said = Wish(wish.kind or ("generate" if wish.profile else None), wish.profile, wish.input, wish.output)
    wishes = [said]
    if shape is not None and said.kind not in ("tag", "rank"):
        wishes.insert(0, replace(said, input=said.input or shape.input, output=said.output or shape.output))
    for each in wishes:
        columns = _Columns(tallies, sample[:_TRIED_ROWS], rows, each, texts)
        for proposal in _candidates(columns):
            if _fits(proposal, each) and _read_share(proposal, sample[:_TRIED_ROWS]) >= _READ_SHARE:
                return replace(proposal, why=f"{shape.why}; {proposal.why}") if shape and each != said else proposal
    if said.kind and said.input and said.output and (said.kind != "generate" or said.profile):
        return _as_said(said, sample)
    return None


def with_members(row: RawRow) -> RawRow:
    """A row with the lists inside its objects as columns of their own, ``answers.text``."""
    inner = {
        f"{name}.{key}": value
        for name, members in row.columns.items()
        if isinstance(members, dict)
        for key, value in members.items()
        if isinstance(value, list)
    }
    return RawRow(row.file, row.number, row.columns | inner) if inner else row


class _Columns:
    """What is known of the columns, by what they could be."""

    def __init__(
        self,
        tallies: Sequence[Tally],
        sample: Sequence[RawRow],
        rows: int,
        wish: Wish,
        texts: Sequence[Mapping[str, str]],
    ) -> None:
        self.sample, self.wish, self.rows, self._rows = sample, wish, rows, texts
        self.tallies = {tally.name: tally for tally in tallies}
        self.names = tuple(dict.fromkeys(name for row in sample for name in row.columns))
        self.labels = by_likeness_to_labels(tallies, rows)
        self.several = tuple(tally.name for tally in tallies if tally.has_several_labels)
        filled = [tally for tally in tallies if tally.filled >= _READ_SHARE * rows and not tally.id_reason(rows)]
        if rows > 1:
            filled = [tally for tally in filled if len(tally.values) > 1]  # a constant says nothing about a row
        self.texts = tuple(tally.name for tally in by_likeness_to_input(filled))
        self._values = {name: [_plain(row.columns.get(name)) for row in sample] for name in self.names}

    def inputs(self, *without: str) -> tuple[str, ...]:
        """The columns to read: those the user named, or the best text column that is none of these."""
        return self.wish.input or tuple(name for name in self.texts if name not in without)[:1]

    def mostly(self, fits: Callable[[Any], bool]) -> list[str]:
        """Columns most of whose values are such."""
        return [
            name
            for name, values in self._values.items()
            if sum(map(fits, values)) >= _READ_SHARE * len(values) and any(values)
        ]

    def told(self, inputs: Sequence[str], output: str) -> Told | None:
        """How well the inputs tell a column."""
        read = [" ".join(row.get(name, "") for name in inputs) for row in self._rows]
        return told_by(read, [row.get(output, "") for row in self._rows])

    def agrees(self, one: str, other: str) -> float:
        """How well one column's value tells the other's, above chance: 1 where each goes with one value only."""
        pairs = Counter((a, b) for row in self._rows if (a := row.get(one)) and (b := row.get(other)))
        best, often = Counter[str](), Counter[str]()
        for (a, b), count in pairs.items():
            best[a] = max(best[a], count)
            often[b] += count
        if len(often) < 2:
            return 0.0
        chance = max(often.values()) / pairs.total()
        return (best.total() / pairs.total() - chance) / (1 - chance)

    def copies_of(self, chosen: Tally, others: Sequence[Tally]) -> tuple[str, ...]:
        """Columns that say nearly the same as a label, as a model's answers do."""
        return tuple(
            each.name
            for each in others
            if each is not chosen
            and _COPY_AGREES <= min(self.agrees(each.name, chosen.name), self.agrees(chosen.name, each.name)) < 1
        )

    def chars(self, name: str) -> float:
        """Mean length of a column's values."""
        return sum(len(str(value)) for value in self._values[name]) / max(1, len(self.sample))


def _candidates(columns: _Columns) -> Iterator[Proposal]:
    yield from _checked(columns)
    yield from _code(columns)
    yield from _spans(columns)
    yield from _ranked(columns)
    objects, labelled, written = list(_objects(columns)), list(_labelled(columns)), list(_written(columns))
    named = [each for each in objects if _says(each.output[0], _OBJECT_NAMES)]
    known = {(tally.name,) for tally in columns.labels}
    answers = [each for each in written if _says(each.output[0], _WRITTEN_NAMES) and each.output not in known]
    labels = [each for each in labelled if not _says(each.output[0], _ABOUT_ROWS) and _is_told(each, columns)]
    yield from (*named, *labels, *answers, *labelled, *objects, *written)


def _is_told(proposal: Proposal, columns: _Columns) -> bool:
    """Whether the input tells the label, or nobody can say; a name like ``label`` speaks for itself."""
    fit = proposal.told.get(proposal.output[0])
    return (
        fit is None
        or fit.gain >= _TOLD_GAIN
        or proposal.output == columns.wish.output
        or (proposal.output[0].casefold() in OUTPUT_NAMES)
    )


def says_answer(name: str) -> bool:
    """Whether a column is named as written answers are."""
    return _says(name, _WRITTEN_NAMES)


def _checked(columns: _Columns) -> Iterator[Proposal]:
    if set(_CHECKS) <= set(columns.names):
        yield Proposal("generate", "chat", columns.inputs(*_CHECKS), _CHECKS, "instructions that a program verifies")


def _code(columns: _Columns) -> Iterator[Proposal]:
    test = next((name for name in _TESTS if name in columns.names), None)
    if test is None:
        return
    solution = [name for name in _SOLUTIONS if name in columns.names][:1]
    output = (*solution, test, *(["entry_point"] if "entry_point" in columns.names else []))
    prompts = [name for name in ("prompt", "text") if name in columns.names] or list(columns.inputs(*output))
    yield Proposal("generate", "code", columns.wish.input or tuple(prompts[:1]), output, f"{test} holds tests")


def _spans(columns: _Columns) -> Iterator[Proposal]:
    for output in columns.mostly(lambda value: isinstance(value, list)):
        for text in (columns.wish.input or columns.texts)[:_TRIED_COLUMNS]:
            yield Proposal("tag", None, (text,), (output,), f"{output} holds spans of {text}")


def _ranked(columns: _Columns) -> Iterator[Proposal]:
    lists = columns.mostly(lambda value: _has_texts(value) and len(value) > 1)
    gold = columns.mostly(lambda value: isinstance(value, list))
    named = [name for name in lists if name.casefold() in _CANDIDATES]
    for candidates in sorted(lists, key=lambda name: (name in named, columns.chars(name)), reverse=True):
        told = columns.names if candidates in named or columns.wish.kind == "rank" else gold
        for query in [name for name in (*columns.texts, *lists) if name != candidates][:_TRIED_COLUMNS]:
            inputs = columns.wish.input or (query, candidates)
            for output in (name for name in told if name not in inputs):
                found = Proposal("rank", None, inputs, (output,), f"{output} tells the best of {candidates}")
                if _read_share(found, columns.sample) >= _READ_SHARE and _tells_apart(found, columns.sample):
                    yield found


def _tells_apart(proposal: Proposal, sample: Sequence[RawRow]) -> bool:
    """Whether some candidates are not relevant, in most rows."""
    rows = [Row(id="", input=found.input, output=found.output) for found in _read(proposal, sample) if found]
    return sum(min(read_grades(row)) == 0 for row in rows) >= _READ_SHARE * len(rows)


def _objects(columns: _Columns) -> Iterator[Proposal]:
    wished = columns.wish.output if columns.wish.kind == "extract" else ()
    whole = [
        name for name in columns.mostly(lambda value: isinstance(value, dict)) if f"{name}.text" not in columns.names
    ]
    for output in [wished] if wished else [(name,) for name in whole]:
        found = [_answer(row, output) for row in columns.sample]
        objects = [value for value in found if isinstance(value, dict)]
        if objects:
            schema = schema_of(objects)
            why = f"{', '.join(output)} holds objects"
            yield Proposal("extract", None, columns.inputs(*output), output, why, schema)


def _labelled(columns: _Columns) -> Iterator[Proposal]:
    if columns.wish.kind == "classify" and columns.wish.output:
        inputs = columns.wish.input or _all_texts(columns, columns.wish.output)
        yield Proposal("classify", None, inputs, columns.wish.output, "as you said")
        return
    if columns.wish.kind not in (None, "classify"):
        return
    found = columns.labels
    if columns.wish.output:
        tally = columns.tallies.get(columns.wish.output[0])
        found = [tally] if tally and len(columns.wish.output) == 1 and tally.label_fault(tally.filled) == "" else []
    tried: list[tuple[float, Tally, tuple[str, ...]]] = []
    told: dict[str, Told] = {}
    for place, tally in enumerate(found):
        inputs = columns.wish.input or _all_texts(columns, (tally.name,))
        fit = columns.told(inputs, tally.name) if place < _TRIED_LABELS and tally.name not in inputs else None
        if fit is not None:
            told[tally.name] = fit
        if _may_be_labels(tally, fit):
            tried.append(((fit.gain if fit else 0.0) + 0.4 * name_score(tally), tally, inputs))
    for _, tally, inputs in sorted(tried, key=lambda each: each[0], reverse=True):
        chosen = _named_twin(tally, [each for _, each, _ in tried], columns)
        why = f"column {chosen.name!r} holds {len(chosen.values):,} values that repeat, as labels do"
        copies = columns.copies_of(chosen, found)
        yield Proposal("classify", None, inputs, (chosen.name,), why, told=told, copies=copies)


def _may_be_labels(tally: Tally, fit: Told | None) -> bool:
    """Whether values that repeat are labels: not amounts, nor written answers of which some are often given."""
    if fit is not None and fit.gain >= _LEAST_GAIN:
        return True
    if tally.type == "number" and len(tally.values) > _MANY_NUMBERS:
        return False
    once = sum(count == 1 for count in tally.values.values())
    return not _says(tally.name, _WRITTEN_NAMES - OUTPUT_NAMES) or once <= _ONCE_SHARE * len(tally.values)


def _named_twin(tally: Tally, others: Sequence[Tally], columns: _Columns) -> Tally:
    """For a column of class numbers, the column with their names where there is one: one value for one value."""
    if tally.type != "number":
        return tally
    twins = (
        each
        for each in others
        if each.type == "text"
        and len(each.values) == len(tally.values)
        and columns.agrees(each.name, tally.name) == columns.agrees(tally.name, each.name) == 1.0
        and not each.named(PREDICTED_NAMES)
    )
    return next(twins, tally)


def _all_texts(columns: _Columns, output: tuple[str, ...]) -> tuple[str, ...]:
    """The text columns to read for a label: a question and its passage, a title and its body, or the one text."""
    found = _question_first(columns, output)
    described = len(found) == 1 and _says(found[0], _DESCRIPTIONS)
    heads = _TITLES | (_NAMES if described else frozenset())
    titles = [
        name
        for name in columns.texts
        if name not in (*found, *output) and _says(name, heads) and columns.tallies[name].repeats < _MIN_TITLE_REPEATS
    ]
    return (titles[0], found[0]) if len(found) == 1 and titles else found


def _written(columns: _Columns) -> Iterator[Proposal]:
    for output in _written_columns(columns):
        inputs = columns.wish.input or _question_first(columns, output)
        if not inputs:
            continue
        found = [
            example for example in _read(Proposal("generate", "chat", inputs, output, ""), columns.sample) if example
        ]
        if not found:
            continue
        profile, why = guess_profile(found, inputs[0], output[0])
        if inputs[-1].endswith(".conversation"):
            profile, why = "chat", "answers in conversations"
        yield Proposal("generate", columns.wish.profile or profile, inputs, output, f"{', '.join(output)}: {why}")


def _written_columns(columns: _Columns) -> list[tuple[str, ...]]:
    """Columns that may hold written answers: the user's, those that are named so, then the last other text."""
    if columns.wish.output:
        return [columns.wish.output] if columns.wish.output[0] not in columns.several or columns.wish.kind else []
    asking = [f".{name}" for name in PICKS if name != "assistant"]  # turns that no model is to write
    usable = [*columns.mostly(_has_texts), *columns.mostly(lambda value: isinstance(value, str | int | float))]
    usable = [name for name in usable if name not in columns.several and not name.endswith(tuple(asking))]
    named = [name for name in usable if _says(name, _WRITTEN_NAMES)]
    others = [
        name for name in reversed(columns.names) if name in columns.texts and name in usable and name not in named
    ]
    labels = [tally.name for tally in columns.labels[:1]]
    return [(name,) for name in sorted((*named, *others[:1]), key=lambda name: name in labels)]


def _question_first(columns: _Columns, output: tuple[str, ...]) -> tuple[str, ...]:
    """The text columns to read: a question and then its passage, or the one text there is."""
    texts = [name for name in columns.texts if name not in output]
    asked = columns.mostly(lambda value: isinstance(value, str) and "?" in value)
    question = min((name for name in texts if name in asked or _says(name, _ASKING)), key=columns.chars, default=None)
    if question is None:
        return tuple(texts[:1])
    passage = max(texts, key=columns.chars)
    return (question, passage) if columns.chars(passage) > 2 * columns.chars(question) else (question,)


def _fits(proposal: Proposal, wish: Wish) -> bool:
    return (
        wish.kind in (None, proposal.kind)
        and wish.profile in (None, proposal.profile)
        and wish.output in ((), proposal.output)
        and bool(proposal.input)
        and not set(proposal.input) & set(proposal.output)
    )


def _as_said(wish: Wish, sample: Sequence[RawRow]) -> Proposal | None:
    """The user's own words as a proposal, with the first fault that they meet in the sample."""
    if wish.kind is None:
        return None
    schema = {"type": "object"} if wish.kind == "extract" else None
    said = Proposal(wish.kind, wish.profile, wish.input, wish.output, "as you said", schema)
    faults = Faults("sample")
    try:
        list(_read(said, sample, faults))
    except (LocumError, ValueError) as problem:
        return replace(said, fault=one_line(str(problem)))
    return replace(said, fault=": ".join(faults.places[0]) if faults.places else "")


def _read_share(proposal: Proposal, sample: Sequence[RawRow]) -> float:
    """The share of rows with an answer that the proposal's task reads; 0 where it is no task, or no answer says
    anything.
    """
    sample = [row for row in sample if any(row.columns.get(name) not in (None, "") for name in proposal.output)]
    try:
        read = list(_read(proposal, sample))
    except (LocumError, ValueError):  # columns or a schema that no task may have
        return 0.0
    if not any(example is not None and example.output != "[]" for example in read):
        return 0.0
    return sum(example is not None for example in read) / max(1, len(read))


def _read(proposal: Proposal, sample: Sequence[RawRow], faults: Faults | None = None) -> Iterator[Example | None]:
    """The sample as the proposal's task reads it; None for rows that it cannot use."""
    task = Task.model_validate(
        {
            "version": 1,
            "name": "proposal",
            "kind": proposal.kind,
            "profile": proposal.profile,
            "answer_schema": proposal.answer_schema,
            "instruction": "?",
            "data": {"train": "?", "input": proposal.input, "output": proposal.output},
        }
    )
    reader = ExampleReader(task, faults or Faults("sample"), Counter())
    yield from map(reader.take, sample)


def _answer(row: RawRow, output: tuple[str, ...]) -> Any:
    """The value of the output column, or the object that several make."""
    found = {name: _plain(row.columns.get(name)) for name in output}
    return found[output[0]] if len(output) == 1 else {name: row.columns.get(name) for name in output}


def _plain(value: Any) -> Any:
    """A value; JSON lists and objects that a text column holds are read."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{") and value.strip():
        try:
            return read_json(value)
        except ValueError:
            return value
    return value


def _says(name: str, words: frozenset[str]) -> bool:
    """Whether one of some words stands in a column's name."""
    return not words.isdisjoint(_WORD.findall(name.casefold()))


def _has_texts(value: Any) -> bool:
    """Whether a value is a list of texts, or of objects that stand for them."""
    return isinstance(value, list) and all(isinstance(each, str | dict) for each in value)
