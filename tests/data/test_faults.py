"""FAULTS 1–17: what goes wrong around data files, injected one by one."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from data_toys import distinct_sentences, labelled, make_task, write_csv

from locum.core.errors import DataError
from locum.data.load import iterate, load
from locum.data.opening import FREE_EXPANSION_BYTES
from locum.data.prepare import prepare
from locum.data.readers import read_rows
from locum.data.verify import verify_splits
from locum.schema.data import DataCard, SplitName


def refused(folder: Path, path: Path, **options: object) -> DataError:
    """Prepare must fail, say where, and leave nothing behind."""
    return refused_files(folder, {"train": path}, **options)


def refused_files(folder: Path, files: dict[SplitName, Path], **options: object) -> DataError:
    out = folder / "out"
    with pytest.raises(DataError) as caught:
        prepare(make_task(**options), files, out)
    assert [entry.name for entry in folder.iterdir() if "out" in entry.name] == []
    assert caught.value.exit_code == 2
    assert caught.value.fix
    return caught.value


def prepared(folder: Path, files: dict[SplitName, Path], **options: object) -> DataCard:
    return prepare(make_task(**options), files, folder / "out")


def dropped(card: DataCard, reason: str) -> int:
    return sum(item.count for item in card.dropped if reason in item.reason)


@pytest.mark.parametrize("text", ["", "\n\n", "text,label\n", "text,label\na,b\n"])
def test_fault_01_empty_or_header_only(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(text)
    error = refused(tmp_path, path)
    assert error.code == "data-empty"
    assert "train.csv" in error.where
    if text.startswith("text"):
        assert "at least 10" in error.cause


def test_fault_02_truncated_last_line_of_jsonl(tmp_path: Path) -> None:
    rows = [json.dumps({"text": text, "label": label}) for text, label in labelled(60)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(rows)[:-9])
    error = refused(tmp_path, path)
    assert error.code == "data-bad-rows"
    assert "train.jsonl:60" in error.cause and "truncated" in error.cause
    card = prepared(tmp_path, {"train": path}, skip_bad=True)
    assert dropped(card, "bad row") == 1
    assert any(warning.startswith("1 bad row was skipped") for warning in card.warnings)
    assert sum(split.rows for split in card.splits.values()) == 59


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1251"])
def test_fault_03_encodings(tmp_path: Path, encoding: str) -> None:
    letters = (
        "Где моя карта? Я заказал её неделю назад. Верните мои деньги"
        if encoding == "cp1251"
        else "für Köln nächste größe"
    )
    rows = [(f"{letters} {text}", label) for text, label in labelled(60)]
    path = tmp_path / "train.csv"
    path.write_bytes(("text,label\n" + "".join(f"{t},{lab}\n" for t, lab in rows)).encode(encoding))
    card = prepared(tmp_path, {"train": path})
    inputs = {row.input for split in card.splits for row in iterate(tmp_path / "out", split)}
    assert inputs == {text for text, _label in rows}


def test_fault_03_ambiguous_encoding_asks(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    text = "text,label\n" + "".join(f"Où à l'étranger {t},{lab}\n" for t, lab in labelled(40))
    path.write_bytes(text.encode("latin-1"))
    error = refused(tmp_path, path)
    assert error.code == "data-encoding" and "--encoding" in error.fix
    assert prepared(tmp_path, {"train": path}, encoding="latin-1").files[0].encoding == "iso8859-1"


def test_fault_04_invisible_characters_are_removed_and_counted(tmp_path: Path) -> None:
    rows = labelled(60)
    odd = ["a\x00b", "evil\u202etxt", "zero\u200bwidth", "cafe\u0301 au lait"]
    path = write_csv(tmp_path / "train.csv", rows + [(f"{text} {n}", "yes") for n, text in enumerate(odd)])
    card = prepared(tmp_path, {"train": path})
    assert card.normalised == {"bidi_removed": 1, "nfc": 1, "nul_removed": 1, "zero_width_removed": 1}
    inputs = {row.input for split in card.splits for row in iterate(tmp_path / "out", split)}
    assert {"ab 0", "eviltxt 1", "zerowidth 2", "café au lait 3"} <= inputs


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_fault_04_lone_surrogates_are_bad_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"train.{kind}"
    if kind == "jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in labelled(40)]
        path.write_text("\n".join([*lines, '{"text": "half \\ud800 pair", "label": "yes"}']))
    else:
        accents = "".join(f"é {text},{label}\n" for text, label in labelled(39))
        path.write_bytes(b"text,label\n" + accents.encode() + b"damaged \xff byte,yes\n" + b"fine,yes\n")
    error = refused(tmp_path, path)
    assert "lone surrogates" in error.cause or "not text" in error.cause
    assert f"train.{kind}:41" in error.cause
    assert dropped(prepared(tmp_path, {"train": path}, skip_bad=True), "not text") == 1


def test_fault_05_line_ends_embedded_newlines_and_a_huge_field(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    body = "".join(f'"{text}\r\nsecond line",{label}\r\n' for text, label in labelled(40))
    path.write_bytes(("text,label\r\n" + body + '"' + "x" * 10_000_000 + '",yes\r\n').encode())
    card = prepared(tmp_path, {"train": path})
    assert dropped(card, "field cut at 100,000") == 1
    rows = [row for split in card.splits for row in iterate(tmp_path / "out", split)]
    assert len(rows) == 41
    assert max(len(row.input) for row in rows) == 100_000
    assert sum(row.input.endswith("\nsecond line") for row in rows) == 40


def test_fault_06_missing_column_lists_columns_and_the_nearest(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", labelled(20), header=("Text", "categories"))
    error = refused(tmp_path, path, output="category")
    assert error.code == "data-columns"
    assert "Text, categories" in error.cause
    assert "'Text'" in error.fix and "'categories'" in error.fix


def test_fault_07_mixed_types_and_null_labels_are_listed_to_20(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": text, "label": label} for text, label in labelled(80)]
    for number in range(30):
        rows[number]["label"] = None
    rows[50]["label"] = 3
    rows[60]["label"] = ["a"]
    rows[61]["text"] = {"nested": 1}
    rows[62]["label"] = 0.5
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    error = refused(tmp_path, path)
    assert error.code == "data-bad-rows"
    assert error.cause.startswith("34 rows")
    assert error.cause.count("\n  train.jsonl:") == 20
    assert "and 14 more" in error.cause
    card = prepared(tmp_path, {"train": path}, skip_bad=True)
    assert dropped(card, "no label") == 30
    assert dropped(card, "not text") == 1
    assert card.normalised["label_of_another_type"] == 1


def test_fault_07_the_odd_type_out_is_named_by_row(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": text, "label": label} for text, label in labelled(40)]
    rows[16]["label"] = True
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert "train.jsonl:17: the label is a true/false" in refused(tmp_path, path).cause


def test_fault_08_one_class_only(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", labelled(40, ["spam"]))
    error = refused(tmp_path, path)
    assert error.code == "data-one-label" and "'spam'" in error.cause


def test_fault_09_rare_classes_are_warned_of(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", labelled(200) + labelled(7, ["rare"], start=9))
    card = prepared(tmp_path, {"train": path})
    assert card.rare_labels == {"rare": 7}
    assert any("rare: 7" in warning for warning in card.warnings)


def test_fault_10_exact_copies_across_splits_fail_beyond_one_percent(tmp_path: Path) -> None:
    rows = labelled(500)
    train = write_csv(tmp_path / "train.csv", rows[:300])
    test = write_csv(tmp_path / "test.csv", rows[300:] + rows[:6])  # 6 of 206: 2.9 %
    files: dict[SplitName, Path] = {"train": train, "test": test}
    error = refused_files(tmp_path, files)
    assert error.code == "data-leakage"
    assert "6 of 206" in error.cause and "test.csv:202 = train.csv:2" in error.cause
    card = prepared(tmp_path, files, allow_leakage=True)
    assert card.splits["test"].rows == 206
    assert dropped(card, "train row that also stands in test") == 6
    verify_splits(tmp_path / "out")


def test_fault_10_a_few_copies_are_removed_from_train_and_said(tmp_path: Path) -> None:
    rows = labelled(700)
    train = write_csv(tmp_path / "train.csv", rows[:400])
    test = write_csv(tmp_path / "test.csv", rows[400:] + rows[:2])  # 2 of 302: 0.7 %
    card = prepared(tmp_path, {"train": train, "test": test})
    assert card.duplicates["exact_across"] == 2
    assert any("2 of 302 test rows" in warning for warning in card.warnings)
    held = set(load(tmp_path / "out", "test").inputs)
    assert not held & set(load(tmp_path / "out", "train").inputs)


def test_fault_10_near_copies_across_splits(tmp_path: Path) -> None:
    rows = labelled(700)
    near = [(f"{text.upper()}!", label) for text, label in rows[:40]]
    train = write_csv(tmp_path / "train.csv", rows[:400])
    test = write_csv(tmp_path / "test.csv", rows[400:] + near)  # 40 of 340: 12 %
    files: dict[SplitName, Path] = {"train": train, "test": test}
    assert refused_files(tmp_path, files).code == "data-leakage"
    card = prepared(tmp_path, files, allow_leakage=True)
    assert card.duplicates["near_across"] == 40
    assert sum(split.rows for split in card.splits.values()) == 700


@pytest.mark.parametrize("alike", [str, lambda text: f"  {text.title()} !"], ids=["exact", "near"])
def test_fault_10_a_row_of_both_files_is_tested_on_and_not_learned_from(tmp_path: Path, alike: Any) -> None:
    rows = labelled(900)
    shared = [(alike(text), label) for text, label in rows[:30]]
    files: dict[SplitName, Path] = {
        "train": write_csv(tmp_path / "train.csv", rows[:600]),
        "test": write_csv(tmp_path / "test.csv", [*rows[600:], *shared]),  # 30 of 330
    }
    assert refused_files(tmp_path, files).code == "data-leakage"
    prepared(tmp_path, files, allow_leakage=True)
    learned = {row.input for split in ("train", "dev") for row in iterate(tmp_path / "out", split)}
    places = {row.id for split in ("train", "dev", "calibration") for row in iterate(tmp_path / "out", split)}
    assert not learned & {text for text, _ in rows[:30]}
    assert not places & {f"train.csv:{line}" for line in range(2, 32)}  # the header is line 1
    tested = {row.id for row in iterate(tmp_path / "out", "test")}
    assert {f"test.csv:{line}" for line in range(302, 332)} <= tested
    assert len({text for text, _ in rows[30:600]} & learned) > 400  # the others stay


def test_fault_11_calibration_rows_in_train_fail_always(tmp_path: Path) -> None:
    rows = labelled(300)
    train = write_csv(tmp_path / "train.csv", rows[:200])
    calibration = write_csv(tmp_path / "calibration.csv", rows[199:])
    files: dict[SplitName, Path] = {"train": train, "calibration": calibration}
    error = refused_files(tmp_path, files, allow_leakage=True, duplicates="keep")
    assert error.code == "data-calibration-leak"
    assert "calibration.csv:2 = train.csv:201" in error.cause


def test_fault_11_written_files_are_checked_again(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", labelled(300))
    prepared(tmp_path, {"train": path})
    out = tmp_path / "out"
    verify_splits(out)
    stolen = (out / "calibration.jsonl").read_bytes().splitlines(keepends=True)[0]
    train = out / "train.jsonl"
    train.write_bytes(train.read_bytes() + stolen)
    with pytest.raises(DataError) as caught:
        verify_splits(out)
    assert caught.value.code == "data-split"
    card = json.loads((out / "card.json").read_bytes())
    import hashlib

    card["splits"]["train"]["sha256"] = hashlib.sha256(train.read_bytes()).hexdigest()
    (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(DataError) as caught:
        verify_splits(out)
    assert caught.value.code == "data-calibration-leak"


def test_fault_12_contradictory_labels_give_a_noise_ceiling(tmp_path: Path) -> None:
    rows = labelled(100)
    twice = [(f"doubtful {n} {text}", label) for n, text in enumerate(distinct_sentences(10, 5)) for label in "ab"]
    path = write_csv(tmp_path / "train.csv", rows + twice)
    card = prepared(tmp_path, {"train": path})
    assert card.contradictions == 10
    assert card.noise_ceiling == pytest.approx(110 / 120)
    assert len(card.contradiction_examples) == 10 and "a ×1, b ×1" in card.contradiction_examples[0]
    train = load(tmp_path / "out", "train").inputs
    assert len(set(train)) == len(train)


def test_fault_14_gzip_that_expands_too_far(tmp_path: Path) -> None:
    path = tmp_path / "train.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * (FREE_EXPANSION_BYTES // 2)))
    error = refused(tmp_path, path)
    assert error.code == "data-expands"


READ_GZIP = """
import gzip, json, sys
from pathlib import Path
from locum.core.errors import DataError
from locum.data.prepare import prepare
from locum.runtime.memory import peak_resident_mb
from locum.schema.task import Task
produced, read = [0], gzip.GzipFile.read
def counted(self, *size):
    chunk = read(self, *size)
    produced[0] += len(chunk)
    return chunk
gzip.GzipFile.read = counted
task = Task.model_validate({"version": 1, "name": "bomb", "kind": "classify", "instruction": "?",
    "data": {"train": "x", "input": "text", "output": "label"}})
before, code = peak_resident_mb(), ""
try:
    prepare(task, {"train": Path(sys.argv[1])}, Path(sys.argv[2]))
except DataError as error:
    code = error.code
print(json.dumps({"produced": produced[0], "grown_mb": peak_resident_mb() - before, "code": code}))
"""


@pytest.mark.parametrize("members", [1, 40])
@pytest.mark.parametrize("line", [b"a,b\n", b"x" * 4096, b"\0"], ids=["rows", "one line", "zeros"])
def test_fault_14_no_more_than_the_cap_is_unpacked_and_memory_stays_flat(
    tmp_path: Path, members: int, line: bytes
) -> None:
    part = gzip.compress(line * ((200 << 20) // members // len(line)))
    path = tmp_path / "train.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n") + part * members)  # 200 MiB from about 200 KB
    cap_bytes = max(FREE_EXPANSION_BYTES, 200 * path.stat().st_size)
    command = [sys.executable, "-c", READ_GZIP, str(path), str(tmp_path / "out")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert found["code"] == "data-expands"
    assert found["produced"] <= cap_bytes + (1 << 20)  # one buffer more
    assert found["grown_mb"] < 60
    assert not (tmp_path / "out").exists()


def test_fault_14_honest_gzip_is_read_and_a_truncated_one_is_named(tmp_path: Path) -> None:
    text = "text,label\n" + "".join(f"{text},{label}\n" for text, label in labelled(100))
    path = tmp_path / "train.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert prepared(tmp_path, {"train": path}).files[0].format == "csv.gz"
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / "train.csv.gz"
    cut.write_bytes(path.read_bytes()[:-20])
    assert refused(tmp_path / "cut", cut).code == "data-damaged"


def test_fault_15_html_and_formulas_are_escaped_in_the_card(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    formula = '=HYPERLINK("http://evil")'
    rows = labelled(60, [evil, formula])
    both = [("<img src=x onerror=alert(1)>", label) for label in (evil, formula)]
    path = write_csv(tmp_path / "train.csv", rows + both)
    card = prepared(tmp_path, {"train": path})
    assert set(card.labels) == {evil, formula}
    page = (tmp_path / "out" / "card.html").read_text()
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;" in page and "&lt;img" in page
    assert "<td>=" not in page and "<td>&#39;=HYPERLINK" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_fault_16_archives_are_never_unpacked(tmp_path: Path) -> None:
    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../escaped.csv", "text,label\na,b\n")
    assert refused(tmp_path, packed).code == "data-archive"
    rolled = io.BytesIO()
    with tarfile.open(fileobj=rolled, mode="w:gz") as archive:
        link = tarfile.TarInfo("train.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    tar = tmp_path / "train.csv.gz"
    tar.write_bytes(rolled.getvalue())
    assert refused(tmp_path, tar).code == "data-archive"
    assert not (tmp_path.parent.parent / "escaped.csv").exists()


def test_fault_16_a_saved_data_set_cannot_name_files_outside(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../etc/passwd"}]}))
    error = refused(tmp_path, folder)
    assert error.code == "data-damaged" and "outside" in error.cause


def test_fault_17_file_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", labelled(3000))
    rows = read_rows(path, make_task().data)
    next(rows)
    with path.open("a") as file:
        file.write("appended meanwhile,yes\n")
    with pytest.raises(DataError) as caught:
        list(rows)
    assert caught.value.code == "data-changed"
