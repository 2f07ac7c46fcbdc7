"""What the terminal shows of long work: a live line per running piece, a tick and its time when done.

Notable: everything goes to standard error, so that ``--json`` leaves standard output to one document. On a
terminal rich draws bars with rate and time left; elsewhere (logs, CI) each event that matters is one line. Of a build
one line is the whole: which step it is at, and about how long is left, as ``pipeline.overall`` works it out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from locum.cli.output import plain
from locum.core.progress import Event, listening


@contextmanager
def live_view() -> Generator[Console, None, None]:
    """Show the progress of the enclosed work on standard error."""
    console = Console(stderr=True, highlight=False, emoji=False)
    if console.is_terminal:
        with _bars(console) as progress, listening(_Bars(console, progress).hear):
            yield console
    else:
        with listening(_Lines(console).hear):
            yield console


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[facts]}", style="dim"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _Bars:
    """One bar for each piece of work in progress."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._whole: TaskID | None = None
        self._told = Event("overall", "")
        self._told_s = 0.0

    def hear(self, event: Event) -> None:
        """Draw one event."""
        if event.kind in ("note", "warning"):
            self._console.print(_remark(event))
            return
        if event.kind == "overall":
            self._tell(event)
            return
        if self._whole is not None:
            self._progress.update(self._whole, facts=self._time_left())
        if event.label not in self._tasks:
            self._tasks[event.label] = self._progress.add_task(plain(event.label), total=event.total, facts="")
        task = self._tasks[event.label]
        if event.kind == "done":
            self._progress.remove_task(self._tasks.pop(event.label))
            self._console.print(_finished(event))
        else:
            self._progress.update(task, completed=event.done, total=event.total, facts=facts_line(event))

    def _tell(self, event: Event) -> None:
        """One line for the whole, above those of its parts."""
        self._told, self._told_s = event, time.monotonic()
        if self._whole is None:
            self._whole = self._progress.add_task("build", total=event.total, facts="")
        name = f"step {event.done:.0f} of {event.total:.0f}"
        done = max(0.0, event.done - 1)
        self._progress.update(self._whole, description=name, completed=done, total=event.total, facts=self._time_left())

    def _time_left(self) -> str:
        return time_left(self._told, time.monotonic() - self._told_s)


class _Lines:
    """One line for a start, an end, a remark, and every ten seconds of progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_s = time.monotonic()

    def hear(self, event: Event) -> None:
        """Print one event."""
        if event.kind in ("note", "warning"):
            self._console.print(_remark(event), soft_wrap=True)
        elif event.kind == "overall":
            place = f"step {event.done:.0f} of {event.total:.0f}"
            self._console.print(f"[bold]{place}[/bold] {plain(event.label)}: {time_left(event)}", soft_wrap=True)
        elif event.kind == "done":
            self._console.print(_finished(event), soft_wrap=True)
        elif time.monotonic() - self._last_s > 10:
            self._last_s = time.monotonic()
            share = f"{event.done / event.total:4.0%} " if event.total else ""
            self._console.print(f"  … {plain(event.label)} {share}{facts_line(event)}", soft_wrap=True)
        sys.stderr.flush()


def _remark(event: Event) -> str:
    mark = "[yellow]![/yellow]" if event.kind == "warning" else "[cyan]·[/cyan]"
    return f"{mark} {plain(event.label)} [dim]{facts_line(event)}[/dim]"


def _finished(event: Event) -> str:
    return f"[green]✓[/green] {plain(event.label)} [dim]{event.facts.get('seconds', 0):.1f} s[/dim]"


def time_left(event: Event, since_s: float = 0.0) -> str:
    """How long the whole has run and has still to run: ``2 min so far, about 4 min left (budget 9 min)``.

    Args:
        event: of kind overall.
        since_s: seconds since it was heard.
    """
    elapsed_s, left_s = event.facts["elapsed_s"] + since_s, max(0.0, event.facts["left_s"] - since_s)
    left = "nearly done" if left_s < 5 else f"about {_minutes(left_s)} left"
    return f"{_minutes(elapsed_s)} so far, {left} (budget {_minutes(event.facts['budget_s'])})"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def facts_line(event: Event) -> str:
    """The figures beside a bar: ``loss 0.31  dev_accuracy 0.934  12.3 MB  4.1 MB/s``."""
    parts: list[str] = []
    if event.unit == "byte" and event.done:
        parts.append(f"{event.done / 1e6:.1f} MB")
    for name, value in event.facts.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.replace('_', ' ')} {shown}")
    return plain("  ".join(parts))
