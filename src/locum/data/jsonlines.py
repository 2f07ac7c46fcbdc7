"""JSON Lines and JSON arrays of objects, a row at a time.

Notable: a line that is not complete JSON is a bad row named by its number; when it is the last one, the file
was probably truncated and the message says so. An array is decoded object by object from a sliding window,
so a file of any length passes through a few megabytes.
Not here: nested values; an input or label must be text or a number (``examples`` says which row is not).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

import orjson

from locum.core.errors import DataError
from locum.core.text import one_line
from locum.data.opening import MAX_LINE_CHARS, Survey, block, lines, open_text
from locum.data.rows import Faults, RawRow
from locum.data.turns import turns_of

_WINDOW_CHARS = 1 << 20
_COLUMN_ROWS = 100
_SPACE = " \t\r\n"
_WRAPPED_BYTES = 256 << 20


def read_lines(survey: Survey, faults: Faults) -> Iterator[RawRow]:
    """Rows of a JSON Lines file; lines that are not JSON objects go to ``faults``."""
    name = survey.path.name
    with open_text(survey, newline=None) as text:
        held: tuple[int, str] | None = None  # a bad line waits until it is known whether it was the last
        for number, line in enumerate(lines(text, str(survey.path)), start=1):
            if not line.strip():
                continue
            if held:
                faults.add(f"{name}:{held[0]}", "not valid JSON", held[1])
                held = None
            try:
                value = _loads(line)
            except (ValueError, RecursionError) as error:
                held = (number, f"{_reason(error)} in {one_line(line.strip(), 50)}")
                continue
            if (row := _row(value)) is not None:
                yield RawRow(name, number, row)
            else:
                faults.add(f"{name}:{number}", "not a JSON object", one_line(line.strip(), 50))
        if held:
            faults.add(f"{name}:{held[0]}", "not complete JSON, in the last line: truncated file?", held[1])


def read_array(survey: Survey, faults: Faults) -> Iterator[RawRow]:
    """Objects of a JSON array; other values in it go to ``faults``.

    Raises:
        DataError: the array itself is damaged, which leaves no way to find the next object.
    """
    name = survey.path.name
    with open_text(survey, newline=None) as text:
        for number, value in enumerate(_elements(text, str(survey.path)), start=1):
            if (row := _row(value)) is not None:
                yield RawRow(name, number, row)
            else:
                faults.add(f"{name}:{number}", "not a JSON object", one_line(json.dumps(value), 50))


def read_wrapped(survey: Survey, faults: Faults) -> Iterator[RawRow]:
    """Objects of the one list in a JSON document that is an object, as ``{"data": [...]}``.

    Raises:
        DataError: it is no such document, or too long to stand in memory at once.
    """
    where, name = str(survey.path), survey.path.name
    fix = "write one object a line (JSON Lines), or an array of objects; `jq -c . FILE` writes a line for each object"
    if survey.expanded_bytes > _WRAPPED_BYTES:
        cause = f"one JSON document of {survey.expanded_bytes:,} bytes; at most {_WRAPPED_BYTES:,} are read"
        raise DataError("data-format", cause, where=where, fix=fix)
    with open_text(survey, newline=None) as text:
        try:
            found = json.loads(text.read())
        except (ValueError, RecursionError) as error:
            cause = f"no JSON Lines, and no whole JSON document: {_reason(error)}"
            raise DataError("data-format", cause, where=where, fix=fix) from error
    rows = wrapped(found)
    if rows is None:
        cause = f"a JSON object with {len(found):,} keys, and not one list of rows in it"
        raise DataError("data-format", cause, where=where, fix=fix)
    for number, value in enumerate(rows, start=1):
        yield RawRow(name, number, value)


def wrapped(value: Any) -> list[dict[str, Any]] | None:
    """The rows of a document ``{"data": [...]}``; None where it has no list of objects, or several, or is a row."""
    lists = [each for each in value.values() if isinstance(each, list) and each] if isinstance(value, dict) else []
    rows = [each for each in lists if all(isinstance(item, dict) for item in each)]
    return rows[0] if len(rows) == len(lists) == 1 and turns_of(rows[0]) is None else None


def _row(value: Any) -> dict[str, Any] | None:
    """An object; of a conversation that is a list and no more, its turns as ``messages``."""
    if isinstance(value, list) and turns_of(value) is not None:
        return {"messages": value}
    return value if isinstance(value, dict) else None


def columns(rows: Iterator[RawRow]) -> tuple[str, ...]:
    """Names in the first 100 rows, in the order they appear."""
    names: dict[str, None] = {}
    for position, row in enumerate(rows):
        if position >= _COLUMN_ROWS:
            break
        names.update(dict.fromkeys(row.columns))
    return tuple(names)


def _loads(line: str) -> Any:
    """A JSON value: orjson, and for what it alone refuses (a lone surrogate, NaN) the standard library."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "too deeply nested"


def _elements(text: TextIO, where: str) -> Iterator[Any]:
    """Decode the elements of a top-level array from a window that slides over the text."""
    decoder = json.JSONDecoder()
    window = block(text, _WINDOW_CHARS, where).lstrip(_SPACE)
    at, count, ended = 1, 0, False  # behind the opening bracket
    while True:
        at = _skip(window, at)
        if at < len(window) and window[at] == "]":
            return
        try:
            value, end = decoder.raw_decode(window, at)
            if end == len(window) and not ended:
                raise json.JSONDecodeError("may go on", window, end)
        except (json.JSONDecodeError, RecursionError) as error:
            if ended or len(window) - at > MAX_LINE_CHARS or isinstance(error, RecursionError):
                cause = f"element {count + 1:,} of the array is not valid JSON: {_reason(error)}"
                raise DataError("data-damaged", cause, where=where, fix="is the file truncated?") from error
            more = block(text, max(_WINDOW_CHARS, len(window) - at), where)
            window, at, ended = window[at:] + more, 0, not more
            continue
        count += 1
        yield value
        at = end


def _skip(window: str, at: int) -> int:
    """Past white space and the comma between elements."""
    while at < len(window) and window[at] in _SPACE + ",":
        at += 1
    return at
