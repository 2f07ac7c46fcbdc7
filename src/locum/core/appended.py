"""``AppendedLines``: a JSON Lines file that grows a record at a time and survives a kill at any byte.

Notable: every record is flushed as one line before the caller goes on; a line that a kill cut short is closed when the
file is opened again, and passed over when it is read. Not here: what a record means (whoever keeps answers).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from locum.core.files import disk_errors


class AppendedLines:
    """The file, open for appending; a context manager.

    Args:
        path: the file; made when absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record as a line, flushed.

        Raises:
            DeviceError: the disk is full, read-only or forbidden.
        """
        with disk_errors(self.path):
            self._file.write(json.dumps(record).encode() + b"\n")
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


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of such a file, without lines that are no JSON object; none when there is no file.

    Raises:
        DeviceError: the file cannot be read.
    """
    if not path.exists():
        return
    with disk_errors(path), path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if isinstance(record, dict):
                yield record
