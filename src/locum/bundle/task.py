"""The task of a bundle, as it was put to the models when it was measured.

Notable: the task file stands in the bundle as the user wrote it. What the build found out for it, how long answers may
be, stands in ``model.json``, whose hash the certificate names. Not here: the file's format (``schema.taskfile``).
"""

from __future__ import annotations

from pathlib import Path

from locum.bundle.write import MODEL, TASK
from locum.runtime.model_files import read_spec
from locum.schema.task import Task
from locum.schema.taskfile import parse_task


def read_task(bundle: Path) -> Task:
    """Read the task of a verified bundle.

    Raises:
        TaskFileError: its task file cannot be read by this version.
        ModelFileError: its ``model.json`` cannot.
    """
    task = parse_task((bundle / TASK).read_text(encoding="utf-8"), str(bundle / TASK))
    return task.with_answers_of(read_spec(bundle / MODEL).answer_tokens)
