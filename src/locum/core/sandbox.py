"""Running code that nobody trusts, such as what a model wrote: its own process, walled in, and gone afterwards.

Notable: walls are layers, and ``Outcome.layers`` names those that this system allowed:

    namespaces        own users, PIDs, IPC, network without any connection; ends every process of the program
    read-only mounts  nothing can be written but a RAM disk of ``files_mb``, which vanishes (same kernel feature)
    landlock          reads only Python and system libraries, writes only its folder, no TCP, no signals outside
    seccomp           no new process, no other program, no socket, no tracing; where mounts are not read-only, no
                      change of permissions, owners and times, which Landlock does not see; threads are allowed
    audit hook        Python itself refuses processes, connections and, where mounts are not read-only, changes of
                      files outside the folder; native code gets around it, so alone it is weak

Limits of CPU, memory, file size and open files hold on every system that has them; time and output are held by the
parent. ``Outcome.isolated`` says whether the kernel, not only Python, keeps files, processes and network shut.
What does not hold: the program shares a process with the runner that says it came to its end, so code that was
written against this very module can search the runner's descriptors for the nonce and pretend. And where this
process is itself killed by SIGKILL, the program ends but its folder stays. Not here: what to run (``scoring.code``).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from locum.core.errors import DeviceError, LocumError

Status = Literal["finished", "failed", "exited", "killed", "timeout", "output"]

_CHILD = Path(__file__).with_name("sandbox_child.py")
_STATUS_BYTES = 1 << 16
_END_S = 5.0
_WITHOUT: tuple[str, ...] = ()  # layers to leave out: the tests try each wall without the others


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        wall_s: seconds from start to end, starting Python included.
        cpu_s: processor seconds.
        memory_mb: address space.
        files_mb: a file's size; where there is a RAM disk, all files together.
        open_files: descriptors.
        threads: threads, where namespaces are available and the user is not root; memory bounds them elsewhere.
        output_bytes: standard output and standard error together; a program that writes more is ended.
    """

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 512
    files_mb: int = 16
    open_files: int = 64
    threads: int = 32
    output_bytes: int = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: "finished" (ran to its last line), "failed" (an exception), "exited" (``sys.exit`` or ``os._exit``),
            "killed" (a signal), "timeout" (wall or CPU time), "output" (wrote too much).
        stdout: what it wrote, undecodable bytes replaced.
        stderr: the same for standard error; a failed program's traceback.
        wall_s: how long it took, starting Python included.
        layers: the walls that were up; see the module.
    """

    status: Status
    stdout: str
    stderr: str
    wall_s: float
    layers: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the program ran to its end without an exception."""
        return self.status == "finished"

    @property
    def error(self) -> str:
        """The last line of standard error: an exception's type and message."""
        return self.stderr.strip().rsplit("\n", 1)[-1]

    @property
    def isolated(self) -> bool:
        """Whether the kernel keeps files, processes and network shut; else only Python's audit hook does."""
        return "namespaces" in self.layers or {"landlock", "seccomp"} <= set(self.layers)


def run_python(code: str, *, limits: Limits | None = None) -> Outcome:
    """Run a Python program that is not trusted, and wait for its end.

    The program sees this Python's standard library and nothing else: no installed packages, an empty environment,
    an empty folder as its own, no standard input. ``__name__`` is ``"program"``.

    Args:
        code: the program's text.
        limits: what it may use.

    Returns:
        How it ended; whatever it did, no process and no file of it are left.

    Raises:
        DeviceError: ``core-no-sandbox`` on a system without resource limits (Windows).
        LocumError: ``core-child-failed`` when the sandbox itself could not start.
    """
    if os.name != "posix":
        raise DeviceError("core-no-sandbox", "this system cannot limit a process", fix="run this on Linux or macOS")
    limits, started_s = limits or Limits(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="locum-sandbox-", ignore_cleanup_errors=True) as folder:
        try:
            with _started(code, Path(folder), limits) as running:
                _watch(running, limits, started_s + limits.wall_s)
        finally:
            _empty(Path(folder))
    return _outcome(running, time.monotonic() - started_s)


@dataclass
class _Running:
    """A program on its way: its process, what it wrote, what the child's side said, why it was ended."""

    process: subprocess.Popen[bytes]
    status_fd: int
    nonce: str
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    status: bytearray = field(default_factory=bytearray)
    ended: Literal["timeout", "output"] | None = None

    def streams(self) -> dict[int, bytearray]:
        """Descriptors to read and what was read from each."""
        if self.process.stdout is None or self.process.stderr is None:
            raise RuntimeError("the sandbox has no output pipes")
        return {
            self.process.stdout.fileno(): self.stdout,
            self.process.stderr.fileno(): self.stderr,
            self.status_fd: self.status,
        }

    def messages(self) -> dict[str, Any]:
        """What the child's side said; the program may write there too, so the first word on each thing counts."""
        said: dict[str, Any] = {}
        for line in bytes(self.status).split(b"\n"):
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                said = {**json.loads(line), **said}
        return said


@contextlib.contextmanager
def _started(code: str, folder: Path, limits: Limits) -> Generator[_Running]:
    """Start the child's side; whatever happens, its processes are ended before this is left."""
    status_read, status_write = os.pipe()
    nonce_read, nonce_write = os.pipe()
    nonce = secrets.token_hex(16)
    os.write(nonce_write, nonce.encode())
    words = [sys.executable, "-s", "-S", "-P", "-B", "-X", "utf8", str(_CHILD)]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},  # a program's outcome must not depend on the order of its sets
            pass_fds=(status_write, nonce_read),
            start_new_session=True,
        )
    except OSError as problem:
        os.close(status_read)
        cause = f"{sys.executable} cannot be started in {folder}: {problem}"
        raise LocumError("core-child-failed", cause, fix="run `locum doctor`") from problem
    finally:
        for descriptor in (status_write, nonce_read, nonce_write):
            os.close(descriptor)
    running = _Running(process, status_read, nonce)
    request = {"code": code, "folder": str(folder), "limits": asdict(limits)}
    request |= {"without": _WITHOUT, "status_fd": status_write, "nonce_fd": nonce_read}
    try:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(request).encode())
        yield running
    finally:
        _end(running)


def _watch(running: _Running, limits: Limits, deadline_s: float) -> None:
    """Read what the program writes, until it ends, writes too much, or its time is over."""
    streams = running.streams()
    with selectors.DefaultSelector() as selector:
        for descriptor in streams:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline_s - time.monotonic()))
            if time.monotonic() >= deadline_s:
                running.ended = "timeout"
                return
            for key, _ in ready:
                read = os.read(key.fd, 1 << 16)
                streams[key.fd] += read
                if not read:
                    selector.unregister(key.fd)
            written = len(running.stdout) + len(running.stderr)
            if written > limits.output_bytes or len(running.status) > _STATUS_BYTES:
                running.ended = "output"
                del running.stdout[limits.output_bytes :], running.stderr[limits.output_bytes :]
                return


def _end(running: _Running) -> None:
    """Kill the program's session, and wait until its last process is gone: only then is the status pipe at its end."""
    process = running.process
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # before waiting: until then the number cannot be another's
    process.wait()
    deadline_s = time.monotonic() + _END_S
    with selectors.DefaultSelector() as selector:
        selector.register(running.status_fd, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline_s - time.monotonic())) and os.read(running.status_fd, 1 << 16):
            pass
    os.close(running.status_fd)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _empty(folder: Path) -> None:
    """Open what the program closed to us, so that the folder can be deleted; nested too deep for Python, rm does it."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder)
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def _outcome(running: _Running, wall_s: float) -> Outcome:
    said = running.messages()
    stdout, stderr = (bytes(stream).decode("utf-8", "replace") for stream in (running.stdout, running.stderr))
    if "layers" not in said and running.ended is None:
        cause = f"the sandbox could not start: {stderr.strip().rsplit(chr(10), 1)[-1] or 'no message'}"
        raise LocumError("core-child-failed", cause, fix="run `locum doctor`")
    layers = tuple(str(layer) for layer in said.get("layers", ()))
    return Outcome(_status(running, said), stdout, stderr, wall_s, layers)


def _status(running: _Running, said: dict[str, Any]) -> Status:
    if running.ended is not None:
        return running.ended
    if said.get("exit") == -signal.SIGXCPU:
        return "timeout"
    if isinstance(said.get("exit"), int) and said["exit"] < 0:
        return "killed"
    if said.get("ending") == "finished" and said.get("nonce") == running.nonce:
        return "finished"
    return "failed" if said.get("ending") == "failed" else "exited"
