"""``known_shape``: logs and chat data sets in the forms that people have them, and which of their parts make a task.

Notable: a conversation's last user turn is the input (all turns before the answer, where there are several that differ
from row to row), the assistant's after it the output, and what the system says in every row the instruction. Alpaca,
Dolly, prompt and completion, chosen and rejected go by their columns' names. Not here: the kind of task (``propose``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from locum.core.errors import DataError
from locum.data.rows import RawRow
from locum.data.turns import PICKS, Turn, conversations, from_json, pick, reach, turns_of

_MOST = 0.8
_CONSTANT = 0.95
_SEVERAL = 0.2
_DEEPEST_WORSE = ("rejected", "non_preferred_output", "rejected_response")
_SYSTEM_NAMES = ("instructions", "system", "systemInstruction", "system_instruction", "system_prompt")
_PROMPT_NAMES = ("prompt", "input", "question", "query", "user_input")
_ANSWER_NAMES = ("completion", "response", "output", "chosen", "answer", "generation", "completions", "responses")
_LABEL_NAMES = frozenset("label category class intent sentiment topic tag kategorie".split())  # noqa: SIM905
_MAX_INSTRUCTION_CHARS = 4000
_FORM = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
JOIN = f"join each request to its answer (a batch's two files by custom_id), as rows {_FORM}"


@dataclass(frozen=True)
class Shape:
    """What is known of a file's parts.

    Attributes:
        input, output: columns, or picks of turns (``messages.user``); output is empty where no answer is known.
        instruction: what the system says in every row; "" for nothing.
        why: the reason, as a sentence's beginning.
        columns: picks of turns that may be read as columns.
        hidden: columns that these stand for.
    """

    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    instruction: str = ""
    why: str = ""
    columns: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


def known_shape(rows: Sequence[RawRow]) -> Shape | None:
    """What a sample of rows is known as; None where it is no such form.

    Raises:
        DataError: ``data-columns``: the rows hold answers and nothing that they answer, as the output of a batch does.
    """
    talks: dict[str, list[list[Turn]]] = {}
    for row in rows:
        for name, turns in conversations(row.columns):
            talks.setdefault(name, []).append(turns)
    talks = {name: found for name, found in talks.items() if len(found) >= _MOST * len(rows)}
    labels = [name for name in _filled(rows, list(rows[0].columns)) if name.casefold() in _LABEL_NAMES]
    labelled = any(isinstance(row.columns.get(name), str) for row in rows for name in labels)
    if labelled:  # a transcript is the text of its label; a judgement of true or false is about the answer
        talks = {
            name: found
            for name, found in talks.items()
            if not isinstance(from_json(reach(rows[0].columns, name)[1]), str)
        }
    if not talks:
        return _by_names(rows)
    hidden = tuple(dict.fromkeys(name.split(".")[0] for name in talks))
    columns = tuple(
        f"{name}.{each}"
        for name, found in talks.items()
        for each in PICKS
        if sum(pick(turns, each) is not None for turns in found) >= _MOST * len(rows)
    )
    good = [name for name in talks if name.rpartition(".")[2] not in _DEEPEST_WORSE]
    asked = [name for name in good if f"{name}.user" in columns]
    answered = [name for name in good if f"{name}.assistant" in columns]
    if not asked:
        return _with_text_prompt(rows, answered, columns, hidden)
    both = [name for name in asked if name in answered]
    source = both[0] if both else asked[0]
    answer = (f"{source}.assistant",) if both else tuple(f"{name}.assistant" for name in answered[:1])
    if labelled:
        answer = ()
    elif not answer:
        answer = _filled(rows, _ANSWER_NAMES)[:1]
    inputs, instruction = _system(rows, source, talks[source], columns)
    several = _differ_before(talks[source]) and f"{source}.conversation" in columns
    inputs += (f"{source}.{'conversation' if several else 'user'}",)
    read = "all turns before the answer are" if several else "the last user turn is"
    written = f", {answer[0]} the answer" if answer else ""
    return Shape(inputs, answer, instruction, f"{source} holds turns: {read} the input{written}", columns, hidden)


def odd_lists(rows: Sequence[RawRow]) -> str:
    """Columns of lists that no kind of task reads, and what to turn them into; "" where there are none."""
    first = rows[0].columns if rows else {}
    for name, value in first.items():
        if name.rpartition(".")[2] in PICKS and isinstance(value, list):
            return f"{name} holds parts that are no text (images, sound), which Locum does not read"
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            keys = ", ".join(str(key) for key in list(value[0])[:6])
            return f"column {name!r} holds lists of objects ({keys}); if they are turns, write them as {_FORM}"
    lists = [name for name, value in first.items() if isinstance(value, list)]
    for one, other in combinations(lists, 2):
        if all(
            isinstance(a := row.columns.get(one), list)
            and isinstance(b := row.columns.get(other), list)
            and len(a) == len(b)
            for row in rows
        ):
            spans = '{"text": "…", "spans": [[start, end, "type"], …]}'
            return f"{one!r} and {other!r} are lists of one length; if they are tokens and tags, write spans: {spans}"
    return ""


def _with_text_prompt(
    rows: Sequence[RawRow], answered: Sequence[str], columns: tuple[str, ...], hidden: tuple[str, ...]
) -> Shape | None:
    """Answers as turns, beside a prompt that is plain text."""
    if not answered:
        return None
    parent = answered[0].rpartition(".")[0]
    holders = dict.fromkeys((parent, "request", "request.body", "body", ""))
    names = [f"{each}." * bool(each) + name for each in holders for name in _PROMPT_NAMES]
    prompts = _filled(rows, [name for name in names if name not in answered])
    others = [name for name in dict.fromkeys(key for row in rows for key in row.columns) if name not in hidden]
    if not prompts and not _filled(rows, [name for name in others if "id" not in name.casefold().split("_")]):
        raise DataError(
            "data-columns",
            f"column {hidden[0]!r} holds answers, and no column holds what they answer",
            where=rows[0].place,
            fix=JOIN,
        )
    inputs, instruction = _system(rows, prompts[0] if prompts else answered[0], [], columns)
    answer, why = (f"{answered[0]}.assistant",), f"{answered[0]} holds an answer"
    return (
        Shape((*inputs, *prompts[:1]), answer, instruction, why, columns, hidden)
        if prompts
        else (Shape((), answer, instruction, why, columns, hidden))
    )


def _differ_before(talks: Sequence[Sequence[Turn]]) -> bool:
    """Whether there are turns before the last user turn in some rows, which are not the same examples in each."""
    before: list[tuple[str, ...]] = []
    for turns in talks:
        users = [place for place, turn in enumerate(turns) if turn.role == "user"]
        told = turns[: users[-1]] if users else turns
        before.append(tuple(str(turn.text) for turn in told if turn.role != "system"))
    several = [texts for texts in before if texts]
    same = Counter(several).most_common(1)[0][1] if several else 0
    return len(several) >= _SEVERAL * len(before) and same < _CONSTANT * len(several)


def _system(
    rows: Sequence[RawRow], source: str, talks: Sequence[Sequence[Turn]], columns: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    """What the system says: as an input where it differs from row to row, as the instruction where it does not."""
    name, said = f"{source}.system", [pick(turns, "system") for turns in talks]
    if not any(said):
        parent = source.rpartition(".")[0]
        beside = [f"{parent}." * bool(parent) + each for each in _SYSTEM_NAMES if each != source]
        name = next((each for each in beside if any(reach(row.columns, each)[1] for row in rows)), "")
        said = [_system_text(reach(row.columns, name)[1]) for row in rows] if name else []
    texts = Counter(text for text in said if isinstance(text, str) and text.strip())
    if not texts:
        return (), ""
    text, count = texts.most_common(1)[0]
    if count >= _CONSTANT * texts.total():
        return (), text.strip() if len(text) <= _MAX_INSTRUCTION_CHARS else ""
    usable = name in columns or all(isinstance(reach(row.columns, name)[1], str) for row in rows)
    return ((name,) if usable else ()), ""


def _system_text(value: Any) -> Any:
    turns = turns_of([{"role": "system", **value}]) if isinstance(value, dict) else None
    turns = turns or (turns_of([{"role": "system", "content": value}]) if isinstance(value, list) else None)
    return turns[0].text if turns else value


def _by_names(rows: Sequence[RawRow]) -> Shape | None:
    """Files known by the names of their columns."""
    names = {name.casefold(): name for row in rows for name in row.columns}
    answers = _filled(rows, [names[name] for name in _ANSWER_NAMES if name in names])
    if "instruction" in names and answers:
        told = Counter(str(row.columns.get(names["instruction"])).strip() for row in rows)
        extra = [names[name] for name in ("input", "context") if name in names]
        extra = [name for name in extra if any(str(row.columns.get(name) or "").strip() for row in rows)]
        text, count = told.most_common(1)[0]
        if extra and count >= _CONSTANT * len(rows) and len(rows) > 1:
            return Shape(tuple(extra), answers[:1], text, f"one instruction in every row, {answers[0]} the answer")
        why = f"instructions in {names['instruction']}, {answers[0]} the answer"
        return Shape((names["instruction"], *extra), answers[:1], "", why)
    prompts = _filled(rows, [names["prompt"]] if "prompt" in names else [])
    told = [name for name in answers if name.casefold() in ("completion", "response", "chosen")]
    if prompts and told:
        return Shape(prompts, tuple(told[:1]), "", f"prompts in {prompts[0]}, {told[0]} the answer")
    return None


def _filled(rows: Sequence[RawRow], names: Sequence[str]) -> tuple[str, ...]:
    """Those of some names under which most rows have a text, a number or a truth value."""
    return tuple(
        name
        for name in dict.fromkeys(names)
        if sum(_says_something(reach(row.columns, name)[1]) for row in rows) >= _MOST * len(rows)
    )


def _says_something(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, bool | int | float)
