"""What models said to benchmarks, kept in a file, so that a run that was stopped goes on where it was.

Notable: one JSON Lines file a model; a line's key is the hash of the model, of what was asked and of the exact text,
so a changed file, prompt or document is asked again and nothing else is. Not here: the prompted LLM of a task
(``evaluate.llm``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

from locum.core.files import disk_errors, sha256_bytes


class AnswerFile:
    """Answers by key; a context manager that appends each new one as a line of its own.

    Args:
        path: the file; made when absent.
        model: hash of the model that answers.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self._model = model
        self._found: dict[str, Any] = _read(path)

    def key(self, *asked: object) -> str:
        """The key of a question: everything that decides the answer, the model included."""
        return sha256_bytes(json.dumps([self._model, *asked], sort_keys=True).encode())

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        """The answer as it was added."""
        return self._found[key]

    def add(self, key: str, answer: Any, **about: Any) -> None:
        """Keep an answer, on the disk before this returns to the caller's next line.

        Args:
            key: of ``key``.
            answer: anything that JSON carries.
            **about: what a reader of the file wants to know beside it (the task, the document).
        """
        self._found[key] = answer
        with disk_errors(self.path):
            self._file.write(json.dumps({"key": key, "answer": answer, **about}).encode() + b"\n")
            self._file.flush()

    def __enter__(self) -> Self:
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab+")
            if self._file.tell():
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":  # closes a line that a kill cut short
                    self._file.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _read(path: Path) -> dict[str, Any]:
    """Answers by key; a line that a kill cut short is passed over, and asked again."""
    found: dict[str, Any] = {}
    if not path.exists():
        return found
    with disk_errors(path), path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                found[str(record["key"])] = record["answer"]
            except (ValueError, TypeError, KeyError):
                continue
    return found
