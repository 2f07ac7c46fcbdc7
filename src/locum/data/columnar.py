"""Parquet, Arrow, and folders of them, as Hugging Face ``datasets`` writes and downloads them.

Notable: pyarrow alone is enough; ``datasets`` is not needed. A folder saved with ``save_to_disk`` is read
through its ``state.json``, a folder of several splits by the split's name (``train``, ``validation``,
``test``), and class numbers become the names that the data set's own features give them. Batches of at most 1,024
rows keep memory flat, and what columns unpack to has the same cap as gzip.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from locum.core.errors import DataError, UserError
from locum.core.extras import install_command
from locum.core.text import one_line
from locum.data.cells import bounded_rows, unpacked_bytes
from locum.data.opening import Expansion
from locum.data.rows import Faults, RawRow

_BATCH_ROWS = 1024
_FEW_ROWS = 4
_BATCH_BYTES = 16 << 20
_SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("validation", "valid", "val", "dev", "eval"),
    "calibration": ("calibration",),
    "test": ("test",),
}
_EXTENSIONS = (".parquet", ".arrow")
_TEXTS = tuple(f".{form}{packed}" for form in ("csv", "tsv", "jsonl", "json", "ndjson") for packed in ("", ".gz"))
ClassNames = dict[str, list[str]]


def find_files(folder: Path, split: str) -> tuple[Path, ...]:
    """The data files of one split in a folder, sorted.

    Args:
        folder: a saved data set, a saved dictionary of data sets, or a folder of Parquet or Arrow files.
        split: train, dev, calibration or test.

    Raises:
        DataError: the folder holds no such files, or splits of other names only.
    """
    part = _split_folder(folder, split)
    if (state := part / "state.json").is_file():
        return _state_files(state)
    found = sorted(
        Path(parent) / name
        for parent, _folders, names in os.walk(part)
        for name in names
        if name.endswith(_EXTENSIONS) and not name.startswith((".", "cache-"))
    )
    if not found:
        inside = sorted(each.name for each in part.iterdir() if each.name.endswith(_TEXTS)) if part.is_dir() else []
        fix = "give a file, or a folder with .parquet or .arrow files in it"
        fix = (
            f"give one of its files: {', '.join(one_line(str(part / name), 400) for name in inside[:5])}"
            if inside
            else fix
        )
        raise DataError("data-missing", "no Parquet or Arrow file in this folder", where=str(folder), fix=fix)
    named = {path: _split_of(path.relative_to(part)) for path in found}
    if not any(named.values()):
        return tuple(found)
    chosen = tuple(path for path, name in named.items() if name == split)
    if not chosen:
        seen = ", ".join(sorted({name for name in named.values() if name}))
        raise DataError("data-missing", f"no file for {split}; seen: {seen}", where=str(folder), fix="name the file")
    return chosen


def read(paths: Sequence[Path], root: Path, names: Sequence[str] | None, _faults: Faults) -> Iterator[RawRow]:
    """Rows of Parquet and Arrow files, in order.

    Args:
        paths: the files.
        root: what their names are relative to.
        names: columns to read, or None for all.

    Raises:
        DataError: a file is damaged.
        UserError: pyarrow is not installed.
    """
    for path in paths:
        file = path.relative_to(root).as_posix() if path != root else path.name
        number = 0
        expansion = Expansion(path, path.suffix[1:])
        for batch, classes in _batches(path, names, expansion):
            wanted = [column for column in batch.schema.names if names is None or column in names]
            with _arrow_errors(path):
                for record in bounded_rows(batch.select(wanted), expansion, str(path), number + 1):
                    number += 1
                    yield RawRow(file, number, _name_classes(record, classes))


def columns(path: Path) -> tuple[tuple[str, ...], ClassNames]:
    """Column names of a Parquet or Arrow file, and the names of class numbers by column."""
    with _arrow_errors(path):
        if path.suffix == ".arrow":
            with _arrow_reader(path) as reader:
                schema = reader.schema
        else:
            schema = _parquet(path).schema_arrow
        return tuple(schema.names), _class_names(schema.metadata)


def _split_folder(folder: Path, split: str) -> Path:
    """The part of a saved dictionary of data sets that holds one split."""
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return folder
    try:
        seen = [str(name) for name in json.loads(index.read_bytes())["splits"]]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        cause = f"cannot be read: {error}"
        raise DataError("data-damaged", cause, where=str(index), fix="save the data set again") from error
    for name in seen:
        if name.casefold() in _SPLIT_NAMES[split] and Path(name).name == name:
            return folder / name
    cause = f"no split for {split}; the data set has: {', '.join(seen)}"
    raise DataError("data-missing", cause, where=str(folder), fix="name the split's own folder")


def _state_files(state: Path) -> tuple[Path, ...]:
    try:
        names = [str(entry["filename"]) for entry in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        cause = f"cannot be read: {error}"
        raise DataError("data-damaged", cause, where=str(state), fix="save the data set again") from error
    for name in names:
        path = state.parent / name
        if Path(name).name != name:
            cause = f"names a file outside its own folder: {name!r}"
            raise DataError("data-damaged", cause, where=str(state), fix="save the data set again")
        if not path.is_file():
            raise DataError("data-missing", f"lacks {name}", where=str(state.parent), fix="copy the whole folder")
    return tuple(state.parent / name for name in names)


def _split_of(path: Path) -> str | None:
    """The split that a file's name or folder speaks of (``train-00000-of-00001.parquet``)."""
    words = {word for part in path.with_suffix("").parts for word in part.casefold().replace("_", "-").split("-")}
    for split, names in _SPLIT_NAMES.items():
        if words & set(names):
            return split
    return None


def _batches(path: Path, names: Sequence[str] | None, expansion: Expansion) -> Iterator[tuple[Any, ClassNames]]:
    with _arrow_errors(path):
        if path.suffix == ".arrow":
            for size in _unpacked_sizes(path):
                expansion.count(size)
            with _arrow_reader(path) as reader:
                classes = _class_names(reader.schema.metadata)
                for batch in reader:
                    for start in range(0, batch.num_rows, _BATCH_ROWS):
                        yield batch.slice(start, _BATCH_ROWS), classes
            return
        file = _parquet(path)
        present = None if names is None else [name for name in names if name in file.schema_arrow.names]
        classes = _class_names(file.schema_arrow.metadata)
        texts, rows = _plan(file.metadata, present, Expansion(path, "parquet"))
        file = _parquet(path, texts)
        for batch in file.iter_batches(batch_size=rows, columns=present, use_threads=False):
            yield batch, classes


def _plan(metadata: Any, names: Sequence[str] | None, expansion: Expansion) -> tuple[list[str], int]:
    """Columns of text to read as dictionaries, which unpacks none of them, and how many rows to read at once.

    Texts inside of lists and objects, and those that are written as differences from the one before, cannot be read so,
    and few of them are read at once.
    """
    texts: dict[str, None] = {}
    rows = _BATCH_ROWS
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        size = 0
        for column in map(group.column, range(group.num_columns)):
            top = column.path_in_schema.split(".")[0]
            if names is not None and top not in names and column.path_in_schema not in names:
                continue
            size += column.total_uncompressed_size
            if column.physical_type == "BYTE_ARRAY":
                if "." in column.path_in_schema or any("DELTA" in encoding for encoding in column.encodings):
                    rows = min(rows, _FEW_ROWS)
                else:
                    texts[column.path_in_schema] = None
        expansion.count(size)
        rows = max(1, min(rows, _BATCH_BYTES * max(1, group.num_rows) // max(1, size)))
    return list(texts), rows


def _unpacked_sizes(path: Path) -> Iterator[int]:
    """What each message of an Arrow file unpacks to; the file form is a stream behind eight bytes, with an index."""
    arrow = _pyarrow(path)
    with arrow.memory_map(str(path)) as source:
        source.seek(8 if source.read(6) == b"ARROW1" else 0)
        for message in arrow.ipc.MessageReader.open_stream(source):
            try:
                yield unpacked_bytes(message)
            except ValueError as error:
                raise arrow.ArrowInvalid(str(error)) from error


def _parquet(path: Path, as_dictionaries: Sequence[str] = ()) -> Any:
    _pyarrow(path)
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(
        path, buffer_size=1 << 20, pre_buffer=False, read_dictionary=list(as_dictionaries)
    )


def _arrow_reader(path: Path) -> Any:
    """An Arrow file in the stream form (``datasets``) or the file form (Feather)."""
    arrow = _pyarrow(path)
    source = arrow.memory_map(str(path))
    if source.read(6) == b"ARROW1":
        reader = arrow.ipc.open_file(source)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        return arrow.RecordBatchReader.from_batches(reader.schema, batches)
    source.seek(0)
    return arrow.ipc.open_stream(source)


def _pyarrow(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            "core-missing-extra",
            "reading Parquet and Arrow files needs pyarrow, which is not installed",
            where=str(path),
            fix=f"{install_command('train')}; or give the data as CSV or JSON Lines",
        ) from error


class _arrow_errors:  # noqa: N801  (a context manager, used as a statement)
    """Turn pyarrow's exceptions into a DataError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        _pyarrow(self._path)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        import pyarrow

        if isinstance(error, RecursionError):
            cause = "values or a schema that are nested too deeply"
            raise DataError(
                "data-damaged", cause, where=str(self._path), fix="give the data in flat columns"
            ) from error
        if isinstance(error, pyarrow.ArrowException | OSError):
            cause = f"damaged, or not a {self._path.suffix[1:]} file: {str(error).splitlines()[0][:200]}"
            raise DataError("data-damaged", cause, where=str(self._path), fix="get the file again") from error


def _class_names(metadata: Mapping[bytes, bytes] | None) -> ClassNames:
    """Names of class numbers by column, from the features that ``datasets`` keeps in the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(column): [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}  # not written by `datasets`: numbers stay numbers


def _name_classes(record: dict[str, Any], classes: ClassNames) -> dict[str, Any]:
    for column, names in classes.items():
        value = record.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            record[column] = names[value] if 0 <= value < len(names) else None
    return record
