from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DataError, UserError
from locum.data.readers import open_table, read_rows
from locum.data.rows import Faults
from locum.schema.task import DataSpec

SPEC = DataSpec(train="x", input="text", output="label")
ROWS = [
    {"text": "one, two", "label": "a"},
    {"text": 'say "hi"\nthere', "label": "b"},
    {"text": "ü – 日本", "label": "a"},
]


def read(path: Path, **options: object) -> list[dict[str, object]]:
    spec = SPEC.model_copy(update=options)
    return [row.columns for row in read_rows(path, spec)]


def csv_text(delimiter: str = ",") -> str:
    lines = [delimiter.join(("text", "label"))]
    for row in ROWS:
        lines.append(delimiter.join('"' + value.replace('"', '""') + '"' for value in row.values()))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(csv_text(delimiter))
    assert read(path) == ROWS
    assert open_table(path).delimiter == delimiter


def test_commas_in_a_semicolon_file_do_not_mislead(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text;label\na, b, c;x\nd, e, f;y\ng, h, i;x\n")
    assert [row["label"] for row in read(path)] == ["x", "y", "x"]


def test_jsonl_json_array_and_gzip_give_the_same_rows(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in ROWS))
    array = tmp_path / "rows.json"
    array.write_text(json.dumps(ROWS, indent=2))
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    odd_name = tmp_path / "rows.txt"
    odd_name.write_bytes(lines.read_bytes())
    assert read(lines) == read(array) == read(packed) == read(odd_name) == ROWS
    assert open_table(packed).format == "jsonl.gz"


def test_json_array_longer_than_the_window(tmp_path: Path) -> None:
    rows = [{"text": f"{n} " + "x" * 5000, "label": "a"} for n in range(700)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    assert read(path) == rows


def test_numbers_of_rows_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(csv_text() + "\nlast,a\n")
    numbers = [row.number for row in read_rows(path, SPEC)]
    assert numbers == [2, 3, 5, 7]  # the third record starts on line 5: the second spans two lines
    assert next(iter(read_rows(path, SPEC))).place == "rows.csv:2"


def test_plain_tsv_keeps_bare_quotes(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"unbalanced start\ta\nhe said "no"\tb\n"quoted ""by"" a writer"\ta\n')
    assert [row["text"] for row in read(path)] == ['"unbalanced start', 'he said "no"', 'quoted "by" a writer']


def test_parquet_arrow_and_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    data = datasets.Dataset.from_dict({"text": ["t1", "t2"], "label": [1, 0]}, features=features)
    other = datasets.Dataset.from_dict({"text": ["t3"], "label": [1]}, features=features)
    data.to_parquet(tmp_path / "rows.parquet")
    datasets.DatasetDict(train=data, test=other).save_to_disk(tmp_path / "saved")
    data.save_to_disk(tmp_path / "one")
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    data.to_parquet(folder / "train-00000-of-00001.parquet")
    other.to_parquet(folder / "test-00000-of-00001.parquet")
    wanted = [{"text": "t1", "label": "spam"}, {"text": "t2", "label": "ham"}]
    for path in ("rows.parquet", "saved", "one", "hub", "saved/train/data-00000-of-00001.arrow"):
        assert read(tmp_path / path) == wanted, path
    for path in ("saved", "hub"):
        assert [r.columns for r in read_rows(tmp_path / path, SPEC, split="test")] == [{"text": "t3", "label": "spam"}]
    with pytest.raises(DataError, match="no split for calibration"):
        list(read_rows(tmp_path / "saved", SPEC, split="calibration"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError) as caught:
        list(read_rows(path, SPEC))
    assert caught.value.code == "core-missing-extra"
    assert "[train]" in caught.value.fix


def test_damaged_parquet_is_ours(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(DataError) as caught:
        list(read_rows(path, SPEC))
    assert caught.value.code == "data-damaged"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("gold rose by a whole 3 percent in March,up,12\ngold fell again,down,7\n", "a number|'12' is a number"),
        ("good movie,pos\nbad movie,neg\nfine movie,pos\n", "'pos' stands again"),
    ],
)
def test_a_missing_header_is_named_with_what_was_seen(tmp_path: Path, text: str, seen: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=seen) as caught:
        list(read_rows(path, SPEC))
    assert caught.value.code == "data-no-header"
    assert "text,label" in caught.value.fix


def test_format_that_was_named_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,b\n")
    with pytest.raises(DataError) as caught:
        read(path, format="jsonl")
    assert caught.value.code == "data-format"
    with pytest.raises(DataError) as caught:
        read(path, format="parquet")
    assert caught.value.code == "data-format"


def test_unclosed_quote_is_one_bad_row_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\ngood,a\n"never closed,b\nmore,c\n')
    with pytest.raises(DataError, match=r"rows\.csv:3.*never closed"):
        read(path)
    faults = Faults("rows.csv")
    assert [row.columns["text"] for row in read_rows(path, SPEC, faults=faults)] == ["good", "more"]
    assert faults.total == 1


def test_folder_without_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path, SPEC))
    assert caught.value.code == "data-missing"


NESTED = [
    {"id": "1", "question": "Who?", "answers": {"text": ["Ada", "Ada Lovelace"], "at": {"start": 3}}},
    {"id": "2", "question": "When?", "answers": {"text": [], "at": None}},
]


def nested(folder: Path, format: str) -> Path:
    if format == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(NESTED), folder / "rows.parquet")
    else:
        (folder / f"rows.{format}").write_text("".join(json.dumps(row) + "\n" for row in NESTED))
    return folder / f"rows.{format}"


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_name_with_dots_reaches_into_objects(tmp_path: Path, format: str) -> None:
    rows = read(nested(tmp_path, format), input="question", output=("answers.text", "answers.at.start"))
    assert [row["answers.text"] for row in rows] == [["Ada", "Ada Lovelace"], []]
    assert [row["answers.at.start"] for row in rows] == [3, None]
    assert {row["question"] for row in rows} == {"Who?", "When?"}


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"input": ("question", "answers.txet"), "output": "id"}, "did you mean 'answers.text' for 'answers.txet'?"),
        ({"input": "question", "output": "answers.at.strat"}, "did you mean 'answers.at.start' for 'answers.at.strat'"),
        ({"input": "answers.text.start", "output": "id"}, "for 'answers.text.start'?"),
    ],
)
def test_a_member_that_no_row_has_is_refused_with_the_nearest(
    tmp_path: Path, format: str, names: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(nested(tmp_path, format), **names)
    assert caught.value.code == "data-columns"
    assert told in caught.value.fix
    assert "the file has: id, question, answers" in caught.value.cause


def test_a_member_that_few_rows_have_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "x", "a": None}] * 300 + [{"text": "x", "a": {"b": "late"}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["a.b"] for row in read(path, output="a.b")] == [None] * 300 + ["late"]


def test_a_column_whose_name_has_dots_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "x", "a": {"b": "inner"}, "a.b": "outer"}) + "\n")
    assert read(path, output="a.b")[0]["a.b"] == "outer"


def test_csv_holds_no_objects_to_reach_into(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,answers\nx,"{""text"": ""y""}"\n')
    with pytest.raises(DataError) as caught:
        open_table(path, wanted=("text", "answers.text"))
    assert caught.value.code == "data-columns"
