"""Rows in memory as a data file: DataFrames of pandas and polars, Arrow tables, data sets, lists of dictionaries.

Notable: no such library is imported, a frame is known by what it can do. The file is JSON Lines with types kept, so the
same rows are the same bytes, and a file like any other: hashed, resumed from, named by what was made of it.
"""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from locum.core.errors import DataError
from locum.core.files import atomic_file, disk_errors, sha256_file
from locum.core.progress import warn
from locum.data.readers import ROWS_ENDING

_FIX = "give the columns that are needed (frame[['text', 'label']]), as text, numbers, truth values, dates or lists"
_ARROW_ROWS = 1024
_NAME_DIGITS = 16
_MISSING = ("NAType", "NaTType")  # of pandas, which are equal to nothing and are no None


def write_frame(rows: Any, path: Path) -> Path:
    """Write rows in memory as JSON Lines, whole or not at all; the index of a pandas frame is left out.

    NaN, NaT and NA become null, dates ISO 8601 text, categories their values, arrays lists, class numbers of a data
    set their names. Infinite numbers become null too, and are told, because JSON has none.

    Args:
        rows: a DataFrame of pandas or polars, an Arrow table or batch, a data set of ``datasets``, or dictionaries by
            column name, one for each row.
        path: file to write.

    Returns:
        ``path``.

    Raises:
        DataError: ``data-frame``: this is none of these, or a cell holds what JSON cannot; ``data-columns``: a column
            stands there twice; ``data-empty``: there is no row.
        DeviceError: the folder cannot be written, or the disk is full.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    infinite: Counter[str] = Counter()
    number = 0
    with atomic_file(path) as file:
        for number, record in enumerate(_records(rows), start=1):
            file.write(_line(record, number, infinite))
        if not number:
            raise DataError("data-empty", f"no row in this {type(rows).__name__}", fix="give rows")
    for column, count in infinite.items():
        warn(f"column {column!r}: infinite numbers are written as null", rows=count)
    return path


def keep_frame(rows: Any, folder: Path) -> Path:
    """Write rows as ``write_frame`` does, in a file that is named by its content: the same rows are the same file.

    Raises:
        DataError: as ``write_frame``.
    """
    partial = write_frame(rows, folder / f".{uuid.uuid4().hex}{ROWS_ENDING}")
    path = folder / f"rows-{sha256_file(partial)[:_NAME_DIGITS]}{ROWS_ENDING}"
    return partial.replace(path)


def _records(rows: Any) -> Iterator[Mapping[Any, Any]]:
    """The rows of any frame, one dictionary each."""
    if isinstance(rows, Mapping | str | bytes) or not (_can(rows, "to_pylist") or _can(rows, "__iter__")):
        raise _refused(f"a {type(rows).__name__} is no rows", "give a DataFrame, an Arrow table or a list of dicts")
    if _can(rows, "itertuples"):  # pandas
        names = _distinct(rows.columns)
        yield from (dict(zip(names, cells, strict=True)) for cells in rows.itertuples(index=False, name=None))
    elif _can(rows, "iter_rows"):  # polars
        yield from rows.iter_rows(named=True)
    elif _can(rows, "to_pylist"):  # Arrow
        _distinct(rows.schema.names)
        for start in range(0, rows.num_rows, _ARROW_ROWS):
            yield from rows.slice(start, _ARROW_ROWS).to_pylist()
    else:
        classes = _class_names(rows)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping):
                raise _refused(f"row {number} is a {type(row).__name__}", "give one dict of columns for each row")
            yield {**row, **{name: _named(row[name], classes[name]) for name in classes if name in row}}


def _named(number: Any, names: Sequence[str]) -> str | None:
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None  # −1: no label


def _can(value: Any, method: str) -> bool:
    return callable(getattr(value, method, None))


def _distinct(columns: Iterable[Any]) -> list[Any]:
    names = list(columns)
    twice = next((name for name, count in Counter(map(str, names)).items() if count > 1), None)
    if twice is not None:
        raise DataError("data-columns", f"column {twice!r} stands there twice", fix="rename one of them")
    return names


def _class_names(rows: Any) -> dict[str, list[str]]:
    """Names of class numbers by column, of a data set of ``datasets``."""
    features = getattr(rows, "features", None)
    found = features.items() if isinstance(features, Mapping) else ()
    return {str(column): list(kind.names) for column, kind in found if type(kind).__name__ == "ClassLabel"}


def _line(record: Mapping[Any, Any], number: int, infinite: Counter[str]) -> bytes:
    cells: dict[str, Any] = {}
    for name, value in record.items():
        if not isinstance(name, str | int):
            raise _refused(f"row {number} has a column {name!r}, and not a name", "give columns names")
        try:
            cells[str(name)] = _plain(value, str(name), infinite)
            orjson.dumps(cells[str(name)])
        except (TypeError, ValueError, RecursionError) as problem:
            raise _refused(f"row {number}, column {str(name)!r}: {problem}", _FIX) from problem
    return orjson.dumps(cells, option=orjson.OPT_APPEND_NEWLINE)


def _plain(value: Any, column: str, infinite: Counter[str]) -> Any:
    """A cell as JSON has it.

    Raises:
        TypeError: JSON has nothing for it.
    """
    if value is None or isinstance(value, str | bool) or type(value) is int:
        return value
    if type(value).__name__ in _MISSING:
        return None
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            infinite[column] += not math.isnan(value)
            return None
        return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else float(value)
    if isinstance(value, date | time):  # datetimes are dates
        return value.isoformat()
    if isinstance(value, timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, column, infinite) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, column, infinite) for inner in value]
    if getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m"):  # NumPy's dates, whose tolist() gives integers
        return _plain(value.astype(str).tolist(), column, infinite) if value.shape else _numpy_date(value)
    for method in ("tolist", "to_list"):  # NumPy's arrays and scalars, PyTorch's tensors; series of polars
        if _can(value, method):
            return _plain(getattr(value, method)(), column, infinite)
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"a {type(value).__name__} cannot be written")


def _numpy_date(value: Any) -> str | None:
    return None if value != value else str(value)  # NaT is equal to nothing


def _refused(cause: str, fix: str) -> DataError:
    return DataError("data-frame", cause, fix=fix)
