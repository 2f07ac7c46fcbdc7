"""CSV and TSV: the delimiter, the header, quoted fields with line breaks, rows that do not fit.

Notable: the delimiter is the one under which the wanted columns exist, else the one that splits the first
records most evenly. A TSV whose every line has the same number of tabs has no quoted line breaks, so its quotes are
plain characters, as in most published TSV files; fields that a writer did quote are unquoted.
Not here: quoted fields over several lines (``quoted``), types and labels (``examples``).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from locum.core.errors import DataError
from locum.core.text import one_line
from locum.data.opening import Survey, lines, open_text
from locum.data.quoted import RowShape, allow_long_fields, read_records
from locum.data.rows import Faults, RawRow

_DELIMITERS = (",", "\t", ";", "|")
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")
_LONG_NAME_CHARS = 64


def sniff(survey: Survey, wanted: Sequence[str], extension: str) -> str:
    """The delimiter between fields.

    Args:
        survey: the file.
        wanted: columns that the task names; a delimiter under which they all exist wins.
        extension: ``csv`` or ``tsv`` or "", for ties.
    """
    head = _head_text(survey)
    scores: dict[str, tuple[bool, float, int]] = {}
    for delimiter in _DELIMITERS:
        records = _records(head, delimiter)
        if not records:
            continue
        width = len(records[0])
        even = sum(len(record) == width for record in records) / len(records)
        has_wanted = bool(wanted) and set(_columns_of(wanted, records[0])) <= {name.strip() for name in records[0]}
        scores[delimiter] = (has_wanted, round(even, 2) if width > 1 else 0.0, width)
    default = "\t" if extension == "tsv" else ","
    if not scores or max(scores.values())[1] == 0.0:
        return default
    return max(scores, key=lambda delimiter: (scores[delimiter], delimiter == default))


def read_header(survey: Survey, delimiter: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The column names in the first record.

    Raises:
        DataError: there is no header (the first record looks like data), or a wanted name stands there twice.
    """
    records = _records(_head_text(survey), delimiter)
    if not records:
        raise DataError("data-empty", "the file holds no row", where=str(survey.path), fix="give a file with rows")
    header = [name.strip() for name in records[0]]
    if not set(_columns_of(wanted, header)) & set(header) and (why := _like_data(header, records[1:])):
        seen = " | ".join(one_line(value, 40) for value in header[:8])
        example = delimiter.join(("text", "label", *(f"column{n}" for n in range(3, len(header) + 1)))[: len(header)])
        raise DataError(
            "data-no-header",
            f"the first line looks like data, not like column names ({why}): {seen}",
            where=f"{survey.path}:1",
            fix=f"put a line with column names first, such as {example!r}",
        )
    twice = sorted({name for name in header if header.count(name) > 1 and name in wanted})
    if twice:
        cause = f"the header names {', '.join(map(repr, twice))} more than once"
        raise DataError("data-columns", cause, where=f"{survey.path}:1", fix="rename one of them")
    return tuple(header)


def _columns_of(wanted: Sequence[str], header: Sequence[str]) -> list[str]:
    """The wanted columns; where one is a name with dots, the column that it reaches into."""
    return [name if name in header else name.split(".")[0] for name in wanted]


def read(survey: Survey, delimiter: str, header: Sequence[str], faults: Faults) -> Iterator[RawRow]:
    """Rows of a CSV or TSV file; rows with another number of fields than the header go to ``faults``."""
    name = survey.path.name
    plain = delimiter == "\t" and survey.tabs == len(header) - 1
    shape = RowShape(delimiter, len(header), _head_text(survey))
    records = _plain_records(survey) if plain else _quoted_records(survey, shape, faults)
    for position, (number, fields) in enumerate(records):
        if position == 0 or not fields or fields == [""]:
            continue
        if len(fields) != len(header):
            faults.add(f"{name}:{number}", f"not {len(header)} fields, as in the header", f"{len(fields)} fields")
            continue
        yield RawRow(name, number, dict(zip(header, fields, strict=True)))


def _quoted_records(survey: Survey, shape: RowShape, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    with open_text(survey, newline="") as text:
        yield from read_records(lines(text, str(survey.path)), shape, survey.path.name, faults)


def _plain_records(survey: Survey) -> Iterator[tuple[int, list[str]]]:
    with open_text(survey, newline=None) as text:
        for number, line in enumerate(lines(text, str(survey.path)), start=1):
            yield number, [_unquote(field) for field in line.rstrip("\n").split("\t")]


def _unquote(field: str) -> str:
    """A field that a CSV writer quoted, without its quotes; any other field as it is."""
    if len(field) < 2 or field[0] != '"' or field[-1] != '"':
        return field
    inner = field[1:-1].replace('""', "\0")
    return field if '"' in inner else inner.replace("\0", '"')


def _head_text(survey: Survey) -> str:
    head = survey.head.decode(survey.encoding, "ignore")
    if survey.expanded_bytes > len(survey.head) and "\n" in head:
        head = head[: head.rindex("\n") + 1]
    return head


def _records(text: str, delimiter: str, most: int = 50) -> list[list[str]]:
    records: list[list[str]] = []
    allow_long_fields()
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if record:
                records.append(record)
            if len(records) >= most:
                break
    except csv.Error:
        pass  # the records before the damage are enough to choose by; reading reports the damage
    return records


def _like_data(header: list[str], records: list[list[str]]) -> str:
    """Why a first record cannot be column names, or "" when it can."""
    for position, name in enumerate(header):
        if not name:
            continue
        if _NUMBER.fullmatch(name):
            return f"{name!r} is a number"
        if len(name) > _LONG_NAME_CHARS or "\n" in name:
            return "a name would be a whole sentence"
        below = [record[position].strip() for record in records if position < len(record)]
        if name in below:
            return f"{one_line(name, 30)!r} stands again further down"
    if all(len(name.split()) > 3 for name in header if name):
        return "every name would be a sentence"
    return ""
