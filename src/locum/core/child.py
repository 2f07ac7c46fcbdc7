"""Heavy work in a killable child process: progress comes back live, errors come back as ours.

Notable: training and export run here, so that a memory kill ends the child and not the build, and PyTorch
never enters the parent. The child watches its standard input and ends when the parent is gone, even by
kill -9. A job may be several processes, which PyTorch's launcher starts and ends together: all write to one wire, the
first alone tells of progress. Not here: what the work is; a job is any ``"module:function"`` taking (request, out)
paths.

Wire format: the child writes one JSON object a line to its standard output: ``{"event": {...}}`` for a
progress event, ``{"error": {...}}`` for a LocumError, ``{"crash": "..."}`` for another exception. Everything it prints
to standard error goes to a log.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from locum.core import errors
from locum.core.openmp import waiting
from locum.core.progress import Event, emit, listening

_GRACE_S = 60.0
_KILLED = (
    "Signal 9 (SIGKILL)"  # as PyTorch's launcher reports the end of a process; of those that it ends it says nothing
)


def run_job(target: str, request: Path, out: Path, *, log: Path, threads: int, processes: int = 1) -> None:
    """Run ``target`` (``"module:function"``) in a child process and relay its progress.

    Args:
        target: function called as ``function(request, out)`` in the child.
        request: JSON file with what to do.
        out: folder the job writes to; it may hold checkpoints of an earlier try.
        log: file that gets the child's standard error.
        threads: CPU threads for the numerical libraries of a process.
        processes: of these at once, as ``torchrun`` starts them, each with its rank in the environment.

    Raises:
        LocumError: whatever the job raised, of several processes the first that failed; ``core-child-killed``
            when it was killed (memory); ``core-child-failed`` when it ended in another way.
        Interrupted: Ctrl-C; the child was asked to save and stop, a second Ctrl-C kills it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    logged_before = log.stat().st_size if log.exists() else 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with log.open("ab") as log_file:
        child = subprocess.Popen(
            [
                *(sys.executable, *(launcher if processes > 1 else ())),
                *("-m", "locum.core.child", target, str(request), str(out)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env={**os.environ, **waiting(os.environ), **_thread_settings(threads)},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then asks the child to stop
        )
    if child.stdout is None:
        raise RuntimeError("the child process has no standard output")
    try:
        failure, crash = _relay(child.stdout)
        status = child.wait()
    except KeyboardInterrupt:
        _stop(child)
        raise errors.Interrupted(
            "core-interrupted", "stopped on request", fix="run the same command to go on from here"
        ) from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        child.stdout.close()
        if child.stdin:
            child.stdin.close()
    if failure is not None:
        raise failure
    if status != 0:
        raise _death(target, status, log, logged_before, crash)


def _thread_settings(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}


def _relay(stdout: IO[bytes]) -> tuple[errors.LocumError | None, str | None]:
    """Pass events on until the job has ended; return its first error and its first crash."""
    failure: errors.LocumError | None = None
    crash: str | None = None
    for line in stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # a library that prints to standard output; the log has its errors
        if not isinstance(message, dict):
            continue
        if "event" in message:
            emit(Event(**message["event"]))
        elif "error" in message:
            failure = failure or _error_from(message["error"])
        elif "crash" in message:
            crash = crash or str(message["crash"])
    return failure, crash


def _error_from(record: dict[str, Any]) -> errors.LocumError:
    kind = getattr(errors, str(record["class"]), errors.LocumError)
    return kind(record["code"], record["cause"], fix=record["fix"], where=record["where"])


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def _death(target: str, status: int, log: Path, logged_before: int, crash: str | None) -> errors.LocumError:
    text = log.read_bytes()[logged_before:].decode("utf-8", errors="replace")
    if status == -signal.SIGKILL or _KILLED in text:
        return errors.LocumError(
            "core-child-killed",
            f"{target} was killed, most likely because memory ran out",
            fix="close other programs or set a smaller budget.memory_mb",
        )
    tail = [crash] if crash else text.strip().splitlines()[-1:] or ["no message"]
    ended = f"signal {-status}" if status < 0 else f"status {status}"
    return errors.LocumError(
        "core-child-failed", f"{target} ended with {ended}: {tail[0]}", fix=f"see {log}", where=target
    )


def _watch_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)  # the parent is gone: nobody will read the result


def child_main(target: str, request: Path, out: Path) -> int:
    """The child's side: run the job, print its events, and turn its error into a line."""
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log, never between our lines
    threading.Thread(target=_watch_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def send(record: dict[str, Any]) -> None:
        wire.write(json.dumps(record) + "\n")
        wire.flush()

    def tell(event: Event) -> None:
        if first:
            send({"event": event.to_json()})

    first = os.environ.get("RANK", "0") == "0"
    module, _, name = target.partition(":")
    try:
        with listening(tell):
            getattr(importlib.import_module(module), name)(request, out)
    except errors.LocumError as error:
        send({"error": {**error.to_json(), "class": type(error).__name__}})
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        send({"crash": traceback.format_exception_only(error)[-1].strip().partition("\n")[0]})
        raise
    return 0


def _run_and_exit(target: str, request: Path, out: Path) -> None:
    """End the process without the interpreter's shutdown, which can hang after an import that was interrupted."""
    try:
        status = child_main(target, request, out)
    except BaseException:  # noqa: BLE001  (the log gets it, whatever it is, and the parent the status)
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _run_and_exit(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
