"""FAULTS 14 for files of columns: a few kilobytes never become gigabytes, in whatever way they share a value."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_toys import labelled

from locum.core.errors import DataError
from locum.data.opening import FREE_EXPANSION_BYTES
from locum.data.readers import read_rows
from locum.schema.task import DataSpec

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SPEC = DataSpec(train="x", input="text", output="label")
CELL_BYTES = 1 << 20
ROWS = 3000  # 3 GB, were every cell a value of its own

CHILD = """
import json, sys
from pathlib import Path
import pyarrow, pyarrow.parquet, pyarrow.compute
from locum.core.errors import DataError
from locum.data.readers import read_rows
from locum.runtime.memory import peak_resident_mb
from locum.schema.task import DataSpec
before, rows, code = peak_resident_mb(), 0, ""
try:
    for row in read_rows(Path(sys.argv[1]), DataSpec(train="x", input="text", output="label")):
        rows += 1
except DataError as error:
    code = error.code
print(json.dumps({"grown_mb": peak_resident_mb() - before, "rows": rows, "code": code}))
"""


def shared(kind: Any = None) -> Any:
    """A column whose cells are one text of a megabyte, kept once."""
    return arrow.DictionaryArray.from_arrays(
        arrow.array([0] * ROWS, arrow.int32()), arrow.array(["a" * CELL_BYTES], kind)
    )


def table(text: Any) -> Any:
    return arrow.table({"text": text, "label": arrow.array(["x", "y"] * (ROWS // 2))})


def write_parquet(path: Path, text: Any, **options: Any) -> None:
    with parquet.ParquetWriter(path, table(text).schema, compression="zstd", store_schema=False, **options) as writer:
        writer.write_table(table(text))


def dictionary(path: Path) -> None:
    write_parquet(path, shared())


def differences(path: Path) -> None:
    cells = [f"{'a' * CELL_BYTES}{n}" for n in range(200)] * (ROWS // 200)
    options = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY", "label": "PLAIN"}}
    schema = arrow.schema([("text", arrow.string()), ("label", arrow.string())])
    with parquet.ParquetWriter(path, schema, compression="zstd", **options) as writer:
        for start in range(0, 400, 100):
            part = arrow.table({"text": cells[start : start + 100], "label": ["x", "y"] * 50})
            writer.write_table(part)


def plain(path: Path) -> None:
    schema = arrow.schema([("text", arrow.string()), ("label", arrow.string())])
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(4):
            writer.write_table(arrow.table({"text": ["a" * CELL_BYTES] * 50, "label": ["x", "y"] * 25}))


def nested(path: Path) -> None:
    offsets = arrow.array(range(ROWS + 1), arrow.int32())
    write_parquet(path, arrow.ListArray.from_arrays(offsets, shared()))


def stream(path: Path, text: Any, **options: Any) -> None:
    with arrow.ipc.new_stream(path, table(text).schema, options=arrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table(text))


def arrow_dictionary(path: Path) -> None:
    stream(path, shared())


def arrow_compressed(path: Path) -> None:
    stream(path, arrow.array(["a" * (CELL_BYTES // 8)] * ROWS), compression="zstd")


def arrow_file(path: Path) -> None:
    text = arrow.array(["a" * (CELL_BYTES // 8)] * ROWS)
    options = arrow.ipc.IpcWriteOptions(compression="lz4")
    with arrow.ipc.new_file(path, table(text).schema, options=options) as writer:
        writer.write_table(table(text))


def arrow_runs(path: Path) -> None:
    stream(path, arrow.RunEndEncodedArray.from_arrays([ROWS], ["a" * CELL_BYTES]))


def arrow_views(path: Path) -> None:
    stream(path, arrow.ListViewArray.from_arrays([0] * ROWS, [1] * ROWS, ["a" * CELL_BYTES]))


FORMS: dict[str, Callable[[Path], None]] = {
    "a.parquet": dictionary,
    "b.parquet": differences,
    "c.parquet": plain,
    "d.parquet": nested,
    "a.arrow": arrow_dictionary,
    "b.arrow": arrow_compressed,
    "c.arrow": arrow_file,
    "d.arrow": arrow_runs,
    "e.arrow": arrow_views,
}


@pytest.mark.parametrize("name", FORMS)
def test_fault_14_columns_that_share_a_value_stop_at_the_cap_with_flat_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FORMS[name](path)
    assert path.stat().st_size < 3 << 20
    command = [sys.executable, "-c", CHILD, str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert found["code"] == "data-expands"
    assert found["rows"] <= max(FREE_EXPANSION_BYTES, 200 * path.stat().st_size) // (CELL_BYTES // 8)
    assert found["grown_mb"] < 150, found


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_cell_of_more_than_64_mib_is_refused_by_its_place(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"rows.{form}"
    text = [f"{n} " * 500_000 for n in range(90)] + ["b" * (65 << 20)]  # not so alike that the cap comes first
    rows = arrow.table({"text": text, "label": ["x"] * 91})
    if form == "parquet":
        parquet.write_table(rows, path, compression="none")
    else:
        with arrow.ipc.new_stream(path, rows.schema) as writer:
            writer.write_table(rows)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, SPEC))
    assert caught.value.code == "data-too-long" and caught.value.where.endswith(":91")
    assert "'text'" in caught.value.cause


@pytest.mark.parametrize("form", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize("wrap", [False, True])
def test_honest_files_with_dictionaries_and_compression_are_read(tmp_path: Path, form: str, wrap: bool) -> None:
    rows = labelled(5000, ["a long name of a label " * 5, "other"])
    text: Any = arrow.array([[text, "more"] if wrap else text for text, _ in rows])
    whole = arrow.table({"text": text, "label": arrow.array([label for _, label in rows]).dictionary_encode()})
    path = tmp_path / f"rows.{'parquet' if form == 'parquet' else 'arrow'}"
    if form == "parquet":
        parquet.write_table(whole, path, compression="zstd", row_group_size=700)
    else:
        make = arrow.ipc.new_stream if form == "arrow" else arrow.ipc.new_file
        with make(path, whole.schema, options=arrow.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(whole, max_chunksize=900)
    found = [(row.columns["text"], row.columns["label"]) for row in read_rows(path, SPEC)]
    assert found == [([text, "more"] if wrap else text, label) for text, label in rows]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_schema_metadata_nested_too_deeply_is_a_fault_of_the_data(tmp_path: Path, form: str) -> None:
    deep = b'{"info": {"features": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}}"
    rows = arrow.table({"text": ["a"], "label": ["x"]}).replace_schema_metadata({b"huggingface": deep})
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        parquet.write_table(rows, path)
    else:
        with arrow.ipc.new_stream(path, rows.schema) as writer:
            writer.write_table(rows)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, SPEC))
    assert caught.value.exit_code == 2 and "nested" in caught.value.cause


def test_a_saved_data_set_whose_index_is_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("[" * 200_000)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path, SPEC))
    assert caught.value.code == "data-damaged"
