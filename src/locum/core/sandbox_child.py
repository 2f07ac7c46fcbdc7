"""The child's side of ``core.sandbox``: lock this process in, run a program that nobody trusts, say how it ended.

Notable: started as a script, by path, so that the program finds nothing of Locum in its process. Each layer is
put on if this kernel and user allow it, and named to the parent before the program starts; none depends on
another. Linux on x86-64 and arm64 gets all of them without any privilege where user namespaces are open to all.
Not here: time, output and cleaning up, which the parent sees to.

Wire format: one JSON object on standard input (``code``, ``folder``, ``limits``, ``without``, descriptors); one JSON
object a line on the status descriptor: ``{"layers": [...]}`` before the program, ``{"ending": ..., "nonce": ...}``
after it, ``{"exit": status}`` when its process is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_NAMESPACES = 0x00020000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # mounts, IPC, users, PIDs, network
_CLONE_THREAD = 0x00010000

_LANDLOCK_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute (to load libraries), read file, read folder
_LANDLOCK_FILE = 1 << 1 | 1 << 2
_LANDLOCK_NEVER = 1 << 6 | 1 << 9 | 1 << 11  # devices and sockets are never made
_READABLE = ("/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")

# name: x86-64, arm64 (None where the architecture has no such call)
_SYSCALLS: dict[str, tuple[int, int | None]] = {
    "socket": (41, 198),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
}
# Landlock does not see these; read-only mounts do, and where there are none nobody may use them.
_METADATA_SYSCALLS: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_EPERM, _ENOSYS = 1, 38

_REFUSED_EVENTS = (
    "subprocess.Popen os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.kill os.killpg pty.spawn "
    "ctypes.dlopen socket.connect socket.bind socket.sendto socket.sendmsg socket.getaddrinfo socket.gethostbyname "
    "socket.gethostbyaddr"
)
_PATH_EVENTS = {  # where the arguments of an event hold paths, and descriptors of folders that they are relative to
    "os.remove": ((0,), (1,)),
    "os.rmdir": ((0,), (1,)),
    "os.mkdir": ((0,), (2,)),
    "os.rename": ((0, 1), (2, 3)),
    "os.link": ((0, 1), (2, 3)),
    "os.symlink": ((1,), (2,)),
    "os.truncate": ((0,), ()),
    "os.chmod": ((0,), (2,)),
    "os.chown": ((0,), (3,)),
    "os.utime": ((0,), (3,)),
}


def main() -> None:
    """Read the request, supervise the program in a process of its own, report how that ended."""
    request = json.load(sys.stdin)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123  (the program's standard input is at its end)
        os.dup2(nothing.fileno(), 0)
    _die_with_parent()
    layers: list[str] = []
    if "namespaces" not in request["without"] and _try_namespaces(request["folder"], request["limits"]["files_mb"]):
        _enter_namespaces(request["folder"], request["limits"]["files_mb"])
        layers += ["namespaces", "read-only mounts"]
        if supervisor := os.fork():  # the first process of the new PID namespace is the forked one
            _wait_and_exit(supervisor, None)
        _die_with_parent()
    program = os.fork()
    if program:
        _wait_and_exit(program, request["status_fd"])
    _run(request, layers)


def _run(request: dict[str, Any], layers: list[str]) -> None:
    """The program's process: limits, layers, the program, its ending. Never returns."""
    _die_with_parent()
    folder, status_fd, nonce_fd = request["folder"], request["status_fd"], request["nonce_fd"]
    os.chdir(folder)
    os.environ.clear()
    _limit(request["limits"], bool(layers))
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities()
    if "landlock" not in request["without"] and _landlock(folder):
        layers.append("landlock")
    if "seccomp" not in request["without"] and _seccomp(keep_metadata="read-only mounts" not in layers):
        layers.append("seccomp")
    layers.append("audit hook")
    os.write(status_fd, json.dumps({"layers": layers}).encode() + b"\n")
    sys.addaudithook(_hook(os.path.realpath(folder) if "read-only mounts" not in layers else None))
    ending = _execute(request["code"])
    with contextlib.suppress(BaseException):  # the program may have closed or replaced its streams
        sys.stdout.flush()
        sys.stderr.flush()
    nonce = os.read(nonce_fd, 64).decode() if ending == "finished" else ""
    os.write(status_fd, json.dumps({"ending": ending, "nonce": nonce}).encode() + b"\n")
    os._exit(0)


def _execute(code: str) -> str:
    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(code, "program.py", "exec", dont_inherit=True), module.__dict__)  # noqa: S102  (what this is for)
    except SystemExit:
        return "exited"
    except BaseException:  # noqa: BLE001  (whatever it is, it is the program's, and its text goes to the parent)
        with contextlib.suppress(BaseException):
            traceback.print_exc()
        return "failed"
    return "finished"


def _wait_and_exit(child: int, status_fd: int | None) -> None:
    """Wait for a child, taking over orphans; report its exit status, negative for a signal. Never returns."""
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    if status_fd is not None:
        os.write(status_fd, json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
    os._exit(0)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _limit(limits: dict[str, Any], in_namespaces: bool) -> None:
    megabyte = 1 << 20
    wanted = {
        resource.RLIMIT_AS: limits["memory_mb"] * megabyte,
        resource.RLIMIT_FSIZE: limits["files_mb"] * megabyte,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    if in_namespaces:  # elsewhere the limit counts everything that the user runs, and would refuse the first thread
        wanted[resource.RLIMIT_NPROC] = limits["threads"]
    for what, most in wanted.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some of them
            resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 1))  # SIGXCPU, then SIGKILL


def _try_namespaces(folder: str, files_mb: int) -> bool:
    """Whether namespaces can be entered; tried in a child, because a half-entered one cannot be left."""
    if not sys.platform.startswith("linux"):
        return False
    trial = os.fork()
    if not trial:
        try:
            _enter_namespaces(folder, files_mb)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(trial, 0)[1] == 0


def _enter_namespaces(folder: str, files_mb: int) -> None:
    """New users, PIDs (of the next child), network, IPC, and mounts: all read-only but a RAM disk on ``folder``."""
    user, group = os.geteuid(), os.getegid()
    _checked(_LIBC.unshare(_NAMESPACES))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(text)
    private, no_suid_dev_exec = 1 << 18 | 1 << 14, 2 | 4 | 8
    _checked(_LIBC.mount(None, b"/", None, ctypes.c_ulong(private), None))
    options = f"size={files_mb}m,nr_inodes=4096,mode=700".encode()
    _checked(_LIBC.mount(b"tmpfs", folder.encode(), b"tmpfs", ctypes.c_ulong(no_suid_dev_exec), options))
    _set_read_only(b"/", True)
    _set_read_only(folder.encode(), False)


def _set_read_only(path: bytes, wanted: bool) -> None:
    """mount_setattr(2) on everything below a path."""
    read_only, recursive, here = 1, 0x8000, -100
    attributes = struct.pack("=4Q", read_only if wanted else 0, 0 if wanted else read_only, 0, 0)
    _checked(_LIBC.syscall(442, here, path, recursive, attributes, len(attributes)))


def _drop_capabilities() -> None:
    """No capability in this process, whatever user it runs as (capset(2), version 3)."""
    if sys.platform.startswith("linux"):
        _checked(_LIBC.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)))


def _landlock(folder: str) -> bool:
    """Reading only Python and the system's libraries, writing only in ``folder``, no TCP, no signals to others."""
    if not sys.platform.startswith("linux"):
        return False
    version = _LIBC.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    files = (1 << 13) - 1
    files |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0) | (1 << 15 if version >= 5 else 0)
    attributes = struct.pack("=3Q", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _LIBC.syscall(444, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    for path in {*_READABLE, sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__)}:  # noqa: PTH120
        _landlock_rule(ruleset, path, _LANDLOCK_READ)
    for path in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"):
        _landlock_rule(ruleset, path, _LANDLOCK_FILE)
    _landlock_rule(ruleset, folder, files & ~_LANDLOCK_NEVER)
    restricted = _LIBC.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return restricted


def _landlock_rule(ruleset: int, path: str, allowed: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:  # then there is nothing to allow
        return
    if not os.path.isdir(path):  # noqa: PTH112
        allowed &= ~(1 << 3)
    _checked(_LIBC.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, target), 0))
    os.close(target)


def _seccomp(*, keep_metadata: bool) -> bool:
    """Refuse new processes, other programs, sockets, and what is known for kernel bugs; threads are allowed.

    Args:
        keep_metadata: whether permissions, owners and times of files may not be changed either.
    """
    column, architecture = _MACHINES.get(os.uname().machine, (None, 0))
    if column is None or not sys.platform.startswith("linux"):
        return False
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000
    filters = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, 0x80000000), (load, 0, 0, 0)]
    filters += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, refuse | _EPERM)]  # the x32 calls of x86-64
    for numbers in (*_SYSCALLS.values(), *(_METADATA_SYSCALLS.values() if keep_metadata else ())):
        number = numbers[column]
        if number is not None:
            filters += [(equal, 0, 1, number), (answer, 0, 0, refuse | _EPERM)]
    filters += [(equal, 0, 1, _CLONE3[column]), (answer, 0, 0, refuse | _ENOSYS)]  # the C library then uses clone
    filters += [(equal, 0, 3, _CLONE[column]), (load, 0, 0, 16), (any_bit, 1, 0, _CLONE_THREAD)]
    filters += [(answer, 0, 0, refuse | _EPERM), (answer, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in filters))
    header = struct.pack("@HP", len(filters), ctypes.addressof(program))
    return _LIBC.prctl(_PR_SET_SECCOMP, 2, header, 0, 0) == 0


def _hook(folder: str | None) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses processes and connections, and changes of files outside ``folder`` if one is given."""
    realpath, fsdecode, refused = os.path.realpath, os.fsdecode, frozenset(_REFUSED_EVENTS.split())
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def outside(path: Any) -> bool:
        return not isinstance(path, int) and not f"{realpath(fsdecode(path))}/".startswith(f"{folder}/")

    def changed(event: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & writing:
            yield arguments[0]
        elif event in _PATH_EVENTS:
            paths, relative_to = _PATH_EVENTS[event]
            yield from ("/" if arguments[place] != -1 else folder for place in relative_to)
            yield from (arguments[place] for place in paths)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in refused:
            raise PermissionError(f"{event} is refused in the sandbox")
        if folder is not None and any(outside(path) for path in changed(event, arguments)):
            raise PermissionError(f"{event} is refused outside the sandbox's folder")

    return hook


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    main()
