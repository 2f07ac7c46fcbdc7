"""The exception tree: every error a user can meet, each with a stable code, a cause and a fix.

Notable: foreign exceptions (OSError, pydantic, ONNX Runtime, httpx…) become one of these at the
boundary where they appear, so a caller needs only ``except LocumError``. The class decides the
exit status; the code (listed in ``core.codes``) is what scripts and documentation refer to.

    LocumError            1  anything else
    ├── UserError         2  the user's mistake: the input can be mended
    │   ├── TaskFileError    faults in task.yaml, all of them together
    │   ├── DataError        the data set
    │   ├── SourceError      a download, a checksum, a path
    │   ├── ModelFileError   a model or bundle that must not be loaded
    │   └── DeviceError      the machine cannot do what was asked
    ├── CheckFailed       3  parity, certificate or audit threshold not met
    ├── UpstreamError     1  the LLM behind its URL did not answer properly
    ├── BusyError         1  another process holds the folder
    └── Interrupted       1  stopped by Ctrl-C or SIGTERM; what was done is saved

Not here: warnings, which are progress events (``core.progress``).
"""

from __future__ import annotations

from typing import ClassVar

from locum.core.codes import CODES


class LocumError(Exception):
    """An error with a stable code, the cause in one line, and what to do about it.

    Args:
        code: a key of ``core.codes.CODES``.
        cause: the value seen and why it is wrong, in one line.
        fix: what to do, preferably the exact command.
        where: the file, file:line or field it was seen in.

    Raises:
        KeyError: the code is not listed (a mistake in Locum itself).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, cause: str, *, fix: str = "", where: str = "") -> None:
        if code not in CODES:
            raise KeyError(f"error code {code!r} is not listed in core.codes")
        self.code = code
        self.cause = cause
        self.fix = fix
        self.where = where
        super().__init__(code, cause, fix, where)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" → {self.fix}" if self.fix else ""
        return f"{place}{self.cause}{remedy} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.cause, self.fix, self.where)

    def to_json(self) -> dict[str, str | int]:
        """The error as the JSON object that ``--json`` and the gateway print."""
        return {
            "code": self.code,
            "cause": self.cause,
            "fix": self.fix,
            "where": self.where,
            "exit_code": self.exit_code,
        }


def _rebuild(kind: type[LocumError], code: str, cause: str, fix: str, where: str) -> LocumError:
    return kind(code, cause, fix=fix, where=where)


class UserError(LocumError):
    """The user's mistake: the message says how to mend it."""

    exit_code: ClassVar[int] = 2


class TaskFileError(UserError):
    """Faults in a task file; ``cause`` holds one line per fault, each with its file and line."""


class DataError(UserError):
    """The data set cannot be used as it is."""


class SourceError(UserError):
    """A source does not answer, or what it gave does not verify."""


class ModelFileError(UserError):
    """A model file or bundle that is damaged, hostile, unsupported, or not what it says it is."""


class DeviceError(UserError):
    """The machine cannot do what was asked: memory, disk, permissions, instruction set."""


class CheckFailed(LocumError):
    """A check that Locum promises did not hold: parity, certificate, audit threshold."""

    exit_code: ClassVar[int] = 3


class UpstreamError(LocumError):
    """The LLM behind its URL did not answer properly.

    Attributes:
        retry_after_s: how long to wait before asking again, when that is known.
    """

    retry_after_s: float | None = None


class BusyError(LocumError):
    """Another process is at work in the same folder."""


class Interrupted(LocumError):
    """Stopped on request; what was finished is saved and the same command resumes."""
