"""How large the cells of Arrow columns are once they are values of their own, known before they are.

Notable: a column may share one large text among all its rows (a dictionary, runs, views, compressed buffers), so a file
of a few kilobytes can hold gigabytes. Sizes are worked out from lengths and indices, and nothing is unpacked for it.
Not here: reading files (``columnar``), the cap (``opening``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from locum.core.errors import DataError
from locum.data.opening import MAX_LINE_CHARS, Expansion

_GROUP_BYTES = 8 << 20
_FIXED_BYTES = 8
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def bounded_rows(batch: Any, expansion: Expansion, where: str, first: int) -> Iterator[dict[str, Any]]:
    """The rows of a record batch as dictionaries, never more than some megabytes of them at once.

    Args:
        batch: a ``pyarrow.RecordBatch``.
        expansion: counts what its cells are.
        where: the file.
        first: number of its first row.

    Raises:
        DataError: ``data-too-long``: a cell has more than 64 MiB; ``data-expands``: all cells together are too many.
    """
    sizes = [0] * batch.num_rows
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for row, size in enumerate(_sizes(column)):
            if size > MAX_LINE_CHARS:
                cause = f"a cell of column {name!r} has {size:,} bytes; at most {MAX_LINE_CHARS:,} are read"
                raise DataError("data-too-long", cause, where=f"{where}:{first + row}", fix="is this the right column?")
            sizes[row] += size
    start, held = 0, 0
    for row, size in enumerate(sizes):
        expansion.count(size)
        if held and held + size > _GROUP_BYTES:
            yield from batch.slice(start, row - start).to_pylist()
            start, held = row, 0
        held += size
    yield from batch.slice(start).to_pylist()


def _sizes(column: Any) -> list[int]:
    """Bytes of each cell."""
    import pyarrow as arrow

    if _is_text(column.type) or (arrow.types.is_dictionary(column.type) and _is_text(column.type.value_type)):
        return _text_sizes(column)
    if not arrow.types.is_nested(column.type) and not _shares(column.type):
        return [_FIXED_BYTES] * len(column)
    return [_nested_size(column.slice(row, 1)) for row in range(len(column))]


def _text_sizes(column: Any) -> list[int]:
    import pyarrow as arrow

    if arrow.types.is_dictionary(column.type):
        sizes = _text_sizes(column.dictionary)
        return [_FIXED_BYTES if index is None else sizes[index] for index in column.indices.to_pylist()]
    if arrow.types.is_string_view(column.type) or arrow.types.is_binary_view(column.type):
        return [_FIXED_BYTES if (view := cell.as_buffer()) is None else view.size for cell in column]
    return [_FIXED_BYTES if size is None else size for size in _lengths(column).to_pylist()]


def _lengths(column: Any) -> Any:
    import pyarrow.compute as compute

    return compute.call_function("binary_length", [column])


def _nested_size(column: Any) -> int:
    """Bytes of all cells of an array together."""
    import pyarrow as arrow

    kinds, kind = arrow.types, column.type
    if kinds.is_struct(kind):
        return _FIXED_BYTES + sum(map(_nested_size, column.flatten()))
    if kinds.is_map(kind):
        pairs = column.cast(arrow.list_(arrow.struct([("key", kind.key_type), ("value", kind.item_type)])))
        return _FIXED_BYTES + _nested_size(pairs.flatten())
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return _FIXED_BYTES + _nested_size(column.flatten())
    if kinds.is_list_view(kind) or kinds.is_large_list_view(kind):
        rows = range(len(column))
        return sum(_nested_size(column[row].values) if column[row].is_valid else _FIXED_BYTES for row in rows)
    if kinds.is_run_end_encoded(kind):
        values = _sizes(column.values.slice(column.find_physical_offset(), column.find_physical_length()))
        return len(column) * max(values, default=_FIXED_BYTES)  # an upper bound; columns are asked row by row
    if kinds.is_dictionary(kind) and not _is_text(kind.value_type):
        sizes = [_nested_size(column.dictionary.slice(row, 1)) for row in range(len(column.dictionary))]
        return sum(_FIXED_BYTES if index is None else sizes[index] for index in column.indices.to_pylist())
    if _is_text(kind) or kinds.is_dictionary(kind):
        return sum(_text_sizes(column))
    return _FIXED_BYTES * len(column)


def _is_text(kind: Any) -> bool:
    import pyarrow as arrow

    tests = ("string", "large_string", "binary", "large_binary", "string_view", "binary_view")
    return any(getattr(arrow.types, f"is_{name}")(kind) for name in tests)


def _shares(kind: Any) -> bool:
    import pyarrow as arrow

    return arrow.types.is_dictionary(kind) or arrow.types.is_run_end_encoded(kind)


def unpacked_bytes(message: Any) -> int:
    """What an Arrow message's compressed buffers unpack to, from the lengths that stand before them.

    Args:
        message: a ``pyarrow.ipc.Message``; its metadata is a flatbuffer (Message.fbs, Schema.fbs of the format).

    Raises:
        ValueError: it is damaged.
    """
    try:
        return _unpacked(memoryview(message.metadata), message.body)
    except (struct.error, IndexError) as error:
        raise ValueError(f"a damaged message: {error}") from error


def _unpacked(data: memoryview, body: Any) -> int:
    (root,) = struct.unpack_from("<I", data, 0)
    kind, header = _field(data, root, 1), _field(data, root, 2)
    if not kind or not header or data[kind] not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return 0
    batch = _follow(data, header)
    if data[kind] == _DICTIONARY_BATCH:
        batch = _follow(data, _field(data, batch, 1))
    buffers, content = _field(data, batch, 2), memoryview(body) if body is not None else memoryview(b"")
    if not buffers or not _field(data, batch, 3):  # not compressed: the body is what it is
        return len(content)
    vector = _follow(data, buffers)
    (count,) = struct.unpack_from("<I", data, vector)
    total = 0
    for number in range(count):
        offset, length = struct.unpack_from("<qq", data, vector + 4 + 16 * number)
        if length > 0:
            (size,) = struct.unpack_from("<q", content, offset)
            total += length if size < 0 else size
    return total


def _follow(data: memoryview, place: int) -> int:
    return place + struct.unpack_from("<I", data, place)[0]


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table stands; 0 when it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise IndexError("a table without fields")
    (size,) = struct.unpack_from("<H", data, vtable)
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + at)[0] if at + 2 <= size else 0
    return table + offset if offset else 0
