from __future__ import annotations

from pathlib import Path

import pytest

from locum.core.errors import DataError
from locum.data.opening import survey

GERMAN = "text,label\nIch möchte Geld nach Köln überweisen,konto\nWo ist die nächste Bank für mich?,ort\n" * 20
RUSSIAN = "text,label\nГде моя карта? Я заказал её неделю назад,карта\nВерните мои деньги,возврат\n" * 20


def encoding_of(tmp_path: Path, content: bytes, named: str | None = None) -> str:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    return survey(path, named).encoding


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (GERMAN.encode(), "utf-8"),
        (GERMAN.encode("utf-8-sig"), "utf-8-sig"),
        (GERMAN.encode("utf-16"), "utf-16"),
        (GERMAN.encode("utf-16-le"), "utf-16-le"),
        (GERMAN.encode("utf-16-be"), "utf-16-be"),
        (GERMAN.encode("latin-1"), "cp1252"),
        (RUSSIAN.encode("cp1251"), "cp1251"),
        (b"text,label\nplain,a\n", "utf-8"),
        (GERMAN.encode() * 40 + b"\xff\n", "utf-8"),  # damaged in one place: still UTF-8
    ],
)
def test_encodings(tmp_path: Path, content: bytes, encoding: str) -> None:
    assert encoding_of(tmp_path, content) == encoding


def test_utf8_is_proved_over_the_whole_file(tmp_path: Path) -> None:
    late = b"text,label\n" + b"plain ascii,a\n" * 200_000 + GERMAN.encode("latin-1")
    assert encoding_of(tmp_path, late) == "cp1252"


def test_an_ambiguous_encoding_is_asked_for_with_both_readings(tmp_path: Path) -> None:
    french = "text,label\nOù est ma carte bancaire ? J'ai été débité à l'étranger,carte\n".encode("latin-1")
    with pytest.raises(DataError, match="“Où”") as caught:
        encoding_of(tmp_path, french)
    assert caught.value.code == "data-encoding"
    assert "--encoding" in caught.value.fix
    assert encoding_of(tmp_path, french, "latin-1") == "iso8859-1"


def test_a_named_encoding_is_checked_and_loses_its_mark(tmp_path: Path) -> None:
    assert encoding_of(tmp_path, GERMAN.encode("utf-16"), "utf-16-le") == "utf-16"
    assert encoding_of(tmp_path, GERMAN.encode("utf-8-sig"), "utf8") == "utf-8-sig"
    with pytest.raises(DataError, match="did you mean 'latin-1'"):
        encoding_of(tmp_path, b"text,label\n", "latin-11x")
