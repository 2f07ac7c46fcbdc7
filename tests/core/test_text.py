"""Hidden characters become visible, in every text that people read."""

from hypothesis import given
from hypothesis import strategies as st

from locum.core.text import one_line, visible


def test_fault_83_ansi_and_bidi_are_spelled_out():
    assert visible("\x1b[31mred") == "⟨U+001B⟩[31mred"
    assert visible("pay\u202etxt.exe") == "pay⟨U+202E⟩txt.exe"
    assert visible("a\u200bb\ufeff") == "a⟨U+200B⟩b⟨U+FEFF⟩"


def test_plain_text_tabs_and_newlines_stay():
    assert visible("Grüße, 你好\tκαλημέρα\n") == "Grüße, 你好\tκαλημέρα\n"


@given(st.text(alphabet=st.characters(codec=None)))
def test_always_encodes_and_is_stable(text: str):
    shown = visible(text)
    assert shown.encode().decode() == shown
    assert visible(shown) == shown


def test_one_line_cuts_with_an_ellipsis():
    assert one_line("a\nb\tc") == "a b c"
    assert one_line("x" * 300, limit=10) == "x" * 9 + "…"
