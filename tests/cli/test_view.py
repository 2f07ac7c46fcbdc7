"""The live view: lines where there is no terminal, bars where there is one, and user text that stays text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from locum.cli import view
from locum.cli.output import json_text, plain
from locum.cli.view import facts_line, live_view
from locum.core.progress import Event, emit, note, track, warn

HOSTILE = "[red]x[/red] [/nothing] \x1b[31m \\[bold] :bug: \u202e end"


def shown(text: str) -> str:
    return text.replace("\x1b", "⟨U+001B⟩").replace("\u202e", "⟨U+202E⟩")


def test_lines_show_ends_notes_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with live_view():
        with track("train", total=2, unit="step") as tracker:
            tracker.advance(1, loss=0.5)
        note("found", rows=3)
        warn("look out")
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0].startswith("✓ train 0.")
    assert lines[1].split() == ["·", "found", "rows", "3"]
    assert lines[2].split() == ["!", "look", "out"]


def test_lines_show_long_work_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(view.time, "monotonic", lambda: now_s)
    listener = view._Lines(Console(stderr=True, highlight=False))
    for now_s in (1.0, 11.0, 12.0, 22.0):
        listener.hear(Event("advance", "train", now_s, 100, "step", {"loss": 0.25}))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  … train  11% loss 0.25", "  … train  22% loss 0.25"]


def test_a_long_line_stays_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with live_view():
        warn("word " * 50)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_fault_83_user_text_is_neither_markup_nor_escape(capsys: pytest.CaptureFixture[str]) -> None:
    with live_view():
        note(HOSTILE, fact=HOSTILE)
        with track(HOSTILE):
            pass
    printed = capsys.readouterr().err
    assert printed.count(shown(HOSTILE)) == 3
    assert "\x1b" not in printed


def test_fault_83_bars_draw_user_text_as_it_is() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None, emoji=False)
    with view._bars(console) as progress:
        bars = view._Bars(console, progress)
        bars.hear(Event("start", HOSTILE, total=10, unit="byte"))
        bars.hear(Event("advance", HOSTILE, 5, 10, "byte", {"note": HOSTILE}))
        progress.refresh()
        assert len(progress.tasks) == 1
        bars.hear(Event("done", HOSTILE, 10, 10, "byte", {"seconds": 1.0}))
        assert progress.tasks == []
        bars.hear(Event("warning", "careful"))
    printed = stream.getvalue()
    assert shown(HOSTILE) in printed
    assert "\x1b[31m" not in printed
    assert "! careful" in printed


def test_figures_beside_a_bar() -> None:
    event = Event("advance", "x", 12_300_000, None, "byte", {"loss": 0.30951, "dev_accuracy": 0.934, "note": "a[b]"})
    assert facts_line(event) == r"12.3 MB  loss 0.3095  dev accuracy 0.934  note a\[b]"


def test_plain_survives_rich() -> None:
    console = Console(file=io.StringIO(), width=200, emoji=False)
    with console.capture() as capture:
        console.print(plain(HOSTILE))
    assert capture.get().rstrip("\n") == shown(HOSTILE)


def test_json_in_letters_where_they_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert json_text({"a": "é"}) == '{"a": "é"}'
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert json_text({"a": "é"}) == r'{"a": "\u00e9"}'
    with pytest.raises(ValueError, match="JSON compliant"):
        json_text({"a": float("nan")})


def test_the_whole_is_told_with_its_step_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    event = Event("overall", "train x", 3, 14, "step", {"elapsed_s": 70, "left_s": 241, "budget_s": 540})
    with live_view():
        emit(event)
    assert capsys.readouterr().err == "step 3 of 14 train x: 70 s so far, about 4 min left (budget 9 min)\n"
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None, emoji=False)
    with view._bars(console) as progress:
        bars = view._Bars(console, progress)
        bars.hear(event)
        bars.hear(Event("start", "train x"))
        (whole, part) = progress.tasks
        assert (whole.description, whole.completed, part.description) == ("step 3 of 14", 2, "train x")
        assert whole.fields["facts"] == "70 s so far, about 4 min left (budget 9 min)"
    assert view.time_left(event, 238) == "5 min so far, nearly done (budget 9 min)"
