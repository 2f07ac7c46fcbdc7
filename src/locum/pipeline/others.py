"""``read_tasks``: a task file, and those of the tasks that are to be learned together with it.

Notable: faults of all of these files are told together, at the line that names the file. The list of another task is
not followed, so two tasks may name each other, each for a student of its own. Not here: their rows (``mixture``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locum.core.errors import TaskFileError
from locum.pipeline.workspace import OtherTask, read_task, read_text
from locum.schema.kinds import WRITING
from locum.schema.task import Task
from locum.schema.taskfile import Path as KeyPath
from locum.schema.taskfile import parse_task


@dataclass(frozen=True)
class TaskFiles:
    """What a build is for.

    Attributes:
        task: what is asked.
        text: its file, verbatim.
        root: folder of the file; its relative paths start here.
        others: tasks to learn from beside it, in the file's order.
    """

    task: Task
    text: str
    root: Path
    others: tuple[OtherTask, ...]


def read_tasks(path: Path) -> TaskFiles:
    """Read a task file and the files under its ``multitask.tasks``.

    Args:
        path: the file, or a folder that holds ``task.yaml``.

    Raises:
        TaskFileError: the file is missing or unreadable; or it, or one that it names, has faults (all of them
            reported): unreadable, no kind that writes, named twice, the file itself, or of a name that is taken.
    """
    file, text = read_text(path)
    return tasks_of(text, file)


def tasks_of(text: str, file: Path) -> TaskFiles:
    """The same from a task file's text, as if it stood in ``file``.

    Raises:
        TaskFileError: as ``read_tasks``.
    """
    reader = _Reader(file)
    task = parse_task(text, file.name, reader.look)
    return TaskFiles(task, text, file.parent.resolve(), tuple(reader.found))


@dataclass
class _Reader:
    """Reads the other tasks of a file, keeping those without a fault."""

    file: Path
    found: list[OtherTask] = field(default_factory=list[OtherTask])

    def look(self, values: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
        """What is wrong with the files under ``multitask.tasks``, by the key's path."""
        multitask = values.get("multitask")
        named = multitask.get("tasks") if isinstance(multitask, dict) else None
        if not isinstance(named, list):
            return  # absent, or a fault that is told already
        files = {self.file.resolve(): "is this task file itself"}
        names = {values.get("name"): "this task"}
        for place, address in enumerate(named):
            if not isinstance(address, str):
                continue
            fault = self._read(address, files, names)
            if fault is not None:
                yield ("multitask", "tasks", place), f"{address} {fault}"

    def _read(self, address: str, files: dict[Path, str], names: dict[Any, str]) -> str | None:
        """Why another task cannot be learned from; None when it can."""
        try:
            file, _ = read_text(self.file.parent / address)
            if (seen := files.get(file.resolve())) is not None:
                return seen
            files[file.resolve()] = "stands twice"
            task, _ = read_task(file)
        except TaskFileError as error:
            return "cannot be used: " + error.cause.replace("\n", "\n  ")
        if task.kind not in WRITING:
            return f"is of kind: {task.kind}, and only kinds that write are learned together: {', '.join(WRITING)}"
        if task.name in names:
            return f"has the name {task.name!r} of {names[task.name]}; give it another"
        names[task.name] = address
        self.found.append(OtherTask(task, file.parent.resolve()))
        return None
