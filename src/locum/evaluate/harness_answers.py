"""What models said to benchmarks, kept in a file, so that a run that was stopped goes on where it was.

Notable: one JSON Lines file a model; a line's key is the hash of the model, of what was asked and of the exact text,
so a changed file, prompt or document is asked again and nothing else is. Not here: the prompted LLM of a task
(``evaluate.llm``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from locum.core.appended import AppendedLines, read_lines
from locum.core.files import sha256_bytes


class AnswerFile:
    """Answers by key; a context manager that appends each new one as a line of its own.

    Args:
        path: the file; made when absent.
        model: hash of the model that answers.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self._model = model
        self._found = {str(r["key"]): r["answer"] for r in read_lines(path) if "key" in r and "answer" in r}
        self._file = AppendedLines(path)

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
        self._file.append({"key": key, "answer": answer, **about})

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()
