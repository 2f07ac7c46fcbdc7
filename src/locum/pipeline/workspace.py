"""``Workspace``: what every step of one build shares; and ``read_task``, which finds and reads the task file.

Notable: the paths in a task file are relative to the file, so a build works from any folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from locum.core.errors import TaskFileError
from locum.core.files import sha256_bytes
from locum.evaluate.spending import Spending
from locum.pipeline.steps import StepCache
from locum.schema.answers import AnswerLimit
from locum.schema.data import SplitName
from locum.schema.task import SPLITS, Task
from locum.schema.taskfile import MAX_BYTES, parse_task


@dataclass(frozen=True)
class OtherTask:
    """A task that is learned together with the one that a build is for; ``root`` is the folder of its file."""

    task: Task
    root: Path


@dataclass(frozen=True)
class Workspace:
    """One build.

    Attributes:
        task: what is asked.
        task_text: the task file, verbatim, for the bundle.
        root: folder of the task file; its relative paths start here.
        out: folder of the build.
        steps: the cache of its steps.
        threads: CPU threads for every step.
        offline: nothing may be downloaded.
        others: tasks to learn from beside it.
        answers: how long an answer may be; None until that is known, and for kinds that write none.
        purse: that all calls of the LLM are paid from.
    """

    task: Task
    task_text: str
    root: Path
    out: Path
    steps: StepCache
    threads: int
    offline: bool = False
    others: tuple[OtherTask, ...] = ()
    answers: AnswerLimit | None = None
    purse: Spending = field(default_factory=Spending)

    @property
    def task_hash(self) -> str:
        """SHA-256 of the task file as written."""
        return sha256_bytes(self.task_text.encode())


def read_task(path: Path) -> tuple[Task, str]:
    """Read a task file.

    Args:
        path: the file, or a folder that holds ``task.yaml``.

    Returns:
        The task and the file's text.

    Raises:
        TaskFileError: it is missing or unreadable, or has faults (all of them reported).
    """
    file, text = read_text(path)
    return parse_task(text, file.name), text


def read_text(path: Path) -> tuple[Path, str]:
    """Find a task file and read its text.

    Args:
        path: the file, or a folder that holds ``task.yaml``.

    Raises:
        TaskFileError: it is missing or unreadable.
    """
    file = path
    try:
        file = path / "task.yaml" if path.is_dir() else path
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        what, fix = f"there is no {file}", "write one with `locum init DATA_FILE`"
        if path.is_dir():
            what = f"there is no task.yaml in the folder {path.resolve()}"
            others = sorted(each.name for each in path.glob("*.y*ml"))[:5]
            fix += f", or name the one that is meant: {', '.join(others)}" if others else ", or name a task file"
        raise TaskFileError("task-missing", what, fix=fix) from None
    except UnicodeDecodeError as problem:
        raise TaskFileError(
            "task-missing", f"{file} is not UTF-8 text (byte {problem.start})", fix="save it as UTF-8"
        ) from None
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise TaskFileError("task-missing", f"cannot read {file}: {why}", fix="check the path") from None
    return file, text


def split_addresses(task: Task) -> dict[SplitName, tuple[str, ...]]:
    """The addresses of each split that the task names, in the order they are tried."""
    named: dict[SplitName, tuple[str, ...]] = {}
    for split in SPLITS:
        given: str | Sequence[str] | None = getattr(task.data, split)
        if given is not None:
            named[split] = (given,) if isinstance(given, str) else tuple(given)
    return named


def graded_addresses(task: Task) -> tuple[str, ...]:
    """The addresses of the answers that people graded, in the order they are tried; none where none are given."""
    given = task.judged.human if task.judged else None
    return (given,) if isinstance(given, str) else tuple(given or ())
