"""An unclosed quote costs its own row and no other; a quoted field over several lines goes on working."""

from __future__ import annotations

import csv
import gzip
import io
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from data_toys import labelled, make_task

from locum.core.errors import DataError
from locum.data.prepare import prepare
from locum.data.quoted import UNCLOSED
from locum.data.readers import open_table, read_rows
from locum.data.rows import Faults
from locum.schema.task import DataSpec

SPEC = DataSpec(train="x", input="text", output="label")
LABELS = ("up", "down", "level")


def rows_of(count: int, order: str) -> list[list[str]]:
    """Rows of text and label, with a number in front, the label first, sorted by label, or as they come."""
    rows = [[text, label] for text, label in labelled(count, LABELS)]
    if order == "sorted":
        rows.sort(key=lambda row: row[1])
    if order == "label first":
        return [[label, text] for text, label in rows]
    return [[str(n), *row] for n, row in enumerate(rows)] if order == "numbered" else rows


HEADERS = {"numbered": ["n", "text", "label"], "label first": ["label", "text"]}


def lines_of(rows: list[list[str]], order: str, delimiter: str = ",") -> list[str]:
    return [delimiter.join(row) for row in (HEADERS.get(order, ["text", "label"]), *rows)]


def read(path: Path) -> tuple[list[dict[str, object]], Faults]:
    faults = Faults(path.name)
    return [row.columns for row in read_rows(path, SPEC, faults=faults)], faults


@pytest.mark.parametrize("order", ["plain", "numbered", "label first", "sorted"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.tsv"])
@pytest.mark.parametrize("at", [[1], [60], [119, 120], [300], [1, 2, 99, 100, 101, 250]])
def test_each_open_quote_costs_its_own_row(tmp_path: Path, order: str, end: str, name: str, at: list[int]) -> None:
    delimiter = "\t" if "tsv" in name else ","
    rows = rows_of(300, order)
    lines = lines_of(rows, order, delimiter)
    for number in at:
        before, text, after = lines[number].partition(rows[number - 1][1 if order in HEADERS else 0])
        lines[number] = before + '"' + text + after
    if delimiter == "\t":
        lines.insert(5, "too\tmany\ttabs\there")  # else every quote of such a file is a plain character
        at = [number + (number >= 5) for number in at]
    text = end.join(lines) + end
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if "gz" in name else text.encode())
    found, faults = read(path)
    assert faults.counts[UNCLOSED] == len(at)
    assert faults.by_reason[UNCLOSED] == [f"{name}:{number + 1}" for number in at]
    good = [row for number, row in enumerate(rows, 1) if number + (delimiter == "\t" and number >= 5) not in at]
    assert [list(row.values()) for row in found] == good


@pytest.mark.parametrize("order", ["plain", "numbered", "label first", "sorted"])
@pytest.mark.parametrize("apart", [1, 2, 5, 40, 150])
def test_a_stray_quote_further_down_does_not_close_it(tmp_path: Path, order: str, apart: int) -> None:
    rows = rows_of(300, order)
    column = 1 if order in HEADERS else 0
    lines = lines_of(rows, order)
    first, last = rows[100][column], rows[100 + apart][column]
    lines[101] = lines[101].replace(first, '"' + first)
    lines[101 + apart] = lines[101 + apart].replace(last, last + '"')
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    found, faults = read(path)
    assert faults.counts == {UNCLOSED: 1}
    rows[100 + apart][column] += '"'
    assert [list(row.values()) for row in found] == rows[:100] + rows[101:]


def test_a_quote_that_changes_the_number_of_fields_costs_its_own_row(tmp_path: Path) -> None:
    rows = rows_of(100, "plain")
    lines = lines_of(rows, "plain")
    lines[50] = '"' + lines[50]
    lines[60] = 'a "note",of,three'
    lines[61] = 'b",x,y'
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    found, faults = read(path)
    assert [list(row.values()) for row in found] == rows[:49] + rows[50:59] + rows[61:]
    assert faults.counts == {UNCLOSED: 1, "not 2 fields, as in the header": 2}


def test_without_skip_bad_the_error_says_how_much_the_quote_would_swallow(tmp_path: Path) -> None:
    lines = lines_of(rows_of(900, "plain"), "plain")
    lines[300] = '"' + lines[300]
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"train\.csv:301: an unclosed quote: .*swallow the 600 lines after it"):
        prepare(make_task(), {"train": path}, tmp_path / "out")
    card = prepare(make_task(skip_bad=True, duplicates="keep"), {"train": path}, tmp_path / "out")
    assert card.files[0].rows == 899 == sum(split.rows for split in card.splits.values())
    assert [(item.count, item.places) for item in card.dropped] == [(1, ("train.csv:301",))]
    lines[500] = 'a,"quoted, word"'
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="swallow the 200 lines after it"):
        prepare(make_task(), {"train": path}, tmp_path / "out")


def test_a_text_cut_off_at_the_end_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([*lines_of(rows_of(30, "plain"), "plain"), '"Dear all', "", "thank you for", "your l"]))
    found, faults = read(path)
    assert len(found) == 30
    assert faults.places == [
        ("rows.csv:32", f"{UNCLOSED}: the quote that opens here is never closed; it would swallow the 3 lines after it")
    ]


PARTS = ["one, two", "three", '"quoted"', "", "a, b, c", "Street 5, Paris", "up", "x,down", "1,2", "; and"]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_texts_over_several_lines_are_read_as_they_were_written(tmp_path: Path, seed: int, quoting: int) -> None:
    rng = random.Random(seed)
    rows = [
        [
            "\n".join(rng.choices(PARTS, k=rng.randrange(1, 7))) + f" {n}",
            rng.choice(LABELS),
            rng.choice(["", "note\n2"]),
        ]
        for n in range(400)
    ]
    written = io.StringIO(newline="")
    writer = csv.writer(written, quoting=quoting, lineterminator=rng.choice(["\n", "\r\n"]))  # pyright: ignore[reportArgumentType]
    writer.writerows([["text", "label", "note"], *rows])
    path = tmp_path / "rows.csv"
    path.write_bytes(written.getvalue().encode())
    found, faults = read(path)
    assert faults.total == 0
    assert [list(row.values()) for row in found] == rows


def test_a_list_of_addresses_in_a_field_is_one_field(tmp_path: Path) -> None:
    addresses = "\n".join(f"Street {n}, City {n}" for n in range(200))
    rows = [[f"{addresses} of {n}", LABELS[n % 3]] for n in range(30)]
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    found, faults = read(path)
    assert faults.total == 0 and [list(row.values()) for row in found] == rows


def test_rows_that_a_program_wrote_into_one_field_stay_there(tmp_path: Path) -> None:
    rows = [[text, label] for text, label in labelled(50, LABELS)]
    rows[20][0] = f'{rows[20][0]},up\n{rows[21][0]}"'  # damage done before the file was written, and written well
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    found, faults = read(path)
    assert faults.total == 0 and [list(row.values()) for row in found] == rows


def test_one_column_may_hold_any_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text\n"first\nsecond"\nthird\n')
    rows = list(open_table(path).rows(Faults("rows.csv")))
    assert [row.columns["text"] for row in rows] == ["first\nsecond", "third"]


def test_an_open_quote_needs_no_memory_for_the_rows_after_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w") as file:
        file.write('text,label\n"open,up\n')
        file.writelines(f"row {n} {'word ' * 20},{LABELS[n % 3]}\n" for n in range(100_000))
    table = open_table(path)
    faults = Faults("rows.csv")
    tracemalloc.start()
    count = sum(1 for _ in table.rows(faults))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000 and faults.total == 1
    assert peak_bytes < 4 << 20  # the file has 12 MB


@pytest.mark.parametrize("line", ['x","y', '"""a,b', '"a ""b,c', 'a,"b ""', '"a\n,b"'])
def test_lines_that_all_open_quotes_take_time_in_proportion(tmp_path: Path, line: str) -> None:
    seconds: list[float] = []
    for count in (5_000, 20_000):
        path = tmp_path / "rows.csv"
        path.write_text("text,label\n" + f"{line}\n" * count)
        started = time.process_time()
        read(path)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 12 * seconds[0] + 0.5  # four times the lines: 16 times, were it quadratic
