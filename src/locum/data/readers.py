"""``open_table`` and ``read_rows``: any data file or folder as a stream of rows.

Notable: the format goes by content first and by name second, so a JSON Lines file called ``.txt`` is read
as what it is. Whatever the format, the wanted columns are checked before the first row, and the file is
checked after the last one: if it changed meanwhile, reading ends with an error. A name with dots reaches into
objects, lists and turns (``answers.text``, ``messages.user``; ``turns``); it must be there in a row of a sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from locum.core.errors import DataError
from locum.core.files import content_hash, sha256_file
from locum.core.registry import nearest
from locum.core.text import one_line
from locum.data import columnar, delimited, jsonlines
from locum.data.jsonlines import wrapped
from locum.data.opening import Survey, recheck, survey
from locum.data.rows import Faults, RawRow, Table
from locum.data.turns import PICKS, from_json, reach, turns_of
from locum.schema.data import SplitName
from locum.schema.task import DataSpec

ROWS_ENDING = ".rows.jsonl"
"""Ends the names of files that ``frames`` writes: JSON Lines in UTF-8, whatever a task says of its own files."""
_PARQUET_MAGIC = b"PAR1"
_BINARY = (".parquet", ".arrow")
_SAMPLE_ROWS = 10_000
"""Rows of which at least one must have a member that is asked for; most files show it in the first."""
_LISTED_ROWS = 100
_WRAPPERS = frozenset({"data", "rows", "items", "examples", "records", "results", "train"})
_NUMBER = re.compile(r"\.-?\d+(\.|$)")


def wanted_columns(spec: DataSpec) -> tuple[str, ...]:
    """The group's column, the input columns and the output columns that a task names, in that order, each once."""
    inputs = (spec.input,) if isinstance(spec.input, str) else spec.input
    outputs = (spec.output,) if isinstance(spec.output, str) else spec.output
    return tuple(dict.fromkeys((*((spec.group,) if spec.group is not None else ()), *inputs, *outputs)))


def read_rows(
    path: Path, spec: DataSpec, *, split: SplitName = "train", faults: Faults | None = None
) -> Iterator[RawRow]:
    """Rows of a data file or folder, one at a time.

    Args:
        path: a CSV, TSV, JSON Lines, JSON, Parquet or Arrow file (text may be gzip), or a folder of them.
        spec: columns, format, encoding and what to do about bad rows.
        split: which part to take of a folder that holds several.
        faults: where bad rows are told; without it they raise at the end, unless ``spec.skip_bad``.

    Returns:
        Rows in the file's order.

    Raises:
        DataError: the file cannot be read, lacks a column, changes meanwhile, or holds bad rows.
    """
    table = open_table(path, format=spec.format, encoding=spec.encoding, wanted=wanted_columns(spec), split=split)
    told = Faults(str(path)) if faults is None else faults
    yield from table.rows(told)
    table.recheck()
    if faults is None:
        told.settle(spec.skip_bad)


def open_table(
    path: Path,
    *,
    format: str = "auto",
    encoding: str | None = None,
    wanted: Sequence[str] = (),
    split: SplitName = "train",
    named: str = "data.input, data.output or data.group",
) -> Table:
    """Look at a file or folder, and make it ready to read.

    Args:
        path: the file or folder.
        format: auto, csv, tsv, jsonl or parquet.
        encoding: the text encoding when it is known.
        wanted: columns that must be there, members of objects among them (``answers.text``); empty to skip the check.
        split: which part to take of a folder that holds several.
        named: the settings that the wanted columns come from, for the message.

    Raises:
        DataError: it is missing, empty, damaged, of another format, or lacks a wanted column.
        UserError: it needs pyarrow, which is not installed.
    """
    if path.name.endswith(ROWS_ENDING):
        format, encoding = "jsonl", "utf-8"
    if path.is_dir() or _is_binary(path, format):
        table = _open_columnar(path, wanted, split)
    else:
        found = survey(path, encoding)
        chosen = _text_format(found, format)
        table = _open_csv(found, chosen, wanted) if chosen in ("csv", "tsv") else _open_json(found, chosen)
    table = _with_members(table, wanted)
    _check_columns(table, wanted, named)
    return table


def _is_binary(path: Path, format: str) -> bool:
    if not path.is_file():
        return False  # survey reports what is wrong with it
    with path.open("rb") as file:
        magic = file.read(6)
    is_parquet = magic[:4] == _PARQUET_MAGIC
    if format == "parquet" and not is_parquet:
        cause = f"not a Parquet file: it starts with {magic!r}"
        raise DataError("data-format", cause, where=str(path), fix="leave data.format at auto")
    if format in ("csv", "tsv", "jsonl") and is_parquet:
        raise DataError("data-format", f"a Parquet file, not {format}", where=str(path), fix="data.format: auto")
    return is_parquet or magic == b"ARROW1" or path.suffix.casefold() in _BINARY


def _text_format(found: Survey, format: str) -> str:
    """csv, tsv, jsonl or json: by the user's word, else by the first character, else by the name."""
    start = found.head[:4096].decode(found.encoding, "ignore").lstrip("\ufeff \t\r\n")
    names = [suffix.casefold() for suffix in found.path.suffixes]
    says_json = bool({".json", ".jsonl", ".ndjson"} & set(names))
    if format == "jsonl" or (format == "auto" and (says_json or start.startswith(("{", "[{")))):
        if not start.startswith(("{", "[")):
            cause = f"not JSON Lines: the file starts with {one_line(start[:40])!r}"
            raise DataError("data-format", cause, where=str(found.path), fix="data.format: csv, if that is what it is")
        if start.startswith("["):
            return "jsonl" if _lists_by_line(found) else "json"
        return "wrapped" if _is_wrapped(found) else "jsonl"
    if format == "auto":
        return "tsv" if {".tsv", ".tab"} & set(names) else "csv"
    return format


def _lists_by_line(found: Survey) -> bool:
    """Whether each line is a list of its own, as some logs write a conversation; a JSON array goes over all lines."""
    first, _, rest = found.head.decode(found.encoding, "ignore").lstrip("\ufeff \t\r\n").partition("\n")
    return rest.lstrip()[:1] == "[" and isinstance(from_json(first), list)


def _is_wrapped(found: Survey) -> bool:
    """Whether a file that begins with an object is one JSON document and not one object a line."""
    first, newline, rest = found.head.decode(found.encoding, "ignore").lstrip("\ufeff \t\r\n").partition("\n")
    if first.strip() in ("{", '{"'):
        return True
    if rest.strip() or not (newline or len(found.head) == found.expanded_bytes):
        return False
    value = from_json(first)
    named = isinstance(value, dict) and not _WRAPPERS.isdisjoint(value)  # else it may be the only row
    return named and wrapped(value) is not None


def _open_json(found: Survey, chosen: str) -> Table:
    reader = {"json": jsonlines.read_array, "wrapped": jsonlines.read_wrapped}.get(chosen, jsonlines.read_lines)
    first = Faults(str(found.path))
    columns = jsonlines.columns(reader(found, first))
    if not columns and first.total:
        first.settle(skip_bad=False)
    if not columns:
        raise DataError("data-empty", "no row in the file", where=str(found.path), fix="give a file with rows")
    return Table(
        path=found.path,
        format=("json" if chosen == "wrapped" else chosen) + (".gz" if found.gzipped else ""),
        encoding=found.encoding,
        columns=columns,
        rows=lambda faults: reader(found, faults),
        sha256=found.sha256,
        bytes=found.bytes,
        recheck=lambda: recheck(found.path, found.sha256),
    )


def _open_csv(found: Survey, chosen: str, wanted: Sequence[str]) -> Table:
    delimiter = "\t" if chosen == "tsv" else delimited.sniff(found, wanted, chosen)
    header = delimited.read_header(found, delimiter, wanted)
    name = "tsv" if delimiter == "\t" else "csv"
    return Table(
        path=found.path,
        format=name + (".gz" if found.gzipped else ""),
        encoding=found.encoding,
        columns=header,
        rows=lambda faults: delimited.read(found, delimiter, header, faults),
        sha256=found.sha256,
        bytes=found.bytes,
        recheck=lambda: recheck(found.path, found.sha256),
        delimiter=delimiter,
    )


def _open_columnar(path: Path, wanted: Sequence[str], split: SplitName) -> Table:
    paths = columnar.find_files(path, split) if path.is_dir() else (path,)
    hashes = {file.relative_to(path).as_posix(): sha256_file(file) for file in paths}
    sha256 = content_hash(hashes) if path.is_dir() else next(iter(hashes.values()))
    columns, named = columnar.columns(paths[0])

    def check() -> None:
        for file, known in zip(paths, hashes.values(), strict=True):
            recheck(file, known)

    return Table(
        path=path,
        format=paths[0].suffix[1:] or "parquet",
        encoding="binary",
        columns=columns,
        classes=next((tuple(named[name]) for name in reversed(wanted) if name in named), ()),
        rows=lambda faults: columnar.read(paths, path, _read_whole(wanted, columns), faults),
        sha256=sha256,
        bytes=sum(file.stat().st_size for file in paths),
        recheck=check,
    )


def _with_members(table: Table, wanted: Sequence[str]) -> Table:
    """The table with wanted members of its objects and picks of its turns as columns of their own, but for those that
    no row of a sample has; of CSV, whose values are text, only turns.
    """
    members = [name for name in dict.fromkeys(wanted) if _object_of(name, table.columns)]
    if table.delimiter:
        members = [name for name in members if _NUMBER.search(name) or name.rpartition(".")[2] in PICKS]
    unseen = set(members)
    for row in islice(table.rows(Faults(str(table.path))), _SAMPLE_ROWS if members else 0):
        unseen -= {name for name in unseen if reach(row.columns, name)[0]}
        if not unseen:
            break
    members = [name for name in members if name not in unseen]
    if not members:
        return table

    def rows(faults: Faults) -> Iterator[RawRow]:
        for row in table.rows(faults):
            yield replace(row, columns=row.columns | {name: reach(row.columns, name)[1] for name in members})

    return replace(table, columns=(*table.columns, *members), rows=rows)


def _object_of(name: str, columns: Sequence[str]) -> str | None:
    """The column whose object a name reaches into; None for a name that is a column itself, or reaches nowhere."""
    head, dot, _ = name.partition(".")
    return head if dot and name not in columns and head in columns else None


def _read_whole(wanted: Sequence[str], columns: Sequence[str]) -> list[str] | None:
    """The columns to read for the wanted names; None for all."""
    return [_object_of(name, columns) or name for name in dict.fromkeys(wanted)] or None


def _members(value: Any, prefix: str = "") -> Iterator[str]:
    """The names of an object's members at any depth, ``a.b.c``, and the picks of its turns."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            if turns_of(inner) is not None:
                yield from (f"{prefix}{key}.{each}" for each in PICKS)
            else:
                yield from _members(inner, f"{prefix}{key}.")


def _check_columns(table: Table, wanted: Sequence[str], named: str) -> None:
    missing = [name for name in dict.fromkeys(wanted) if name not in table.columns]
    if not missing:
        return
    sample = () if table.delimiter else islice(table.rows(Faults(str(table.path))), _LISTED_ROWS)
    known = dict.fromkeys((*table.columns, *(name for row in sample for name in _members(row.columns))))
    listed = ", ".join(one_line(name, 40) for name in list(known)[:50])
    guesses = {name: nearest(name, known) for name in missing}
    hints = [f"did you mean {close!r} for {name!r}?" for name, close in guesses.items() if close]
    what = "no column " + ", ".join(map(repr, missing))
    raise DataError(
        "data-columns",
        f"{what}; the file has: {listed}",
        where=str(table.path),
        fix=" ".join(hints) or f"name one of them under {named}",
    )
